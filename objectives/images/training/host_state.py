"""State outside of the device's memory that a network may read or change. A CUDA graph does not see it.

A graph repeats what one call computed. A layer that asks Python for a random number, or counts its calls, would then
do the same in every batch. The built-in networks keep all such state on the device.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import nn

HostState = dict[str, Any]


def copy_host_state(model: nn.Module, device: torch.device) -> HostState:
    """Copy the random states of the host, and the plain attributes of every layer. Two copies can be compared.

    On the CPU, torch's own generator is left out: there it is what the device itself draws from.
    """
    plain = {
        (name, key): value
        for name, layer in model.named_modules()
        for key, value in vars(layer).items()
        if isinstance(value, bool | int | float | str | None)
    }
    kind, keys, *rest = np.random.get_state()
    state: HostState = {"random": random.getstate(), "numpy": (kind, tuple(keys), *rest), "layers": plain}
    if device.type != "cpu":
        state["torch"] = bytes(torch.get_rng_state().numpy())
    return state


def restore_host_state(model: nn.Module, state: HostState) -> None:
    """Restore a copied state."""
    random.setstate(state["random"])
    np.random.set_state(state["numpy"])
    layers = dict(model.named_modules())
    for (name, key), value in state["layers"].items():
        setattr(layers[name], key, value)
    if "torch" in state:
        torch.set_rng_state(torch.frombuffer(bytearray(state["torch"]), dtype=torch.uint8))
