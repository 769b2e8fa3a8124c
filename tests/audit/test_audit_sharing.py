"""Canaries, arbitrary parties, masks and custody: held where it is so, and each breach is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from audit_runs import finished, fragments, start, taped
from safetensors.torch import save_file

from quiltwork.audit import kept as kept_module
from quiltwork.audit.arbitrary import byzantine
from quiltwork.audit.canary import canary
from quiltwork.audit.certificate import certify
from quiltwork.audit.facts import Facts, facts_of
from quiltwork.audit.kept import kept
from quiltwork.audit.static import masked_sum
from quiltwork.audit.tape import Tape
from quiltwork.errors import ForgedShare, InvalidOption, TooFewShares
from quiltwork.models.split.saving import state_of
from quiltwork.session.channel import Channel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.outputs import Mean, Median, Product
from quiltwork.session.split.run import SplitRun
from quiltwork.sharing.custody import split


@pytest.fixture(scope="module")
def facts() -> Facts:
    return finished("isolated", *fragments())


@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_honest_sessions_send_nobody_anything_of_others(mode: str) -> None:
    run, tape = taped(mode, *fragments(), label_party=True)
    parameters = {
        f"{name}/{key}": value.numpy()
        for name, learner in run.mode.learners().items()
        for key, value in learner.module.state_dict().items()
    }
    facts = facts_of(run.records())
    found = canary(facts, tape, parameters)
    assert found.holds
    assert "G4" in certify(facts, [found], tape=tape).held


class Telling:
    """A channel whose composer tells p1, in place of its last cotangent's first rows, what p0 said."""

    def __init__(self, channel: Channel, after: int) -> None:
        self._channel, self._after = channel, after
        self.log, self.nodes, self.close = channel.log, channel.nodes, channel.close
        self._heard = np.zeros((1, 4), np.float32)

    def push(self, node: str, message: Message) -> None:
        if (
            node == "p1"
            and message.kind is Kind.COTANGENT
            and message.round == self._after
            and message.array is not None
        ):
            array = message.array.copy()
            array[:1] = self._heard[:1]
            message = Message(message.kind, message.round, array)
        self._channel.push(node, message)

    def pull(self, node: str) -> Message:
        message = self._channel.pull(node)
        if node == "p0" and message.kind is Kind.ACTIVATION and message.array is not None:
            self._heard = message.array
        return message

    def call(self, node: str, message: Message) -> Message:
        self.push(node, message)
        return self.pull(node)


def test_a_composer_that_passes_an_activation_on_is_found() -> None:
    run = start("isolated", *fragments(), wrap=lambda channel: Telling(Tape(channel), 5))
    run.train()
    tape = run.channel._channel  # type: ignore[attr-defined]
    facts = facts_of(run.records())
    found = canary(facts, tape)
    assert not found.passed
    assert found.found["hits"] == {"p0": 0, "p1": 1, "p2": 0}
    assert "found a breach" in certify(facts, [found]).standing("G4").why


def test_a_composer_that_sends_its_parameters_is_found() -> None:
    run, tape = taped("joint", *fragments())
    facts = facts_of(run.records())
    sent = next(m.array for m in tape.spools["p2"].down if m.kind is Kind.COTANGENT)
    assert sent is not None
    assert canary(facts, tape, {"weight": np.ones((2, 3))}).passed
    assert not canary(facts, tape, {"weight": sent[3:5]}).passed


def test_canaries_are_for_float32() -> None:
    run, tape = taped("joint", *fragments(), precision="int8")
    with pytest.raises(InvalidOption, match="int8"):
        canary(facts_of(run.records()), tape)


def outputs(parties: int = 5) -> dict[str, torch.Tensor]:
    run, _ = taped("isolated", *fragments(parties=parties))
    assert isinstance(run.mode, Isolated)
    return run.mode.outputs(run.activations(np.arange(20)))


def test_a_minority_does_not_move_the_median_and_moves_everything_else(facts: Facts) -> None:
    alone = outputs()
    for liars in (1, 2):
        found = byzantine(facts, alone, Median(), liars=liars)
        assert found.holds
        assert "G11" in certify(facts, [found]).held
    assert not byzantine(facts, alone, Product(torch.full((3,), 1 / 3, dtype=torch.float64)), liars=1).passed
    assert not byzantine(facts, alone, Product(torch.full((3,), 1 / 3).double(), floor=-3.0), liars=2).passed
    assert not byzantine(facts, alone, Mean(), liars=2).passed
    with pytest.raises(InvalidOption, match="minority"):
        byzantine(facts, alone, Median(), liars=3)


