"""``PrefixEvidence``: the posterior over parties given the tokens so far (see ``models/evidence_router.py``).

Each party's row is the log of its smoothed histogram, and depends on no other party's. With a ``bound`` it may exceed
the row of the public text by so many nats at most, symbol by symbol:

    row_h(c) = min(log u_h(c), row_public(c) + bound)

so that one symbol moves the odds of a party against the base by exp(bound / temperature) and no more, and a histogram
made up of what every text holds once cannot draw every text to its party. A capped row sums to less than one: mass that
a party put where nobody may have it is lost, and is not spread over its other symbols, which would lift them by an
amount that grows with the abuse. The cap is the public text's and not, say, the largest of the other parties' rows:
then a party's row would change when another leaves, and opting out would not be exact.

Four nats cost next to nothing where all are honest: over six kinds of installed text (four of them parties, 170 000
tokens each, V = 2048) the mean weight of the true author after 8, 32 and 256 tokens was .687, .820 and .938 without a
bound and .684, .818 and .935 with it; at 3 nats .679, .817 and .919, at 1 nat .573, .720 and .759.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.router import require_positive, require_top_k
from quiltwork.compose.statistics import FEATURES, KeptRow, PublicText, histogram_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption, TensorMismatch
from quiltwork.evidence.forgetting import require_forgetting
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base
from quiltwork.models.routers import Evidence
from quiltwork.models.sources import Source


@dataclass(frozen=True)
class PrefixEvidence:
    """Router by naive Bayes over the prefix.

    Attributes:
        features: read a text as ``"bigrams"``, ``"trigrams"`` or ``"tokens"``. Bigrams tell parties apart sooner;
            tokens are the better choice when histograms are released under differential privacy.
        temperature: divides log-likelihoods; above one trusts them less.
        half_life: tokens after which a token's evidence counts half; None never forgets.
        switching: probability that the author changes before a token (fixed share), for documents that change domain;
            None for texts of one author. Not together with a half-life.
        floor: if given, a hypothesis "none of them" that gives every symbol exp(floor) times the uniform probability;
            text that no party's histogram explains better is answered by the base.
        bound: nats by which a party's row may exceed the public text's at any symbol; None for no bound. Where there
            is a floor and no public text, there is nothing to measure it by, and rows are not bounded.
        top_k: experts a token; None means all for ffn experts (mixing) and one for full experts (selection).
        minimum_weight: weights below it are dropped, so that their experts need not run.
        smoothing: pseudo-count of every symbol in the histograms.
    """

    features: Literal["tokens", "bigrams", "trigrams"] = "bigrams"
    temperature: float = 1.0
    half_life: float | None = None
    switching: float | None = None
    floor: float | None = None
    bound: float | None = 4.0
    top_k: int | None = None
    minimum_weight: float = 0.01
    smoothing: float = 0.5

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            mend = f"Use one of: {', '.join(FEATURES)}."
            raise InvalidOption(f"features={self.features!r}", why="there are no such features", mend=mend)
        require_forgetting(self.temperature, self.half_life, self.switching)
        require_top_k(self.top_k)
        if not 0 <= self.minimum_weight < 1:
            raise InvalidOption(
                f"minimum_weight={self.minimum_weight}",
                why="it is compared with probabilities",
                mend="Choose one in [0, 1).",
            )
        if self.bound is not None:
            require_positive(bound=self.bound)
        if not 0 < self.smoothing < float("inf"):
            raise InvalidOption(
                f"smoothing={self.smoothing}",
                why="an unseen token would have probability zero and veto its party for good",
                mend="Choose a positive pseudo-count.",
            )

    @property
    def name(self) -> str:
        """``evidence``; a mixture adds the scope of its experts."""
        return "evidence"

    def needs(self) -> frozenset[str]:
        """The histogram of its features."""
        return frozenset({self.features})

    def routing(
        self, base: Base, members: Sequence[Contribution], public: PublicText, weights: Mapping[str, float]
    ) -> Evidence:
        """A row a party, and one of the public text if it is described.

        Raises:
            InvalidOption: nothing speaks for the base.
            TensorMismatch: histograms have different numbers of cells.
        """
        histograms = {c.party: histogram_of(c, self.features) for c in members}
        described = self._public(public)
        sizes = {name: len(histogram.counts) for name, histogram in histograms.items()}
        symbols = _one_alphabet(sizes | ({"public text": len(described)} if described is not None else {}))
        return Evidence(
            rows={party: _source(self._row(histogram, described)) for party, histogram in histograms.items()},
            public=_source(described) if described is not None else None,
            settings={
                "features": self.features,
                "symbols": symbols,
                "separator": base.separator,
                "floor": self.floor,
                "temperature": self.temperature,
                "half_life": self.half_life,
                "switching": self.switching,
                "bound": self.bound,
                "top_k": self.top_k,
                "minimum_weight": self.minimum_weight,
            },
            weights=weights,
        )

    def _public(self, public: PublicText) -> NDArray[np.float64] | None:
        """The public text's row as the router keeps it, so that whoever joins later finds the same ceiling."""
        described = public.get(self.features)
        if isinstance(described, KeptRow):
            return described.values.astype(np.float64)
        if isinstance(described, TokenHistogram):
            return described.log_probabilities(self.smoothing).astype(np.float32).astype(np.float64)
        if self.floor is None:
            raise InvalidOption(
                f"an evidence router without {self.features} of public text",
                why="nothing would speak for the base, and every text would go to some party",
                mend="Give public text, or a floor for 'none of them'.",
            )
        return None

    def _row(self, histogram: TokenHistogram, ceiling: NDArray[np.float64] | None) -> NDArray[np.float64]:
        row = histogram.log_probabilities(self.smoothing)
        return row if self.bound is None or ceiling is None else np.minimum(row, ceiling + self.bound)


def _source(row: NDArray[np.float64]) -> Source:
    # float32 on every platform, as the router keeps it
    return Source.streamed("F32", row.shape, lambda: iter([row.astype("<f4").tobytes()]))


def _one_alphabet(sizes: Mapping[str, int]) -> int:
    """The number of symbols that all histograms share."""
    first, size = next(iter(sizes.items()))
    for name, other in sizes.items():
        if other != size:
            raise TensorMismatch(
                f"the histogram of {name}",
                why=f"it has {other} cells, and that of {first} has {size}",
                mend="Ask for histograms with the same number of cells.",
            )
    return size
