"""Joint mode: the parameters of one process that trains the whole graph, bit for bit; bytes equal the formula."""

from __future__ import annotations

import pytest
import torch
from split_parties import ADAM, SGD, WIDTH, component, fragments, start
from torch import Tensor, nn
from torch.nn import functional

from quiltwork.errors import NeedsRetraining
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.session.split.bill import training_bytes
from quiltwork.session.split.schedule import Schedule


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


def test_the_comparison_notices_another_seed() -> None:
    data, labels = fragments()
    run = start("joint", data, labels, seed=4)
    run.train()
    assert run.digests() != centralised(data, labels, ADAM, run.schedule)


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
