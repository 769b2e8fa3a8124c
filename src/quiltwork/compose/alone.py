"""Alone: one party's own model, the row of the score matrix that every composition must beat.

A full expert alone is base + delta. An ffn expert alone is the base with the party's feed-forward blocks in place of
its own, a narrow one padded with neurons of zero; no router takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quiltwork.compose.method import PublicText
from quiltwork.compose.parts import body, ffn_tensors, full_deltas, twin
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base
from quiltwork.models.narrow import padded
from quiltwork.models.sources import Source, total


@dataclass(frozen=True)
class Alone:
    """The model of one party.

    Attributes:
        scope: which of its experts, ``"full"`` or ``"ffn"``.
    """

    scope: Literal["ffn", "full"] = "full"

    @property
    def name(self) -> str:
        """``alone``."""
        return "alone"

    def needs(self) -> frozenset[str]:
        """The scope's expert."""
        return frozenset({self.scope})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> Blend:
        """The one model.

        Raises:
            InvalidOption: more than one contribution is given.
        """
        if len(contributions) != 1:
            raise InvalidOption(
                f"{len(contributions)} contributions", why="a model alone is of one party", mend="Give one of them."
            )
        (contribution,) = contributions
        if self.scope == "full":
            whole, deltas = body(base), full_deltas(contribution, base)
        else:
            whole = twin(base)  # of a mixture, the dense model around the one expert
            deltas = {name: _zero(item) for name, item in base.tensors.items()}
            for (layer, role), expert in ffn_tensors(contribution, base).items():
                item = base.tensors[base.family.ffn_name(layer, role)]
                deltas[base.family.ffn_name(layer, role)] = _difference(padded(expert, item.shape), item)
        return Blend(whole, {contribution.party: deltas}, {contribution.party: 1.0})


def _zero(item: Source) -> Source:
    return Source.zeros(item.dtype, item.shape)


def _difference(expert: Source, item: Source) -> Source:
    # float64, so that adding the base again gives the expert back exactly
    return total([(1.0, expert), (-1.0, item)], "F64")
