"""Trained at home, composed over a channel: only outputs of other rows cross, and the case's bound stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.privacy.accountant import price
from quiltwork.privacy.ledger import Ledger
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Kind
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.one_process import as_one
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.records import Events
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

pytest.importorskip("opacus", reason="needs the extra 'dp'")

from quiltwork.party.record_privacy import DPPlan, train_privately

PARTIES, ROWS, TRAIN = ("ash", "birch"), 300, 240


def test_private_components_serve_a_session_in_which_no_training_row_crosses() -> None:
    draw = np.random.default_rng(5)
    labels = torch.from_numpy(draw.integers(0, 2, ROWS))
    target = ClassTarget(torch.where(torch.arange(ROWS) < TRAIN, labels, -1), 2)
    nodes, events = {}, []
    for number, party in enumerate(PARTIES):
        rows = torch.from_numpy((draw.normal(size=(ROWS, 3)) + 2 * labels.numpy()[:, None]).astype(np.float32))
        step = OptimiserPlan("adam", 2e-2)
        component = Component.built(lambda: mlp(3, 4, [8]), step, name=party)
        head = Component.built(lambda: nn.Linear(4, 2), step, name=f"head of {party}")
        noise = torch.Generator().manual_seed(number)
        plan = DPPlan(2.0, batch=120, epochs=10)
        event = train_privately(component, head, rows, target, plan, positions=range(TRAIN), generator=noise)
        events.append(Events(party, (event,)))
        nodes[party] = ComponentNode(as_one(component, head), rows)
    passed = {p: Component(nn.Identity(), name=f"output of {p}") for p in PARTIES}
    run = SplitRun(
        LocalChannel(nodes, dict.fromkeys(PARTIES, component_terms(2))),
        Isolated(passed, Product(torch.tensor([0.5, 0.5], dtype=torch.float64))),
        OwnLabels(target),
        Schedule(np.arange(TRAIN), 32, 0),
        dict.fromkeys(PARTIES, 2),
        events=events,
    )
    found = run.predict(np.arange(TRAIN, ROWS)).argmax(1)
    assert (found == labels[TRAIN:].numpy()).mean() > 0.85
    records = run.records()
    assert records.log.bytes(kind=Kind.ACTIVATION) == records.log.bytes(kind=Kind.COTANGENT) == 0
    books = Ledger({e.party: e.events for e in records.events}, columns=records.parties)  # type: ignore[misc]
    paid = books.price("row", delta=1e-5)
    assert paid == pytest.approx(price([event, event], delta=1e-5))
    assert paid < 20
