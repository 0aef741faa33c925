"""A device's memory: how much is left, how one sees that none is, and what can be given back."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that led to it, says that the device or the machine had no memory left.

    A recording that memory ends prematurely raises an error of its own on the way out.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)


def free_device_memory() -> None:
    """Give cached memory back, so that the next training starts where this one did."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def claim(device: str) -> int:
    """Make a CUDA device this process's default and return how many bytes of its memory are free.

    Else a call that names no device would take memory of the first one. 0 where not even a context finds room.
    """
    import torch

    try:
        torch.cuda.set_device(device)
        return int(torch.cuda.mem_get_info(device)[0])
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return 0
