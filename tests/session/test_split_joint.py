"""Joint mode: the parameters of one process that trains the whole graph, bit for bit; bytes equal the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from split_parties import ADAM, SGD, WIDTH, component, fragments, modes, start
from torch import Tensor, nn
from torch.nn import functional

from quiltwork.errors import NeedsRetraining
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.bill import training_bytes
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.one_process import train_whole
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms


def centralised(data: dict[str, Tensor], labels: Tensor, plan: OptimiserPlan, schedule: Schedule) -> dict[str, str]:
    """One graph, one optimiser over all parameters, plain autograd: digests by name."""
    parts = {p: component(p, rows.shape[1], plan).module for p, rows in data.items()}
    classes = int(labels.max()) + 1
    composer = Component.built(
        lambda: Concatenated(mlp(WIDTH * len(data), classes, [8])), plan, name="composer", seed=3
    ).module
    modules = nn.ModuleDict({**parts, "composer": composer})
    optimiser = plan.build(list(modules.parameters()))
    for round_ in range(schedule.rounds):
        rows = torch.from_numpy(schedule.rows(round_))
        loss = functional.cross_entropy(composer([parts[p](data[p][rows]) for p in sorted(data)]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: Component(module, plan, name=name).digest() for name, module in modules.items()}


@pytest.mark.parametrize("plan", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("label_party", [False, True], ids=["own labels", "label party"])
def test_joint_training_is_centralised_training_bit_for_bit(plan: OptimiserPlan, label_party: bool) -> None:
    data, labels = fragments()
    run = start("joint", data, labels, plan=plan, label_party=label_party)
    run.train()
    assert run.digests() == centralised(data, labels, plan, run.schedule)


def test_the_reference_is_plain_training_of_one_graph() -> None:
    data, labels = fragments()
    parts = {p: component(p, 5, ADAM) for p in data}
    mode = modes("joint", sorted(data), 3, ADAM)
    assert isinstance(mode, Joint)
    schedule = Schedule(np.arange(60), 16, 2, 3)
    losses = train_whole(parts, mode.composer, data, ClassTarget(labels, 3), schedule)
    found = {p: part.digest() for p, part in parts.items()} | {"composer": mode.composer.digest()}
    assert found == centralised(data, labels, ADAM, schedule)
    run = start("joint", data, labels)
    run.train()
    assert [loss["composer"] for loss in run.losses] == losses


def test_the_comparison_notices_another_seed() -> None:
    data, labels = fragments()
    run = start("joint", data, labels, seed=4)
    run.train()
    assert run.digests() != centralised(data, labels, ADAM, run.schedule)


def dropping(columns: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, outputs))


def test_dropout_on_both_sides_is_that_of_one_process() -> None:
    data, labels = fragments(parties=2)
    nodes = {
        p: ComponentNode(Component.built(lambda: dropping(5, WIDTH), ADAM, name=p), rows) for p, rows in data.items()
    }
    channel = LocalChannel(nodes, dict.fromkeys(data, component_terms(WIDTH)))
    composer = Component.built(lambda: Concatenated(dropping(2 * WIDTH, 3)), ADAM, name="composer")
    widths, schedule = dict.fromkeys(data, WIDTH), Schedule(np.arange(60), 16, 2)
    run = SplitRun(channel, Joint(composer, widths), OwnLabels(ClassTarget(labels, 3)), schedule, widths)
    run.train()
    parts = {p: Component.built(lambda: dropping(5, WIDTH), ADAM, name=p) for p in data}
    whole = Component.built(lambda: Concatenated(dropping(2 * WIDTH, 3)), ADAM, name="composer")
    for round_ in range(schedule.rounds):
        rows, activations = torch.from_numpy(schedule.rows(round_)), []
        for party, part in parts.items():
            with part.drawing(round_):
                activations.append(part.module(data[party][rows]))
        with whole.drawing(round_):
            logits = whole.module(activations)
        functional.cross_entropy(logits, labels[rows]).backward()
        for learner in (*parts.values(), whole):
            learner.step()
    assert run.digests() == {p: part.digest() for p, part in parts.items()} | {"composer": whole.digest()}


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("absence", [0.0, 0.4])
@pytest.mark.parametrize("mode", ["joint", "isolated"])
def test_bytes_equal_the_formula(mode: str, precision: str, absence: float) -> None:
    data, labels = fragments()
    run = start(mode, data, labels, precision=precision, absence=absence, label_party=True)
    run.train()
    for party, (down, up) in training_bytes(run.schedule, run.widths, precision).items():
        assert run.channel.log.bytes(party, "down") == down
        assert run.channel.log.bytes(party, "up") == up
    assert run.labels.prior().numpy() == pytest.approx(ClassTarget(labels, 3).prior().numpy())
    run.predict(run.schedule.positions)
    run.digests()
    run.close()
    for party in run.channel.nodes():
        for way in ("down", "up"):
            assert run.channel.log.bytes(party, way) == run.bill.bytes(party, way)


def test_nobody_leaves_what_was_learned_jointly() -> None:
    run = start("joint", *fragments())
    with pytest.raises(NeedsRetraining, match="every other component"):
        run.leave("p0")
    assert run.parties == ("p0", "p1", "p2")
