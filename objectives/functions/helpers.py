"""Functions of `import search` for objectives. Outside a search they do nothing, so a script still runs by itself."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from objectives.failures import describe_value
from objectives.functions import call
from objectives.functions.state import decode, encode

MAX_STEP = 2**63 - 1
MAX_ARTIFACT_BYTES = 100_000_000


def log(metrics: Mapping[str, Any], step: int | None = None) -> None:
    """Add points to curves of the trial's run, such as `search.log({"loss": loss}, step=epoch)`.

    metrics: numbers by name, of any library. `step`: the next one by default, from 0. Raises TypeError otherwise.
    """
    running = call.current
    if running is None:
        return
    points = {_checked_name(name): _number(name, value) for name, value in metrics.items()}
    place = running.next_step if step is None else operator.index(step)
    if abs(place) > MAX_STEP:
        raise ValueError(f"search.log: step is {place}; MLflow stores steps up to {MAX_STEP}")
    running.next_step = place + 1
    running.ask("log", points, place)


def log_artifact(path: str | Path, name: str | None = None) -> None:
    """Keep a file, or all files of a folder, with the trial's run. It is read immediately.

    `name`: what it is called there, by default its own name. Raises OSError or ValueError when it cannot be kept.
    """
    running, path = call.current, Path(path)
    if running is None:
        return
    if not path.exists():
        raise FileNotFoundError(f"search.log_artifact: there is no file {path}; save it before you log it")
    name = path.resolve().name if name is None else name
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise ValueError(f"search.log_artifact: the name {name!r} must be a relative path, such as 'plots/errors.png'")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.stat().st_size > MAX_ARTIFACT_BYTES:
            size = f"{file.stat().st_size / 1e6:.0f} MB; an artifact has at most {MAX_ARTIFACT_BYTES / 1e6:.0f} MB"
            raise ValueError(f"search.log_artifact: {file} has {size}")
        inner = "" if file == path else f"/{file.relative_to(path).as_posix()}"
        running.ask("log_artifact", f"{name}{inner}", file.read_bytes())


def log_model(module: Any, example: Any) -> None:
    """Keep a network with the trial, so that the winner's can be registered. The last one counts.

    module: a `torch.nn.Module`; it stays as it is. example: a few of its inputs, as tensor or array, shape (n, ...),
    n >= 2. Raises ValueError with the reason when torch.export cannot export it.
    """
    running = call.current
    if running is None:
        return
    from objectives.functions.export import export

    running.ask("log_model", export(module, example))


def device() -> str:
    """The device to train on, such as `cpu`, `cuda:0` or `mps`: the worker's; outside a search, the best there is."""
    if call.current is not None:
        return call.current.device
    from objectives.devices import may_have_gpu, resolve_device

    return resolve_device("auto", 0) if may_have_gpu("auto") else "cpu"


def seed() -> int:
    """The seed of this training, with which the function seeds what it uses. Outside a search it is 0."""
    if call.current is None:
        return 0
    value: int = call.current.ask("seed")
    return value


class Checkpoint:
    """The state from which this trial goes on when it starts again, after a kill of the worker or of the search.

    A state is made of plain values, bytes, tensors, arrays, and lists, tuples and dicts of them.
    """

    def load(self) -> Any:
        """Return the state that this trial saved last, or None. Tensors are on the CPU."""
        running = call.current
        if running is None or running.checkpoint is None:
            return None
        state, running.next_step = decode(running.checkpoint)
        return state

    def save(self, state: Any) -> None:
        """Keep the state in place of the last one. Raises TypeError when a part of it could not be read back."""
        running = call.current
        if running is None:
            return
        data = encode(state, running.next_step)
        running.ask("save_checkpoint", data)
        running.checkpoint = data


def checkpoint() -> Checkpoint:
    """Save and load the state of this trial. Outside a search nothing is kept."""
    return Checkpoint()


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"search.log: a metric is named {describe_value(name)}; give a text")
    return name


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except Exception:  # of any library
        raise TypeError(f"search.log: the metric {name!r} is {describe_value(value)}; give one number") from None
