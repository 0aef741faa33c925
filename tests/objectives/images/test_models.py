"""Networks: shapes, what they are made of, and that what was built can be built again."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from objectives.images.models import (
    Averaged,
    Dropout,
    InputSpec,
    Normalise,
    Probabilities,
    Residual,
    Tempered,
    build_cnn,
    build_mlp,
    build_resnet,
    max_blocks,
    normalised,
    predictor,
)
from objectives.images.training.loop import predict_logits


def inputs(side: int = 28, channels: int = 1) -> InputSpec:
    return InputSpec(channels, (side, side), 10, (0.13,) * channels, (0.3,) * channels)


def test_normalisation_is_the_first_layer_and_has_no_parameters():
    layer = Normalise((0.5, 0.25), (0.5, 2.0))
    images = torch.rand(3, 2, 4, 4)
    expected = torch.stack(((images[:, 0] - 0.5) / 0.5, (images[:, 1] - 0.25) / 2.0), dim=1)
    assert torch.allclose(layer(images), expected)
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"mean", "std"}
    layer.load_state_dict(Normalise((0.1, 0.2), (0.3, 0.4)).state_dict())
    expected = torch.stack(((images[:, 0] - 0.1) / 0.3, (images[:, 1] - 0.2) / 0.4), dim=1)
    assert torch.allclose(layer(images), expected)
    assert torch.allclose(layer.shift + images * layer.scale, expected, atol=1e-6)
    for network in (build_mlp(inputs(), (8,)), build_cnn(inputs(), 2, 8)):
        whole = normalised(inputs(), network)
        assert [type(layer) for layer in whole] == [Normalise, *map(type, network)]


def test_the_tutorials_network_has_the_size_of_the_tutorials():
    network = build_mlp(inputs(), (512, 256))
    assert sum(p.numel() for p in network.parameters()) == 784 * 512 + 512 + 512 * 256 + 256 + 256 * 10 + 10
    assert not [layer for layer in network if isinstance(layer, nn.Dropout)]


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_dropout_drops_its_share_everywhere_and_keeps_the_mean(p: float):
    torch.manual_seed(0)
    x = torch.ones(8001, 9, requires_grad=True)
    y = Dropout(p)(x)
    share, error = round(256 * p) / 256, 5 * math.sqrt(p * (1 - p) / 8001)
    assert (y == 0).float().mean(0).tolist() == pytest.approx([share] * 9, abs=error)  # whichever byte decides
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_repeats_with_its_seed_and_is_nothing_in_use():
    x, layer = torch.rand(40, 7), Dropout(0.3)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))


@pytest.mark.parametrize("widths", [(16,), (16, 8), (32, 16, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_mlp_gives_one_logit_a_class(widths: tuple[int, ...], channels: int):
    network = build_mlp(inputs(8, channels), widths, dropout=0.2)
    assert network(torch.rand(5, channels, 8, 8)).shape == (5, 10)
    assert len([layer for layer in network if isinstance(layer, nn.Dropout)]) == len(widths)


@pytest.mark.parametrize("side", [8, 12, 15, 16, 28, 32, 64, 65, 96, 224])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dense", [0, 16])
def test_a_cnn_fits_every_size_that_it_says_it_fits(side: int, kernel: int, dense: int):
    for blocks in range(1, max_blocks((side, side)) + 1):
        network = build_cnn(inputs(side, 3), blocks, 8, kernel, dense, dropout=0.1)
        assert network(torch.rand(2, 3, side, side)).shape == (2, 10)
    with pytest.raises(ValueError, match=rf"4 blocks do not fit images of {side}x{side} pixels"):
        build_cnn(inputs(side), 4, 8)


@pytest.mark.parametrize("size", [(20, 33), (21, 17), (100, 70), (64, 200), (224, 131)])
@pytest.mark.parametrize("stride", [None, 1, 2])
def test_images_need_not_be_square(size: tuple[int, int], stride: int | None):
    inputs = InputSpec(1, size, 3, (0.5,), (0.5,))
    cnns = build_cnn(inputs, 2, 8, stride=stride), build_cnn(inputs, 3, 8, 5, 16, convs=2, stride=stride)
    for network in (*cnns, build_resnet(inputs, 3, 8, stride=stride), build_mlp(inputs, (8,))):
        assert network(torch.rand(2, 1, *size)).shape == (2, 3)


@pytest.mark.parametrize("side", [8, 15, 16, 29, 32, 65])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_residual_network_fits_every_size_that_it_says_it_fits(side: int, depth: int):
    for blocks in range(2, max_blocks((side, side)) + 2):
        network = build_resnet(inputs(side, 3), blocks, 8, depth, dropout=0.1)
        assert network(torch.rand(2, 3, side, side)).shape == (2, 10)
        assert sum(isinstance(layer, Residual) for layer in network) == depth * (blocks - 1)
        last = network[-1]
        assert isinstance(last, nn.Linear)
        assert last.in_features == 8 * 2 ** (blocks - 1)
    with pytest.raises(ValueError, match=rf"blocks do not fit images of {side}x{side} pixels"):
        build_resnet(inputs(side), 6, 8)


def test_a_residual_layer_adds_its_input():
    x = torch.rand(2, 3)
    assert torch.equal(Residual(nn.Linear(3, 3), nn.ReLU())(x) >= x, torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(Residual(nn.Identity())(x), 2 * x)


@pytest.mark.parametrize("side", [16, 28, 29])
def test_both_strides_of_the_first_convolution_give_maps_of_the_same_size(side: int):
    images = torch.rand(2, 1, side, side)
    strided, pooled = build_cnn(inputs(side), 2, 8, stride=2), build_cnn(inputs(side), 2, 8, stride=1)
    assert strided[0](images).shape == pooled[1](pooled[0](images)).shape
    assert pooled[0](images).shape[2:] == (side, side)
    weights = [sum(p.numel() for p in network.parameters()) for network in (strided, pooled)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("side", [8, 65])
def test_images_whose_size_leaves_no_choice_have_one_stride(side: int):
    names = [[type(layer) for layer in build_cnn(inputs(side), 2, 8, stride=stride)] for stride in (None, 1, 2)]
    assert names[0] == names[1] == names[2]


def test_a_block_may_have_two_convolutions():
    convolutions = [
        [layer.out_channels for layer in build_cnn(inputs(), 3, 8, convs=convs) if isinstance(layer, nn.Conv2d)]
        for convs in (1, 2)
    ]
    assert convolutions == [[8, 16, 24], [8, 16, 16, 24, 24]]


def test_an_mlp_may_normalise_its_layers():
    network = build_mlp(inputs(), (8, 16), batch_norm=True)
    normalised = [layer.num_features for layer in network if isinstance(layer, nn.BatchNorm1d)]
    assert normalised == [8, 16]
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.bias is not None for layer in layers] == [False, False, True]
    assert network(torch.rand(5, 1, 28, 28)).shape == (5, 10)


def first_map(network: nn.Sequential, images: torch.Tensor) -> tuple[int, ...]:
    return tuple(network[0](images).shape[2:])


@pytest.mark.parametrize("side", [65, 96, 97, 128, 200, 224])
@pytest.mark.parametrize("kernel", [3, 5])
def test_large_images_are_first_shrunk_to_at_most_32_pixels(side: int, kernel: int):
    cnn, mlp = build_cnn(inputs(side, 3), 2, 8, kernel), build_mlp(inputs(side, 3), (8,))
    images = torch.rand(2, 3, side, side)
    assert first_map(cnn, images) == first_map(mlp, images)
    assert 16 < first_map(cnn, images)[0] <= 32
    stem = cnn[0]
    assert isinstance(stem, nn.Conv2d)
    assert stem.kernel_size[0] > stem.stride[0]  # every pixel counts


@pytest.mark.parametrize("side", [8, 16, 28, 64])
def test_images_up_to_64_pixels_have_the_networks_that_they_had(side: int):
    for kernel in (3, 5):
        stem = build_cnn(inputs(side), 2, 8, kernel)[0]
        assert isinstance(stem, nn.Conv2d)
        assert (stem.kernel_size[0], stem.stride[0]) == (kernel, 1 if side < 16 else 2)
    assert isinstance(build_mlp(inputs(side), (8,))[1], nn.Linear)


def test_the_same_seed_builds_the_same_network():
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(build_cnn(inputs(), 2, 8).state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert not all(torch.equal(built[0][name], built[2][name]) for name in built[0])


def test_weights_load_without_pickled_code():
    network = build_cnn(inputs(), 2, 8, dense=16).eval()
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    again = build_cnn(inputs(), 2, 8, dense=16).eval()
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(network(images), again(images))


def test_probabilities_are_the_softmax_of_the_logits():
    network = build_mlp(inputs(), (8,)).eval()
    images = torch.rand(4, 1, 28, 28)
    rows = Probabilities(network)(images)
    assert torch.allclose(rows, network(images).softmax(1))
    assert all(math.isclose(total, 1.0, abs_tol=1e-6) for total in rows.sum(1).tolist())


def test_an_ensemble_gives_the_weighted_mean_of_the_probabilities():
    networks = [build_mlp(inputs(), (8,)).eval(), build_cnn(inputs(), 2, 8).eval()]
    images = torch.rand(4, 1, 28, 28)
    expected = 0.75 * networks[0](images).softmax(1) + 0.25 * networks[1](images).softmax(1)
    ensemble = Averaged(networks, [0.75, 0.25]).eval()
    assert torch.allclose(Probabilities(ensemble)(images), expected, atol=1e-6)
    assert torch.allclose(ensemble(images), expected.log(), atol=1e-4)
    tempered = Probabilities(Tempered(ensemble, 2.0))(images)
    assert torch.allclose(tempered, expected.sqrt() / expected.sqrt().sum(1, keepdim=True), atol=1e-6)


def test_a_mirror_average_is_the_mean_of_the_logits_of_both_images():
    network, images = build_cnn(inputs(16, 3), 2, 8).eval(), torch.rand(5, 3, 16, 16)
    averaged = predictor(network, flip=True).eval()
    expected = (network(images) + network(images.flip(3))) / 2
    assert torch.allclose(averaged(images), expected, atol=1e-6)
    assert not torch.allclose(network(images), expected, atol=1e-3)
    assert torch.equal(averaged.train()(images), network.train()(images))
    assert predictor(network, flip=False) is network


LOGITS = st.floats(-1e4, 1e4, width=32)


@given(st.lists(LOGITS, min_size=2, max_size=6), st.floats(0.01, 100))
def test_a_temperature_changes_no_class(logits: list[float], temperature: float):
    """Not even where two logits differ by the smallest step. Of equal ones, the first is the class in any case."""
    rows = torch.tensor([logits])
    tempered = Tempered(nn.Identity(), temperature)
    assert tempered(rows).argmax(1).item() == rows.argmax(1).item()
    probabilities = Probabilities(tempered)(rows)
    assert probabilities[0, rows.argmax(1)] == probabilities.max()
    assert torch.allclose(probabilities, torch.softmax(rows.double() / temperature, 1).float(), atol=1e-3)
    assert torch.allclose(Probabilities(Tempered(nn.Identity(), 1.0))(rows), rows.softmax(1), atol=1e-6)


def test_logits_of_many_images_are_those_of_the_network():
    network = build_cnn(inputs(), 2, 8)
    images = np.random.default_rng(0).integers(0, 256, (1203, 1, 28, 28), np.uint8)
    found = predict_logits(network, images, "cpu")
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images) / 255)
    assert found.dtype == np.float32
    assert np.allclose(found, expected.numpy(), atol=1e-5)
