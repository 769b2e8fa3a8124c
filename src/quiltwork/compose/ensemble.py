"""Ensemble: the parties' full models and the base, their predicted probabilities mixed.

    p(v | x_1..x_t) = sum_m w_m p_m(v | x_1..x_t)

* ``uniform``: w_m proportional to the member's weight.
* ``likelihood``: w_m proportional to weight_m * exp( sum_{s<=t} log p_m(x_s | x_<s) / temperature ), the posterior
  over members by how well each has predicted the text so far (Branch-Train-Merge, arXiv 2208.03306, section 2.3,
  as online Bayes). With ``top_k`` only the k likeliest members count.

Every member runs on every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from quiltwork.compose.method import PublicText, chosen, slot_weights
from quiltwork.compose.parts import body, full_deltas
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.assembly import Members, add_deltas
from quiltwork.models.base import Base
from quiltwork.models.sources import Source


@dataclass(frozen=True)
class Ensemble:
    """Mixture of predicted probabilities.

    Attributes:
        weighting: ``"uniform"`` or ``"likelihood"``.
        top_k: members that count (likelihood weighting); None for all.
        temperature: divides the log-likelihoods; above one trusts them less.
        weights: prior weight of a party, or of ``"base"``; one unless stated.
        include: the parties that take part; None for all.
    """

    weighting: Literal["uniform", "likelihood"] = "likelihood"
    top_k: int | None = None
    temperature: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "likelihood"):
            raise InvalidOption(
                f"weighting={self.weighting!r}",
                why="there is no such weighting",
                mend="Use 'uniform' or 'likelihood'.",
            )
        if self.weighting == "uniform" and self.top_k is not None:
            raise InvalidOption(
                f"top_k={self.top_k} in a uniform ensemble",
                why="its members are not ranked by the text",
                mend="Use likelihood weighting, or include= to name the members.",
            )
        if not 0 < self.temperature < float("inf"):
            raise InvalidOption(
                f"temperature={self.temperature}",
                why="it divides log-likelihoods",
                mend="Choose a positive one.",
            )
        if self.top_k is not None and self.top_k < 1:
            raise InvalidOption(f"top_k={self.top_k}", why="at least one member must count", mend="Choose 1 or more.")

    @property
    def name(self) -> str:
        """``uniform_ensemble`` or ``btm``."""
        return "uniform_ensemble" if self.weighting == "uniform" else "btm"

    def needs(self) -> frozenset[str]:
        """A full expert of each party."""
        return frozenset({"full"})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> Members:
        """The members and the rule."""
        parties = chosen([c.party for c in contributions], self.include, self.weights)
        return Members(
            body=body(base),
            models=member_models(base, contributions, parties),
            weighting=self.weighting,
            settings={"top_k": self.top_k, "temperature": self.temperature},
            weights=slot_weights(parties, self.weights),
        )


def member_models(
    base: Base, contributions: Sequence[Contribution], parties: Sequence[str]
) -> dict[str, dict[str, Source]]:
    """Each party's whole model: base plus its differences."""
    models = {}
    for contribution in contributions:
        if contribution.party in parties:
            deltas = full_deltas(contribution, base)
            models[contribution.party] = {n: add_deltas(s, [(1.0, deltas[n])]) for n, s in base.tensors.items()}
    return models
