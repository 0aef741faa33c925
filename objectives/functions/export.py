"""A network as a `torch.export` program, which loads without the user's code and without pickle."""

from __future__ import annotations

import copy
import io
import itertools
import re
import warnings
from typing import TYPE_CHECKING, Any

from objectives.failures import describe_error, describe_value

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

LOADABLE = re.compile(r"[\w.:#+\-/ ]*")
"""Names in a program that the registry loads. It refuses others, because torch makes source code of names."""

REASON_LENGTH = 400
"""Characters of what torch.export says; it goes on for pages."""


def export(module: Any, example: Any) -> bytes:
    """Export a copy of the module, on the CPU and in evaluation mode, for any number of inputs.

    example: tensor or array, shape (n, ...), n >= 2. Raises ValueError with the reason when it cannot be exported.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"search.log_model got {describe_value(module)}; give a torch.nn.Module and an example input")
    inputs = torch.as_tensor(example).detach().cpu()
    if inputs.dtype == torch.float64 and not isinstance(example, torch.Tensor):  # numpy's default
        inputs = inputs.float()
    if inputs.ndim == 0 or len(inputs) < 2:
        raise ValueError(f"search.log_model got an example of shape {tuple(inputs.shape)}; give 2 inputs or more")
    if (problem := unloadable_name(module)) is not None:
        raise ValueError(f"search.log_model: {problem}")
    try:
        network = copy.deepcopy(module).cpu().eval()
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            size = ({0: torch.export.Dim.DYNAMIC},)
            program = torch.export.export(network, (inputs,), dynamic_shapes=size)
            output = program.module()(inputs[:1])
            torch.export.save(program, file := io.BytesIO())
    except Exception as error:  # torch.export raises many types
        reason = " ".join(describe_error(error).split())[:REASON_LENGTH]
        raise ValueError(f"search.log_model: torch.export cannot export the network: {reason}") from error
    if not isinstance(output, torch.Tensor) or output.shape[:1] != (1,):
        given = tuple(output.shape) if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"search.log_model: of one input the network made {given}; it must make one tensor (1, ...)")
    if (most := most_inputs(program)) is not None:
        advice = "the number of inputs must not decide what forward computes"
        raise ValueError(f"search.log_model: the exported network takes at most {most} inputs in a batch; {advice}")
    return file.getvalue()


def unloadable_name(network: nn.Module) -> str | None:
    """Say which layer, weight or buffer has a name that the registry does not load; None if all can be loaded."""
    tensors = itertools.chain(network.named_parameters(), network.named_buffers())
    for name, _ in itertools.chain(network.named_modules(), tensors):
        if LOADABLE.fullmatch(name) is None:
            allowed = "letters, digits, underscores, dashes, spaces and any of . : # + /"
            return f"rename layer {name!r}: the registry loads names of {allowed}"
    return None


def most_inputs(program: ExportedProgram) -> int | None:
    """The largest batch of inputs that a program takes; None if it takes any number."""
    bounds = (bound.upper for bound in program.range_constraints.values())
    return min((int(bound) for bound in bounds if bound.is_Integer), default=None)
