"""Runs: late cotangents, states and resuming, quorum, parties that lie or die."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from split_parties import ADAM, SGD, WIDTH, component, fragments, modes, start
from torch.func import functional_call
from torch.nn import functional

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty, SessionError
from quiltwork.models.split.component import OptimiserPlan
from quiltwork.session.channel import LocalChannel, lost
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.outputs import Median, Product
from quiltwork.session.split.schedule import Schedule


class Failing:
    """A channel on which a party is dead from its so-many-th message on, or lies."""

    def __init__(self, channel: LocalChannel, party: str, after: int = 0, lie: Any = None) -> None:
        self._channel, self._party, self._after, self._lie = channel, party, after, lie
        self.log, self.nodes, self.call, self.close = channel.log, channel.nodes, channel.call, channel.close

    def push(self, node: str, message: Message) -> None:
        self._after -= node == self._party
        if self._after < 0 and node == self._party and self._lie is None:
            raise lost(node, "its process is gone")
        self._channel.push(node, message)

    def pull(self, node: str) -> Message:
        reply = self._channel.pull(node)
        return self._lie(reply) if self._lie and node == self._party and self._after < 0 else reply


def test_stale_cotangents_belong_to_the_parameters_that_they_were_asked_with() -> None:
    data, labels = fragments()
    plan = OptimiserPlan("sgd", 0.05, momentum=0.0)
    run = start("joint", data, labels, plan=plan, stale=True)
    run.train()
    parts = {p: component(p, rows.shape[1], plan).module for p, rows in data.items()}
    mode = modes("joint", sorted(data), 3, plan)
    assert isinstance(mode, Joint)
    now = {p: dict(part.named_parameters()) for p, part in parts.items()}
    before = now
    for round_ in range(run.schedule.rounds):
        rows = torch.from_numpy(run.schedule.rows(round_))
        # round t is asked before the cotangents of round t - 1 are back
        used = {p: {n: w.detach().requires_grad_() for n, w in before[p].items()} for p in parts}
        heads = [functional_call(parts[p], used[p], (data[p][rows],)) for p in sorted(parts)]
        mode.composer.module.zero_grad()
        functional.cross_entropy(mode.composer.module(heads), labels[rows]).backward()
        mode.composer.step()
        before = now
        now = {p: {n: w.detach().add(used[p][n].grad, alpha=-0.05) for n, w in now[p].items()} for p in parts}
    digests = run.digests()
    assert digests["composer"] == mode.composer.digest()
    for party, weights in now.items():
        twin = component(party, 5, plan)
        twin.module.load_state_dict(weights)
        assert digests[party] == twin.digest()
    prompt = start("joint", data, labels, plan=plan)
    prompt.train()
    assert prompt.digests() != digests


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_same_inputs_give_the_same_bytes(precision: str) -> None:
    one, two = (start("joint", *fragments(), precision=precision) for _ in range(2))
    one.train()
    two.train()
    assert one.digests() == two.digests()
    assert one.channel.log.digest("p0", "up") == two.channel.log.digest("p0", "up")


def test_eight_bits_cost_a_quarter_and_learn_as_well() -> None:
    data, labels = fragments(rows=200)
    runs = {p: start("joint", data, labels, precision=p, epochs=6) for p in ("float32", "int8")}
    scores = {}
    for name, run in runs.items():
        run.train()
        scores[name] = (run.predict(run.schedule.positions).argmax(1) == labels.numpy()).mean()
    assert runs["int8"].digests() != runs["float32"].digests()
    assert scores["int8"] >= scores["float32"] - 0.03


@pytest.mark.parametrize("mode", ["joint", "isolated"])
@pytest.mark.parametrize("stale", [False, True], ids=["prompt", "stale"])
def test_a_run_that_lost_a_party_goes_on_bit_for_bit(mode: str, stale: bool, tmp_path: Path) -> None:
    data, labels = fragments()
    options: dict[str, Any] = {"save_every": 3, "stale": stale, "plan": SGD}
    whole = start(mode, data, labels, folder=tmp_path / "whole", **options)
    whole.train()
    broken = start(mode, data, labels, folder=tmp_path / "broken", wrap=lambda c: Failing(c, "p1", 12), **options)
    with pytest.raises(LostParty, match="party 'p1'"):
        broken.train()
    again = start(mode, data, labels, folder=tmp_path / "broken", **options)
    assert again.resume() == 3
    again.train()
    assert again.digests() == whole.digests()
    assert again.losses == whole.losses


def test_the_rest_goes_on_without_a_party_that_died(tmp_path: Path) -> None:
    data, labels = fragments()
    run = start("isolated", data, labels, folder=tmp_path, save_every=2, wrap=lambda c: Failing(c, "p1", 8))
    with pytest.raises(LostParty):
        run.train()
    with pytest.raises(SessionError, match="resume first"):
        run.train()
    run.leave("p1")
    assert run.resume() == 2
    run.train()
    others = {p: data[p] for p in ("p0", "p2")}
    never = start("isolated", others, labels, folder=tmp_path / "never", save_every=2)
    never.train()
    assert run.digests() == never.digests()
    assert run.losses == never.losses


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_states_on_disk_forget_a_party_that_left(tmp_path: Path) -> None:
    data, labels = fragments()
    run = start("isolated", data, labels, folder=tmp_path / "run", save_every=2)
    run.train()
    before = files(tmp_path / "run" / "composer")
    run.leave("p1")
    never = start("isolated", {p: data[p] for p in ("p0", "p2")}, labels, folder=tmp_path / "never", save_every=2)
    never.train()
    assert files(tmp_path / "run" / "composer") == files(tmp_path / "never" / "composer") != before


def test_states_of_other_runs_are_refused(tmp_path: Path) -> None:
    run = start("joint", *fragments(), folder=tmp_path, save_every=2)
    assert run.resume() == 0
    run.train(2)
    with pytest.raises(InvalidOption, match="another batch"):
        start("joint", *fragments(), folder=tmp_path, save_every=2, batch=8).resume()
    (tmp_path / "composer" / "state.json").write_text("{}")
    with pytest.raises(InvalidOption, match=r"state\.json"):
        run.resume()
    with pytest.raises(InvalidOption, match="keeps no states"):
        start("joint", *fragments()).resume()
    with pytest.raises(InvalidOption, match="save_every"):
        start("joint", *fragments(), save_every=2)


def test_a_party_that_restores_something_else_is_noticed(tmp_path: Path) -> None:
    data, labels = fragments()
    run = start("joint", data, labels, folder=tmp_path, save_every=2)
    run.train(2)
    (tmp_path / "p1" / "round-2.safetensors").write_bytes((tmp_path / "p0" / "round-2.safetensors").read_bytes())
    with pytest.raises(SessionError, match="restored another state"):
        start("joint", data, labels, folder=tmp_path, save_every=2).resume()


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_a_quorum_predicts(mode: str) -> None:
    data, labels = fragments(rows=200)
    run = start(mode, data, labels, epochs=8, absence=0.4, wrap=lambda c: Failing(c, "p1", 10**6))
    run.train()
    rows = run.schedule.positions
    two = run.predict(rows, parties=["p0", "p2"])
    run.channel._after = 0
    with pytest.raises(LostParty):
        run.predict(rows)
    with pytest.raises(LostParty, match="quorum of 3"):
        run.predict(rows, quorum=3)
    assert run.predict(rows, quorum=2).tobytes() == two.tobytes()
    assert (two.argmax(1) == labels.numpy()).mean() > 0.6
    np.testing.assert_allclose(np.exp(two).sum(1), 1, rtol=1e-9)


def test_absent_parties_are_zero_and_the_others_scaled() -> None:
    mode = modes("joint", ["p0", "p1", "p2"], 3, ADAM)
    assert isinstance(mode, Joint)
    one, two = torch.randn(4, WIDTH), torch.randn(4, WIDTH)
    with torch.no_grad():
        expected = mode.composer.module([one * 1.5, torch.zeros(4, WIDTH), two * 1.5])
    found = mode.infer({"p0": one, "p2": two})
    torch.testing.assert_close(found, torch.log_softmax(expected.double(), 1))


def test_a_round_without_anybody_teaches_nothing() -> None:
    data, labels = fragments(parties=1)
    run = start("isolated", data, labels, absence=0.6, epochs=3)
    run.train()
    empty = [r for r in range(run.schedule.rounds) if not run.schedule.present(["p0"], r)]
    assert empty
    assert [r for r, loss in enumerate(run.losses) if not loss] == empty


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        (lambda m: Message(Kind.DONE, m.round), "DONE"),
        (lambda m: Message(m.kind, m.round + 1, m.array), "of round"),
        (lambda m: Message(m.kind, m.round, m.array[:-1]), "sent shape"),
        (lambda m: Message(m.kind, m.round, m.array * np.float32(math.nan)), "not finite"),
        (lambda m: Message(m.kind, m.round, m.array + np.float32(1e6)), "agreed norm"),
    ],
)
def test_a_party_that_breaks_the_words_is_named(lie: Any, match: str) -> None:
    run = start("joint", *fragments(), greatest_norm=1e3, wrap=lambda c: Failing(c, "p1", 0, lie))
    with pytest.raises(SessionError, match=rf"(?s)party 'p1'.*{match}"):
        run.train()


def altered(_: Message) -> Message:
    raise AlteredFrame("a frame", why="its tag does not fit its bytes", mend="End the session.")


def test_the_others_are_told_to_stop_after_a_party_altered_its_frames() -> None:
    data, labels = fragments()
    channels: list[LocalChannel] = []

    def failing(channel: LocalChannel) -> Failing:
        channels.append(channel)
        return Failing(channel, "p0", 3, altered)

    run = start("joint", data, labels, wrap=failing)
    with pytest.raises(AlteredFrame):
        run.train()
    assert not any(end.stopped for end in channels[0]._far.values())
    run.close()
    assert all(end.stopped for party, end in channels[0]._far.items() if party != "p0")


def test_a_party_that_lies_is_left_out_of_a_quorum() -> None:
    def lie(message: Message) -> Message:
        return Message(
            message.kind, message.round, None if message.array is None else message.array * np.float32("nan")
        )

    data, labels = fragments()
    run = start("isolated", data, labels, wrap=lambda c: Failing(c, "p1", 10**6, lie))
    run.train()
    honest = run.predict(run.schedule.positions, parties=["p0", "p2"])
    run.channel._after = 0
    assert run.predict(run.schedule.positions, quorum=2).tobytes() == honest.tobytes()


def test_one_liar_of_five_ruins_the_product_and_not_the_median() -> None:
    def lie(message: Message) -> Message:
        assert message.array is not None
        noise = np.random.default_rng(0).normal(size=message.array.shape) * 300
        return Message(message.kind, message.round, noise.astype(np.float32))

    data, labels = fragments(parties=5, rows=200)
    run = start("isolated", data, labels, epochs=8, wrap=lambda c: Failing(c, "p1", 10**6, lie))
    run.train()
    assert isinstance(run.mode, Isolated)
    scores = {}
    for liar in (False, True):
        run.channel._after = 0 if liar else 10**6
        for composition in (Product(torch.full((3,), 1 / 3)), Product(torch.full((3,), 1 / 3), floor=-3.0), Median()):
            run.mode.composition = composition
            right = run.predict(run.schedule.positions).argmax(1) == labels.numpy()
            scores[liar, type(composition).__name__, getattr(composition, "floor", None)] = right.mean()
    assert min(score for (liar, *_), score in scores.items() if not liar) > 0.9
    assert scores[True, "Product", None] < 0.6
    assert scores[True, "Product", -3.0] > 0.75
    assert scores[True, "Median", -50.0] > 0.9


def test_divergence_ends_the_run() -> None:
    run = start("joint", *fragments(), plan=OptimiserPlan("sgd", 1e30, momentum=0.0))
    with pytest.raises(SessionError, match=r"diverged|not finite|refused"):
        run.train()


def test_a_party_that_is_not_on_the_channel_is_named() -> None:
    run = start("joint", *fragments())
    with pytest.raises(InvalidOption, match="party 'zoe'"):
        run.predict(np.arange(3), parties=["zoe"])


def test_records_are_facts() -> None:
    run = start("isolated", *fragments(), label_party=True, sealing={"p0": "landlock"})
    run.train()
    records = run.records()
    assert (records.mode, records.parties, records.label_party) == ("isolated", ("p0", "p1", "p2"), "labels")
    assert sorted(records.terms) == ["labels", "p0", "p1", "p2"]
    assert records.sealing == {"p0": "landlock", "p1": "not sealed", "p2": "not sealed", "labels": "not sealed"}
    assert records.rounds == run.schedule.rounds == len(records.losses)
    assert records.log.bytes() == records.formula.bytes()
    said = {(party, kind) for party, way, kind in records.log.frames if way == "up"}
    assert all(kind in records.terms[party].up for party, kind in said)


def test_the_schedule_covers_each_epoch_once() -> None:
    positions = np.array([4, 9, 2, 7, 30])
    schedule = Schedule(positions, batch=2, epochs=3, seed=1)
    epochs = [np.concatenate([schedule.rows(3 * e + i) for i in range(3)]) for e in range(3)]
    assert all(sorted(epoch) == sorted(positions) for epoch in epochs)
    assert len({epoch.tobytes() for epoch in epochs}) > 1
    shuffled = Schedule(positions[::-1].copy(), batch=2, epochs=3, seed=1)
    assert all((schedule.rows(t) == shuffled.rows(t)).all() for t in range(9)), "the order given does not matter"
    assert (schedule.rows(7) == epochs[2][2:4]).all()
    assert (schedule.rows(0) == epochs[0][:2]).all(), "an earlier epoch is found again"


def test_presence_does_not_depend_on_who_else_is_there() -> None:
    schedule = Schedule(np.arange(10), batch=1, epochs=40, seed=1, absence=0.3)
    all_three = [set(schedule.present(["a", "b", "c"], t)) for t in range(schedule.rounds)]
    assert [p - {"b"} for p in all_three] == [set(schedule.present(["a", "c"], t)) for t in range(schedule.rounds)]
    share = np.mean([len(p) / 3 for p in all_three])
    assert abs(share - 0.7) < 4 * math.sqrt(0.21 / 1200)


@pytest.mark.parametrize(
    "wrong",
    [{"batch": 0}, {"epochs": -1}, {"absence": 1.0}, {"positions": np.array([1, 1])}, {"positions": np.array([])}],
)
def test_schedules_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        Schedule(**({"positions": np.arange(3), "batch": 1, "epochs": 1} | wrong))
