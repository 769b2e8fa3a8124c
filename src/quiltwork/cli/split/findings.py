"""What a run kept, from its records and from checks that are run now; what it did not keep, as loudly.

Each finding is a claim, against whom, whether it holds here, and on what evidence: a theorem about the mode whose
premise is read from the records, or a test that was run, with what it compared. Nothing follows from a setting alone.

    bytes            log = formula, by party and direction
    confinement      every frame was of the agreed kinds
    non-interference no cotangent is a function of another party's activation
    opt-out          the same, hence leaving is exact
    swap (test)      train again with all other fragments replaced by noise: the component's digest is the same
    again (test)     train again as it was: all digests are the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["held", "not held", "not tested"]


@dataclass(frozen=True)
class Finding:
    """One claim and what became of it.

    Attributes:
        claim: in one sentence.
        against: the adversary.
        status: held, not held or not tested.
        evidence: the theorem's premise, or what was compared.
    """

    claim: str
    against: str
    status: Status
    evidence: str


def certificate(facts: Mapping[str, Any], tests: Sequence[Finding], *, retrained: bool) -> dict[str, Any]:
    """The certificate of a run, from its facts and the tests that were run; ``retrained`` if training again was."""
    found = [_bytes(facts), _kinds(facts), _interference(facts), _opt_out(facts), *tests, *_open(facts, retrained)]
    return {
        "mode": facts["mode"],
        "parties": facts["parties"],
        "rounds": facts["rounds"],
        "bytes": sum(entry["bytes"] for entry in facts["log"]),
        "sealing": facts["sealing"],
        "events": facts["events"],
        "digests": facts["digests"],
        "warnings": facts["warnings"],
        "findings": [asdict(finding) for finding in found],
    }


def logged(facts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Bytes of the log, by party and direction."""
    sums = {party: {"down": 0, "up": 0} for party in facts["formula"]}
    for entry in facts["log"]:
        sums.setdefault(entry["party"], {"down": 0, "up": 0})[entry["direction"]] += entry["bytes"]
    return sums


def _bytes(facts: Mapping[str, Any]) -> Finding:
    found = logged(facts)
    wrong = [p for p in found if found[p] != facts["formula"].get(p)]
    total = sum(sum(ways.values()) for ways in found.values())
    return Finding(
        "The bytes that crossed are those of the formula, no more and no fewer.",
        "anybody who would carry something besides",
        "not held" if wrong else "held",
        f"the log of '{wrong[0]}' differs from the formula" if wrong else f"{total} bytes, by party and direction",
    )


def _kinds(facts: Mapping[str, Any]) -> Finding:
    strange = [e for e in facts["log"] if e["kind"] not in facts["terms"].get(e["party"], {}).get(e["direction"], {})]
    frames = sum(entry["frames"] for entry in facts["log"])
    return Finding(
        "Every frame was of a kind, dtype and shape that both ends agreed on before the first.",
        "a party or composer that says something else",
        "not held" if strange else "held",
        f"kind {strange[0]['kind']} was not agreed" if strange else f"{frames} frames, of the kinds of the terms",
    )


def _others(facts: Mapping[str, Any]) -> list[str]:
    """Parties whose cotangents are a function of another's activation."""
    return [
        party
        for party, inputs in facts["dependencies"].items()
        if any(name.startswith("activation:") and name != f"activation:{party}" for name in inputs)
        or any(name == "composer" for name in inputs)
    ]


def _interference(facts: Mapping[str, Any]) -> Finding:
    dependent = _others(facts)
    return Finding(
        "What a party receives tells nothing of the other parties' fragments.",
        "a curious party",
        "not held" if dependent else "held",
        f"the cotangents of {', '.join(dependent)} are functions of the others' activations"
        if dependent
        else "its cotangents are functions of the labels, its own activation and its own head",
    )


def _opt_out(facts: Mapping[str, Any]) -> Finding:
    dependent = _others(facts)
    return Finding(
        "A party can leave, and what remains is what would be there had it never come.",
        "whoever looks for traces of it in the others' components",
        "not held" if dependent else "held",
        "it needs training again without the party"
        if dependent
        else "no other component's cotangents are functions of its activation",
    )


def _open(facts: Mapping[str, Any], retrained: bool) -> list[Finding]:
    """What the records show not to be so."""
    bare = sorted(party for party, level in facts["sealing"].items() if level == "not sealed")
    response = any(e.get("mechanism") == "randomised_response" for own in facts["events"] for e in own["events"])
    found = [
        Finding("Labels stay hidden from parties.", "a curious party", "not held", _labels_told(response)),
        Finding("Activations stay hidden from the composer.", "a curious composer", "not held", "it receives them"),
    ]
    if bare:
        claim, evidence = "A party's process can open its own fragment only.", f"not sealed: {', '.join(bare)}"
        found.append(Finding(claim, "code at a party", "not held", evidence))
    if not retrained:
        claim = "Training again gives the same components; the others' fragments do not change them."
        found.append(Finding(claim, "our own mistakes", "not tested", "audit with --retrain to test it"))
    return found


def _labels_told(response: bool) -> str:
    if response:
        return "cotangents tell the released labels, which were randomised before the first round"
    return "cotangents tell most labels to whoever looks at them"


def page(document: Mapping[str, Any]) -> str:
    """The certificate as Markdown."""
    lines = [
        f"# Certificate of a run in {document['mode']} mode",
        "",
        f"Parties: {', '.join(document['parties'])}. Rounds: {document['rounds']}. Bytes: {document['bytes']:,}.",
        "",
        *(f"**Noticed:** {warning}\n" for warning in document["warnings"]),
        "| claim | against | status | evidence |",
        "|---|---|---|---|",
        *(f"| {f['claim']} | {f['against']} | **{f['status']}** | {f['evidence']} |" for f in document["findings"]),
        "",
        "| component | SHA-256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in document["digests"].items()),
        "",
    ]
    return "\n".join(lines)
