"""Combine: all parties' networks run, and their outputs become one.

    probability   log sum_m w_m p_m          a mixture: each network is right with probability w_m
    logit         sum_m w_m z_m              also called geometric: a product of experts
    rank, median                             for networks whose confidence nobody can compare

with weights

    uniform       1 / M, or as stated
    evidence      w_m(x) = n_m p_m(x) / sum_l n_l p_l(x): the posterior over parties for this very input, from the
                  density summaries of their inputs; where none of them has seen the like, all count alike (floor)
    stacked       the shares that minimise the squared (Brier) error on all owners' held-out rows, from sums that the
                  owners release (Wolpert 1992, Breiman 1996)

Nothing is trained and no network changes. Evidence weighting needs no labels, no public data and no talk between the
parties, and is the line that stitching has to beat. It knows where parties' *inputs* differ; where they differ in
labels alone, it is the uniform mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np
from pydantic import JsonValue

from quiltwork.compose.network_evidence import Evidence, evidence_weigher
from quiltwork.compose.networks import Member, NetworkSolution, TaskReference, about
from quiltwork.compose.shares import shares
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.network.combined import CombinedNetworks
from quiltwork.models.network.combining import NumberRule, Rule
from quiltwork.models.network.network import Network
from quiltwork.models.network.stacking import stack

Weights: TypeAlias = Literal["uniform", "evidence", "stacked"] | Mapping[str, float]
Rules: TypeAlias = Rule | NumberRule

_OF_CLASSES: tuple[Rule, ...] = get_args(Rule)
_OF_NUMBERS: tuple[NumberRule, ...] = get_args(NumberRule)


@dataclass(frozen=True)
class Combine:
    """Outputs of all networks, combined.

    Attributes:
        rule: how; None for ``probability`` of classes and ``mean`` of numbers.
        weights: ``"uniform"``, ``"evidence"``, ``"stacked"``, or a number for a party (one unless stated).
        evidence: how evidence weights are made.
    """

    rule: Rules | None = None
    weights: Weights = "uniform"
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in (*_OF_CLASSES, *_OF_NUMBERS):
            raise InvalidOption(
                f"rule={self.rule!r}",
                why="there is no such rule",
                mend=f"Use one of {', '.join(_OF_CLASSES)} for classes, {' or '.join(_OF_NUMBERS)} for numbers.",
            )
        if isinstance(self.weights, str) and self.weights not in ("uniform", "evidence", "stacked"):
            raise InvalidOption(
                f"weights={self.weights!r}",
                why="there are no such weights",
                mend="Use 'uniform', 'evidence', 'stacked', or a number for each party.",
            )

    @property
    def name(self) -> str:
        """``combine``."""
        return "combine"

    def needs(self) -> frozenset[str]:
        """A module of each party, and for evidence weights the summary that these are made of."""
        return frozenset({"module", self.evidence.of} if self.weights == "evidence" else {"module"})

    def uses(self) -> frozenset[str]:
        """For stacked weights, what any owner says of everybody's outputs."""
        return frozenset({"outputs"} if self.weights == "stacked" else ())

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        """The networks under the rule.

        Raises:
            InvalidOption: the rule is not of the task, or a weight is of nobody.
            MissingPart: weights are to be stacked, and nobody says anything of the outputs.
            TaskMismatch: summaries are in different embeddings.
        """
        networks = {member.party: member.network for member in members if "module" in member.parts}
        rule = self._rule(task)
        if self.weights == "evidence":
            weigher = evidence_weigher(task, members, self.evidence)
            return NetworkSolution(CombinedNetworks(networks, rule, weigher), figures={"rule": rule})
        weights = self._shares(members, networks)
        figures: dict[str, JsonValue] = {"rule": rule, "weights": dict(zip(networks, weights, strict=True))}
        return NetworkSolution(CombinedNetworks(networks, rule, weights), figures=figures)

    def _rule(self, task: TaskReference) -> Rules:
        known = _OF_NUMBERS if task.classes is None else _OF_CLASSES
        rule = self.rule or known[0]
        if rule not in known:
            what = "numbers" if task.classes is None else "classes"
            raise InvalidOption(
                f"rule={rule!r}", why=f"the networks give {what}", mend=f"Use one of {', '.join(known)}."
            )
        return rule

    def _shares(self, members: Sequence[Member], networks: Mapping[str, Network]) -> tuple[float, ...]:
        if self.weights == "stacked":
            return stacked_shares(members, networks)
        return shares(tuple(networks), self.weights if isinstance(self.weights, Mapping) else {})


def stacked_shares(members: Sequence[Member], networks: Mapping[str, Network]) -> tuple[float, ...]:
    """The shares of ``networks`` that fit the rows of all owners who released sums of everybody's outputs.

    Raises:
        MissingPart: nobody did, or somebody's sums do not speak of one of the parties.
    """
    found = [contribution for member in members for contribution in member.releases("outputs")]
    if not found:
        raise MissingPart(
            "weights='stacked'",
            why="no owner released how the networks' outputs fit its rows (part 'outputs')",
            mend="Ask one owner or more for it: quiltwork contribute outputs; or use other weights.",
        )
    gram, cross = np.zeros((len(networks),) * 2), np.zeros(len(networks))
    for contribution in found:
        at = [_place(contribution, party, networks[party].digest) for party in networks]
        gram += contribution.tensor("outputs.gram").numpy()[np.ix_(at, at)]
        cross += contribution.tensor("outputs.cross").numpy()[at]
    return tuple(map(float, stack(gram, cross)))


def _place(contribution: Contribution, party: str, digest: str) -> int:
    known = [(reference.party, reference.digest) for reference in about(contribution)]
    if (party, digest) not in known:
        raise MissingPart(
            f"the contribution of party '{contribution.party}' of kind 'outputs'",
            why=f"it says nothing of the module of party '{party}'",
            mend="Ask for one about all modules that are composed.",
        )
    return known.index((party, digest))
