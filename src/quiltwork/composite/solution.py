"""A method over tables and what it makes: the nouns between the verb and its composite.

A method is a frozen dataclass that solves: what the machines agree on and one ``Local`` a machine go in, a ``Solution``
comes out. It sees no contribution, no file and no row of data, and the same locals give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from quiltwork.models.mixture.experts import Experts
    from quiltwork.models.mixture.local import Local, Table
    from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True, eq=False)
class Solution:
    """What a method made of the locals.

    Attributes:
        mixture: the one model.
        excluded: parties whose local took no part, and why.
        objective: what the method minimised, after each step; empty if it takes none.
        notes: what a reader of the result should know.
    """

    mixture: Mixture[Experts]
    excluded: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    objective: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()


@runtime_checkable
class TableMethod(Protocol):
    """How mixtures fitted apart become one."""

    @property
    def name(self) -> str:
        """Name in provenance."""
        ...

    def needs(self) -> frozenset[str]:
        """``mixture``, and what else each machine must have declared: ``covariates``, ``precision``."""
        ...

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        """One mixture of all; ``locals`` are sorted by party, fit the table and hold what ``needs`` says."""
        ...
