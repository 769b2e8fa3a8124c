"""Mixture of experts: each token is answered by the parties that its router trusts.

Two routers:

* ``LearnedRows`` (FlexOlmo, arXiv 2507.07024): every party's rows, learned against the base alone, stacked beside the
  base's zero row. softmax over all experts, top-k. Fits public mixture formats.
* ``PrefixEvidence``: the posterior over parties given the tokens so far, from the histograms that the parties
  released (see ``models/evidence_router.py``). With ffn experts the posterior mixes the experts of one body; with full
  experts it selects whole models, and only the selected ones run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from quiltwork.compose.ensemble import member_models
from quiltwork.compose.method import FEATURES, Histograms, chosen, histogram_of, slot_weights
from quiltwork.compose.parts import body, ffn_tensors, router_tensors
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, MissingPart, TensorMismatch
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.assembly import FFN, Experts, Members
from quiltwork.models.base import Base
from quiltwork.models.evidence_router import check_settings
from quiltwork.models.routers import Evidence, Rows
from quiltwork.models.sources import Source


@dataclass(frozen=True)
class LearnedRows:
    """Router of the rows that the parties learned.

    Attributes:
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one. Mixtral always does; in FlexOlmo it is a flag.
        bias: use the parties' negative biases too (native format only).
    """

    top_k: int | None = None
    renormalise: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise InvalidOption(f"top_k={self.top_k}", why="at least one expert must answer", mend="Choose 1 or more.")


@dataclass(frozen=True)
class PrefixEvidence:
    """Router by naive Bayes over the prefix.

    Attributes:
        features: read a text as ``"bigrams"`` or as ``"tokens"``. Bigrams tell parties apart sooner; tokens are the
            better choice when histograms are released under differential privacy.
        temperature: divides log-likelihoods; above one trusts them less.
        half_life: tokens after which a token's evidence counts half; None never forgets.
        floor: if given, a hypothesis "none of them" that gives every symbol exp(floor) times the uniform probability;
            text that no party's histogram explains better is answered by the base.
        top_k: experts a token; None means all for ffn experts (mixing) and one for full experts (selection).
        minimum_weight: weights below it are dropped, so that their experts need not run.
        smoothing: pseudo-count of every symbol in the histograms.
    """

    features: Literal["tokens", "bigrams"] = "bigrams"
    temperature: float = 1.0
    half_life: float | None = None
    floor: float | None = None
    top_k: int | None = None
    minimum_weight: float = 0.01
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise InvalidOption(
                f"features={self.features!r}", why="there are no such features", mend="Use 'tokens' or 'bigrams'."
            )
        check_settings(temperature=self.temperature, half_life=self.half_life, minimum_weight=self.minimum_weight)
        if self.top_k is not None and self.top_k < 1:
            raise InvalidOption(f"top_k={self.top_k}", why="at least one expert must answer", mend="Choose 1 or more.")
        if not self.smoothing > 0:
            raise InvalidOption(
                f"smoothing={self.smoothing}",
                why="an unseen token would have probability zero and veto its party for good",
                mend="Choose a positive pseudo-count.",
            )


@dataclass(frozen=True)
class MixtureOfExperts:
    """Experts of several parties in one model.

    Attributes:
        router: ``LearnedRows`` or ``PrefixEvidence``.
        scope: ``"ffn"``, or ``"full"`` (PrefixEvidence only).
        weights: weight of a party, or of ``"base"``: the prior of an evidence router, a log-offset of learned rows.
        include: the parties that take part; None for all.
    """

    router: LearnedRows | PrefixEvidence = field(default_factory=PrefixEvidence)
    scope: Literal["ffn", "full"] = "ffn"
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.scope not in ("ffn", "full"):
            raise InvalidOption(f"scope={self.scope!r}", why="there is no such scope", mend="Use 'ffn' or 'full'.")
        if self.scope == "full" and isinstance(self.router, LearnedRows):
            raise InvalidOption(
                "learned rows with full experts",
                why="rows choose among the feed-forward blocks of one body, and full experts have bodies of their own",
                mend="Use scope='ffn', or PrefixEvidence.",
            )

    @property
    def name(self) -> str:
        """``learned_rows``, ``evidence_ffn`` or ``evidence_full``."""
        return "learned_rows" if isinstance(self.router, LearnedRows) else f"evidence_{self.scope}"

    def needs(self) -> frozenset[str]:
        """The scope's expert, and a histogram for evidence."""
        router = self.router
        return frozenset({self.scope, router.features} if isinstance(router, PrefixEvidence) else {self.scope})

    def assemble(self, base: Base, contributions: Sequence[Contribution], public: Histograms) -> Experts | Members:
        """The mixture; see the module's docstring."""
        parties = chosen([c.party for c in contributions], self.include, self.weights)
        members = [c for c in contributions if c.party in parties]
        weights = slot_weights(parties, self.weights)
        if isinstance(self.router, LearnedRows):
            return Experts(body(base), self._experts(base, members), _rows(base, members, self.router, weights))
        evidence = _evidence(base, members, public, self.router, weights, self.scope)
        if self.scope == "full":
            return Members(body(base), member_models(base, members, parties), evidence, {}, weights)
        return Experts(body(base), self._experts(base, members), evidence)

    @staticmethod
    def _experts(base: Base, members: Sequence[Contribution]) -> dict[str, FFN]:
        return {c.party: ffn_tensors(c, base) for c in members}


