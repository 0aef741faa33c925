"""Devices: which one a worker uses, and how much of its memory is free."""

import gc

from objectives.base import DeviceError
from objectives.failures import describe_error


def resolve_device(requested: str, index: int) -> str:
    """Return the device for worker number `index`. Raises DeviceError when it does not exist."""
    import torch

    if requested == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no Metal GPU; type --device auto or cpu")
    return assign_device(requested, index, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def assign_device(requested: str, index: int, n_gpus: int) -> str:
    """Spread workers over a machine's GPUs: one on each, then a second on each, and so on.

    Raises DeviceError when `requested` names a GPU that does not exist.
    """
    if requested == "auto":
        return f"cuda:{index % n_gpus}" if n_gpus else "cpu"
    kind, _, number = requested.partition(":")
    if kind != "cuda":
        return requested
    if int(number or 0) >= n_gpus:
        raise DeviceError(f"--device {requested}: this machine offers {n_gpus} CUDA devices; type --device auto or cpu")
    return requested if number else f"cuda:{index % n_gpus}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or one of its causes, means that the device or the machine ran out of memory.

    The causes count because a CUDA graph that runs out of memory during its capture raises another error at its end.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in describe_error(error):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)


def free_device_memory() -> None:
    """Release cached memory, so that the next training has as much as this one had."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def select_device(device: str) -> int:
    """Make a CUDA device the default of this process and return its free memory in bytes.

    Without this, calls that name no device would use memory of the first GPU. Returns 0 when the memory does not
    suffice for a CUDA context.
    """
    import torch

    try:
        torch.cuda.set_device(device)
        return int(torch.cuda.mem_get_info(device)[0])
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return 0
