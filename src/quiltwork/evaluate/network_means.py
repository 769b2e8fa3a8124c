"""Names of what a score file tells of models that answer rows, and what follows from it; it reads no model.

    class NAME: share, class NAME: right     rows of that class; of that class and answered rightly
    flips: PARTY                             in a party's own model: rows where that party's model is right, this wrong
    individual, diversity                    in the plain ensemble: see `network_insight.decompose`

All are means over rows, so those of several parties can be put together.
"""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.evaluate.scores import Scores

ENSEMBLE = "ensemble"
"""The row of the mean of all modules' probabilities, or numbers."""

FLIPS = "flips: "
"""Before the name of the other party."""

MULTIPLY_ADDS = "multiply_adds"
"""Of a row: multiply-adds an input."""


def class_keys(name: str) -> tuple[str, str]:
    """The names of the two means of a class."""
    return f"class {name}: share", f"class {name}: right"


def class_rates(means: Mapping[str, float]) -> dict[str, float]:
    """The share of each class's rows that are answered rightly; classes without rows are left out.

    >>> class_rates({"class cat: share": 0.5, "class cat: right": 0.4, "class dog: share": 0, "class dog: right": 0})
    {'cat': 0.8}
    """
    found = {}
    for key, share in means.items():
        name = key.removeprefix("class ").removesuffix(": share")
        if key == class_keys(name)[0] and share > 0:
            found[name] = means[class_keys(name)[1]] / share
    return found


def flips_at_home(scores: Scores) -> dict[str, dict[str, float]]:
    """For each party and each other the share of the party's own rows that the other's model adds to its own."""
    found = {}
    for party in scores.parties:
        cell = scores.alone[party].domains.get(party) if party in scores.alone else None
        known = {} if cell is None else {k.removeprefix(FLIPS): v for k, v in cell.extra.items() if k.startswith(FLIPS)}
        if known:
            found[party] = known
    return found
