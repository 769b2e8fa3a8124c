"""What every method in weight space begins with: the parties that take part, their differences and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quiltwork.compose.method import chosen
from quiltwork.compose.parts import body, full_deltas
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base
from quiltwork.models.merging import Elementwise, Linear


def blended(
    base: Base,
    contributions: Sequence[Contribution],
    weights: Mapping[str, float],
    include: tuple[str, ...] | None,
    rule: Linear | Elementwise,
) -> Blend:
    """The full experts of those who take part, under a rule; nothing is loaded yet.

    Raises:
        InvalidOption: the base is given a weight, a name is unknown, or a weight is not a positive number.
    """
    if "base" in weights:
        raise InvalidOption(
            "a weight of 'base'",
            why="in weight space the parties' differences are added to the base, which has none of its own",
            mend="Leave it out, or use an Ensemble, in which the base is a member.",
        )
    parties = chosen([c.party for c in contributions], include, weights)
    deltas = {c.party: full_deltas(c, base) for c in contributions if c.party in parties}
    return Blend(body(base), deltas, {p: float(weights.get(p, 1.0)) for p in parties}, rule)
