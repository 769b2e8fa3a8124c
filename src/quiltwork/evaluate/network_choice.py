"""Choosing where to stitch: what sums alone say of every pair of points, and what owners' scores say of the best few.

    ranked(contributions)     every pair of points by fit, with what the stitched pair costs; no model runs on data
    weighed(scores)           the score matrix as losses per owner: front and hypervolume, with parents and ensemble

The first needs nothing but what owners released. The second needs a number a model from each owner, and ends in a set
and not in a winner, since an owner's loss is another one's gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.compose.stitch import Stitch
from quiltwork.compose.stitch_joints import Pair, pair_statistics
from quiltwork.composite.network_agreement import checked
from quiltwork.composite.network_members import members_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.evaluate.insight import REFERENCES
from quiltwork.evaluate.network_means import ENSEMBLE, MULTIPLY_ADDS
from quiltwork.evaluate.placement import Placements
from quiltwork.evaluate.scores import Row, Scores
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.cost import cost
from quiltwork.models.network.network import Network
from quiltwork.models.network.placement import Candidate, rank
from quiltwork.models.network.splices import pair as both_ways
from quiltwork.models.network.stitched import StitchedNetwork


@dataclass(frozen=True)
class RankedPlace:
    """A pair of points of two parties' networks.

    Attributes:
        parties: whose networks, in the order of their names.
        fit: points, R2 both ways, CKA and depth; ``a`` is of the first party.
        multiply_adds: of the two networks joined there both ways, for one input.
    """

    parties: Pair
    fit: Candidate
    multiply_adds: int


def ranked(
    contributions: Sequence[Contribution], pair: Pair | None = None, count: int | None = None
) -> list[RankedPlace]:
    """Pairs of points by the fit of owners' sums, the best first.

    Args:
        contributions: modules of two parties or more, and sums over activations of a pair of them or of several.
        pair: two parties; None: every pair that there are sums about.
        count: of each pair so many; None: all.

    Raises:
        InvalidOption: the count is below 1.
        MissingPart: there are no such sums.
        CompatibilityError: the contributions do not belong together.
    """
    if count is not None and count < 1:
        raise InvalidOption(f"count={count}", why="nothing would be told", mend="Ask for one place at least.")
    members = members_of(checked(contributions, Stitch(pair=pair)))
    networks = {member.party: member.network for member in members if "module" in member.parts}
    wanted = None if pair is None else (min(pair), max(pair))
    sums = {key: found for key, found in pair_statistics(members).items() if wanted in (None, key)}
    if not sums:
        raise MissingPart(
            "places for a stitch" if pair is None else f"places for a stitch of '{pair[0]}' and '{pair[1]}'",
            why="no contribution holds sums over the activations of these networks (part 'pair')",
            mend="Ask an owner for one: quiltwork contribute statistics.",
        )
    return [
        RankedPlace(key, one, _multiply_adds(networks, key, one))
        for key, found in sums.items()
        for one in rank(found)[:count]
    ]


def _multiply_adds(networks: dict[str, Network], parties: Pair, fit: Candidate) -> int:
    """Work of the joined pair; what the adapters hold does not matter to it."""
    one, other = zip(parties, (fit.a, fit.b), strict=True)
    splices = both_ways(one, other)
    adapters = [
        [Adapter(networks[s.sources[0].party].point(s.sources[0].point), networks[s.into.party].point(s.into.point))]
        for s in splices
    ]
    return cost(StitchedNetwork({party: networks[party] for party in parties}, splices, adapters)).multiply_adds


@dataclass(frozen=True)
class Weighed:
    """Models by every owner's loss.

    Attributes:
        placements: losses by model and owner: parents, ensemble, then what was composed.
        known: the parents and the ensemble: what is there without joining anything.
        reference: the loss that counts as worthless for each owner.
    """

    placements: Placements
    known: tuple[str, ...]
    reference: float

    @property
    def front(self) -> list[str]:
        """Models that no other beats for all owners at once."""
        return self.placements.front

    @property
    def hypervolume(self) -> float:
        """Of all models."""
        return self.placements.hypervolume(reference=self.reference)

    @property
    def hypervolume_before(self) -> float:
        """Of the parents and the ensemble."""
        return self.placements.hypervolume(self.known, reference=self.reference)


def weighed(scores: Scores, *, costs: bool = False) -> Weighed:
    """What a score matrix of networks says to a choice between owners.

    Args:
        scores: of one evaluation, or of several owners', merged; a model ``pooled`` is a bound and takes no part.
        costs: multiply-adds are a column of the front, as if they were an owner's.

    Raises:
        InvalidOption: no owner scored anything, a model lacks an owner's score, or its work where that counts.
    """
    rows = {f"{party} alone": row for party, row in scores.alone.items()}
    rows |= {name: row for name, row in scores.methods.items() if name == ENSEMBLE}
    known = tuple(rows)
    rows |= {name: row for name, row in scores.methods.items() if name not in (ENSEMBLE, *REFERENCES)}
    owners = [party for party in scores.parties if party in scores.domains]
    if not owners or not rows:
        raise InvalidOption("the scores", why="no owner's data are among them", mend="Evaluate on --party NAME=DATA.")
    losses = {name: {owner: _value(name, row, owner) for owner in owners} for name, row in rows.items()}
    work = {name: _work(name, row) for name, row in rows.items()} if costs else {}
    worst = max(value for row in losses.values() for value in row.values())
    return Weighed(Placements(losses, work), known, 1.0 if scores.metric == "share wrong" else worst)


def _value(name: str, row: Row, owner: str) -> float:
    if owner not in row.domains:
        raise InvalidOption(
            f"model '{name}'",
            why=f"it was not scored on the data of '{owner}', as others were",
            mend="Let every owner evaluate the same models.",
        )
    return row.domains[owner].value


def _work(name: str, row: Row) -> float:
    if MULTIPLY_ADDS not in row.extra:
        raise InvalidOption(f"the cost of model '{name}'", why="it is not known", mend="Choose without --costs.")
    return row.extra[MULTIPLY_ADDS]
