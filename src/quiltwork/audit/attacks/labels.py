"""Labels from cotangents: a party that knows one label of each class reads off the others.

A cotangent of a softmax loss is J^T (p - e_y): its direction is nearly that of its class as long as the predictions p
are far from the labels, so first of all in the first rounds (Li et al. 2022, arXiv 2102.08504; Liu et al. 2022, arXiv
2203.05222). Two ways, and the better of the two counts:

    cosine      the class of the shown row whose cotangent has the largest cosine
    clusters    k-means of directions, started at the shown rows; a cluster has the class of its start

Both see rows whose messages belong to one stretch of rounds, since directions turn as the composer learns. The
baseline is the same attack on the party's own columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.attacks.result import Attack, wilson
from quiltwork.audit.tape import Lessons
from quiltwork.errors import InvalidOption

Rows = NDArray[np.float64]
Classes = NDArray[np.int64]

DRAWS = 5
"""Times that the shown rows are drawn; successes are averaged."""

_SWEEPS = 10


def label_recovery(
    party: str, cotangents: ArrayLike, labels: ArrayLike, own: ArrayLike, *, when: str = "all rounds", seed: int = 0
) -> Attack:
    """How many labels does a party learn from its cotangents and one shown label a class?

    Args:
        party: who attacks.
        cotangents: ``[m, d]``, as they came.
        labels: int ``[m]``, the true ones.
        own: ``[m, p]``, the party's columns of the same rows.
        when: the rounds they are of, in words.
        seed: of the draws of shown rows.

    Raises:
        InvalidOption: the arrays do not fit, or there are fewer than two classes.
    """
    seen, features, truth = _rows(cotangents), _rows(own), np.asarray(labels, dtype=np.int64)
    if not len(seen) == len(features) == len(truth) or len(np.unique(truth)) < 2:
        raise InvalidOption(
            "cotangents, labels and columns",
            why="they are not of the same rows, or all of one class",
            mend="Give one row each, of two classes or more.",
        )
    shown = [_shown(truth, np.random.default_rng([seed, draw])) for draw in range(DRAWS)]
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-12)
    ways = {name: _success(way, seen, truth, shown) for name, way in WAYS.items()}
    success = max(ways.values())
    baseline = max(_success(way, features, truth, shown) for way in WAYS.values())
    cases = len(truth) - len(shown[0])
    low, high = wilson(success * cases, cases)
    return Attack(
        name="labels from cotangents",
        party=party,
        adversary="the party itself, passive, knowing one label of each class",
        measure="share of the other labels",
        when=when,
        success=success,
        baseline=baseline,
        low=low,
        high=high,
        cases=cases,
        further={**ways, "commonest class": float(np.bincount(truth).max() / len(truth))},
    )


def label_recovery_by_epoch(
    party: str, lessons: Lessons, labels: ArrayLike, own: ArrayLike, epochs: Sequence[tuple[int, int]], *, seed: int = 0
) -> tuple[Attack, ...]:
    """The attack on the first round and on each epoch.

    Args:
        party: who attacks.
        lessons: its rounds.
        labels: int ``[n]``, by position in the agreed order.
        own: ``[n, p]``, likewise.
        epochs: rounds ``first ... after - 1`` of each.
        seed: of the draws of shown rows.

    Returns:
        One attack for the first round, where two of its labels are unlike, and one for each epoch.
    """
    truth, features = np.asarray(labels), np.asarray(own)
    first = int(lessons.rounds[0])
    spans = [("first round", first, first + 1)]
    spans += [(f"rounds {start} to {after - 1}", start, after) for start, after in epochs]
    found = []
    for when, start, after in spans:
        part = lessons.within(start, after)
        if len(np.unique(truth[part.rows])) > 1:
            columns = features[part.rows].reshape(len(part.rows), -1)
            found.append(label_recovery(party, part.cotangents, truth[part.rows], columns, when=when, seed=seed))
    return tuple(found)


def _shown(truth: Classes, draw: np.random.Generator) -> Classes:
    """One row of each class."""
    return np.array([draw.choice(np.flatnonzero(truth == c)) for c in np.unique(truth)], dtype=np.int64)


def _success(way: Callable[[Rows, Classes], Classes], rows: Rows, truth: Classes, shown: Sequence[Classes]) -> float:
    directions = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    shares = []
    for chosen in shown:
        guess = truth[chosen][way(directions, chosen)]
        rest = np.setdiff1d(np.arange(len(truth)), chosen)
        shares.append(float((guess[rest] == truth[rest]).mean()) if len(rest) else 0.0)
    return float(np.mean(shares))


def _by_cosine(directions: Rows, chosen: Classes) -> Classes:
    found: Classes = (directions @ directions[chosen].T).argmax(1)
    return found


def _by_clusters(directions: Rows, chosen: Classes) -> Classes:
    centres = directions[chosen].copy()
    for _ in range(_SWEEPS):
        nearest: Classes = (directions @ centres.T).argmax(1)
        for cluster in range(len(centres)):
            mean = directions[nearest == cluster].sum(0)
            norm = np.linalg.norm(mean)
            if norm > 0:
                centres[cluster] = mean / norm
    return nearest


WAYS: dict[str, Callable[[Rows, Classes], Classes]] = {"cosine": _by_cosine, "clusters": _by_clusters}
"""From directions and shown rows to the number of a shown row for each row."""


def _rows(values: ArrayLike) -> Rows:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InvalidOption("rows of an attack", why="they are not a finite table", mend="Give [rows, columns].")
    return found
