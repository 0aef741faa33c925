"""Updates recorded as CUDA graphs: one launch per batch instead of some hundred.

A recording is believed only after it was tried. Its first replays must do what the same calls do unrecorded, from the
same weights with the same random numbers; then everything is put back, bit by bit, and the training begins. Where
recording fails, or the two differ, the trainer goes on with unrecorded calls and says so once; where memory runs out,
one training does.
"""

from __future__ import annotations

import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from objectives.devices import free_device_memory, is_out_of_memory
from objectives.images.training.graph_inputs import structure
from objectives.images.training.recipe import Recipe
from objectives.images.training.update import Snapshot, TrainingData, Update

TRIED = 3
"""Batches of the comparison. They also warm up what libraries set up at first use, which must not be recorded."""

TOLERANCE = 0.01
"""How far apart the two may end, as a share of the way that they went.

The same kernels get the same numbers, so most often it is 0; sums in no fixed order, in a convolution's gradient,
are about 1e-6 apart. What may go wrong is as large as the way itself: a mask of dropout drawn only once, the same
batch again, a learning rate that was frozen.
"""

KEPT = 8
"""Recordings that a trainer keeps, for trials with networks of the same structure. Of convolution
networks the default space has 24, with 4 optimizers and 3 batch sizes, which a sampler soon narrows down; widths of an
MLP it draws from hundreds, so only favourites repeat."""


class Recorder(Protocol):
    """Turns calls into replays."""

    def aside(self) -> AbstractContextManager[object]:
        """Where an update is called unrecorded before it is recorded."""
        ...

    def record(self, update: Update) -> Callable[[], None]:
        """Record one call, without any effect on the update, and return what repeats it."""
        ...


class CudaGraphs:
    """Records on one CUDA device, on a stream of its own, as CUDA demands."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream that will record."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                yield
            torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, update: Update) -> Callable[[], None]:
        """One call as one graph. With its generator registered every replay draws new numbers, as dropout does."""
        self._last = graph = torch.cuda.CUDAGraph()  # after a failure torch's allocator may refer to it: not freed then
        # Aside, because a recording that cannot be ended leaves its stream current in torch 2.11.
        with self.aside():
            graph.register_generator_state(update.generator)
            with torch.cuda.graph(graph, stream=self._stream):
                update()
        replay: Callable[[], None] = graph.replay
        return replay


class Captures:
    """The recordings of one trainer on one pool of images."""

    def __init__(self, recorder: Recorder | None) -> None:
        """Without a `recorder` nothing is recorded, and updates are the same as if they were to be."""
        self._recorder = recorder
        self._news: str | None = None
        self._kept: OrderedDict[Hashable, tuple[Update, weakref.ref[object]]] = OrderedDict()

    def find(self, key: Hashable, make: Callable[[], Update], user: object) -> Update:
        """The update of shape `key` that no living `user` has, else a new one; kept for later users.

        The one used longest ago is dropped first, before the new one needs memory.
        """
        update, used_by = self._kept.pop(key, (None, None))
        if update is None or (used_by is not None and used_by() is not None):
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            update = make()
        self._kept[key] = update, weakref.ref(user)
        return update

    def capture(self, update: Update) -> None:
        """Record `update`, whose tables are filled, if that is still to be done; its state stays as it is.

        Where memory runs out, all recordings are dropped and this training goes on by calls, which need less: the next
        one is recorded again. After any other failure none is.
        """
        if self._recorder is None or update.replay is not None or not update.recordable:
            return
        try:
            self._try(self._recorder, update)
            return
        except Exception as error:
            reason = None if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        if reason is not None:
            self._give_up(reason)
            return
        update.recordable = False
        self._kept.clear()
        free_device_memory()  # only here, where the error and its frames are gone, which held what was recorded so far
        self._news = "a training goes on without a CUDA graph, slower and with the same results: no memory for one"

    def news(self) -> str | None:
        """What a person should know, once."""
        news, self._news = self._news, None
        return news

    def _try(self, recorder: Recorder, update: Update) -> None:
        """Record, and put everything back as it was."""
        before = update.snapshot()
        try:
            update.replay = self._recorded(recorder, update, before)
        except Exception:
            update.renew_generators()
            raise
        finally:
            update.restore(before)

    def _recorded(self, recorder: Recorder, update: Update, before: Snapshot) -> Callable[[], None] | None:
        """A replay that agrees with calls. None when there is none, or nothing to compare: the calls diverged."""
        batches = min(TRIED, update.batches)
        with recorder.aside():
            expected = after(update, update, batches)
        update.restore(before)
        replay = recorder.record(update)
        apart = distance(before, expected, after(update, replay, batches))
        if math.isnan(apart):
            return None
        if apart > TOLERANCE:
            self._give_up(f"{batches} replays ended {apart:.1%} of their way from where as many calls end")
            return None
        return replay

    def _give_up(self, reason: str) -> None:
        self._recorder = None
        self._kept.clear()  # their generators may have been renewed
        self._news = f"a trainer goes on without CUDA graphs, slower and with the same results: {reason}"


def shape_key(data: TrainingData, model: nn.Module, recipe: Recipe, device: torch.device) -> Hashable:
    """Everything that a recording freezes: the structure of the network, sizes, and the kind of optimizer.

    Every other number is read from memory, so it may differ: see `objectives.images.training.graph_inputs`.
    """
    pool = (str(device), data.images.data_ptr(), len(data.train))
    return *pool, structure(model), recipe.batch_size, recipe.augmentation > 0, recipe.optimizer


def after(update: Update, run: Callable[[], None], batches: int) -> Snapshot:
    """The state after `run` trained the first batches of the epoch."""
    update.position.zero_()
    for _ in range(batches):
        run()
    return update.snapshot()


def distance(before: Snapshot, expected: Snapshot, found: Snapshot) -> float:
    """How far `found` is from `expected`, as a share of the way from `before`; NaN when `expected` is not finite.

    Weights, buffers and sums are looked at as one vector each, and the farthest counts. Not tensor by tensor: where a
    gradient should be zero, an optimizer takes whole steps out of rounding alone.
    """
    farthest = 0.0
    for start, end, other in (
        (before.weights, expected.weights, found.weights),
        (before.buffers, expected.buffers, found.buffers),
        (before.sums, expected.sums, found.sums),
    ):
        way, apart = length(end, start), length(other, end)
        if not math.isfinite(way):
            return math.nan
        if apart != 0:  # a found end that is not finite is infinitely far
            farthest = max(farthest, apart / way if way and math.isfinite(apart) else math.inf)
    return farthest


def length(end: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """Euclidean length of the way between two lists of tensors."""
    squares = [(to.double() - origin.double()).square().sum() for to, origin in zip(end, start, strict=True)]
    return math.sqrt(torch.stack(squares).sum().item()) if squares else 0.0
