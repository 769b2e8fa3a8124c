"""What to know before models are joined: who knows what others do not, and what an ensemble's gain is made of.

For members m with predictions f_m and weights w_m on rows with truth y, on average over rows:

    positive flips     rho(a, b)  =  share of rows where b is right and a is wrong           (arXiv 2310.17653)
    decomposition      individual - diversity = ensemble                                     (arXiv 2301.11323)
                       sum_m w_m loss(f_m) - diversity = loss(combined f)
    drop one           loss(combined without m) - loss(combined)       positive: m helps
    codependence       mean loss after r members at random are dropped, r = 0 .. M - 1
    linear CKA         |X' Y|_F^2 / (|X' X|_F |Y' Y|_F) of centred features                  (arXiv 1905.00414)

For the squared loss, and the Brier score of mean probabilities, diversity is the weighted variance of the members
(Krogh and Vedelsby 1995); for convex losses it is never below zero. Members that were trained jointly can inflate both
sides of the decomposition and gain nothing; then codependence shows, for their ensemble falls apart when one is gone.

All of it is computed from predictions, at the owner of the rows, and only numbers leave.

>>> flips({"ash": [0, 1, 1], "oak": [0, 0, 0]}, [0, 0, 1])
{'ash': {'oak': 0.3333333333333333}, 'oak': {'ash': 0.3333333333333333}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.insight import Difference, difference
from quiltwork.evaluate.scores import Scores
from quiltwork.models.network.combining import Task, combine

Array = NDArray[np.float64]
Loss: TypeAlias = Literal["log", "brier", "squared"]

# subsets of members beyond this are drawn
MOST_SUBSETS = 256


class Decomposition(NamedTuple):
    """Mean losses a row: ``individual - diversity == ensemble``."""

    individual: float
    diversity: float
    ensemble: float


class Externality(NamedTuple):
    """A party whose model makes a composition worse on someone's data, and by how much."""

    source: str
    domain: str
    harm: Difference


def flips(predictions: Mapping[str, ArrayLike], y: ArrayLike) -> dict[str, dict[str, float]]:
    """For each model a and each other b the share of rows that b answers rightly and a wrongly.

    Args:
        predictions: classes by model, ``[n]`` each.
        y: the true classes, ``[n]``.

    Raises:
        InvalidOption: there are no rows, or predictions of another length.
    """
    truth = np.asarray(y)
    for name, found in predictions.items():
        if truth.ndim != 1 or not len(truth) or np.shape(found) != truth.shape:
            raise InvalidOption(
                f"predictions of '{name}'",
                why=f"they do not fit truth of shape {list(truth.shape)}",
                mend="Give one class for each row, at least one row.",
            )
    right = {name: np.asarray(found) == truth for name, found in predictions.items()}
    return {a: {b: float((~right[a] & right[b]).mean()) for b in right if b != a} for a in right}


def row_losses(outputs: ArrayLike, y: ArrayLike, loss: Loss) -> Array:
    """The loss of every row, float64 ``[n]``.

    Args:
        outputs: ``[n, k]``, logits (``log``, ``brier``) or numbers (``squared``).
        y: classes int ``[n]``, or numbers ``[n, k]``.
        loss: ``log`` -ln p(y); ``brier`` sum over classes (p - onehot)^2; ``squared`` mean over outputs (f - y)^2.
    """
    given = np.asarray(outputs, dtype=np.float64)
    if loss == "squared":
        return np.asarray(((given - np.asarray(y, dtype=np.float64).reshape(given.shape)) ** 2).mean(axis=1))
    log_p = torch.log_softmax(torch.from_numpy(given), dim=1).numpy()
    codes, rows = np.asarray(y, dtype=np.int64), np.arange(len(given))
    if loss == "log":
        return np.asarray(-log_p[rows, codes], dtype=np.float64)
    missed = np.exp(log_p)
    missed[rows, codes] -= 1
    return np.asarray((missed**2).sum(axis=1), dtype=np.float64)


def decompose(
    outputs: ArrayLike,
    y: ArrayLike,
    loss: Loss = "log",
    *,
    weights: ArrayLike | None = None,
    rule: str | None = None,
) -> Decomposition:
    """An ensemble's mean loss as the members' own less their diversity.

    Args:
        outputs: ``[M, n, k]``, logits or numbers of the members.
        y: classes ``[n]``, or numbers ``[n, k]``.
        loss: as `row_losses`.
        weights: ``[M]``, scaled to sum 1; None weighs all alike.
        rule: how outputs are combined; None for mean probabilities, or mean numbers.

    Raises:
        InvalidOption: the weights are none, or there is no such rule.
    """
    members = np.asarray(outputs, dtype=np.float64)
    w = _shares(weights, len(members))
    individual = float(w @ [row_losses(member, y, loss).mean() for member in members])
    ensemble = _ensemble_loss(members, y, loss, w, rule)
    return Decomposition(individual, individual - ensemble, ensemble)


