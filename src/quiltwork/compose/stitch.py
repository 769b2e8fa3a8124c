"""Stitch: networks joined layer to layer by linear maps, their outputs averaged.

    h_A = 1/2 ( f_A + S_BA f_B )    at point i of A
    h_B = 1/2 ( f_B + S_AB f_A )    at point j of B,    both tails run, and their outputs are averaged

a pair of stitches, as in arXiv 2512.17592 (as far as its abstract says). Parent A, parent B, their ensemble and the
stitched network are settings of the one module that comes out. Where the maps come from:

* stitches that an owner trained, the networks frozen, if such a contribution is given;
* else ridge regression of activations, from the sums that owners released about the pair: the exact solution on all
  owners' rows together, with no row moved and no label used.

The closed form is a start and a ranking, and alone seldom beats the plain ensemble; training at one owner brings that
owner's own accuracy back. With evidence weights the posterior over parties for each input takes the place of the
halves, at the points and at the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from quiltwork.compose.network_evidence import Evidence, evidence_weigher
from quiltwork.compose.networks import Member, NetworkSolution, TaskReference
from quiltwork.compose.stitch_joints import Joints, closed_form, trained
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.network.cost import costs
from quiltwork.models.network.network import Network
from quiltwork.models.network.stitched import StitchedNetwork


@dataclass(frozen=True)
class Stitch:
    """Networks joined at points.

    Attributes:
        pair: the two parties whose networks are joined; None: all pairs that somebody released sums or stitches about.
        points: where, of the first and of the second of ``pair``; None: where trained stitches say, or the
            best-fitting pair of points among the deepest.
        mode: a point's activation is averaged with what comes from the other, or replaced by it.
        both: stitches both ways and both tails; else the first feeds the second, whose tail alone is the output.
        rule: how the tails' outputs are combined; None for ``probability`` of classes and ``mean`` of numbers.
        weights: ``"uniform"``, or ``"evidence"``: the posterior over parties, at the points and at the outputs.
        evidence: how evidence weights are made.
        ridge: strength of the regression; None: the best on held-out rows.
    """

    pair: tuple[str, str] | None = None
    points: tuple[str, str] | None = None
    mode: Literal["average", "replace"] = "average"
    both: bool = True
    rule: Literal["probability", "logit", "geometric", "rank", "median", "mean"] | None = None
    weights: Literal["uniform", "evidence"] = "uniform"
    evidence: Evidence = field(default_factory=Evidence)
    ridge: float | None = None

    def __post_init__(self) -> None:
        if self.weights not in ("uniform", "evidence"):
            raise InvalidOption(
                f"weights={self.weights!r}", why="there are no such weights", mend="Use 'uniform' or 'evidence'."
            )
        if self.mode not in ("average", "replace"):
            raise InvalidOption(f"mode={self.mode!r}", why="there is none", mend="Use 'average' or 'replace'.")
        if self.points is not None and self.pair is None:
            raise InvalidOption(
                f"points={self.points!r}", why="it is not said of whose networks", mend="Name the pair of parties too."
            )
        if not self.both and self.pair is None:
            raise InvalidOption(
                "both=False", why="it is not said who feeds whom", mend="Name the pair: the first feeds the second."
            )
        if self.pair is not None and self.pair[0] == self.pair[1]:
            raise InvalidOption(f"pair={self.pair!r}", why="it is one party", mend="Name two parties.")

    @property
    def name(self) -> str:
        """``stitch``."""
        return "stitch"

    def needs(self) -> frozenset[str]:
        """A module of each party, and for evidence weights the summary that these are made of."""
        return frozenset({"module", self.evidence.of} if self.weights == "evidence" else {"module"})

    def uses(self) -> frozenset[str]:
        """Sums over pairs of points, and trained stitches, whoever released them."""
        return frozenset({"pair", "stitches"})

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        """The stitched network, in the setting ``"stitched"``.

        Raises:
            MissingPart: nobody released what the stitches would be made of.
            InvalidOption: a party or a point is not there, stitches wait for each other, or two owners trained stitches
                for the same networks and neither went on from the other's.
            TensorMismatch: sums that owners released about one pair are of other points.
        """
        networks = {member.party: member.network for member in members if "module" in member.parts}
        self._require_pair(networks)
        joints = self._joints(networks, members)
        weigher = evidence_weigher(task, members, self.evidence) if self.weights == "evidence" else None
        model = StitchedNetwork(
            networks,
            joints.splices,
            joints.adapters,
            rule=self.rule,
            weigher=weigher,
            tails=None if self.both or self.pair is None else [self.pair[1]],
        )
        model.requires_grad_(False)
        figures: dict[str, JsonValue] = {"rule": model.rule, "weights": self.weights, **joints.figures}
        return NetworkSolution(model, figures | {"cost": _costs(model)}, joints.notes)

    def _joints(self, networks: Mapping[str, Network], members: Sequence[Member]) -> Joints:
        if len(networks) == 1:
            return Joints(notes=("only one network is there, and nothing is joined",))
        found = trained(networks, members, self.pair, self.points)
        if found is None:
            found = closed_form(networks, members, self)
        if found is None:
            whom = "two networks" if self.pair is None else f"the networks of '{self.pair[0]}' and '{self.pair[1]}'"
            raise MissingPart(
                f"what stitches between {whom} are made of",
                why="no contribution holds sums over their activations (part 'pair'), nor trained stitches",
                mend="Ask an owner for one: quiltwork contribute statistics; or use Combine, which needs none.",
            )
        return found

    def _require_pair(self, networks: Mapping[str, Network]) -> None:
        for party in self.pair or ():
            if party not in networks:
                raise InvalidOption(
                    f"party '{party}' of the pair",
                    why="no module of that party is given",
                    mend=f"The parties are: {', '.join(networks)}.",
                )


def _costs(model: StitchedNetwork) -> JsonValue:
    """Of every setting, for one input: parameters, multiply-adds, and whose these are."""
    return {
        setting: {"parameters": one.parameters, "multiply_adds": one.multiply_adds, "shares": dict(one.shares)}
        for setting, one in costs(model).items()
    }
