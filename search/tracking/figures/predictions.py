"""Packs a trial's predictions for the journal, until the delivery thread has time to draw them."""

import io

import numpy as np
from numpy.typing import NDArray

N_SAMPLES = 25  # images in a grid


def pack(images: NDArray[np.uint8], labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> bytes:
    """Return an npz archive with labels and predicted classes, (n,) each, and two grids of up to 25 images.

    images: (n, c, h, w), labels: (n,), probabilities: (n, k). The grid `sample` is what `sample` draws; `wrong` has the
    most confident mistakes. A grid `x` has x_images (m, c, h, w), x (2, m) predicted and true classes, x_sure (m,).
    """
    predicted, confidences = probabilities.argmax(1), probabilities.max(1)
    mistakes = np.flatnonzero(predicted != labels)
    most_confident = mistakes[np.argsort(-confidences[mistakes], kind="stable")][:N_SAMPLES]
    grids = {"sample": sample(len(labels)), "wrong": most_confident}
    arrays = {"labels": labels.astype(np.int16), "predicted": predicted.astype(np.int16)}
    for name, chosen in grids.items():
        arrays[f"{name}_images"] = images[chosen]
        arrays[name] = np.stack((predicted[chosen], labels[chosen])).astype(np.int16)
        arrays[f"{name}_sure"] = confidences[chosen].astype(np.float32)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def sample(n: int) -> NDArray[np.int64]:
    """Return sorted indices of up to 25 of `n` images: a fixed random draw, so mistakes keep their true share."""
    return np.sort(np.random.default_rng(0).permutation(n)[:N_SAMPLES]).astype(np.int64)
