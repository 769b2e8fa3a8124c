"""A method over networks and what it makes: the nouns between the verb and its composite.

A method is a frozen dataclass that builds: the task that all agree on and one ``Member`` a party go in, one module
comes out. It sees no row of data, and the same contributions give the same module.

Every module that a method builds maps raw inputs, float32 [n, *shape] in the task's units, to float32 [n, outputs]:
logits whose softmax are the model's probabilities where the task has classes, the numbers themselves where it has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pydantic import JsonValue
    from torch import nn

    from quiltwork.composite.network_members import Member
    from quiltwork.contribution.networks import TaskReference


@dataclass(frozen=True, eq=False)
class NetworkSolution:
    """What a method made of the members.

    Attributes:
        model: the one module, in evaluation mode; see this file's docstring for what goes in and comes out.
        figures: what the method found and a reader may want to know, as JSON: weights, places, fits.
        notes: what a reader of the result should know, in words.
    """

    model: nn.Module
    figures: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))
    notes: tuple[str, ...] = ()


@runtime_checkable
class NetworkMethod(Protocol):
    """How networks trained apart, or statistics of their owners' inputs, become one module."""

    @property
    def name(self) -> str:
        """Name in provenance."""
        ...

    def needs(self) -> frozenset[str]:
        """The parts that every party must hold: ``module``, ``inputs``, ``classes``."""
        ...

    def uses(self) -> frozenset[str]:
        """The parts that it takes from whoever holds them; a party may hold such parts alone."""
        ...

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        """One module of all; ``members`` are sorted by party, are of the task and hold what ``needs`` says."""
        ...
