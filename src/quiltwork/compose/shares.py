"""Weights that a composer states for some of the parties, as shares of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.errors import InvalidOption


def shares(parties: Sequence[str], weights: Mapping[str, float]) -> tuple[float, ...]:
    """A share for each party, in their order, that sum to one; a party's weight is one unless stated.

    Raises:
        InvalidOption: a name is unknown, or a weight is not a positive number.

    >>> shares(["ash", "birch"], {"ash": 3})
    (0.75, 0.25)
    """
    for name, weight in weights.items():
        if name not in parties:
            raise InvalidOption(
                f"weight of party '{name}'",
                why="no module of that party is given",
                mend=f"The parties are: {', '.join(parties)}.",
            )
        if not 0 < weight < float("inf"):
            raise InvalidOption(
                f"weight {weight} of '{name}'", why="weights are positive numbers", mend="Leave a party out instead."
            )
    found = [float(weights.get(party, 1.0)) for party in parties]
    return tuple(weight / sum(found) for weight in found)
