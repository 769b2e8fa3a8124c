"""Certificates: nothing is held that was not shown, everything that follows is computed, and edits are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from audit_runs import alone, finished, fragments, noise_for_others, start, taped

from quiltwork.audit.attacks.labels import label_recovery
from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import COMPUTED, Certificate, certify, read_certificate
from quiltwork.audit.check import Check
from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.replay import replay
from quiltwork.audit.reruns import swap
from quiltwork.errors import AlteredRecords
from quiltwork.session.frames import Message
from quiltwork.session.split.records import Events

RESPONSE = {"mechanism": "randomised_response", "released": "labels", "unit": "label", "classes": 3, "flip": 0.1}
ROWS = {"mechanism": "laplace", "released": "component", "unit": "row", "scale": 3.0, "sensitivity": 1.0}


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    data, labels = fragments()
    run, tape = taped(
        "isolated", data, labels, sealing=dict.fromkeys(data, "landlock"), events=[Events("composer", (RESPONSE,))]
    )
    facts = facts_of(run.records())
    replays = [replay(facts, tape, p, lambda p=p: alone(p, data[p])) for p in data]  # type: ignore[misc]
    others = {"sealing": dict.fromkeys(data, "landlock"), "events": [Events("composer", (RESPONSE,))]}
    swaps = []
    for party in data:
        noisy = noise_for_others(data, party)
        again = finished("isolated", noisy, labels, **others)
        swaps.append(swap(facts, party, again, finished("joint", noisy, labels)))
    lessons = tape.lessons("p0")
    truth = labels.numpy()[lessons.rows]
    attack = label_recovery("p0", lessons.cotangents, truth, data["p0"].numpy()[lessons.rows]).on(facts)
    return certify(facts, [*replays, *swaps], [attack], tape=tape)


def test_what_was_shown_is_held_and_nothing_else(certificate: Certificate) -> None:
    assert certificate.held == ("G1", "G2", "G3", "G7a", "G10")
    assert certificate.not_held == ("G0", "G4", "G5", "G6", "G7b", "G7c", "G8", "G9", "G11", "G12")
    assert [s.number for s in certificate.standings] == [g.number for g in GUARANTEES]
    assert certificate.standing("G9").why == "not checked: opt-out was not run"
    assert certificate.standing("G6").why.startswith("check 'masked-sum' found a breach")
    assert "no training of one graph" in certificate.standing("G0").why
    assert "not built" in certificate.standing("G7c").why


def test_a_run_without_checks_holds_its_bytes_and_little_else() -> None:
    for mode in ("joint", "isolated"):
        assert certify(finished(mode, *fragments())).held == ("G10",)


def test_a_mode_of_one_s_own_has_no_theorem() -> None:
    facts = finished("isolated", *fragments()).model_copy(update={"mode": "homemade"})
    assert certify(facts).held == ()


def spoiled(found: Certificate, name: str, **changes: Any) -> Certificate:
    checks = [c.model_copy(update=changes) if c.name == name else c for c in found.checks]
    return certify(found.facts, checks, found.attacks)


@pytest.mark.parametrize(
    ("name", "number", "changes", "why"),
    [
        ("replay", "G1", {"passed": False}, "found a breach"),
        ("replay", "G1", {"control": False}, "did not catch the breach"),
        ("replay", "G1", {"control": None}, "no breach was planted"),
        ("replay", "G1", {"subject": "p0"}, "not checked for party p1, p2"),
        ("swap", "G2", {"passed": False}, "found a breach"),
        ("swap", "G2", {"subject": "p2"}, "not checked for party p0, p1"),
    ],
)
def test_a_guarantee_falls_with_any_of_its_checks(
    certificate: Certificate, name: str, number: str, changes: dict[str, Any], why: str
) -> None:
    found = spoiled(certificate, name, **changes).standing(number)
    assert not found.held
    assert why in found.why


def test_checks_on_facts_are_computed_and_never_taken(certificate: Certificate) -> None:
    assert spoiled(certificate, "bytes", passed=False) == certificate
    bytes_ = next(c for c in certificate.checks if c.name == "bytes")
    for party in certificate.facts.parties:
        forged = bytes_.model_copy(update={"name": "local-loss", "guarantee": "G12", "subject": party})
        assert certify(certificate.facts, [forged]).checks == certify(certificate.facts).checks
    assert {c.name for c in certify(certificate.facts).checks} <= COMPUTED


def test_confinement_takes_sealing(certificate: Certificate) -> None:
    facts = certificate.facts.model_copy(update={"sealing": {**certificate.facts.sealing, "p2": "audit-hook"}})
    checks = [c.model_copy(update={"run": facts.fingerprint}) for c in certificate.checks]
    found = certify(facts, checks).standing("G1")
    assert not found.held
    assert found.why.startswith("party p2 is not sealed")


def test_bounded_declassification_takes_an_attack(certificate: Certificate) -> None:
    assert "not attacked" in certify(certificate.facts, certificate.checks).standing("G3").why


def test_checks_attacks_and_tapes_of_another_run_are_refused(certificate: Certificate) -> None:
    other, tape = taped("joint", *fragments())
    facts = facts_of(other.records())
    with pytest.raises(AlteredRecords, match="'replay'"):
        certify(facts, [c for c in certificate.checks if c.name == "replay"])
    with pytest.raises(AlteredRecords, match="labels from cotangents"):
        certify(facts, (), certificate.attacks)
    with pytest.raises(AlteredRecords, match="tape"):
        certify(certificate.facts, tape=tape)
    certify(facts, tape=tape)
    tape.spools["p0"].up.append(Message(tape.spools["p0"].up[-1].kind))
    with pytest.raises(AlteredRecords, match="tape"):
        certify(facts, tape=tape)


def test_a_certificate_comes_back_from_its_text(certificate: Certificate) -> None:
    text = certificate.to_json()
    assert read_certificate(text) == certificate
    assert json.loads(text)["digest"] == certificate.digest
    assert json.loads(text)["guarantees"]["G1"]["adversary"]["behaviour"] == "active"


def edited(certificate: Certificate, *path: Any, value: Any) -> str:
    raw = json.loads(certificate.to_json())
    at = raw
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(raw, sort_keys=True, indent=2) + "\n"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("certificate", "standings", 0, "held"), True),
        (("certificate", "facts", "mode"), "joint"),
        (("certificate", "facts", "rounds"), 99),
        (("certificate", "facts", "sealing", "p0"), "not sealed"),
        (("certificate", "checks", 1, "passed"), False),
        (("certificate", "checks", -1, "found"), {}),
        (("certificate", "attacks", 0, "success"), 0.1),
        (("certificate", "attacks"), []),
        (("certificate", "delta"), 0.1),
        (("digest",), "0" * 64),
        (("guarantees", "G1", "statement"), "All is well."),
    ],
)
def test_an_edited_certificate_is_refused(certificate: Certificate, path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(AlteredRecords):
        read_certificate(edited(certificate, *path, value=value))


def test_held_cannot_be_claimed_under_a_new_digest(certificate: Certificate) -> None:
    claimed = tuple(s.model_copy(update={"held": True}) for s in certificate.standings)
    with pytest.raises(AlteredRecords, match="does not follow"):
        read_certificate(certificate.model_copy(update={"standings": claimed}).to_json())


@pytest.mark.parametrize("text", ["", "{}", "[" * 10**5, "null"])
def test_what_is_no_certificate_is_refused(text: str) -> None:
    with pytest.raises(AlteredRecords):
        read_certificate(text)


def found_members(facts: Facts, low: float) -> Attack:
    return Attack(
        name="membership by shadow models",
        party="composed model",
        adversary="",
        measure="",
        success=low,
        baseline=0.01,
        low=low,
        high=low,
        cases=100,
        further={"rate": 0.01},
    ).on(facts)


def test_membership_is_held_against_the_bound_of_the_ledger() -> None:
    data, labels = fragments(parties=2)
    run = start("isolated", data, labels, events=[Events(p, (ROWS,)) for p in data])
    facts = facts_of(run.records())
    bound = float(np.exp(2 / 3)) * 0.01 + 1e-5
    below, above = (certify(facts, (), [found_members(facts, low)]) for low in (bound * 0.99, bound * 1.05))
    assert {"G7b", "G8"} <= set(below.held)
    assert "G8" in above.not_held
    assert "found a breach" in above.standing("G8").why
    assert "G8" in certify(facts).not_held


def test_training_at_home_leaves_nothing_to_hijack() -> None:
    run = start("isolated", *fragments(), epochs=0)
    run.predict(np.arange(5))
    assert "G12" in certify(facts_of(run.records())).held
    learnt = certify(finished("isolated", *fragments()))
    assert learnt.standing("G12").why == "not checked: local-loss or scrutiny was not run"


def test_checks_name_themselves_by_content(certificate: Certificate) -> None:
    one: Check = certificate.checks[0]
    assert one.digest != one.model_copy(update={"says": "x"}).digest
    assert len({c.digest for c in certificate.checks}) == len(certificate.checks)
