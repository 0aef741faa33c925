"""Devices: which one a worker uses, and how much of its memory is free."""

from __future__ import annotations

from objectives.base import DeviceError


def resolve_device(wanted: str, index: int) -> str:
    """Return the device for worker number `index`. Raises DeviceError when it does not exist."""
    import torch

    if wanted == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Metal GPU; type --device auto or cpu")
    return place(wanted, index, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def place(wanted: str, index: int, gpus: int) -> str:
    """Spread workers over a machine's `gpus`: one on each, then a second on each, and so on.

    Raises DeviceError when `wanted` names a GPU that does not exist.
    """
    if wanted == "auto":
        return f"cuda:{index % gpus}" if gpus else "cpu"
    kind, _, number = wanted.partition(":")
    if kind != "cuda":
        return wanted
    exists = int(number) < gpus if number else gpus > 0
    if not exists:
        raise DeviceError(f"--device {wanted}: this machine offers {gpus} CUDA devices; type --device auto or cpu")
    return wanted if number else f"cuda:{index % gpus}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or an error behind it, means that the device or the machine ran out of memory.

    The causes count because a CUDA graph whose recording runs out of memory raises another error while it ends.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)


def free_device_memory() -> None:
    """Release cached memory, so that the next training has as much as this one had."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def select_device(device: str) -> int:
    """Make a CUDA device the default of this process and return its free memory in bytes.

    Without this, calls that name no device would use memory of the first GPU. Returns 0 when there is no memory
    even for a CUDA context.
    """
    import torch

    try:
        torch.cuda.set_device(device)
        return int(torch.cuda.mem_get_info(device)[0])
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return 0
