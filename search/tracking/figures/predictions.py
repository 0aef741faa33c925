"""What the images of a trial are drawn from, packed small for the journal until there is time to draw.

Images are uint8 (n, c, h, w), labels int (n,), probabilities float (n, k).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

COUNT = 25
"""Images in a grid."""


def pack(images: NDArray[np.uint8], labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> bytes:
    """Return an npz archive with labels and predicted classes, (n,) each, and two grids of up to 25 images.

    A grid `x` has x_images (m, c, h, w), x (2, m) predicted and true classes, and x_sure (m,) probabilities of the
    predicted class. The grid `sample` holds what `sample` draws, `wrong` the mistakes of highest probability.
    """
    predicted, sure = probabilities.argmax(1), probabilities.max(1)
    mistakes = np.flatnonzero(predicted != labels)
    grids = {"sample": sample(len(labels)), "wrong": mistakes[np.argsort(-sure[mistakes], kind="stable")][:COUNT]}
    arrays = {"labels": labels.astype(np.int16), "predicted": predicted.astype(np.int16)}
    for name, chosen in grids.items():
        arrays[f"{name}_images"] = images[chosen]
        arrays[name] = np.stack((predicted[chosen], labels[chosen])).astype(np.int16)
        arrays[f"{name}_sure"] = sure[chosen].astype(np.float32)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def sample(n: int, count: int = COUNT) -> NDArray[np.int64]:
    """Return sorted indices of up to `count` of `n` images: a fixed random draw, so mistakes keep their true share."""
    return np.sort(np.random.default_rng(0).permutation(n)[:count]).astype(np.int64)
