"""The certificate of a run: facts, checks and attacks as they came out, and what follows from them.

    certificate = facts + checks + attacks + delta           what is recorded
    standings   = G0 ... G12, held or not, and why           what follows (`quiltwork.audit.guarantees`)

Only the first line is data. Standings are computed when a certificate is made and again when one is read, so a
certificate whose standings, ledger or digest were edited is refused, and one whose checks were edited has another
digest. Checks and attacks name the run by its fingerprint; those of another run are refused. What rests on facts alone
(words, bytes, inputs, ledger) is computed here and never taken from the caller.

>>> from quiltwork.audit.catalogue import GUARANTEES
>>> [g.number for g in GUARANTEES if "isolated" not in g.theorem]
['G0', 'G7c']
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts, Fixed, altered, canonical, digest_of
from quiltwork.audit.guarantees import Standing, standing
from quiltwork.audit.static import DELTA, local_loss, static_checks
from quiltwork.audit.tape import Tape, require_genuine

COMPUTED = frozenset(
    ("words", "bytes", "inputs", "masked-sum", "label-ledger", "record-ledger", "local-loss", "membership-bound")
)
"""Checks that follow from facts and attacks; given ones of these names are passed over."""

MOST_BYTES = 2**26
"""No certificate is larger as text."""


class Certificate(Fixed):
    """What can be said of a run.

    Attributes:
        facts: of the run.
        delta: at which epsilons are priced.
        checks: that were run, those on facts alone first.
        attacks: that were tried.
        standings: of all guarantees, in order.
    """

    facts: Facts
    delta: float
    checks: tuple[Check, ...]
    attacks: tuple[Attack, ...]
    standings: tuple[Standing, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def held(self) -> tuple[str, ...]:
        """Numbers of the guarantees that are held."""
        return tuple(s.number for s in self.standings if s.held)

    @property
    def not_held(self) -> tuple[str, ...]:
        """Numbers of those that are not."""
        return tuple(s.number for s in self.standings if not s.held)

    def standing(self, number: str) -> Standing:
        """That of one guarantee.

        Raises:
            KeyError: there is none of that number.
        """
        return {s.number: s for s in self.standings}[number]

    def to_json(self) -> str:
        """The text that `read_certificate` takes, with words for people beside each standing."""
        about = {
            g.number: {"title": g.title, "statement": g.statement, "enforcement": g.enforcement}
            | {"adversary": g.adversary.model_dump(mode="json")}
            for g in GUARANTEES
        }
        whole = {"certificate": self.model_dump(mode="json"), "digest": self.digest, "guarantees": about}
        return json.dumps(whole, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def certify(
    run: Facts,
    checks: Sequence[Check] = (),
    attacks: Sequence[Attack] = (),
    *,
    tape: Tape | None = None,
    delta: float = DELTA,
) -> Certificate:
    """The certificate of a run.

    Args:
        run: its facts.
        checks: those that took other runs, replays or people's material.
        attacks: that were tried on it, each bound to it by `Attack.on`.
        tape: of the run; where given, its messages must be those that were counted.
        delta: at which epsilons are priced.

    Raises:
        AlteredRecords: a check or an attack is of another run, or the tape does not fit.
        PrivacyError: events need dp-accounting, which is not installed.
    """
    records: tuple[Check | Attack, ...] = (*checks, *attacks)
    for record in records:
        if record.run != run.fingerprint:
            raise altered(f"'{record.name}'", "it is about another run than the facts")
    if tape is not None:
        require_genuine(tape, run)
    delta = float(delta)
    own = (*static_checks(run, delta), *local_loss(run))
    given = [c for c in checks if c.name not in COMPUTED]
    together = (*own, *given, *_bounded(run, own, attacks))
    standings = tuple(standing(g, run, together, attacks) for g in GUARANTEES)
    return Certificate(facts=run, delta=delta, checks=together, attacks=tuple(attacks), standings=standings)


def read_certificate(text: str) -> Certificate:
    """A certificate from the text that `Certificate.to_json` wrote.

    Raises:
        AlteredRecords: the text is another, or says what does not follow from its own facts and checks.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError("too long")
        raw: Any = json.loads(text)
        found = Certificate.model_validate(raw["certificate"])
        again = certify(found.facts, found.checks, found.attacks, delta=found.delta)
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise altered("the certificate", "it is no such text, or its numbers contradict each other") from error
    if again != found or canonical(raw) != canonical(json.loads(found.to_json())):
        raise altered("the certificate", "it says what does not follow from its own facts and checks")
    return found


def _bounded(facts: Facts, own: Sequence[Check], attacks: Sequence[Attack]) -> tuple[Check, ...]:
    """Is what membership inference found within what the ledger allows?"""
    ledger = next(c for c in own if c.name == "record-ledger")
    epsilon, delta = ledger.found["epsilon"], ledger.found["delta"]
    tried = [a for a in attacks if a.name == "membership by shadow models"]
    if not isinstance(epsilon, float) or not isinstance(delta, float) or not tried:
        return ()
    bound, low = 0.0, 0.0
    for attack in tried:
        rate = attack.further["rate"]
        assert isinstance(rate, float)
        bound = min(1.0, math.exp(min(epsilon, 700.0)) * rate + delta)
        low = attack.success if attack.low is None else attack.low
        if low > bound:
            break
    return (
        check(
            "membership-bound",
            facts,
            "G8",
            "statistical",
            passed=low <= bound,
            # finding all members would have to break the bound, or it bounds nothing
            control=bound < 1.0,
            found={"bound": bound, "low": low},
            says=f"An attack found at least {low:.3g} of members; {bound:.3g} is the bound.",
        ),
    )
