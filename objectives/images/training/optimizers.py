"""Optimizers: how they are built, and the cheapest call that steps one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from objectives.devices import is_out_of_memory

if TYPE_CHECKING:
    from objectives.images.training.graph_inputs import Sampled
    from objectives.images.training.recipe import Recipe

Step = Callable[[], None]


def make_optimizer(
    recipe: Recipe, parameters: list[nn.Parameter], *, recordable: bool = False
) -> torch.optim.Optimizer:
    """Build the optimizer, `fused` where possible, because one kernel per update is much faster than one per tensor.

    Its learning rate is a tensor on the parameters' device: the schedule writes there, and a recorded update reads it.
    A recordable optimizer has neither weight decay nor momentum, which `from_memory` adds.
    """
    if recordable:  # any momentum, so that it has the tensors
        recipe = replace(recipe, weight_decay=0.0, momentum=0.5)
    device = parameters[0].device
    lr, decay = torch.tensor(recipe.lr, dtype=torch.float32, device=device), recipe.weight_decay
    capturable = device.type == "cuda"  # torch rejects it on other devices
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.momentum > 0
            return torch.optim.SGD(
                parameters, lr, momentum=recipe.momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
        case "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr, weight_decay=decay, foreach=True, capturable=capturable)


def prepare(optimizer: torch.optim.Optimizer, sampled: Sampled | None = None) -> Step:
    """Have the optimizer make its tensors now, and find the cheapest call that steps it, with `sampled` numbers if any.

    A tensor made while recording would be part of the recording. Leaves a learning rate of zero, no gradients, and
    states that the caller must zero. With them, a trial step leaves the weights alone. All four optimizers start from
    zeros: SGD's first momentum is the gradient, which is also momentum times zero plus the gradient.
    """
    group = optimizer.param_groups[0]
    group["lr"].zero_()
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        plain_step(optimizer)()
        step = working_step(optimizer)
        if sampled is not None:
            step = from_memory(optimizer, step, sampled)
    optimizer.zero_grad(set_to_none=True)
    return step


def working_step(optimizer: torch.optim.Optimizer) -> Step:
    """The direct step where it works, else torch's own. The kernels are private, and another torch may change them.

    Takes one step to find out.
    """
    try:
        step = direct_step(optimizer)
        step()
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return plain_step(optimizer)
    return step


def from_memory(optimizer: torch.optim.Optimizer, step: Step, sampled: Sampled) -> Step:
    """Add weight decay and momentum, read from memory, to the `step` of an optimizer that has neither.

    Uses one kernel for all tensors, as `step` does. Momentum is Nesterov's; 0 means none.
    """
    group = optimizer.param_groups[0]
    parameters, lr, decay, momentum = group["params"], group["lr"], sampled.decay, sampled.momentum
    states = [optimizer.state[parameter] for parameter in parameters]

    def gradients() -> list[Tensor]:
        """The gradients plus weight decay, for all optimizers except AdamW."""
        found = [parameter.grad for parameter in parameters]
        torch._foreach_add_(found, torch._foreach_mul(parameters, decay))
        return found

    def decoupled() -> None:
        torch._foreach_mul_(parameters, 1 - lr * decay)
        step()

    def coupled() -> None:
        gradients()
        step()

    def sgd() -> None:
        found = gradients()
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, found)
        torch._foreach_add_(found, torch._foreach_mul(buffers, momentum))
        torch._foreach_sub_(parameters, torch._foreach_mul(found, lr))

    match optimizer:
        case torch.optim.AdamW():
            return decoupled
        case torch.optim.SGD():
            buffers = [state["momentum_buffer"] for state in states]
            return sgd
    return coupled


def plain_step(optimizer: torch.optim.Optimizer) -> Step:
    """`optimizer.step` without hooks for profilers, and without importing torch's compiler to keep it away."""
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


def direct_step(optimizer: torch.optim.Optimizer) -> Step:
    """Call torch's kernel on tensors that are looked up once. For a small network the lookup takes longer (0.13 ms).

    Every parameter must have a gradient, and a state, whose tensors stay where they are.
    Source: torch/optim/adam.py, `_fused_adam`, and torch/optim/sgd.py, `_fused_sgd`.
    """
    group = optimizer.param_groups[0]
    parameters, lr, decay = group["params"], group["lr"], group["weight_decay"]
    states = [optimizer.state[parameter] for parameter in parameters]

    def gradients() -> list[Tensor]:
        return [parameter.grad for parameter in parameters]

    match optimizer:
        case torch.optim.Adam() | torch.optim.AdamW():
            kernel: Any = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
            averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            (beta1, beta2), eps = group["betas"], group["eps"]

            def adam() -> None:
                torch._foreach_add_(steps, 1)
                kernel(
                    parameters,
                    gradients(),
                    averages,
                    squares,
                    [],
                    steps,
                    lr=lr,
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=decay,
                    eps=eps,
                    amsgrad=False,
                    maximize=False,
                )

            return adam
        case torch.optim.SGD():
            sgd_kernel: Any = torch._fused_sgd_
            momentum, nesterov = group["momentum"], group["nesterov"]
            buffers = [state["momentum_buffer"] for state in states] if momentum else []

            def sgd() -> None:
                sgd_kernel(
                    parameters,
                    gradients(),
                    buffers,
                    weight_decay=decay,
                    momentum=momentum,
                    lr=lr,
                    dampening=0.0,
                    nesterov=nesterov,
                    maximize=False,
                    is_first_step=False,
                )

            return sgd
    return plain_step(optimizer)