def test_masks_are_told_from_activations_in_the_open(facts: Facts) -> None:
    assert masked_sum(facts).found["open"] == ["p0", "p1", "p2"]
    masked = tuple(
        c.model_copy(update={"kind": "MASKED"}) if c.kind in ("ACTIVATION", "OUTPUT") else c for c in facts.crossed
    )
    assert masked_sum(facts.model_copy(update={"crossed": masked})).holds
    assert masked_sum(facts.model_copy(update={"crossed": masked[1:]})).control


def in_custody(place: Path, tensors: dict[str, torch.Tensor]) -> tuple[Path, list[Path]]:
    source = place / "composer.safetensors"
    save_file(tensors, source)
    split(source, place / "custody", custodians=["ash", "birch", "elm", "yew"], threshold=3)
    return place / "custody", sorted((place / "custody" / "shares").iterdir())


@pytest.fixture(scope="module")
def joint() -> SplitRun:
    return taped("joint", *fragments())[0]


def learned(run: SplitRun) -> dict[str, torch.Tensor]:
    (composer,) = run.mode.learners().values()
    return composer.module.state_dict()


@pytest.mark.parametrize("form", ["state dict", "file of a run directory"])
def test_custody_is_tried(form: str, joint: SplitRun, tmp_path: Path) -> None:
    (composer,) = joint.mode.learners().values()
    folder, shares = in_custody(tmp_path, learned(joint) if form == "state dict" else state_of(composer))
    facts = facts_of(joint.records())
    found = kept(facts, folder, shares)
    assert found.holds
    assert found.found["opened"] == 4
    assert "G5" in certify(facts, [found]).held
    with pytest.raises(TooFewShares):
        kept(facts, folder, shares[:2])


def test_another_file_in_custody_is_not_this_runs_composer(joint: SplitRun, tmp_path: Path) -> None:
    facts = facts_of(joint.records())
    state = {name: tensor.clone() for name, tensor in learned(joint).items()}
    next(iter(state.values())).view(-1)[0] += 1e-4
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "source").write_bytes(bytes(range(200)))
    split(tmp_path / "bytes" / "source", tmp_path / "bytes" / "custody", custodians=["ash", "elm"], threshold=2)
    for folder, shares in (
        in_custody(tmp_path, state),
        (tmp_path / "bytes" / "custody", sorted((tmp_path / "bytes" / "custody" / "shares").iterdir())),
    ):
        found = kept(facts, folder, shares)
        assert not found.passed
        assert "found a breach" in certify(facts, [found]).standing("G5").why


def test_all_heads_have_to_be_in_custody(facts: Facts, tmp_path: Path) -> None:
    run, _ = taped("isolated", *fragments())
    states = {name: learner.module.state_dict() for name, learner in run.mode.learners().items()}
    every = {f"{name}/{key}": tensor for name, state in states.items() for key, tensor in state.items()}
    assert kept(facts, *in_custody(tmp_path, every)).holds
    fewer = {name: tensor for name, tensor in every.items() if not name.startswith("head of p1/")}
    assert len(fewer) < len(every)
    (tmp_path / "fewer").mkdir()
    assert not kept(facts, *in_custody(tmp_path / "fewer", fewer)).passed


def test_a_share_that_was_changed_opens_nothing(joint: SplitRun, tmp_path: Path) -> None:
    folder, shares = in_custody(tmp_path, learned(joint))
    facts = facts_of(joint.records())
    record = json.loads(shares[1].read_text())
    shares[1].write_text(shares[1].read_text().replace(record["key"], "00" + record["key"][2:]))
    assert not kept(facts, folder, shares).passed
    (folder / "statement.json").write_text("{}")
    with pytest.raises(ForgedShare):
        kept(facts, folder, shares)


def test_a_composer_that_learned_nothing_is_in_no_custody(facts: Facts, tmp_path: Path) -> None:
    known = facts.model_copy(update={"digests": {p: facts.digests[p] for p in facts.parties}})
    with pytest.raises(InvalidOption, match="learned nothing"):
        kept(known, *in_custody(tmp_path, {"a": torch.zeros(1)}))


def test_shares_that_are_not_uniform_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_module._uniform(7, 2)
    honest = kept_module.shamir.deal
    monkeypatch.setattr(
        kept_module.shamir, "deal", lambda s, **o: {x: bytes(b | 1 for b in v) for x, v in honest(s, **o).items()}
    )
    assert not kept_module._uniform(7, 2)
