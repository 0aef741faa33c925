"""The state that a function saves with `search.checkpoint()`, as bytes. No object is ever unpickled.

A line of JSON with the state, then one torch file with its tensors, then its bytes and arrays. JSON has lists, texts
and numbers. Everything else is an object there, with one key that says what it is.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import numpy as np

from objectives.failures import describe_value
from objectives.functions.values import plain

ALLOWED = "texts, numbers, True, False, None, bytes, tensors, numpy arrays, and lists, tuples and dicts of them"


def encode(state: Any, next_step: int) -> bytes:
    """The state, and the step at which curves go on. Raises TypeError, which names the part that cannot be saved."""
    blobs: list[bytes] = []
    tensors: list[Any] = []
    head = {"next_step": next_step, "state": _encoded(state, "the state", blobs, tensors), "tensor_bytes": 0}
    file = io.BytesIO()
    if tensors:
        import torch

        torch.save(tensors, file)
        head["tensor_bytes"] = file.tell()
    return b"".join([json.dumps(head).encode(), b"\n", file.getvalue(), *blobs])


def decode(data: bytes) -> tuple[Any, int]:
    """Return the state that `encode` was given. Tensors are on the CPU."""
    line, _, rest = data.partition(b"\n")
    head, file, tensors = json.loads(line), io.BytesIO(rest), []
    if head["tensor_bytes"]:
        import torch

        tensors = torch.load(io.BytesIO(file.read(head["tensor_bytes"])), weights_only=True)
    return _decoded(head["state"], file, tensors), head["next_step"]


def _encoded(state: Any, place: str, blobs: list[bytes], tensors: list[Any]) -> Any:
    def inner(value: Any, where: str) -> Any:
        return _encoded(value, f"{place}{where}", blobs, tensors)

    torch = sys.modules.get("torch")
    if isinstance(state, dict):
        return {"dict": [[inner(key, f" (key {key!r})"), inner(state[key], f"[{key!r}]")] for key in state]}
    if isinstance(state, tuple | list):
        items = [inner(item, f"[{index}]") for index, item in enumerate(state)]
        return {"tuple": items} if isinstance(state, tuple) else items
    if isinstance(state, bytes | bytearray):
        blobs.append(bytes(state))
        return {"bytes": len(state)}
    if torch is not None and isinstance(state, torch.Tensor):
        tensors.append(state.detach().cpu())
        return {"tensor": len(tensors) - 1}
    try:
        if isinstance(state, np.ndarray):
            np.save(file := io.BytesIO(), state, allow_pickle=False)
            blobs.append(file.getvalue())
            return {"array": len(blobs[-1])}
        return plain(state)
    except (TypeError, ValueError):
        raise TypeError(
            f"search.checkpoint() cannot save {place}, which is {describe_value(state)}. A state is made of {ALLOWED}. "
            "Save the state_dict() of a module or an optimizer"
        ) from None


def _decoded(tree: Any, blobs: io.BytesIO, tensors: list[Any]) -> Any:
    if isinstance(tree, list):
        return [_decoded(item, blobs, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "dict":
        return {_decoded(key, blobs, tensors): _decoded(value, blobs, tensors) for key, value in content}
    if kind == "tuple":
        return tuple(_decoded(content, blobs, tensors))
    if kind == "tensor":
        return tensors[content]
    data = blobs.read(content)
    return np.load(io.BytesIO(data), allow_pickle=False) if kind == "array" else data
