"""Why a GPU is not used: the machine is a folder of files, and torch's warnings are as torch writes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from objectives.base import DeviceError
from objectives.devices import choose_device, device_name, gpu_problem, is_out_of_memory, processor
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import WorkerReady, WorkerSettings
from objectives.worker.worker import Worker

OLD_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx "
    "Alternatively, go to: https://pytorch.org to install a PyTorch version that has been compiled with your version "
    "of the CUDA driver. (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:109.)"
)
UNKNOWN = (
    "CUDA initialization: CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing "
    "env variable CUDA_VISIBLE_DEVICES after program start. (Triggered internally at ../c10/cuda/CUDAFunctions.cpp:1.)"
)
OLD_GPU = "Tesla K40c with CUDA capability sm_35 is not compatible with the current PyTorch installation."
NVIDIA, AMD, DRIVER = "dev/nvidia0", "dev/kfd", "proc/driver/nvidia/version"


@pytest.mark.parametrize(
    ("said", "build", "files", "problem"),
    [
        (OLD_DRIVER, "CUDA 13.0", [NVIDIA, DRIVER], r"its driver is too old for this torch\. Update the driver, or"),
        (OLD_DRIVER, "CUDA 13.0", [], r"its driver is too old for this torch"),
        (UNKNOWN, "CUDA 13.0", [NVIDIA], r"torch cannot use it: CUDA unknown error - .* program start\. nvidia-smi"),
        (OLD_GPU, "CUDA 13.0", [NVIDIA], r"a GPU that this torch is not built for"),
        ("CUDA error: no kernel image is available", "CUDA 13.0", [NVIDIA], r"a GPU that this torch is not built for"),
        ("", "CPU", [NVIDIA, DRIVER], r"has an NVIDIA GPU, but this torch is built for CPU\. https://pytorch\.org"),
        ("", "ROCm 6.4", [NVIDIA], r"has an NVIDIA GPU, but this torch is built for ROCm 6\.4"),
        ("", "CUDA 13.0", [NVIDIA], r"torch finds none that works\. nvidia-smi"),
        ("", "CUDA 13.0", [DRIVER], r"no GPU is open to this program\. A container needs --gpus all"),
        ("", "CPU", [AMD], r"has an AMD GPU, but this torch is built for CPU"),
        ("", "CUDA 13.0", [AMD], r"has an AMD GPU, but this torch is built for CUDA 13\.0"),
        ("", "CPU", [], None),
        ("", "CUDA 13.0", [], None),
        ("Can't initialize NVML", "CUDA 13.0", [], None),
    ],
)
def test_a_gpu_that_cannot_be_used_is_explained(
    tmp_path: Path, said: str, build: str, files: list[str], problem: str | None
):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = gpu_problem([said], build, root=tmp_path, variables={})
    assert (found is None) == (problem is None)
    assert problem is None or re.search(problem, str(found)), found
    assert "\n" not in str(found)


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
@pytest.mark.parametrize("value", ["", "-1"])
def test_nothing_is_said_of_a_gpu_that_the_user_hid(tmp_path: Path, name: str, value: str):
    (tmp_path / "dev").mkdir()
    (tmp_path / NVIDIA).touch()
    assert gpu_problem([OLD_DRIVER], "CPU", root=tmp_path, variables={name: value}) is None
    assert gpu_problem([OLD_DRIVER], "CPU", root=tmp_path, variables={name: "0"}) is not None


def test_a_processor_is_named():
    assert device_name("cpu") == processor() != ""
    assert choose_device("cpu", 3) == ("cpu", None)


def test_a_worker_names_its_device():
    ready = Worker(WorkerSettings(ObjectiveSpec("toy:Toy"), "cpu", 0, 1, 1)).select_device()
    assert ready == WorkerReady("cpu", name=processor())


def test_a_missing_gpu_is_an_error_only_where_one_was_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        DeviceError, match=r"--device cuda:99: this machine offers \d+ CUDA devices; type --device auto"
    ):
        choose_device("cuda:99", 0)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("HIP error: out of memory"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (ValueError("out of range"), False),
    ],
    ids=lambda value: str(value).partition(" when")[0][-30:],
)
def test_out_of_memory_is_recognised_in_every_form(error: BaseException, is_memory: bool):
    assert is_out_of_memory(error) == is_memory
    later = RuntimeError("the capture ended with an error")
    later.__cause__ = error
    assert is_out_of_memory(later) == is_memory
