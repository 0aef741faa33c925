"""Builds optimizers, and finds the cheapest call that steps one."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from objectives.devices import is_out_of_memory
from objectives.images.training.graph_inputs import GraphInputs
from objectives.images.training.recipe import Recipe

Step = Callable[[], None]


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter], *, capturable: bool = False) -> Optimizer:
    """Build the optimizer, `fused` where possible: one kernel per update is much faster than one per tensor.

    Its learning rate is a tensor on the parameters' device, which the schedule overwrites and a CUDA graph reads.
    A capturable optimizer has neither weight decay nor momentum; `add_decay_and_momentum` adds them.
    """
    if capturable:  # any positive momentum, so that it allocates its buffers
        recipe = replace(recipe, weight_decay=0.0, momentum=0.5)
    device = parameters[0].device
    lr = torch.tensor(recipe.lr, dtype=torch.float32, device=device)
    options: dict[str, Any] = {"weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        momentum = recipe.momentum
        return torch.optim.SGD(parameters, lr, momentum=momentum, nesterov=momentum > 0, fused=True, **options)
    options["capturable"] = device.type == "cuda"  # torch rejects it on other devices
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, foreach=True, **options)
    optimizer_class = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return optimizer_class(parameters, lr, fused=True, **options)


def prepare_step(optimizer: Optimizer, inputs: GraphInputs | None = None) -> Step:
    """Allocate the optimizer's state, and find the cheapest call that steps it, reading `inputs` if given.

    A tensor allocated during a capture would belong to the graph. Leaves a learning rate of zero, no gradients, and
    states that the caller must zero. All four optimizers start from zeros: SGD's first momentum is the gradient, which
    is also momentum times zero plus the gradient.
    """
    group = optimizer.param_groups[0]
    group["lr"].zero_()  # so the steps below leave the weights alone
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        torch_step(optimizer)()
        step = fastest_step(optimizer)
        if inputs is not None:
            step = add_decay_and_momentum(optimizer, step, inputs)
    optimizer.zero_grad(set_to_none=True)
    return step


def fastest_step(optimizer: Optimizer) -> Step:
    """Return `fused_step` if it works, else torch's own. The kernels are private and may change with torch.

    Takes one step to find out.
    """
    try:
        step = fused_step(optimizer)
        step()
    except (AttributeError, LookupError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return torch_step(optimizer)
    return step


def add_decay_and_momentum(optimizer: Optimizer, step: Step, inputs: GraphInputs) -> Step:
    """Add weight decay and Nesterov momentum, read from memory, to the `step` of an optimizer that has neither.

    Uses one kernel for all tensors, as `step` does. A momentum of 0 means none.
    """
    group = optimizer.param_groups[0]
    parameters, lr, decay, momentum = group["params"], group["lr"], inputs.decay, inputs.momentum

    def decayed_gradients() -> list[Tensor]:
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_add_(gradients, torch._foreach_mul(parameters, decay))
        return gradients

    def adamw() -> None:
        torch._foreach_mul_(parameters, inputs.kept)
        step()

    def adam_or_rmsprop() -> None:
        decayed_gradients()
        step()

    def sgd() -> None:
        gradients = decayed_gradients()
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(gradients, torch._foreach_mul(buffers, momentum))
        torch._foreach_sub_(parameters, torch._foreach_mul(gradients, lr))

    match optimizer:
        case torch.optim.AdamW():
            return adamw
        case torch.optim.SGD():
            buffers = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
            return sgd
    return adam_or_rmsprop


def torch_step(optimizer: Optimizer) -> Step:
    """`optimizer.step` without profiler hooks, and without importing torch's compiler just to disable it."""
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


def fused_step(optimizer: Optimizer) -> Step:
    """Call torch's kernel on tensors that are looked up once. For a small network the lookup takes longer (0.13 ms).

    Every parameter must have a gradient, and a state, whose tensors stay where they are.
    Source: torch/optim/adam.py, `_fused_adam`, and torch/optim/sgd.py, `_fused_sgd`.
    """
    group = optimizer.param_groups[0]
    parameters = group["params"]
    options: dict[str, Any] = {"lr": group["lr"], "weight_decay": group["weight_decay"], "maximize": False}

    def states(name: str) -> list[Tensor]:
        return [optimizer.state[parameter][name] for parameter in parameters]

    kernel: Any
    steps: list[Tensor] = []
    match optimizer:
        case torch.optim.Adam() | torch.optim.AdamW():
            kernel = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
            steps = states("step")
            changed = [states("exp_avg"), states("exp_avg_sq"), [], steps]
            beta1, beta2 = group["betas"]
            options |= {"beta1": beta1, "beta2": beta2, "eps": group["eps"], "amsgrad": False}
        case torch.optim.SGD():
            kernel = torch._fused_sgd_
            changed = [states("momentum_buffer") if group["momentum"] else []]
            options |= {"momentum": group["momentum"], "nesterov": group["nesterov"]}
            options |= {"dampening": 0.0, "is_first_step": False}
        case _:
            return torch_step(optimizer)

    def call() -> None:
        if steps:
            torch._foreach_add_(steps, 1)
        kernel(parameters, [parameter.grad for parameter in parameters], *changed, **options)

    return call
