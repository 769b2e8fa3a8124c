"""Small sessions over a secure sum, and the same learned in one process on a plain fixed-point sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from split_parties import ADAM, WIDTH, component, fragments
from torch import Tensor

from quiltwork.models.split.component import Component
from quiltwork.models.split.composers import Summed, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel, Node
from quiltwork.session.process import Started
from quiltwork.session.secure_sum import SummandNode
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.summed import SummedRun, summed_terms
from quiltwork.sharing.seats import Seat, seats

NAMES = ("p0", "p1", "p2")


def composer(seed: int = 3) -> Component:
    return Component.built(lambda: Summed(mlp(WIDTH, 3, [8])), ADAM, name="composer", seed=seed)


def schedule() -> Schedule:
    return Schedule(np.arange(60), 16, 2, 3)


def summand(party: str, rows: Tensor, seat: Seat, folder: Path | None = None) -> Node:
    own = ComponentNode(component(party, rows.shape[1], ADAM), rows, folder=folder and folder / party)
    return SummandNode(own, seat.member())


def local(nodes: Mapping[str, Node]) -> LocalChannel:
    return LocalChannel(nodes, {party: summed_terms(WIDTH, len(nodes)) for party in nodes})


def summed(channel: Any = None, **options: Any) -> SummedRun:
    """A run, ready to train; over a channel in this process unless one is given."""
    data, labels = fragments()
    if channel is None:
        dealt, folder = seats(NAMES), options.get("folder")
        channel = local({p: summand(p, data[p], dealt[p], folder and folder.parent) for p in NAMES})
    return SummedRun(channel, composer(), OwnLabels(ClassTarget(labels, 3)), schedule(), NAMES, WIDTH, **options)


def on_grid(values: list[Tensor], bits: int = 32) -> Tensor:
    """The sum in Python's integers, as float32."""
    whole = [[round(float(v) * 2**bits) for v in one.detach().ravel()] for one in values]
    total = np.array([sum(column) / 2**bits for column in zip(*whole, strict=True)])
    return torch.from_numpy(total.astype(np.float32)).reshape(values[0].shape)


def in_one_process() -> dict[str, str]:
    """Digests after training everything in this process, on the plain fixed-point sum."""
    data, labels = fragments()
    target, top, order = ClassTarget(labels, 3), composer(), schedule()
    parts = {p: component(p, data[p].shape[1], ADAM) for p in NAMES}
    for round_ in range(order.rounds):
        rows = torch.from_numpy(order.rows(round_))
        total = on_grid([parts[p].forward(data[p][rows], round_) for p in NAMES]).requires_grad_()
        with top.drawing(round_):
            logits = top.module([total])
        cotangent, _ = target.answer(logits.detach(), rows)
        logits.backward(cotangent)
        top.step()
        for p in NAMES:
            parts[p].backward(total.grad, round_)
    return {name: one.digest() for name, one in {**parts, "composer": top}.items()}


@dataclass(frozen=True)
class Opening:
    """Opens a party's own fragment inside its process, and takes its seat."""

    seat: Seat

    def __call__(self) -> Started:
        torch.set_num_threads(1)
        return Started(summand(self.seat.name, fragments()[0][self.seat.name], self.seat))
