"""Checks of a run: each holds where it should, and is broken by what it is there to find."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from audit_runs import ADAM, alone, component, finished, fragments, noise_for_others, start, taped

from quiltwork.audit.facts import Facts, facts_of, read_facts
from quiltwork.audit.replay import replay
from quiltwork.audit.reruns import equivalence, opt_out, swap
from quiltwork.audit.static import bytes_equal, inputs, ledger, static_checks, words
from quiltwork.audit.tape import Tape, require_genuine
from quiltwork.errors import AlteredRecords, InvalidOption
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.one_process import train_whole
from quiltwork.session.split.records import Events


@pytest.fixture(scope="module")
def facts() -> Facts:
    return finished("isolated", *fragments())


def test_facts_come_back_from_their_text(facts: Facts) -> None:
    assert read_facts(facts.to_json()) == facts
    assert facts.fingerprint == finished("isolated", *fragments()).fingerprint, "the same run has the same name"
    assert facts.fingerprint != finished("joint", *fragments()).fingerprint


@pytest.mark.parametrize("field", ["rounds", "mode", "sealing", "formula", "digests", "dependencies", "crossed"])
def test_a_changed_fact_is_refused(facts: Facts, field: str) -> None:
    raw = json.loads(facts.to_json())
    raw["facts"][field] = {"rounds": 7, "mode": "joint", "crossed": []}.get(field, {})
    with pytest.raises(AlteredRecords):
        read_facts(json.dumps(raw, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"facts": {}, "fingerprint": ""}'])
def test_what_is_no_text_of_facts_is_refused(text: str) -> None:
    with pytest.raises(AlteredRecords):
        read_facts(text)


def test_numbers_that_contradict_each_other_are_refused_under_a_new_fingerprint(facts: Facts) -> None:
    changed = facts.model_copy(
        update={"crossed": tuple(c.model_copy(update={"bytes": c.frames}) for c in facts.crossed)}
    )
    with pytest.raises(AlteredRecords, match="frames have more than"):
        read_facts(changed.to_json())


def test_records_that_were_tampered_with_make_no_facts() -> None:
    run, _ = taped("isolated", *fragments())
    records = run.records()
    records.log.sizes["p0", "up", Kind.ACTIVATION] = 3
    with pytest.raises(AlteredRecords, match="ACTIVATION up of party 'p0'"):
        facts_of(records)


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_a_tape_is_of_its_session(mode: str) -> None:
    run, tape = taped(mode, *fragments(), label_party=True)
    facts = facts_of(run.records())
    require_genuine(tape, facts)
    message = tape.spools["p1"].down[3]
    assert message.array is not None
    array = message.array.copy()
    array.flat[0] += 1
    tape.spools["p1"].down[3] = Message(message.kind, message.round, array)
    with pytest.raises(AlteredRecords, match="party 'p1'"):
        require_genuine(tape, facts)


def test_lessons_are_the_rounds() -> None:
    run, tape = taped("joint", *fragments())
    lessons = tape.lessons("p2")
    assert lessons.rows.tolist() == np.concatenate([run.schedule.rows(t) for t in range(run.schedule.rounds)]).tolist()
    assert len(lessons.within(0, 1).rows) == 16
    with pytest.raises(AlteredRecords, match="no cotangents"):
        tape.lessons("zoe")
    with pytest.raises(InvalidOption, match="float32"):
        taped("joint", *fragments(), precision="int8")[1].lessons("p0")


@pytest.mark.parametrize("mode", ["joint", "isolated"])
@pytest.mark.parametrize("label_party", [True, False])
def test_static_checks_of_an_honest_run(mode: str, label_party: bool) -> None:
    found = {c.name: c for c in static_checks(finished(mode, *fragments(), label_party=label_party))}
    assert found["words"].holds
    assert found["bytes"].holds
    assert found["inputs"].holds == (mode == "isolated")
    assert not found["label-ledger"].passed, "nothing was randomised"
    assert all(c.control for c in found.values())


def test_an_undeclared_frame_and_a_byte_too_many_are_found() -> None:
    run, _ = taped("isolated", *fragments())
    records = run.records()
    records.log.note("p1", "down", Message(Kind.SHARE), bytes(70))
    leaking = facts_of(records)
    assert words(leaking).found["undeclared"] == ["SHARE down of p1"]
    assert not bytes_equal(leaking).passed
    assert bytes_equal(leaking).found["p1"]["down"][0] == bytes_equal(leaking).found["p1"]["down"][1] + 70  # type: ignore[index,call-overload,operator]


def test_a_head_shared_by_two_parties_counts_as_a_way_between_them(facts: Facts) -> None:
    assert inputs(facts).passed
    shared = {p: (*names, "embedding") for p, names in facts.dependencies.items()}
    assert not inputs(facts.model_copy(update={"dependencies": shared})).passed
    one = {**facts.dependencies, "p0": (*facts.dependencies["p0"], "activation:p1")}
    assert inputs(facts.model_copy(update={"dependencies": one})).found == {"p0": ["activation:p1"]}


LAPLACE = {"mechanism": "laplace", "released": "component", "unit": "row", "scale": 2.0, "sensitivity": 1.0}
EXACT = {"mechanism": "exact", "released": "component", "unit": "row", "note": ""}
RESPONSE = {"mechanism": "randomised_response", "released": "labels", "unit": "label", "classes": 2, "flip": 0.25}


def priced(**events: tuple[object, ...]) -> tuple[object, object]:
    run = start("isolated", *fragments(parties=2), events=[Events(p, found) for p, found in events.items()])
    labels, rows = ledger(facts_of(run.records()), delta=0.0)
    assert labels.control
    assert rows.control
    return labels.found["epsilon"], rows.found["epsilon"]


def test_events_are_composed_over_parties() -> None:
    assert priced(p0=(LAPLACE,), p1=(LAPLACE, LAPLACE))[1] == pytest.approx(1.5)
    assert priced(p0=(LAPLACE,))[1] is None, "the other party says nothing of what it released"
    assert priced(p0=(LAPLACE,), p1=(EXACT,))[1] is None
    assert priced(labels=(RESPONSE,)) == (pytest.approx(np.log(3)), None)


@pytest.mark.parametrize(("mode", "precision"), [("joint", "float32"), ("isolated", "float32"), ("joint", "int8")])
def test_a_party_alone_comes_to_the_same_and_notices_a_nudge(mode: str, precision: str) -> None:
    data, labels = fragments()
    run, tape = taped(mode, data, labels, precision=precision)
    facts = facts_of(run.records())
    for party, rows in data.items():
        found = replay(facts, tape, party, lambda p=party, r=rows: alone(p, r, precision))  # type: ignore[misc]
        assert found.holds, found
        assert found.found["replayed"] != found.found["nudged"]


class Peeking(ComponentNode):
    """A party that looks at another one's rows on the sly."""

    def __init__(self, other: torch.Tensor, rows: torch.Tensor) -> None:
        super().__init__(component("p0", 5, ADAM), rows)
        self._other = other

    def handle(self, message: Message) -> Message:
        if message.kind is Kind.COTANGENT and message.array is not None:
            leak = float(self._other[message.round, 0])
            message = Message(message.kind, message.round, message.array * np.float32(1 + 1e-3 * leak))
        return super().handle(message)