def drop_one(
    outputs: ArrayLike, y: ArrayLike, loss: Loss = "log", *, weights: ArrayLike | None = None, rule: str | None = None
) -> Array:
    """How much the ensemble loses with each member, float64 ``[M]``; positive: the member helps. As `decompose`.

    Raises:
        InvalidOption: as `decompose`, or there are fewer than two members.
    """
    members = np.asarray(outputs, dtype=np.float64)
    if len(members) < 2:
        raise InvalidOption("outputs", why="there is one member only", mend="Drop-one needs two or more.")
    w = _shares(weights, len(members))
    whole = _ensemble_loss(members, y, loss, w, rule)
    others = [np.arange(len(members)) != number for number in range(len(members))]
    return np.array([_ensemble_loss(members[kept], y, loss, _shares(w[kept], None), rule) - whole for kept in others])


def codependence(
    outputs: ArrayLike, y: ArrayLike, loss: Loss = "log", *, rule: str | None = None, seed: int = 0
) -> Array:
    """The mean loss of equal-weight ensembles after r members are dropped, float64 ``[M]`` for r = 0 .. M - 1.

    All subsets count where there are at most 256 of a size, else 256 drawn by ``seed``.
    """
    members = np.asarray(outputs, dtype=np.float64)
    rng, losses = np.random.default_rng(seed), []
    for kept in range(len(members), 0, -1):
        chosen = _subsets(len(members), kept, rng)
        found = [_ensemble_loss(members[list(one)], y, loss, _shares(None, kept), rule) for one in chosen]
        losses.append(np.mean(found))
    return np.array(losses)


def cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA of two activations ``[n, p]`` and ``[n, q]`` of the same rows: 0 unrelated, 1 equal up to rotation.

    Raises:
        InvalidOption: the rows differ in number, or one side is constant.
    """
    one, other = (np.asarray(table, dtype=np.float64).reshape(len(np.asarray(table)), -1) for table in (x, y))
    if len(one) != len(other):
        raise InvalidOption(
            "activations", why=f"they are of {len(one)} and {len(other)} rows", mend="Use the same rows."
        )
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    return cka_from_moments(one.T @ one, other.T @ other, one.T @ other)


def cka_from_moments(gram_x: ArrayLike, gram_y: ArrayLike, cross: ArrayLike) -> float:
    """Linear CKA from centred sums ``X'X``, ``Y'Y`` and ``X'Y``, in any common scale; owners' sums add up.

    Raises:
        InvalidOption: one side is constant.
    """
    sizes = [float(np.linalg.norm(np.asarray(gram, dtype=np.float64))) for gram in (gram_x, gram_y)]
    if min(sizes) == 0:
        raise InvalidOption("activations", why="one side is constant", mend="Leave that point out.")
    return float(np.linalg.norm(np.asarray(cross, dtype=np.float64)) ** 2) / (sizes[0] * sizes[1])


def negative_externalities(scores: Scores, method: str) -> list[Externality]:
    """Parties whose leaving clearly lowers the metric of ``method`` somewhere, the worst first (arXiv 2211.06348).

    The paper leaves data out and trains again; here a model is left out and the others composed again, which is an
    approximation of that and exact for the composition itself.

    Raises:
        InvalidOption: no such method, or nothing was left out of it.
    """
    row = scores.row(method)
    if method not in scores.leave_one_out:
        raise InvalidOption(
            f"leave-one-out of {method!r}",
            why="it was not measured",
            mend=f"Evaluate it with leave-one-out, or choose one of {sorted(scores.leave_one_out)}.",
        )
    found = [
        Externality(party, domain, difference(scores.methods[method].domains[domain], cell, paired=True))
        for party, without in scores.leave_one_out[method].items()
        for domain, cell in without.domains.items()
        if domain in row
    ]
    worse = [one for one in found if one.harm.clearly_better(scores.measure)]
    return sorted(worse, key=lambda one: one.harm.value)


def _ensemble_loss(members: Array, y: ArrayLike, loss: Loss, weights: Array, rule: str | None) -> float:
    task: Task = "numbers" if loss == "squared" else "classes"
    chosen = rule or ("mean" if task == "numbers" else "probability")
    combined = combine(torch.from_numpy(members), torch.from_numpy(weights), chosen, task).numpy()
    return float(row_losses(combined, y, loss).mean())


def _subsets(members: int, size: int, rng: np.random.Generator) -> Sequence[tuple[int, ...]]:
    if comb(members, size) <= MOST_SUBSETS:
        return list(combinations(range(members), size))
    return [tuple(rng.choice(members, size, replace=False).tolist()) for _ in range(MOST_SUBSETS)]


def _shares(weights: ArrayLike | None, members: int | None) -> Array:
    """Weights scaled to sum 1; equal ones where none are given."""
    w = np.full(members or 1, 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    if members not in (None, len(w)) or not (np.isfinite(w) & (w >= 0)).all() or not w.any():
        raise InvalidOption(
            "weights", why="they are not one number a member, none negative", mend=f"Give {members} of them."
        )
    return np.asarray(w / w.sum(), dtype=np.float64)
