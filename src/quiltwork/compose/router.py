"""What a router is to a mixture of experts: what it asks of every party, and the noun it makes of that.

A router is a small frozen dataclass. It sees the contributions sorted by party, each party's share on its own, so that
without a party the router is what it would have been had the party never contributed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.routing import Routing


class Router(Protocol):
    """How tokens find their experts."""

    @property
    def name(self) -> str:
        """What scores and reports call a mixture with it."""
        ...

    def needs(self) -> frozenset[str]:
        """The parts that every contribution must hold besides its expert."""
        ...

    def routing(
        self, base: Base, members: Sequence[Contribution], public: PublicText, weights: Mapping[str, float]
    ) -> Routing:
        """The noun, from checked contributions sorted by party.

        Args:
            base: the public checkpoint.
            members: the contributions of those who take part.
            public: what describes public text, by part; may be empty.
            weights: weight of every slot, the base under the empty name.
        """
        ...


def require_dense(base: Base, what: str) -> None:
    """Refuse a base that is a mixture itself, for routers that measure every party against one row of zeros.

    Raises:
        InvalidOption: naming the router.
    """
    if base.own is not None:
        raise InvalidOption(
            f"{what} over a base that is a mixture itself",
            why="they are measured against a base with one feed-forward block a layer, and this one routes among "
            f"{base.own.count} of its own",
            mend="Use LearnedRows, whose rows were trained beside the base's own, or PrefixEvidence.",
        )


def require_top_k(top_k: int | None) -> None:
    """Refuse a router that lets no expert answer.

    Raises:
        InvalidOption: top_k is below one.
    """
    if top_k is not None and top_k < 1:
        raise InvalidOption(f"top_k={top_k}", why="at least one expert must answer", mend="Choose 1 or more.")


def require_positive(**settings: float) -> None:
    """Refuse settings that are not positive and finite.

    Raises:
        InvalidOption: naming the setting.
    """
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            raise InvalidOption(f"{name}={value}", why="it is a positive number", mend="Choose one above 0.")
