"""Whether a classifier is as sure as it may be: the probability of the likeliest class against how often it is right.

Every figure is a mean over rows, so parts scored apart can be averaged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quiltwork.evaluate.pooling import BINS


def reliability(probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> dict[str, float]:
    """For the likeliest class, by bin of its probability: how many rows, how sure, how often right.

    Args:
        probabilities: float64 ``[n, C]``.
        codes: int64 ``[n]``, the classes.

    Returns:
        ``bin_BIN_share``, ``bin_BIN_confidence``, ``bin_BIN_hits``, each a mean over all rows: within a bin the
        confidence is right if it equals the hits.
    """
    best, top = probabilities.argmax(axis=1), probabilities.max(axis=1)
    place = np.minimum((top * BINS).astype(int), BINS - 1)
    found: dict[str, float] = {}
    for j in range(BINS):
        inside = place == j
        found[f"bin_{j}_share"] = float(inside.mean())
        found[f"bin_{j}_confidence"] = float((top * inside).mean())
        found[f"bin_{j}_hits"] = float(((best == codes) & inside).mean())
    return found
