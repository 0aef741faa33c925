"""Networks that a subclass of `ImageClassification` builds: made ready for training, and checked before a search.

A subclass may build any module. What its trainings need of one is checked here, on the CPU, with random images.
"""

import contextlib
import copy
import io
import itertools
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from objectives.base import ObjectiveError, Params
from objectives.failures import describe_error, describe_value
from objectives.functions.export import most_inputs, unloadable_name
from objectives.images.models import InputSpec, Normalise, Probabilities

N_IMAGES = 4
"""Images of a check. With one, `torch.export` would fix the size of a batch."""

MAX_REASON = 300
"""Characters of torch's own explanation that a message has room for."""


class OwnNetwork(nn.Module):
    """A network of one's own behind the normalisation: images (n, c, h, w) in [0, 1] to logits (n, k)."""

    def __init__(self, inputs: InputSpec, network: nn.Module, params: Params) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(inputs.mean, inputs.std), network
        self._params = dict(params)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalise(images))
        return logits

    def extra_repr(self) -> str:
        """Return the parameters. They tell networks apart whose layers look the same to a CUDA graph's key."""
        return ", ".join(f"{name}={value!r}" for name, value in self._params.items())


def own_network(inputs: InputSpec, network: object, params: Params) -> OwnNetwork:
    """Put the normalisation before what `build_network(params)` gave. Lazy layers get their shapes."""
    if not isinstance(network, nn.Module):
        hint = ": return is missing" if network is None else ""
        raise ObjectiveError(f"build_network gave {describe_value(network)}; give a torch.nn.Module{hint}")
    model = OwnNetwork(inputs, network, params)
    if any(map(is_lazy, itertools.chain(model.parameters(), model.buffers()))):
        with torch.no_grad():
            model.eval()(torch.zeros(N_IMAGES, inputs.channels, *inputs.size))
        model.train()
    return model


def takes_channels_last(model: nn.Module, inputs: InputSpec) -> bool:
    """Return whether a network works in the memory format `channels_last`, which `Tensor.view` often does not.

    On the CPU it makes the strong CNN 1.38 times as fast: 79 ms a batch, not 109. (Medians of 15 alternating pairs of
    4 batches of 128 MNIST images, thread time, Xeon 2.5 GHz, torch 2.15.)
    """
    with torch.random.fork_rng(devices=[]):
        try:
            tried = copy.deepcopy(model).to(memory_format=torch.channels_last)
            for mode in (True, False):
                tried.train(mode)(torch.zeros(N_IMAGES, inputs.channels, *inputs.size))
        except Exception:  # of any kind: without the format, a training shows the network's own errors
            return False
    return True


def check_network(owner: type, build: Callable[[], nn.Module], inputs: InputSpec) -> None:
    """Build a network twice, then predict, train and export it. Raises ObjectiveError with what goes wrong."""
    with torch.random.fork_rng(devices=[]), _quiet_torch():
        try:
            model, again = build(), build()
        except ObjectiveError:
            raise
        except Exception as error:
            raise ObjectiveError(f"build_network failed: {_reason(error, owner)}") from error
        _check_structure(model, again)
        images = torch.rand(N_IMAGES, inputs.channels, *inputs.size)
        _check_logits(owner, model, images, inputs.n_classes)
        _check_gradients(owner, model, images)
        _check_export(owner, Probabilities(model).eval(), images)


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep torch's warnings, logs and dumps of graphs to itself: one message says what is wrong."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _check_structure(model: nn.Module, again: nn.Module) -> None:
    first, second = ({**m.state_dict(), **dict(m.named_buffers())} for m in (model, again))
    shapes, shapes_again = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (first, second))
    if shapes != shapes_again:
        reason = "only the parameters may decide on its layers, because the weights are loaded into a new one"
        raise ObjectiveError(f"build_network built two different networks from equal parameters; {reason}")
    for name in first.keys() - model.state_dict().keys():
        if not torch.equal(first[name], second[name]):
            problem = "is not stored with the weights, and differs in each build"
            raise ObjectiveError(f"the buffer {name} {problem}; make it persistent, or give it fixed values")
    if (advice := unloadable_name(model.get_submodule("network"))) is not None:
        raise ObjectiveError(f"build_network: {advice}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ObjectiveError("build_network gave a network without weights to train; give one with parameters")


def _check_logits(owner: type, model: nn.Module, images: Tensor, n_classes: int) -> None:
    """A batch and a single image give one row of logits each, in training and after it."""
    for mode, batch in itertools.product((False, True), (images, images[:1])):
        if mode and len(batch) == 1:  # some layers cannot train on one image; a batch never has only one
            continue
        given, expected = f"{tuple(batch.shape)}{' in training' if mode else ''}", (len(batch), n_classes)
        try:
            logits = model.train(mode)(batch)
        except Exception as error:
            raise ObjectiveError(f"the network failed for images {given}: {_reason(error, owner)}") from error
        advice = f"give logits of shape (n, {n_classes}), one for each class"
        if not isinstance(logits, Tensor):
            raise ObjectiveError(f"the network made {describe_value(logits, 60)} of images {given}; {advice}")
        if tuple(logits.shape) != expected or not logits.is_floating_point():
            made = f"{str(logits.dtype).removeprefix('torch.')} {tuple(logits.shape)}"
            raise ObjectiveError(f"the network made {made} of images {given}; {advice}")


def _check_gradients(owner: type, model: nn.Module, images: Tensor) -> None:
    try:
        loss = F.cross_entropy(model.train()(images), torch.zeros(len(images), dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ObjectiveError(f"the network cannot be trained: {_reason(error, owner)}") from error


def _check_export(owner: type, model: nn.Module, images: Tensor) -> None:
    """Export, save and load the network as MLflow does with a registered model, and run it on other batches."""
    file = io.BytesIO()
    try:
        program = torch.export.export(model, (images,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
        torch.export.save(program, file)
        file.seek(0)
        exported = torch.export.load(file).module()
        for batch in (images[:1], torch.cat((images, images))):
            torch.testing.assert_close(exported(batch), model(batch), rtol=1e-3, atol=1e-3)
    except Exception as error:
        raise ObjectiveError(
            "torch.export cannot export the network, so its winner could not be registered. In forward, neither values "
            "of tensors nor the number of images may decide what is computed: write x.shape[0] or x.flatten(1), not "
            f"len(x). torch says: {_reason(error, owner)}"
        ) from error
    if (most := most_inputs(program)) is not None:
        advice = "the number of images must not decide what forward computes"
        raise ObjectiveError(f"the exported network takes at most {most} images in a batch; {advice}")


def _reason(error: Exception, owner: type) -> str:
    """The error on one line, with the last line of the file of `build_network` that it went through."""
    text = " ".join(describe_error(error).split())
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."
    file = getattr(getattr(getattr(owner, "build_network", None), "__code__", None), "co_filename", "")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{text} ({Path(file).name}, line {lines[-1]})" if lines else text
