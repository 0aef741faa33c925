"""Captures updates as CUDA graphs: one launch per batch instead of some hundred.

A graph is tested before it is used: from the same state, its first replays must do what calls without a graph do.
Then the state is restored bit for bit, and the training begins. If a capture fails, or the two differ, the training
ends with a CaptureError, because torch before 2.15 cannot be trusted in this process any more. If memory runs out, or
if the network computes with numbers of the host, only the current training goes without a graph.
"""

import math
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from objectives.base import CaptureError
from objectives.devices import free_device_memory, is_out_of_memory
from objectives.failures import describe_error
from objectives.images.training.graph_inputs import structure
from objectives.images.training.host_state import copy_host_state, restore_host_state
from objectives.images.training.recipe import Recipe
from objectives.images.training.update import TrainingData, TrainingState, Update

TEST_BATCHES = 3
"""Batches of the comparison. They also warm up what libraries set up at first use, which must not be captured."""

TOLERANCE = 0.01
"""Largest distance between the two end states, as a fraction of the distance from the start.

It is mostly 0; sums without a fixed order, as in a convolution's gradient, differ by about 1e-6. Real faults are as
large as the whole distance: a dropout mask drawn only once, a repeated batch, a frozen learning rate.
"""

HOST = "its network draws random numbers or counts in Python, and a graph would repeat the first ones"

MAX_GRAPHS = 8
"""Graphs that a worker keeps for later trials. The space has hundreds of structures of convolution networks, with four
optimizers and three batch sizes, which a sampler soon narrows down."""

FAILED_GRAPHS: list[torch.cuda.CUDAGraph] = []
"""Kept as long as the process lives, because torch's allocator may refer to a graph whose capture was not ended."""


class GraphRecorder(Protocol):
    """Turns calls into replays."""

    def side_stream(self) -> AbstractContextManager[object]:
        """Return a context for calls without a graph before the capture."""

    def record(self, update: Update) -> Callable[[], None]:
        """Capture one call and return a function that repeats it. The caller restores the update's state.

        Raises CaptureError.
        """


class CudaGraphRecorder:
    """Captures on one CUDA device, on a stream of its own, as CUDA demands."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                yield
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, update: Update) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        try:
            # On the side stream, because a capture that cannot be ended leaves its stream current in torch 2.11.
            with self.side_stream(), torch.cuda.graph(graph, stream=self._stream):
                update()
        except BaseException as error:
            FAILED_GRAPHS.append(graph)
            # For torch, the generator's state object stays in capture until a capture ends well. So it gets another.
            update.generator.graphsafe_set_state(torch.Generator(self._device))
            graph.reset()  # gives its memory back if the capture was ended
            if isinstance(error, Exception):
                raise CaptureError(_describe_failure(error)) from error
            raise
        return graph.replay


def _describe_failure(error: Exception) -> str:
    """Say in one line what ended a capture, and where. Torch may raise an error at its end that hides the first."""
    cause = error.__context__ or error
    frame = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{describe_error(cause).partition(chr(10))[0]} ({Path(frame.filename).name}, line {frame.lineno})"


class GraphCache:
    """The graphs of one worker on one pool of images."""

    def __init__(self, recorder: GraphRecorder | None) -> None:
        """Without a `recorder` nothing is captured, but updates compute as if they could be."""
        self._recorder = recorder
        self._notice: str | None = None
        self._entries: OrderedDict[Hashable, tuple[Update, weakref.ref[object]]] = OrderedDict()

    def acquire(self, key: Hashable, make: Callable[[], Update], user: object) -> Update:
        """Return the update stored under `key` if no living `user` has it, else a new one, which is then stored.

        The least recently used update is dropped before the new one needs memory.
        """
        update, last_user = self._entries.pop(key, (None, None))
        if update is None or (last_user is not None and last_user() is not None):
            while len(self._entries) >= MAX_GRAPHS:
                self._entries.popitem(last=False)
            update = make()
        self._entries[key] = update, weakref.ref(user)
        return update

    def capture(self, update: Update) -> None:
        """Capture `update`, whose tables are filled, unless it has a graph or cannot have one. Keeps its state.

        When memory runs out, all graphs are dropped; the next training is captured again. Raises CaptureError.
        """
        if self._recorder is None or update.replay is not None or not update.capturable:
            return
        try:
            self._capture(self._recorder, update)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._entries.clear()
        free_device_memory()  # only here, after the error and its frames, which held what was captured so far
        self._leave_out(update, "no memory for one")

    def take_notice(self) -> str | None:
        """Return a notice for the user, once."""
        notice, self._notice = self._notice, None
        return notice

    def _capture(self, recorder: GraphRecorder, update: Update) -> None:
        """Set the update's replay if it agrees with calls. When the calls diverge, it stays None."""
        before, batches = update.copy_state(), min(TEST_BATCHES, update.batches)
        host = copy_host_state(update.model, update.device)
        try:
            with recorder.side_stream():
                expected = state_after(update, update, batches)
            if copy_host_state(update.model, update.device) != host:
                restore_host_state(update.model, host)
                self._leave_out(update, HOST)
                return
            update.restore(before)
            replay = recorder.record(update)
            error = relative_distance(before, expected, state_after(update, replay, batches))
        finally:
            update.restore(before)
        if error > TOLERANCE:
            raise CaptureError(f"{batches} replays ended {error:.1%} of their way from where as many calls end")
        if not math.isnan(error):
            update.replay = replay

    def _leave_out(self, update: Update, reason: str) -> None:
        update.capturable = False
        self._notice = f"a training goes on without a CUDA graph, slower and with the same results: {reason}"


def graph_key(data: TrainingData, model: nn.Module, recipe: Recipe) -> Hashable:
    """Everything that a graph freezes: the structure of the network, sizes, and the kind of optimizer.

    Every other number is read from memory, so it may differ: see `objectives.images.training.graph_inputs`.
    """
    pool = (str(data.images.device), data.images.data_ptr(), len(data.train))
    kernels = recipe.optimizer, recipe.is_augmented
    return *pool, structure(model), recipe.batch_size, *kernels


def state_after(update: Update, call: Callable[[], None], batches: int) -> TrainingState:
    """Train the first batches of the epoch with `call`, count their results, and copy the state."""
    update.logits.zero_()
    update.train(0, batches, call)
    return update.copy_state()


def relative_distance(before: TrainingState, expected: TrainingState, actual: TrainingState) -> float:
    """Distance of `actual` from `expected`, divided by that of `before`; NaN when `expected` is not finite.

    Weights, buffers, sums and averages are compared as one vector each, and the largest distance counts. Single tensors
    are not compared: where a gradient should be zero, an optimizer turns rounding errors into whole steps.
    """
    largest = 0.0
    for name in ("weights", "buffers", "sums", "average"):
        start, end, other = (state[name] for state in (before, expected, actual))
        length, error = distance(end, start), distance(other, end)
        if not math.isfinite(length):
            return math.nan
        if error != 0:  # an actual state that is not finite is infinitely far
            largest = max(largest, error / length if length and math.isfinite(error) else math.inf)
    return largest


def distance(end: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """Euclidean distance between two lists of tensors."""
    squares = [(a.double() - b.double()).square().sum() for a, b in zip(end, start, strict=True)]
    return math.sqrt(torch.stack(squares).sum().item()) if squares else 0.0
