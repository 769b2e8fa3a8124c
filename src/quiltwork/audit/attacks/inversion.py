"""Fragments from activations: whoever holds some leaked pairs (h, x) fits x = A h + b and inverts the rest.

    A, b = argmin  sum_leaked |x - A h - b|^2 + penalty |A|^2      R^2 = 1 - sum |x - x^|^2 / sum |x - mean|^2

Ridge regression is the weakest inversion that works without any prior of the data; what it recovers is a lower bound.
The baseline is the same from the attacker's own columns, where it has some; a composer has none, and starts from 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.attacks.result import Attack
from quiltwork.errors import InvalidOption


def inversion(
    party: str,
    activations: ArrayLike,
    fragment: ArrayLike,
    *,
    pairs: int = 100,
    ridge: float = 1e-2,
    own: ArrayLike | None = None,
    seed: int = 0,
) -> Attack:
    """How much of a fragment do its activations give away?

    Args:
        party: whose fragment is attacked.
        activations: ``[m, d]``.
        fragment: ``[m, p]``, the truth.
        pairs: rows whose fragment leaked.
        ridge: penalty, as a share of the activations' mean variance.
        own: ``[m, q]``, what the attacker knows of the same rows anyway.
        seed: of the draw of leaked rows.

    Raises:
        InvalidOption: the arrays do not fit, or no rows are left to invert.
    """
    h, x = np.asarray(activations, dtype=np.float64), np.asarray(fragment, dtype=np.float64).reshape(len(fragment), -1)  # type: ignore[arg-type]
    if h.ndim != 2 or len(h) != len(x) or not 2 <= pairs <= len(x) - 2:
        raise InvalidOption(
            f"{pairs} leaked pairs of {len(x)} rows", why="two have to leak and two to stay", mend="Give other numbers."
        )
    order = np.random.default_rng(seed).permutation(len(x))
    leaked, rest = order[:pairs], order[pairs:]
    success = _explained(h, x, leaked, rest, ridge)
    baseline = 0.0 if own is None else _explained(np.asarray(own, dtype=np.float64), x, leaked, rest, ridge)
    return Attack(
        name="fragment from activations",
        party=party,
        adversary=f"the composer, passive, knowing the fragment of {pairs} rows",
        measure="R squared of the other rows",
        success=success,
        baseline=baseline,
        cases=len(rest),
        further={"width": h.shape[1], "pairs": pairs},
    )


def _explained(
    inputs: NDArray[np.float64],
    x: NDArray[np.float64],
    leaked: NDArray[np.int64],
    rest: NDArray[np.int64],
    ridge: float,
) -> float:
    centre, mean = inputs[leaked].mean(0), x[leaked].mean(0)
    known, asked = inputs[leaked] - centre, inputs[rest] - centre
    gram = known.T @ known
    # columns keep their scales: one that hardly varies among the pairs would be blown up by its own
    penalty = max(ridge * float(np.trace(gram)) / len(gram), 1e-300)
    guess = asked @ np.linalg.solve(gram + penalty * np.eye(len(gram)), known.T @ (x[leaked] - mean)) + mean
    return float(1 - ((x[rest] - guess) ** 2).sum() / ((x[rest] - x[rest].mean(0)) ** 2).sum())
