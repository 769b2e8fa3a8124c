"""How sure the mean of some rows is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def standard_error(values: NDArray[np.float64], groups: NDArray[Any] | None = None) -> float | None:
    """The standard error of the mean of ``values``; None where fewer than two independent values are there.

    With ``groups`` it is that of sums over G groups, sqrt(G / (G - 1) sum_g (sum_{i in g} (v_i - mean))^2) / n.

    >>> standard_error(np.array([1.0, 3.0]))
    1.0
    >>> standard_error(np.array([1.0, 1.0, 3.0, 3.0]), np.array(["a", "a", "b", "b"]))
    1.0
    """
    centred = values - values.mean()
    sums = centred if groups is None else np.bincount(np.unique(groups, return_inverse=True)[1].ravel(), centred)
    if len(sums) < 2:
        return None
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))
