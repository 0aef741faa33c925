"""Builds optimizers, and finds the cheapest call that steps one."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from objectives.devices import is_out_of_memory
from objectives.images.training.recipe import Recipe

Step = Callable[[], None]


@dataclass(frozen=True)
class WeightDecay:
    """The weight decay of some of the parameters, which takes one or two kernels for all of them."""

    parameters: Sequence[Tensor]
    amount: Tensor | float
    """Factor of the weights that are added to the gradients. A CUDA graph reads it from memory."""
    kept: Tensor
    """The share of a weight that AdamW keeps in a batch. Its owner fills it for each batch."""

    def before(self, step: Step, *, is_decoupled: bool) -> Step:
        """Decay, then `step`. Decoupled decay shrinks the weights, as AdamW's; else it adds to the gradients."""
        parameters, amount, kept = list(self.parameters), self.amount, self.kept

        def decoupled() -> None:
            torch._foreach_mul_(parameters, kept)
            step()

        def coupled() -> None:
            gradients: Any = [parameter.grad for parameter in parameters]
            if isinstance(amount, Tensor):
                torch._foreach_add_(gradients, torch._foreach_mul(parameters, amount))
            else:
                torch._foreach_add_(gradients, parameters, alpha=amount)
            step()

        if not parameters:
            return step
        return decoupled if is_decoupled else coupled


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter], *, capturable: bool = False) -> Optimizer:
    """Build the optimizer, `fused` where possible: one kernel per update is much faster than one per tensor.

    Its learning rate is a tensor on the parameters' device, which the schedule overwrites and a CUDA graph reads.
    It has no weight decay, which is not for all parameters: `prepare_step` adds it, and the momentum of a capturable
    optimizer.
    """
    device = parameters[0].device
    lr = torch.tensor(recipe.lr, dtype=torch.float32, device=device)
    if recipe.optimizer == "sgd":
        momentum = 0.5 if capturable else recipe.momentum  # any positive one, so that it allocates its buffers
        return torch.optim.SGD(parameters, lr, momentum=momentum, nesterov=momentum > 0, fused=True)
    is_cuda = device.type == "cuda"  # torch rejects `capturable` on other devices
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr, foreach=True, capturable=is_cuda)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr, fused=True, capturable=is_cuda, weight_decay=0.0)
    return torch.optim.Adam(parameters, lr, fused=True, capturable=is_cuda)


def prepare_step(optimizer: Optimizer, decay: WeightDecay, momentum: Tensor | None = None) -> Step:
    """Allocate the optimizer's state, and find the cheapest call that decays the weights and steps the optimizer.

    `momentum`: where SGD reads it; None: it has its own. A tensor allocated during a capture would belong to the
    graph. Leaves a learning rate of zero, no gradients, and states that the caller must zero. All four optimizers
    start from zeros: SGD's first momentum is the gradient, which is also momentum times zero plus the gradient.
    """
    group = optimizer.param_groups[0]
    group["lr"].zero_()  # so the steps below leave the weights alone
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        torch_step(optimizer)()
        step = fastest_step(optimizer)
        if momentum is not None and isinstance(optimizer, torch.optim.SGD):
            step = nesterov_step(optimizer, momentum)
    optimizer.zero_grad(set_to_none=True)
    return decay.before(step, is_decoupled=isinstance(optimizer, torch.optim.AdamW))


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


def nesterov_step(optimizer: torch.optim.SGD, momentum: Tensor) -> Step:
    """A step of SGD with Nesterov momentum that is read from memory. A momentum of 0 means none."""
    group = optimizer.param_groups[0]
    parameters, lr = group["params"], group["lr"]
    buffers = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]

    def step() -> None:
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(gradients, torch._foreach_mul(buffers, momentum))
        torch._foreach_sub_(parameters, torch._foreach_mul(gradients, lr))

    return step


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
    options: dict[str, Any] = {"lr": group["lr"], "weight_decay": 0.0, "maximize": False}

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
