"""Was a row trained on? Shadow models and a likelihood ratio, at a low rate of false alarms (LiRA, arXiv 2112.03570).

Shadow models are trained as the target was, on halves of a pool that the attacker holds. For row j with confidences
phi = log(p_y / (1 - p_y)) of shadows that had it (in) and had it not (out),

    score_j = log N(phi_target; mean_in, sd_in) - log N(phi_target; mean_out, sd_out)

with a variance of each row's own, drawn towards that of all rows by as much as `PRIOR_SHADOWS` shadows weigh, since a
few shadows tell little of one row. What counts is the share of members that are found when at most so many of the
others are accused, with its interval; an average such as the area under the curve hides the few rows that are given
away for sure, and is not offered.

`membership` attacks one model. `shadow_game` attacks a way of training: each of the models is the target in turn and
all others are its shadows, and one threshold serves for all scores together, as in the paper. So many more rows that
were not trained on are judged, and rates such as 0.1 % can be told. Its interval is that of a bootstrap over models
and over rows (Owen 2007, "The pigeonhole bootstrap"): scores of one model, or of one row, are not independent.

The baseline never asks the target: it accuses the rows that are hardest for shadows that have not seen them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.attacks.result import Attack, wilson
from quiltwork.errors import InvalidOption

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

NAME = "membership by shadow models"
ADVERSARY = "whoever may ask the model and can train others like it on similar rows"

PRIOR_SHADOWS = 16.0
"""How many shadows the common variance weighs in the variance of a row."""

_DRAWS = 400


def confidence(log_probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """log(p_y / (1 - p_y)), ``[m]``, of log-probabilities ``[m, k]``.

    >>> confidence(np.log([[0.5, 0.5], [0.1, 0.9]]), [0, 1]).round(3).tolist()
    [0.0, 2.197]
    """
    logs = np.asarray(log_probabilities, dtype=np.float64)
    at = np.arange(len(logs)), np.asarray(labels, dtype=np.int64)
    rest = logs.copy()
    rest[at] = -np.inf
    largest = rest.max(1)
    found: Floats = logs[at] - (largest + np.log(np.exp(rest - largest[:, None]).sum(1)))
    return found


def membership(
    shadows: ArrayLike,
    had: ArrayLike,
    target: ArrayLike,
    members: ArrayLike,
    *,
    rate: float = 0.01,
    party: str = "composed model",
) -> Attack:
    """How many members are found at a rate of false alarms?

    Args:
        shadows: ``[s, m]``, confidences of each shadow model on each row.
        had: bool ``[s, m]``, whether it was trained on the row.
        target: ``[m]``, confidences of the model that is attacked.
        members: bool ``[m]``, the truth.
        rate: of non-members that may be accused.
        party: whose model it is, in words.

    Raises:
        InvalidOption: the arrays do not fit, some row was in all shadows or in none, or there are so few non-members
            that the rate cannot be told from none.
    """
    phi, inside, asked, truth = _fitting(shadows, had, target, members)
    outsiders = int((~truth).sum())
    if outsiders * rate < 1:
        raise InvalidOption(
            f"a rate of {rate} with {outsiders} rows that were not trained on",
            why="not one of them may be accused",
            mend=f"Attack at least {round(1 / rate)} of them, or choose a higher rate.",
        )
    within, without = _normals(phi, inside), _normals(phi, ~inside)
    score = _log_normal(asked, *within) - _log_normal(asked, *without)
    hits, baseline = _found(score, truth, rate), _found(-without[0], truth, rate)
    low, high = wilson(hits, int(truth.sum()))
    return Attack(
        name=NAME,
        party=party,
        adversary=ADVERSARY,
        measure=f"share of members found at a false positive rate of {rate:g}",
        when="the released model",
        success=hits / int(truth.sum()),
        baseline=baseline / int(truth.sum()),
        low=low,
        high=high,
        cases=int(truth.sum()),
        further={"shadows": len(phi), "non-members": outsiders, "rate": rate},
    )


def shadow_game(
    models: ArrayLike,
    had: ArrayLike,
    *,
    rates: Sequence[float] = (0.01, 0.001),
    party: str = "composed model",
    seed: int = 0,
) -> list[Attack]:
    """How many members of models that were trained alike are found at rates of false alarms? One attack a rate.

    Args:
        models: ``[s, m]``, confidences of each model on each row.
        had: bool ``[s, m]``, whether it was trained on the row.
        rates: of rows that were not trained on and may be accused, over all models.
        party: whose models they are, in words.
        seed: of the bootstrap.

    Raises:
        InvalidOption: the arrays do not fit, fewer than two other models had, or had not, some row, or a rate cannot be
            told from none.
    """
    phi, inside = np.asarray(models, dtype=np.float64), np.asarray(had, dtype=bool)
    fits = phi.shape == inside.shape and phi.ndim == 2
    if not fits or min(inside.sum(0).min(), (~inside).sum(0).min()) < 3 or not np.isfinite(phi).all():
        raise InvalidOption(
            "shadow models",
            why="the arrays are of other rows, not finite, or fewer than three models had, or had not, some row",
            mend="Train each on a random half of the rows, and more of them.",
        )
    outsiders = int((~inside).sum())
    if outsiders * min(rates) < 1:
        raise InvalidOption(
            f"a rate of {min(rates)} with {outsiders} judgements of rows that were not trained on",
            why="not one of them may be accused",
            mend=f"Make at least {round(1 / min(rates))} of them, or choose a higher rate.",
        )
    score, hardness = _against_the_others(phi, inside)
    draws, ones = _pigeonholes(inside.shape, np.random.default_rng(seed)), np.ones(inside.shape)
    found = _Ranked(score, inside), _Ranked(hardness, inside)
    resampled = np.array([found[0].shares(weights, rates) for weights in draws])
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    success, baseline = (one.shares(ones, rates) for one in found)
    return [
        Attack(
            name=NAME,
            party=party,
            adversary=ADVERSARY,
            measure=f"share of members found at a false positive rate of {rate:g}",
            when="released models",
            success=success[i],
            baseline=baseline[i],
            low=min(float(low[i]), success[i]),
            high=max(float(high[i]), success[i]),
            cases=int(inside.sum()),
            further={"shadows": len(phi) - 1, "models": len(phi), "non-members": outsiders, "rate": rate},
        )
        for i, rate in enumerate(rates)
    ]


def _against_the_others(phi: Floats, inside: Flags) -> tuple[Floats, Floats]:
    """For each model, scores of its rows by all other models; and how hard the rows are for those without them."""
    score, hardness = np.empty_like(phi), np.empty_like(phi)
    for target in range(len(phi)):
        others = np.arange(len(phi)) != target
        within, without = (_normals(phi[others], at[others]) for at in (inside, ~inside))
        score[target] = _log_normal(phi[target], *within) - _log_normal(phi[target], *without)
        hardness[target] = -without[0]
    return score, hardness


def _pigeonholes(shape: tuple[int, ...], draw: np.random.Generator) -> list[Floats]:
    """Weights ``[s, m]`` of models and rows drawn with replacement, each for itself."""
    sizes = [(n, np.full(n, 1 / n)) for n in shape]
    return [np.multiply.outer(*(draw.multinomial(*size).astype(np.float64) for size in sizes)) for _ in range(_DRAWS)]


class _Ranked:
    """Scores in falling order, those that are equal together."""

    def __init__(self, score: Floats, truth: Flags) -> None:
        _, place = np.unique(-score.ravel(), return_inverse=True)
        self._place, self._truth, self._count = place.ravel(), truth.ravel(), int(place.max()) + 1

    def shares(self, weights: Floats, rates: Sequence[float]) -> list[float]:
        """Of members, by weight, the share above the threshold at which at most a rate of the others is."""
        members, others = (self._risen(np.where(at, weights.ravel(), 0.0)) for at in (self._truth, ~self._truth))
        # rounding must not shut out the last one that a rate allows
        allowed = [int(np.searchsorted(others, rate * others[-1] * (1 + 1e-12), side="right")) for rate in rates]
        return [float(members[at - 1] / members[-1]) if at else 0.0 for at in allowed]

    def _risen(self, weights: Floats) -> Floats:
        return np.bincount(self._place, weights, minlength=self._count).cumsum()


def _fitting(
    shadows: ArrayLike, had: ArrayLike, target: ArrayLike, members: ArrayLike
) -> tuple[Floats, Flags, Floats, Flags]:
    phi, inside = np.asarray(shadows, dtype=np.float64), np.asarray(had, dtype=bool)
    asked, truth = np.asarray(target, dtype=np.float64), np.asarray(members, dtype=bool)
    fits = phi.shape == inside.shape and phi.ndim == 2 and asked.shape == truth.shape == phi.shape[1:]
    if not fits or inside.all(0).any() or (~inside).all(0).any() or not truth.any() or truth.all():
        raise InvalidOption(
            "shadow models",
            why="the arrays are of other rows, or some row was in all of them or in none",
            mend="Train each on a random half of the rows.",
        )
    return phi, inside, asked, truth


def _normals(phi: Floats, at: Flags) -> tuple[Floats, Floats]:
    """Of each row, mean and standard deviation over the shadows at which it is marked."""
    count = at.sum(0)
    mean = np.where(at, phi, 0).sum(0) / count
    squares = np.where(at, (phi - mean) ** 2, 0).sum(0)
    common = squares.sum() / at.sum()
    return mean, np.maximum(np.sqrt((squares + PRIOR_SHADOWS * common) / (count + PRIOR_SHADOWS)), 1e-6)


def _log_normal(values: Floats, mean: Floats, sd: Floats) -> Floats:
    found: Floats = -0.5 * ((values - mean) / sd) ** 2 - np.log(sd)
    return found


def _found(score: Floats, truth: Flags, rate: float) -> int:
    """Members above the threshold at which at most ``rate`` of the others are."""
    others = np.sort(score[~truth])[::-1]
    return int((score[truth] > others[int(rate * len(others))]).sum())
