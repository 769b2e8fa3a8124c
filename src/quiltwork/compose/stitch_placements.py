"""Places for a stitch that owners should evaluate: the candidates of a pair of networks, each as a method of its own.

    placements(contributions)  ->  {"ash layer3, birch blocks.2": Stitch(pair, points), ...}

They are picked over all depths by the fit of owners' sums alone, with no model run. Which is best is for owners to say,
each for itself: `quiltwork.evaluate.placement.search` keeps those that no other beats for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quiltwork.compose.stitch import Stitch
from quiltwork.compose.stitch_joints import PICKED, pair_statistics
from quiltwork.composite.network_agreement import checked
from quiltwork.composite.network_members import members_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.network.placement import pick, rank


def placements(
    contributions: Sequence[Contribution], method: Stitch | None = None, count: int = PICKED
) -> dict[str, Stitch]:
    """Stitches to evaluate, by a name that says where they join, the best fit first.

    Args:
        contributions: modules of two parties or more, and sums over the activations of one pair or more.
        method: all but the points; its pair may be left out where there are sums about one pair only.
        count: how many.

    Raises:
        MissingPart: nobody released sums about the pair.
        InvalidOption: there are sums about several pairs and the method names none, or the count is below 1.
        CompatibilityError: the contributions do not belong together.
    """
    method = method or Stitch()
    found = pair_statistics(members_of(checked(contributions, method)))
    if method.pair is None and len(found) > 1:
        raise InvalidOption(
            "placements of a pair",
            why=f"there are sums about {len(found)} pairs, and none is named",
            mend=f"Name one: {', or '.join(' and '.join(pair) for pair in found)}.",
        )
    pair = method.pair or next(iter(found), None)
    parties = None if pair is None else (min(pair), max(pair))
    if parties not in found:
        raise MissingPart(
            "candidates for a stitch",
            why="no contribution holds sums over the activations of these networks (part 'pair')",
            mend="Ask an owner for one: quiltwork contribute statistics.",
        )
    return {
        f"{parties[0]} {one.a}, {parties[1]} {one.b}": _at(method, parties, (one.a, one.b))
        for one in pick(rank(found[parties]), count)
    }


def _at(method: Stitch, parties: tuple[str, str], points: tuple[str, str]) -> Stitch:
    """The method at these points; where it goes one way, in the order that it names the parties."""
    if method.pair is not None and method.pair != parties:
        parties, points = (parties[1], parties[0]), (points[1], points[0])
    return replace(method, pair=parties, points=points)