def peeking(channel: LocalChannel, data: dict[str, torch.Tensor]) -> Tape:
    channel._far["p0"]._node = Peeking(data["p1"], data["p0"])
    return Tape(channel)


def test_a_party_that_looked_at_another_fragment_is_found_by_replay() -> None:
    data, labels = fragments()
    run = start("isolated", data, labels, wrap=lambda channel: peeking(channel, data))
    run.train()
    facts, tape = facts_of(run.records()), run.channel
    assert isinstance(tape, Tape)
    assert not replay(facts, tape, "p0", lambda: alone("p0", data["p0"])).passed
    assert replay(facts, tape, "p1", lambda: alone("p1", data["p1"])).holds


def test_swap_holds_isolated_and_fails_jointly() -> None:
    data, labels = fragments()
    noisy = noise_for_others(data, "p1")
    runs = {mode: (finished(mode, data, labels), finished(mode, noisy, labels)) for mode in ("isolated", "joint")}
    held = swap(runs["isolated"][0], "p1", runs["isolated"][1], runs["joint"][1])
    assert held.holds
    assert not swap(runs["joint"][0], "p1", runs["joint"][1], runs["isolated"][1]).passed
    with pytest.raises(AlteredRecords, match="nothing was swapped"):
        swap(runs["isolated"][0], "p1", runs["isolated"][0], runs["joint"][1])


def test_joint_training_is_training_in_one_process() -> None:
    data, labels = fragments()
    run, _ = taped("joint", data, labels)
    whole = {}
    for seed in (3, 4):
        twin = start("joint", data, labels, seed=seed)
        parts = {p: component(p, 5, ADAM, seed) for p in data}
        train_whole(parts, twin.mode.composer, data, ClassTarget(labels, 3), twin.schedule)  # type: ignore[attr-defined]
        whole[seed] = {p: c.digest() for p, c in parts.items()} | {"composer": twin.mode.composer.digest()}  # type: ignore[attr-defined]
    facts = facts_of(run.records())
    assert equivalence(facts, whole[3], whole[4]).holds
    assert not equivalence(facts, whole[4], whole[3]).passed


def test_leaving_is_judged() -> None:
    data, labels = fragments()
    run, _ = taped("isolated", data, labels)
    before = run.digests()
    run.leave("p1")
    never = start("isolated", {p: data[p] for p in ("p0", "p2")}, labels)
    never.train()
    facts = facts_of(run.records())
    assert opt_out(facts, "p1", never.digests(), before).holds
    assert not opt_out(facts, "p1", before, never.digests()).passed
    assert words(facts).holds
    assert bytes_equal(facts).holds
