"""Small split-learning sessions for tests: parties with random or digit fragments, over a channel in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel, Node
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.labels import OwnLabels, PartyLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms, label_terms

WIDTH = 4
ADAM, SGD = OptimiserPlan("adam", 1e-2), OptimiserPlan("sgd", 5e-2, momentum=0.9)


def fragments(parties: int = 3, rows: int = 60, columns: int = 5, classes: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Random columns of parties p0, p1, ... and labels that each of them tells something of."""
    draw = np.random.default_rng(7)
    labels = draw.integers(0, classes, rows)
    found = {
        f"p{i}": torch.from_numpy((draw.normal(size=(rows, columns)) + labels[:, None]).astype(np.float32))
        for i in range(parties)
    }
    return found, torch.from_numpy(labels)


def component(name: str, columns: int, plan: OptimiserPlan, seed: int = 3, **options: Any) -> Component:
    return Component.built(lambda: mlp(columns, WIDTH, [8]), plan, name=name, seed=seed, **options)


def modes(name: str, parties: list[str], classes: int, plan: OptimiserPlan, seed: int = 3) -> Mode:
    if name == "joint":
        composer = Component.built(
            lambda: Concatenated(mlp(WIDTH * len(parties), classes, [8])), plan, name="composer", seed=seed
        )
        return Joint(composer, dict.fromkeys(parties, WIDTH))
    heads = {
        p: Component.built(lambda: nn.Linear(WIDTH, classes), plan, name=f"head of {p}", seed=seed) for p in parties
    }
    return Isolated(heads, Product(torch.full((classes,), 1 / classes, dtype=torch.float64)))


def start(
    mode: str,
    data: Mapping[str, Tensor],
    labels: Tensor,
    *,
    plan: OptimiserPlan = ADAM,
    epochs: int = 2,
    batch: int = 16,
    absence: float = 0.0,
    label_party: bool = False,
    folder: Path | None = None,
    train: np.ndarray | None = None,
    seed: int = 3,
    wrap: Any = None,
    **options: Any,
) -> SplitRun:
    """A run over a channel in this process, ready to train."""
    classes, precision = int(labels.max()) + 1, options.get("precision", "float32")
    nodes: dict[str, Node] = {}
    for party, rows in data.items():
        learner = component(party, rows.shape[1], plan, seed, stash=options.get("stale", False))
        nodes[party] = ComponentNode(learner, rows, precision=precision, folder=folder and folder / party)
    terms = {party: component_terms(WIDTH, precision) for party in data}
    target = ClassTarget(labels, classes)
    if label_party:
        nodes["labels"], terms["labels"] = LabelNode(target, len(labels)), label_terms(classes)
    channel = LocalChannel(nodes, terms)
    channel = wrap(channel) if wrap else channel
    schedule = Schedule(np.arange(len(labels)) if train is None else train, batch, epochs, seed, absence)
    answers = PartyLabels(channel, "labels", classes) if label_party else OwnLabels(target)
    own = folder / "composer" if folder else None
    widths = dict.fromkeys(data, WIDTH)
    return SplitRun(
        channel, modes(mode, sorted(data), classes, plan, seed), answers, schedule, widths, folder=own, **options
    )
