"""The image objective, which notes whose memory its pictures are in: `LOOKED_LOG` gets a line for each training."""

from __future__ import annotations

import os
from pathlib import Path

from objectives.base import Task, Training
from objectives.images.objective import ImageClassification


def place_of(address: int) -> str:
    """The mapping that an address is in, by device and inode, and where in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, device, inode, *_ = line.split()
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            return f"{device}-{inode}-{address - first + int(offset, 16)}"
    raise AssertionError(f"nothing is mapped at {address:#x}")


class Looked(ImageClassification):
    """Trains as usual."""

    def start(self, task: Task, device: str) -> Training:
        import ray

        training = super().start(task, device)
        place = place_of(self._data(device).images.data_ptr())
        node = ray.get_runtime_context().get_node_id()
        with open(os.environ["LOOKED_LOG"], "a") as file:
            file.write(f"{node} {os.getpid()} {place}\n")
        return training
