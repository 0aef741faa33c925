"""Devices: which one a worker uses, why a GPU cannot be used, and how much of its memory is free."""

import gc
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Mapping
from glob import glob
from pathlib import Path

from objectives.base import DeviceError
from objectives.failures import describe_error

VISIBLE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
# torch's own class, and messages of CUDA, ROCm, their libraries and torch in errors of other classes.
OUT_OF_MEMORY = (
    "OutOfMemoryError",
    "error: out of memory",
    "STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "DefaultCPUAllocator",
    "MPS backend out of memory",
)
INSTALL = "https://pytorch.org/get-started has the command that installs a fitting torch"


def n_nvidia_gpus() -> int:
    """Return the number of NVIDIA GPUs that the driver shows. Does not import torch."""
    return sum(1 for _ in Path("/dev").glob("nvidia[0-9]*"))


def may_have_gpu(requested: str) -> bool:
    """Return whether `requested` may be a GPU here. Unlike `choose_device` this needs no torch, which takes seconds."""
    if requested != "auto":
        return requested != "cpu"
    return sys.platform == "darwin" or n_nvidia_gpus() > 0 or any(glob(f"/dev/{name}") for name in ("kfd", "dxg"))


def resolve_device(requested: str, index: int) -> str:
    """Return the device for worker number `index`. Raises DeviceError when it does not exist."""
    return choose_device(requested, index)[0]


def choose_device(requested: str, index: int) -> tuple[str, str | None]:
    """Return the device for worker number `index`, and why `auto` uses the CPU although there is a GPU.

    Raises DeviceError when the requested device does not exist.
    """
    if requested == "cpu":
        return requested, None
    if requested == "mps" and not _mps_works():
        raise DeviceError("--device mps: this machine has no Metal GPU; type --device auto or cpu")
    n_gpus, said = _usable_gpus()
    problem = None if n_gpus else gpu_problem(said, torch_build())
    if requested == "auto" and not n_gpus and _mps_works():
        return "mps", None
    try:
        device = assign_device(requested, index, n_gpus)
    except DeviceError as error:
        raise DeviceError(f"{error}. {problem}" if problem else str(error)) from None
    return device, f"{problem} The search uses the CPU." if problem and device == "cpu" else None


def _usable_gpus() -> tuple[int, list[str]]:
    """Return how many GPUs torch can use through CUDA or ROCm, and its warnings."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        try:
            if n_gpus:
                torch.zeros(1, device="cuda").add_(1)
        except RuntimeError as error:
            if "no kernel image" in str(error):  # a GPU older than all that this torch was built for
                return 0, [*(str(warning.message) for warning in caught), str(error)]
    return n_gpus, [str(warning.message) for warning in caught]


def _mps_works() -> bool:
    """Return whether a Metal GPU is there and computes."""
    import torch

    if not torch.backends.mps.is_available():
        return False
    try:
        return float(torch.ones(2, device="mps").sum()) == 2.0
    except (RuntimeError, TypeError):  # as in a virtual machine
        return False


def torch_build() -> str:
    """Return what torch was built for: `CUDA 13.0`, `ROCm 6.4` or `CPU`."""
    import torch

    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    return f"ROCm {hip}" if (hip := getattr(torch.version, "hip", None)) else "CPU"


def gpu_problem(
    said: Iterable[str], build: str, *, root: Path = Path("/"), variables: Mapping[str, str] = os.environ
) -> str | None:
    """Say why torch cannot use a GPU that this machine has, and what to do; None if there is none, or the user hid it.

    `said`: what torch warned of. `build`: what it was built for. `root`: the folder of `dev` and `proc`.
    """
    if any(variables.get(name, "0").strip() in ("", "-1", "NoDevFiles") for name in VISIBLE_VARIABLES):
        return None
    if problem := _explain(" ".join(" ".join(said).split())):
        return problem
    exists = {name: (root / name).exists() for name in ("dev/nvidia0", "dev/kfd", "proc/driver/nvidia/version")}
    if exists["dev/nvidia0"] and not build.startswith("CUDA"):
        return f"This machine has an NVIDIA GPU, but this torch is built for {build}. {INSTALL}."
    if exists["dev/nvidia0"]:
        return "This machine has an NVIDIA GPU, but torch finds none that works. nvidia-smi shows what the driver sees."
    if exists["proc/driver/nvidia/version"]:
        advice = "A container needs --gpus all, a job of a cluster must ask for a GPU"
        return f"This machine has an NVIDIA driver, but no GPU is open to this program. {advice}."
    if exists["dev/kfd"] and not build.startswith("ROCm"):
        return f"This machine has an AMD GPU, but this torch is built for {build}. {INSTALL}."
    if exists["dev/kfd"] and not os.access(root / "dev/kfd", os.R_OK | os.W_OK):
        return "This machine has an AMD GPU that you may not use. Join the groups render and video."
    return None


def _explain(said: str) -> str | None:
    """Explain a warning of torch about a GPU."""
    if "driver on your system is too old" in said:
        return (
            "This machine has an NVIDIA GPU, but its driver is too old for this torch. Update the driver, or install a "
            "torch that is built for an older CUDA: https://pytorch.org/get-started/previous-versions"
        )
    if "no kernel image" in said or "not compatible with the current PyTorch installation" in said:
        return f"This machine has a GPU that this torch is not built for. {INSTALL}."
    marker = "CUDA initialization: "
    if marker in said:
        reason = said.partition(marker)[2].partition("(Triggered internally")[0].strip().rstrip(".")
        return (
            f"This machine has a GPU, but torch cannot use it: {reason[:300]}. nvidia-smi shows what the driver sees."
        )
    return None


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


def device_name(device: str) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor()} (GPU)" if device == "mps" else processor()


def processor() -> str:
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error`, or one of its causes, means that the device or the machine ran out of memory.

    The causes count because a CUDA graph that runs out of memory during its capture raises another error at its end.
    """
    text = describe_error(error)
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_out_of_memory(cause)


class BrokenDeviceError(Exception):
    """The GPU computes nothing any more in this process. Only a new process can use it again."""


def check_device(error: BaseException) -> None:
    """Raise BrokenDeviceError, caused by `error`, if the GPU of this process is unusable after it.

    It is after a fault in a kernel, such as a failed assertion: every later call raises the error of that fault. With
    CUDA MPS the fault may be another process's.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        reason = describe_error(error).partition("\n")[0]
        raise BrokenDeviceError(f"this process cannot use its GPU any more after {reason}") from error


def free_device_memory() -> None:
    """Release cached memory, so that the next training has as much as this one had."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is None:
        return
    torch.cuda.empty_cache()  # does nothing without a GPU
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


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
        if not is_out_of_memory(error):
            raise
        return 0
