"""What a session leaves behind for whoever judges it: facts, no claims.

A certificate is computed from these records and from checks that were run; nothing in it is typed in by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quiltwork.session.channel import Log, Terms
from quiltwork.session.split.bill import Bill
from quiltwork.session.split.words import Precision


@dataclass(frozen=True)
class Events:
    """Privacy events of one party.

    Attributes:
        party: whose they are.
        events: as `quiltwork.privacy` prices them.
    """

    party: str
    events: tuple[object, ...] = ()


@dataclass(frozen=True, eq=False)
class SplitRecords:
    """A run, as data.

    Attributes:
        mode: its name.
        parties: those with components, sorted.
        label_party: who answers logits, where another than the composer; else None.
        terms: what each pair could say.
        log: what was said, as counts, bytes and digests.
        formula: what it must have cost.
        sealing: how each party's process was confined.
        events: privacy events by party.
        digests: SHA-256 of every component and learner, by name.
        dependencies: by party, the inputs of its cotangents.
        rounds: training rounds that are done.
        losses: of each round, by whose they are.
        precision: how activations and cotangents crossed.
        stale: whether cotangents came a step late.
        seed: the master seed.
        threads: of torch, at the composer; another number may change bits.
        left: parties that left, in order.
        warnings: what was noticed, in words.
    """

    mode: str
    parties: tuple[str, ...]
    label_party: str | None
    terms: Mapping[str, Terms]
    log: Log
    formula: Bill
    sealing: Mapping[str, str]
    events: tuple[Events, ...]
    digests: Mapping[str, str]
    dependencies: Mapping[str, frozenset[str]]
    rounds: int
    losses: tuple[Mapping[str, float], ...]
    precision: Precision
    stale: bool
    seed: int
    threads: int
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