def _rows(base: Base, members: Sequence[Contribution], router: LearnedRows, weights: Mapping[str, float]) -> Rows:
    for contribution in members:
        method = contribution.manifest.method.ffn  # type: ignore[union-attr]
        if method is None or not method.router or (router.bias and not method.bias):
            wanted = "router biases" if method is not None and method.router else "router rows"
            raise MissingPart(
                f"the contribution of party '{contribution.party}'",
                why=f"it was trained without {wanted}",
                mend="Use PrefixEvidence, or ask the party to train with an anchor (anchor_share > 0).",
            )
    return Rows(
        rows={c.party: router_tensors(c, base, "weight") for c in members},
        biases={c.party: router_tensors(c, base, "bias") for c in members} if router.bias else {},
        top_k=router.top_k,
        renormalise=router.renormalise,
        weights=weights,
    )


def _evidence(
    base: Base,
    members: Sequence[Contribution],
    public: Histograms,
    router: PrefixEvidence,
    weights: Mapping[str, float],
    scope: str,
) -> Evidence:
    histograms = {c.party: histogram_of(c, router.features) for c in members}
    described = public.get(router.features)
    if described is None and router.floor is None:
        raise InvalidOption(
            f"an evidence router without {router.features} of public text",
            why="nothing would speak for the base, and every text would go to some party",
            mend="Give public text, or a floor for 'none of them'.",
        )
    symbols = _one_alphabet(histograms | ({"public text": described} if described is not None else {}))

    def row(histogram: TokenHistogram) -> Source:
        return Source.of(torch.from_numpy(histogram.log_probabilities(router.smoothing)).float())

    return Evidence(
        rows={party: row(histogram) for party, histogram in histograms.items()},
        public=row(described) if described is not None else None,
        settings={
            "features": router.features,
            "symbols": symbols,
            "separator": base.separator,
            "floor": router.floor,
            "temperature": router.temperature,
            "half_life": router.half_life,
            "top_k": router.top_k if router.top_k is not None or scope == "ffn" else 1,
            "minimum_weight": router.minimum_weight,
        },
        weights=weights,
    )


def _one_alphabet(histograms: Mapping[str, TokenHistogram]) -> int:
    """The number of symbols that all histograms share."""
    sizes = {name: len(histogram.counts) for name, histogram in histograms.items()}
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if other != size:
            raise TensorMismatch(
                f"the histogram of {name}",
                why=f"it has {other} cells, and that of {first} has {size}",
                mend="Ask for histograms with the same number of cells.",
            )
    return size
