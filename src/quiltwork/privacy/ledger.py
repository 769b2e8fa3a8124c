"""The ledger: what a case costs over all parties that hold a part of it, as far as it is covered at all.

    epsilon(unit, delta) = price of the events of that unit, of all parties together

A case lies in pieces: its columns at n parties, its label at one of them or at another. Each piece is released by its
own holder, so one case runs through n mechanisms, and their costs compose (adaptively; the noise and the sampling of
each party must be independent of the others': n parties that sample the same cases by a shared schedule are *not*
covered by this sum). A ledger per party would claim an n-th of the truth.

Units are kept apart, since no sum of them means anything:

    row      one case more or less, as far as parties' columns go
    label    one label of another value

An event of any other unit (a document, say) bounds neither, so beside it neither has a bound.

Silence costs infinity here as everywhere: a party that holds a part and states no event has no bound, and neither has
the case. What a bound covers and what it does not follows from the mechanism (`coverage`), and is never typed in.

>>> from quiltwork.privacy.labels import RandomisedResponse
>>> ledger = Ledger({"labels": (RandomisedResponse(10, 3.0).event,)}, columns=(), labels=("labels",))
>>> [line] = ledger.lines(delta=1e-5)
>>> line.unit, round(line.epsilon, 6), line.mechanisms
('label', 3.0, ('randomised_response',))
>>> Ledger({}, columns=("ash",)).price("row", delta=1e-5)
inf
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import Event, ExactEvent, GaussianEvent, LaplaceEvent, SampledGaussianEvent
from quiltwork.privacy.events import RandomisedResponseEvent as ResponseEvent

CaseUnit: TypeAlias = Literal["row", "label"]
"""What a ledger of a session bounds."""

_UNITS: tuple[CaseUnit, ...] = ("row", "label")

_KNOWN = (LaplaceEvent, GaussianEvent, SampledGaussianEvent, ResponseEvent, ExactEvent)

_SESSION = ("which cases there are and how many: the parties of the session know them",)

_MODEL = (
    "activations, outputs and losses of the training rows themselves, where they are sent or shown",
    "scales, class frequencies, stacking weights and options chosen on the same rows without noise",
    "sampling that parties share: each must draw its own, in secret",
    "further runs on the same rows that are not in this ledger",
)

_LABELS = (
    "what a row's own columns tell of its label",
    "labels of rows outside the release, such as held-out ones, and any other use of the true labels",
    "which classes there are, where that was not declared but taken from the labels",
)


class Coverage(NamedTuple):
    """What the bound of an event is about.

    Attributes:
        covers: what is protected by it; empty where nothing is.
        not_covered: what stays open beside it, however small epsilon is.
    """

    covers: str
    not_covered: tuple[str, ...]


def coverage(event: object) -> Coverage:
    """What an event's bound covers, by its mechanism.

    >>> coverage(None).covers
    ''
    """
    if isinstance(event, ResponseEvent):
        what = "each released label, against all who see anything computed from it: cotangents, components, predictions"
        return Coverage(what, (*_LABELS, *_SESSION))
    if isinstance(event, SampledGaussianEvent):
        what = f"the released {event.released} and all that is computed from it and other rows"
        return Coverage(what, (*_MODEL, *_SESSION))
    if isinstance(event, LaplaceEvent | GaussianEvent):
        return Coverage(f"the released {event.released} and all that is computed from it", _SESSION)
    released = getattr(event, "released", "something unknown")
    return Coverage("", (f"{released}: released without a mechanism that has a bound",))


@dataclass(frozen=True)
class Line:
    """One unit's bound, as a certificate states it.

    Attributes:
        unit: what is bounded.
        epsilon: over all parties; infinite where there is no bound.
        delta: at which.
        parties: the holders whose releases it is the price of.
        mechanisms: that were composed.
        covers: what the bound is about; empty where there is none.
        not_covered: what it says nothing about.
    """

    unit: CaseUnit
    epsilon: float
    delta: float
    parties: tuple[str, ...]
    mechanisms: tuple[str, ...]
    covers: tuple[str, ...]
    not_covered: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; no bound is null."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return found | {"epsilon": self.epsilon if math.isfinite(self.epsilon) else None}


@dataclass(frozen=True)
class Ledger:
    """Events of all parties of a session.

    Attributes:
        events: by party.
        columns: the parties that hold columns of each case and released something learned from them.
        labels: the parties that hold its label and released something that depends on it.
    """

    events: Mapping[str, tuple[Event, ...]]
    columns: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def of(self, unit: CaseUnit) -> dict[str, list[Event]]:
        """By party, the events that count for a unit: those of it, and those of neither unit."""
        found = {
            party: [e for e in events if not isinstance(e, _KNOWN) or e.unit not in _other(unit)]
            for party, events in sorted(self.events.items())
        }
        return {party: events for party, events in found.items() if events}

    def silent(self, unit: CaseUnit) -> tuple[str, ...]:
        """The holders of a part of the unit that state no event for it."""
        return tuple(sorted({*(self.columns if unit == "row" else self.labels)} - self.of(unit).keys()))

    def price(self, unit: CaseUnit, *, delta: float) -> float:
        """The most that one case (or label) pays, over all parties; infinite where a holder is silent.

        Raises:
            InvalidOption: delta lies outside [0, 1).
            PrivacyError: dp-accounting is needed and not installed.
        """
        events = [event for events in self.of(unit).values() for event in events]
        paid = price(events, delta=delta)
        return math.inf if self.silent(unit) or any(getattr(e, "unit", "") != unit for e in events) else paid

    def line(self, unit: CaseUnit, *, delta: float) -> Line:
        """A unit's bound; raises as `price`."""
        epsilon, found, silent = self.price(unit, delta=delta), self.of(unit), self.silent(unit)
        about = [(event, coverage(event)) for events in found.values() for event in events]
        unsaid = [f"party '{party}' states no event: what it released has no bound" for party in silent]
        covers = [one.covers for _, one in about if one.covers] if math.isfinite(epsilon) else []
        unsaid += [f"{e.released}: stated for one {e.unit}, not for one {unit}" for e, _ in about if _strays(e, unit)]
        open_ = [text for _, one in about for text in one.not_covered]
        return Line(
            unit,
            epsilon,
            delta,
            tuple(sorted({*found, *silent})),
            tuple(dict.fromkeys(str(getattr(event, "mechanism", "unknown")) for event, _ in about)),
            tuple(dict.fromkeys(covers)),
            tuple(dict.fromkeys([*unsaid, *open_])),
        )

    def lines(self, *, delta: float) -> tuple[Line, ...]:
        """A line for each unit that somebody holds a part of or states an event for; raises as `price`."""
        held = {"row": self.columns, "label": self.labels}
        return tuple(self.line(unit, delta=delta) for unit in _UNITS if held[unit] or self.of(unit))


def _other(unit: CaseUnit) -> tuple[CaseUnit, ...]:
    return tuple(one for one in _UNITS if one != unit)


def _strays(event: object, unit: CaseUnit) -> bool:
    """Whether an event of a known mechanism is about another unit."""
    return isinstance(event, _KNOWN) and event.unit != unit
