"""Checks that need nothing but the facts: words, bytes, what cotangents can depend on, and the price of privacy.

    words      every kind that crossed was declared for its direction                              (G4)
    bytes      bytes that crossed = bytes of the formula, party by party, both ways, equal and not at most     (G10)
    inputs     inputs(cotangent i) within {labels, activation i, head i}: no other fragment among them          (G2)
    masked-sum activations crossed under masks only                                                              (G6)
    local-loss no cotangent crossed to a party                                                                  (G12)
    ledger     epsilon of labels and of rows, each composed over all parties at one delta                       (G7)

Each control is the same check on the same facts with a breach planted: a kind that was not declared, one byte more,
another party's activation among the inputs, an exact release among the events.
"""

from __future__ import annotations

import math

from pydantic import JsonValue

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import WAYS, Crossing, Facts
from quiltwork.privacy.events import Event, ExactEvent
from quiltwork.privacy.ledger import CaseUnit, Ledger
from quiltwork.session.frames import Kind

DELTA = 1e-5


def static_checks(facts: Facts, delta: float = DELTA) -> tuple[Check, ...]:
    """All of them.

    Args:
        facts: of the run.
        delta: at which epsilons are priced.
    """
    return (words(facts), bytes_equal(facts), inputs(facts), masked_sum(facts), *ledger(facts, delta))


def words(facts: Facts) -> Check:
    """Did only declared kinds cross?"""
    undeclared = _undeclared(facts)
    party = facts.parties[0]
    planted = Crossing(party=party, direction="down", kind="SHARE", frames=1, bytes=100)
    control = bool(_undeclared(facts.model_copy(update={"crossed": (*facts.crossed, planted)})))
    found: dict[str, JsonValue] = {"undeclared": list(undeclared), "kinds": len({c.kind for c in facts.crossed})}
    says = "Only declared kinds of messages crossed." if not undeclared else f"Undeclared: {', '.join(undeclared)}."
    return check("words", facts, "G4", "exact", passed=not undeclared, control=control, found=found, says=says)


def _undeclared(facts: Facts) -> tuple[str, ...]:
    # what a party that left could say is no longer on record
    return tuple(
        f"{c.kind} {c.direction} of {c.party}"
        for c in facts.crossed
        if c.party in facts.words and c.kind not in getattr(facts.words[c.party], c.direction)
    )


def bytes_equal(facts: Facts) -> Check:
    """Did exactly the bytes of the formula cross?"""
    found: dict[str, JsonValue] = {
        party: {way: [facts.bytes(party, way), getattr(facts.formula[party], way)] for way in WAYS}
        for party in sorted(facts.formula)
    }
    party = facts.parties[0]
    planted = Crossing(party=party, direction="up", kind="DONE", frames=1, bytes=1)
    control = not _equal(facts.model_copy(update={"crossed": (*facts.crossed, planted)}))
    passed = _equal(facts)
    total = sum(c.bytes for c in facts.crossed)
    says = f"{total} bytes crossed, {'exactly those' if passed else 'which are not those'} of the formula."
    return check("bytes", facts, "G10", "exact", passed=passed, control=control, found=found, says=says)


def _equal(facts: Facts) -> bool:
    parties = {c.party for c in facts.crossed} | set(facts.formula)
    return all(
        party in facts.formula and facts.bytes(party, way) == getattr(facts.formula[party], way)
        for party in parties
        for way in WAYS
    )


def inputs(facts: Facts) -> Check:
    """Are each party's cotangents a function of the labels and of what is its own?"""
    foreign = _foreign(facts)
    control = bool(_foreign(_leaking(facts)))
    says = "Cotangents depend on labels and the party's own activations."
    if foreign:
        says = f"Cotangents of {len(foreign)} of {len(facts.parties)} parties depend on other parties' fragments."
    return check(
        "inputs",
        facts,
        "G2",
        "static",
        passed=not foreign,
        control=control,
        found={p: list(names) for p, names in foreign.items()},
        says=says,
    )


def _foreign(facts: Facts) -> dict[str, list[str]]:
    """By party, inputs of its cotangents that another party has a part in."""
    taken = {p: [name for name in names if not _own(facts, p, name)] for p, names in facts.dependencies.items()}
    return {party: names for party, names in taken.items() if names}


