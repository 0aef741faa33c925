"""Reads the program that a function has logged, and makes a model of it that can be registered."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from search.common.errors import UnpublishableError
from search.common.passwords import first_line
from search.common.system import environment
from search.tracking.registry.program_texts import code_in

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

PROGRAM = "model.pt2"
"""The artifact of a function's run that holds its program."""
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}  # what is stored may come from someone else
NEVER_LOGGED = "its function never called search.log_model(module, example)"
EXAMPLES = 4  # rows of an example that are stored with a model
LOG_AGAIN = "Log it again with search.log_model(module, example)"


def weights_artifact(*, is_function: bool) -> str:
    """The artifact of a run that holds its weights: a function's program, or a state_dict."""
    return PROGRAM if is_function else "weights.pt"


def read_program(content: bytes) -> ExportedProgram:
    """Read what `torch.export.save` wrote. Raises UnpublishableError for anything but a program, and for code in one.

    `torch.export.load` would unpickle anything, so MLflow looks through the file first.
    """
    import mlflow
    import torch

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        (path := Path(folder, "data", PROGRAM)).parent.mkdir()
        path.write_bytes(content)
        model = mlflow.models.Model()
        model.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__))
        model.save(str(Path(folder, "MLmodel")))
        try:
            if (code := code_in(path)) is not None:
                raise ValueError(f"{code!r} in it would be run as code")
            with environment(NO_PICKLE):
                mlflow.pytorch.load_model(folder)
            return torch.export.load(path)
        except Exception as error:  # of zip files, JSON, MLflow and torch
            reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
            raise UnpublishableError(f"its program cannot be read ({reason}). {LOG_AGAIN}") from error


def as_module(program: ExportedProgram) -> nn.Module:
    """Return a program as a module that has the names of the logged one's weights, in evaluation mode."""
    import torch

    return torch.export.unflatten(program).eval()


def as_model(program: ExportedProgram) -> tuple[nn.Module, NDArray[Any]]:
    """Return a program as a network, and a few of its inputs, shape (n, ...). Raises UnpublishableError without one."""
    match program.example_inputs:
        case (inputs,), {}:
            return program.module(check_guards=False), inputs[:EXAMPLES].numpy()
    raise UnpublishableError(f"its program does not take one input. {LOG_AGAIN}")
