"""Was a row trained on? Shadow models and a likelihood ratio, at a low rate of false alarms (LiRA, arXiv 2112.03570).

Shadow models are trained as the target was, on halves of a pool that the attacker holds. For row j with confidences
phi = log(p_y / (1 - p_y)) of shadows that had it (in) and had it not (out),

    score_j = log N(phi_target; mean_in, sd_in) - log N(phi_target; mean_out, sd_out)

with one standard deviation for all rows, which is better where shadows are few. What counts is the share of members
that are found when at most so many of the others are accused, with its interval; an average such as the area under
the curve hides the few rows that are given away for sure, and is not offered.

The baseline never asks the target: it accuses the rows that are hardest for shadows that have not seen them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.attacks.result import Attack, wilson
from quiltwork.errors import InvalidOption

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


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
    in_mean, out_mean = _means(phi, inside), _means(phi, ~inside)
    in_sd, out_sd = _spread(phi, inside, in_mean), _spread(phi, ~inside, out_mean)
    score = _log_normal(asked, in_mean, in_sd) - _log_normal(asked, out_mean, out_sd)
    hits, baseline = _found(score, truth, rate), _found(-out_mean, truth, rate)
    low, high = wilson(hits, int(truth.sum()))
    return Attack(
        name="membership by shadow models",
        party=party,
        adversary="whoever may ask the model and can train others like it on similar rows",
        measure=f"share of members found at a false positive rate of {rate:g}",
        when="the released model",
        success=hits / int(truth.sum()),
        baseline=baseline / int(truth.sum()),
        low=low,
        high=high,
        cases=int(truth.sum()),
        further={"shadows": len(phi), "non-members": outsiders, "rate": rate},
    )


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


def _means(phi: Floats, at: Flags) -> Floats:
    found: Floats = np.where(at, phi, 0).sum(0) / at.sum(0)
    return found


def _spread(phi: Floats, at: Flags, mean: Floats) -> float:
    return max(float(np.sqrt(np.where(at, (phi - mean) ** 2, 0).sum() / at.sum())), 1e-6)


def _log_normal(values: Floats, mean: Floats, sd: float) -> Floats:
    found: Floats = -0.5 * ((values - mean) / sd) ** 2 - np.log(sd)
    return found


def _found(score: Floats, truth: Flags, rate: float) -> int:
    """Members above the threshold at which at most ``rate`` of the others are."""
    others = np.sort(score[~truth])[::-1]
    return int((score[truth] > others[int(rate * len(others))]).sum())