def _own(facts: Facts, party: str, name: str) -> bool:
    if name in ("labels", f"activation:{party}"):
        return True
    # a learner that several parties' cotangents depend on carries one's fragment to the other
    others = (names for other, names in facts.dependencies.items() if other != party)
    return not name.startswith("activation:") and not any(name in names for names in others)


def _leaking(facts: Facts) -> Facts:
    party = facts.parties[0]
    planted = (*facts.dependencies[party], "activation:somebody else")
    return facts.model_copy(update={"dependencies": {**facts.dependencies, party: planted}})


def masked_sum(facts: Facts) -> Check:
    """Did activations cross under masks only, so that the composer saw nothing but sums?"""
    open_ = _unmasked(facts)
    party = facts.parties[0]
    planted = Crossing(party=party, direction="up", kind="ACTIVATION", frames=1, bytes=100)
    control = party in _unmasked(facts.model_copy(update={"crossed": (*facts.crossed, planted)}))
    says = "Activations crossed under masks only."
    if open_:
        says = f"Activations of {len(open_)} of {len(facts.parties)} parties crossed in the open."
    return check(
        "masked-sum", facts, "G6", "exact", passed=not open_, control=control, found={"open": list(open_)}, says=says
    )


def _unmasked(facts: Facts) -> tuple[str, ...]:
    plain = (Kind.ACTIVATION, Kind.OUTPUT)
    up = {(c.party, c.kind) for c in facts.crossed if c.direction == "up"}
    return tuple(p for p in facts.parties if (p, "MASKED") not in up or any((p, k.name) in up for k in plain))


def local_loss(facts: Facts) -> tuple[Check, ...]:
    """Was each party spared cotangents, and with them any steering by the composer? One check for each that was."""
    planted = Crossing(party=facts.parties[0], direction="down", kind="COTANGENT", frames=1, bytes=100)
    steered = facts.model_copy(update={"crossed": (*facts.crossed, planted)})
    control = steered.frames(facts.parties[0], Kind.COTANGENT) > facts.frames(facts.parties[0], Kind.COTANGENT)
    return tuple(
        check(
            "local-loss",
            facts,
            "G12",
            "exact",
            subject=party,
            passed=True,
            control=control,
            found={"cotangents": 0},
            says=f"No cotangent ever reached party '{party}'.",
        )
        for party in facts.parties
        if facts.frames(party, Kind.COTANGENT) == 0
    )


def ledger(facts: Facts, delta: float = DELTA) -> tuple[Check, Check]:
    """What was spent on labels, and on rows, over all parties: a case lies in every fragment.

    Raises:
        PrivacyError: the events need dp-accounting, which is not installed.
    """
    return _spent(facts, "label-ledger", "G7a", "label", delta), _spent(facts, "record-ledger", "G7b", "row", delta)


def books(facts: Facts, planted: tuple[Event, ...] = ()) -> Ledger:
    """The events of a run by party: every party holds columns of a case, also one that left; the label is the label
    party's, or the composer's."""
    events = {party: tuple(facts.privacy_events(party)) for party in facts.events}
    for party in (*facts.parties, *facts.left):
        # however privately a component was trained, activations of training rows are those rows through it, and so is
        # their sum
        if facts.frames(party, Kind.ACTIVATION) or facts.frames(party, Kind.MASKED):
            events[party] = (*events.get(party, ()), ExactEvent(released="activations", unit="row"))
    stated = tuple(party for party, found in events.items() if any(e.unit == "label" for e in found))
    holders = (facts.label_party,) if facts.label_party else stated or ("composer",)
    return Ledger({**events, "planted": planted}, columns=(*facts.parties, *facts.left), labels=holders)


def _spent(facts: Facts, name: str, guarantee: str, unit: CaseUnit, delta: float) -> Check:
    line = books(facts).line(unit, delta=delta)
    planted = ExactEvent(released="planted", unit=unit)
    control = math.isinf(books(facts, (planted,)).price(unit, delta=delta))
    finite = math.isfinite(line.epsilon)
    says = f"No finite epsilon holds for one {unit}."
    if finite:
        says = f"Epsilon {line.epsilon:.3g} at delta {delta:g} for one {unit}, composed over all parties."
    return check(name, facts, guarantee, "exact", passed=finite, control=control, found=line.to_json(), says=says)
