"""Branch-Train-MiX: the feed-forward blocks of whole models become experts, everything else is averaged.

    body      mean of the base and the parties' models outside their feed-forward blocks
    expert i  party i's own feed-forward blocks; expert 0 is the base's
    y         sum_e softmax(r_e . x) M_e(x)        over all experts, or the top k

BTX, arXiv 2403.07816, section 3. Its rows start at random and are then trained with everything else on everybody's
data. Here the data stay where they are, so what follows is `quiltwork.compose.tuning` on public text; before that the
rows say nothing. A party's first rows are a function of the seed and its name, and the base's row is zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from quiltwork.compose.method import PublicText, chosen, slot_weights
from quiltwork.compose.parts import body, full_deltas
from quiltwork.compose.router import require_top_k
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.averaged import AveragedExperts
from quiltwork.models.base import Base
from quiltwork.models.routers import Rows
from quiltwork.models.sources import Source

ROW_SCALE = 0.02
"""Standard deviation of a first row's entries."""


@dataclass(frozen=True)
class BTX:
    """Full experts as experts of one mixture on an averaged body.

    Attributes:
        top_k: experts a token; None for all. The paper trains and runs two.
        renormalise: rescale the top-k weights to sum to one.
        seed: of the rows before tuning, from 0.
        weights: weight of a party, or of ``base``, in the averaged body; one unless stated.
        include: the parties that take part; None for all.
    """

    top_k: int | None = None
    renormalise: bool = True
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        require_top_k(self.top_k)
        if self.seed < 0:
            raise InvalidOption(f"seed={self.seed}", why="seeds are not negative", mend="Give 0 or more.")

    @property
    def name(self) -> str:
        """``btx``."""
        return "btx"

    def needs(self) -> frozenset[str]:
        """A full expert of each party."""
        return frozenset({"full"})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> AveragedExperts:
        """The mixture before tuning."""
        parties = chosen([c.party for c in contributions], self.include, self.weights)
        rows = Rows(
            rows={p: [_first_row(base, self.seed, p, layer) for layer in range(base.layers)] for p in parties},
            offsets={},
            top_k=self.top_k,
            renormalise=self.renormalise,
            weights=dict.fromkeys(("", *parties), 1.0),
        )
        deltas = {c.party: full_deltas(c, base) for c in contributions if c.party in parties}
        return AveragedExperts(body(base), deltas, slot_weights(parties, self.weights), rows)


def _first_row(base: Base, seed: int, party: str, layer: int) -> Source:
    """A row of independent normal entries that only seed, party and layer decide."""
    import torch

    digest = hashlib.sha256(f"{seed}\0{party}\0{layer}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    row = ROW_SCALE * generator.standard_normal(base.hidden_size)
    return Source.of(torch.from_numpy(row).to(base.torch_dtype))
