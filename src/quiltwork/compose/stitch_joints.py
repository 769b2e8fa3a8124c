"""Where networks are joined and by which maps: trained by owners, or solved from the sums that owners released.

    trained(...)        the stitches that owners trained, the last of each chain
    closed_form(...)    for each pair of networks: merge the owners' sums, choose points, solve both ways

Shallow points fit best, since all networks are near their input there, and gain least. So where nobody names points,
the deepest of the picked candidates is taken; the others are told, for owners to evaluate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple, Protocol, TypeAlias

import torch
from pydantic import JsonValue

from quiltwork.compose.networks import Member, about
from quiltwork.composite.network_members import rests_on
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.network import Network
from quiltwork.models.network.pair_moments import PairStatistics, merge
from quiltwork.models.network.placement import Candidate, pick, rank
from quiltwork.models.network.splices import Place, Splice, merged
from quiltwork.models.network.stitches import fit_between, read_pair_statistics, read_stitches

PICKED = 5
"""How many candidates of a pair are told."""

Pair: TypeAlias = tuple[str, str]
Mode: TypeAlias = Literal["average", "replace"]


class Wishes(Protocol):
    """What a method states of its joints; see `quiltwork.compose.stitch.Stitch`."""

    @property
    def pair(self) -> Pair | None:
        """Two parties, or all pairs."""
        ...

    @property
    def points(self) -> Pair | None:
        """Where."""
        ...

    @property
    def mode(self) -> Mode:
        """How activations meet."""
        ...

    @property
    def both(self) -> bool:
        """Both ways, or the first into the second."""
        ...

    @property
    def ridge(self) -> float | None:
        """Strength of the regression."""
        ...


@dataclass(frozen=True)
class Joints:
    """Splices, an adapter for each of their sources, and how they came about."""

    splices: tuple[Splice, ...] = ()
    adapters: tuple[tuple[Adapter, ...], ...] = ()
    figures: Mapping[str, JsonValue] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Link(NamedTuple):
    """One way into a point."""

    into: Place
    source: Place
    adapter: Adapter


def trained(
    networks: Mapping[str, Network], members: Sequence[Member], pair: Pair | None, points: Pair | None
) -> Joints | None:
    """The stitches that owners trained, the last of each chain; None if there are none of these networks and points.

    Raises:
        InvalidOption: two owners trained some for the same networks, and neither went on from the other's.
    """
    given = [contribution for member in members for contribution in member.releases("stitches")]
    followed = {digest for contribution in given for digest in rests_on(contribution)}
    wanted = None if pair is None else set(pair)
    leaves = [c for c in given if c.digest not in followed and (wanted is None or wanted <= _parties(c))]
    if pair is not None and points is not None:
        places = set(zip(pair, points, strict=True))
        leaves = [c for c in leaves if {(p.party, p.point) for p in _places(read_stitches(c).splices)} == places]
    if not leaves:
        return None
    _require_apart(leaves)
    read = [read_stitches(contribution) for contribution in leaves]
    figures: list[JsonValue] = [
        {"trained by": c.party, "of": [*sorted(_parties(c))], "splices": [_told(splice) for splice in one.splices]}
        for c, one in zip(leaves, read, strict=True)
    ]
    return Joints(
        tuple(splice for one in read for splice in one.splices),
        tuple(row for one in read for row in one.adapters(networks)),
        {"joints": figures},
    )


def _parties(contribution: Contribution) -> set[str]:
    return {reference.party for reference in about(contribution)}


def _places(splices: Iterable[Splice]) -> Iterable[Place]:
    return (place for splice in splices for place in (splice.into, *splice.sources))


def _told(splice: Splice) -> str:
    sources = " and ".join(f"{source.party} {source.point}" for source in splice.sources)
    return f"{sources} into {splice.into.party} {splice.into.point} ({splice.mode})"


def _require_apart(leaves: Sequence[Contribution]) -> None:
    for one, other in combinations(leaves, 2):
        if len(_parties(one) & _parties(other)) > 1:
            raise InvalidOption(
                f"stitches of parties '{one.party}' and '{other.party}'",
                why="both are for the same networks, and neither went on from the other's",
                mend="Give one of the two, or let one party train on from the other's stitches.",
            )


class Choice(NamedTuple):
    """A pair of networks, all that owners released about it, and where it is joined."""

    parties: Pair
    statistics: PairStatistics
    points: Pair
    candidates: Sequence[Candidate]


def closed_form(networks: Mapping[str, Network], members: Sequence[Member], wishes: Wishes) -> Joints | None:
    """Stitches solved from the sums of all owners; None if nobody released any about the networks asked for.

    Where three networks or more are joined and nobody named a pair, pairs are taken in the order of their fit, and
    those whose stitches would wait for each other are left out, with a note.

    Raises:
        InvalidOption: there is no such point, or owners wrote down a pair in either order.
        TensorMismatch: owners' sums about one pair are of other points.
    """
    found = pair_statistics(members)
    if wishes.pair is not None:
        key = tuple(sorted(wishes.pair))
        found = {parties: statistics for parties, statistics in found.items() if parties == key}
    choices = [_choice(parties, statistics, wishes) for parties, statistics in found.items()]
    choices.sort(key=lambda choice: -max((c.score for c in choice.candidates), default=0.0))
    links: list[Link] = []
    joints, notes = [], []
    for choice in choices:
        mine, told = _links(networks, choice, wishes)
        if wishes.pair is None and not _acyclic(networks, [*links, *mine], wishes.mode):
            notes.append(
                f"{choice.parties[0]} and {choice.parties[1]} are not joined: their stitches and those of other pairs "
                "would wait for each other"
            )
            continue
        links += mine
        joints.append(told)
    if not links:
        return None
    splices, adapters = _gathered(links, wishes.mode)
    looked_at: dict[str, JsonValue] = {
        ",".join(choice.parties): [_told_candidate(one) for one in choice.candidates] for choice in choices
    }
    return Joints(splices, adapters, {"joints": joints, "candidates": looked_at}, tuple(notes))


def pair_statistics(members: Sequence[Member]) -> dict[Pair, PairStatistics]:
    """What owners released about each pair of networks, merged, by the pair's parties in their order.

    Raises:
        InvalidOption: owners wrote down a pair in either order.
        TensorMismatch: the sums are of other points.
    """
    groups: dict[Pair, list[PairStatistics]] = {}
    for contribution in (c for member in members for c in member.releases("pair")):
        a, b = (reference.party for reference in about(contribution))
        if a > b:
            raise InvalidOption(
                f"the sums of party '{contribution.party}' about '{a}' and '{b}'",
                why="the two are not in the order of their names, so that they do not add up with others'",
                mend=f"Ask for sums about '{b}' and '{a}', in this order.",
            )
        groups.setdefault((a, b), []).append(read_pair_statistics(contribution))
    return {parties: merge(statistics) for parties, statistics in sorted(groups.items())}


def _choice(parties: Pair, statistics: PairStatistics, wishes: Wishes) -> Choice:
    if wishes.pair is not None and wishes.points is not None:
        points = dict(zip(wishes.pair, wishes.points, strict=True))
        return Choice(parties, statistics, (points[parties[0]], points[parties[1]]), ())
    picked = pick(rank(statistics), PICKED)
    deepest = max(picked, key=lambda candidate: (sum(candidate.depth), candidate.score))
    return Choice(parties, statistics, (deepest.a, deepest.b), picked)


def _links(networks: Mapping[str, Network], choice: Choice, wishes: Wishes) -> tuple[list[Link], JsonValue]:
    """The ways between two networks, and what is told of them."""
    one, other = (Place(party, point) for party, point in zip(choice.parties, choice.points, strict=True))
    links: list[Link] = []
    told: dict[str, JsonValue] = {}
    for source, into in ((one, other), (other, one)):
        if not wishes.both and wishes.pair is not None and source.party != wishes.pair[0]:
            continue
        solved = fit_between(source, into, {choice.parties: choice.statistics}, wishes.ridge)
        ends = (networks[source.party].point(source.point), networks[into.party].point(into.point))
        adapter = Adapter.linear(*ends, torch.from_numpy(solved.weight), torch.from_numpy(solved.bias))
        links.append(Link(into, source, adapter))
        r2 = solved.r2_train if solved.r2_held_out is None else solved.r2_held_out
        told[f"{source.party} into {into.party}"] = {"r2": r2, "ridge": solved.ridge}
    return links, {"between": [f"{place.party} {place.point}" for place in (one, other)], "closed form": told}


def _gathered(links: Sequence[Link], mode: Mode) -> tuple[tuple[Splice, ...], tuple[tuple[Adapter, ...], ...]]:
    """Ways into one point as one splice of several sources."""
    rows: dict[Place, list[Link]] = {}
    for link in links:
        rows.setdefault(link.into, []).append(link)
    splices = tuple(Splice(into, tuple(link.source for link in row), mode) for into, row in rows.items())
    return splices, tuple(tuple(link.adapter for link in row) for row in rows.values())


def _acyclic(networks: Mapping[str, Network], links: Sequence[Link], mode: Mode) -> bool:
    splices, _ = _gathered(links, mode)
    try:
        merged(networks, splices)
    except InvalidOption:
        return False
    return True


def _told_candidate(candidate: Candidate) -> JsonValue:
    return {
        "points": [candidate.a, candidate.b],
        "r2": [candidate.a_to_b, candidate.b_to_a],
        "cka": candidate.cka,
        "depth": list(candidate.depth),
    }
