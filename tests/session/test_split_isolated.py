"""Isolated mode: what a party becomes depends on its own fragment and the labels, and leaving is exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from split_parties import ADAM, component, fragments, modes, start
from torch import nn
from torch.nn import functional

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Kind
from quiltwork.session.split.comparison import alone
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.one_process import as_one, train_at_home
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.stacking import Stacked
from quiltwork.session.split.words import component_terms


def noise_for_others(data: dict[str, torch.Tensor], kept: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {p: rows if p == kept else torch.randn(rows.shape, generator=draw) for p, rows in data.items()}


def swapped_digests(mode: str, **options: object) -> tuple[str, str]:
    data, labels = fragments()
    one, other = start(mode, data, labels, **options), start(mode, noise_for_others(data, "p1"), labels, **options)
    one.train()
    other.train()
    return one.digests()["p1"], other.digests()["p1"]


@pytest.mark.parametrize("options", [{}, {"precision": "int8"}, {"stale": True}, {"absence": 0.3}], ids=str)
def test_other_fragments_leave_no_trace_in_a_component(options: dict[str, object]) -> None:
    one, other = swapped_digests("isolated", **options)
    assert one == other


def test_the_swap_shows_in_joint_mode() -> None:
    one, other = swapped_digests("joint")
    assert one != other


@pytest.mark.parametrize("absence", [0.0, 0.3])
def test_leaving_is_as_if_never_joined(absence: float) -> None:
    data, labels = fragments()
    run = start("isolated", data, labels, absence=absence)
    run.train()
    run.leave("p1")
    never = start("isolated", {p: rows for p, rows in data.items() if p != "p1"}, labels, absence=absence)
    never.train()
    assert run.digests() == never.digests()
    rows = run.schedule.positions
    assert run.predict(rows).tobytes() == never.predict(rows).tobytes()
    assert run.parties == ("p0", "p2")
    assert run.records().left == ("p1",)


def test_leaving_half_way_is_as_if_never_joined() -> None:
    data, labels = fragments()
    run = start("isolated", data, labels)
    run.train(3)
    run.leave("p1")
    run.train()
    never = start("isolated", {p: rows for p, rows in data.items() if p != "p1"}, labels)
    never.train()
    assert run.digests() == never.digests()


def test_the_last_party_cannot_leave() -> None:
    data, labels = fragments(parties=1)
    run = start("isolated", data, labels)
    with pytest.raises(InvalidOption, match="last one"):
        run.leave("p0")
    with pytest.raises(InvalidOption, match="no component here"):
        run.leave("zoe")


def test_a_component_and_its_head_are_plain_training_of_the_two() -> None:
    data, labels = fragments()
    run = start("isolated", data, labels)
    run.train()
    part = component("p2", 5, ADAM).module
    mode = modes("isolated", ["p2"], 3, ADAM)
    assert isinstance(mode, Isolated)
    whole = nn.Sequential(part, mode.heads["p2"].module)
    optimiser = torch.optim.Adam(whole.parameters(), lr=1e-2)
    for round_ in range(run.schedule.rounds):
        rows = torch.from_numpy(run.schedule.rows(round_))
        optimiser.zero_grad()
        functional.cross_entropy(whole(data["p2"][rows]), labels[rows]).backward()
        optimiser.step()
    found = run.digests()
    whole_digests = (component("p2", 5, ADAM), mode.heads["p2"])
    whole_digests[0].module.load_state_dict(part.state_dict())
    assert (found["p2"], found["head of p2"]) == tuple(learner.digest() for learner in whole_digests)


@pytest.mark.parametrize("absence", [0.0, 0.3])
def test_training_at_home_is_isolated_training_and_only_outputs_cross(absence: float) -> None:
    data, labels = fragments()
    run = start("isolated", data, labels, absence=absence)
    run.train()
    mode, parts = modes("isolated", sorted(data), 3, ADAM), {p: component(p, 5, ADAM) for p in data}
    assert isinstance(mode, Isolated)
    for party, part in parts.items():
        train_at_home(part, mode.heads[party], data[party], ClassTarget(labels, 3), run.schedule)
        assert part.digest() == run.digests()[party]
    nodes = {p: ComponentNode(as_one(part, mode.heads[p]), data[p]) for p, part in parts.items()}
    channel = LocalChannel(nodes, dict.fromkeys(nodes, component_terms(3)))
    passing = Isolated({p: Component(nn.Identity(), name=f"head of {p}") for p in nodes}, mode.composition)
    asked = SplitRun(
        channel, passing, OwnLabels(ClassTarget(labels, 3)), replace(run.schedule, epochs=0), dict.fromkeys(nodes, 3)
    )
    asked.train()
    rows = run.schedule.positions
    np.testing.assert_array_equal(asked.predict(rows), run.predict(rows))
    assert {kind for _, _, kind in channel.log.frames} == {Kind.OUTPUT}


def test_stacking_is_fitted_again_when_a_party_leaves() -> None:
    data, labels = fragments(rows=90)
    train, held = np.arange(60), np.arange(60, 90)
    runs = []
    for parties in (["p0", "p1", "p2"], ["p0", "p2"]):
        run = start("isolated", {p: data[p] for p in parties}, labels, train=train)
        run.train()
        assert isinstance(run.mode, Isolated)
        run.mode.composition = Stacked(run.mode.outputs(run.activations(held)), labels[held])
        runs.append(run)
    before = runs[0].predict(held)
    runs[0].leave("p1")
    assert runs[0].predict(held).tobytes() == runs[1].predict(held).tobytes()
    assert not np.array_equal(before, runs[0].predict(held))


def xor(rows: int = 400) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    bits = torch.from_numpy(np.random.default_rng(5).integers(0, 2, (rows, 2)))
    return {"p0": bits[:, :1].float(), "p1": bits[:, 1:].float()}, bits[:, 0] ^ bits[:, 1]


def test_isolated_fails_at_xor_and_says_so_and_joint_does_not() -> None:
    data, labels = xor()
    train, held = np.arange(300), np.arange(300, 400)
    accuracy = {}
    for mode in ("isolated", "joint"):
        run = start(mode, data, labels, epochs=15, train=train)
        run.train()
        accuracy[mode] = (run.predict(held).argmax(1) == labels[held].numpy()).mean()
        if mode == "isolated":
            assert alone(run, held, labels[held]).nobody
            assert "no fragment alone tells the label" in run.records().warnings[0]
        else:
            with pytest.raises(InvalidOption, match="heads"):
                alone(run, held, labels[held])
    assert accuracy["isolated"] < 0.7
    assert accuracy["joint"] == 1.0


def test_nothing_is_said_where_fragments_tell() -> None:
    data, labels = fragments(rows=300)
    run = start("isolated", data, labels, epochs=5, train=np.arange(200))
    run.train()
    assert not alone(run, np.arange(200, 300), labels[200:]).nobody
    assert run.records().warnings == ()


def test_dependencies_are_declared() -> None:
    isolated, joint = (start(mode, *fragments()).records().dependencies for mode in ("isolated", "joint"))
    assert isolated["p1"] == {"labels", "activation:p1", "head of p1"}
    assert joint["p1"] == {"labels", "composer", "activation:p0", "activation:p1", "activation:p2"}
