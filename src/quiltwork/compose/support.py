"""Where mixtures are compared: covariates drawn from what the machines declared about theirs, no row of anyone's data.

Each party has a stream of its own, seeded by its name, so that who else takes part changes how many rows are drawn from
its summary and nothing else about them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.local import Local, Precision


def rows_of(locals_: Sequence[Local]) -> Array:
    """N_m of each machine: float64 ``[M]``."""
    return np.array([local.rows for local in locals_], dtype=np.float64)


def shares_of(locals_: Sequence[Local]) -> Array:
    """N_m / N: float64 ``[M]``."""
    rows = rows_of(locals_)
    return np.asarray(rows / rows.sum())


def draw_support(locals_: Sequence[Local], rows: int, seed: int) -> Array:
    """About ``rows`` covariates from the machines' summaries, in proportion to their rows and at least one of each.

    Args:
        locals_: machines with covariate summaries.
        rows: how many.
        seed: of the draw.

    Returns:
        float64 ``[S, d]``, machine after machine.

    Raises:
        MissingPart: a machine declared no summary.
    """
    pairs = zip(locals_, shares_of(locals_), strict=True)
    return np.concatenate([_draw(local, max(1, round(rows * share)), seed) for local, share in pairs])


def require_support(name: str, rows: int, seed: int) -> None:
    """Refuse a number of rows or a seed that is none.

    Raises:
        InvalidOption: names the option and the method ``name``.
    """
    for option, value, least in (("support", rows, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidOption(
                f"{option}={value!r} of {name}",
                why=f"it is a whole number from {least} on",
                mend=f"Choose one, or leave {option} out.",
            )


def summary_of(local: Local) -> CovariateSummary:
    """The covariate summary that a machine declared.

    Raises:
        MissingPart: it declared none.
    """
    if local.covariates is None:
        raise MissingPart(
            f"party '{local.party}'",
            why="it declared no summary of its covariates",
            mend="Ask the party for one, or leave it out.",
        )
    return local.covariates


def precision_of(local: Local) -> Precision:
    """The precision of its fit that a machine declared.

    Raises:
        MissingPart: it declared none.
    """
    if local.precision is None:
        raise MissingPart(
            f"party '{local.party}'",
            why="it declared no precision of its fit",
            mend="Ask the party for it, leave it out, or choose a method or option that does without.",
        )
    return local.precision


def _draw(local: Local, rows: int, seed: int) -> Array:
    words = np.frombuffer(hashlib.sha256(local.party.encode()).digest(), dtype="<u4")
    return summary_of(local).sample(rows, np.random.default_rng([seed, *map(int, words)]))
