"""The same learning in one process, without a channel: what a session has to equal, and a way to do without one.

    train_whole     one graph  loss(g(h_1, ..., h_n), Y), one backward pass      joint mode must equal it bit for bit
    train_at_home   one graph  loss(g_i(h_i), Y) at a party that holds labels    isolated mode must equal it bit for bit

The first opens all fragments in one place, so it is a reference for tests, audits and benchmarks, not a way to train.
The second opens one: a party that has the labels trains its component and its head with no cotangent crossing at all,
which leaves a malicious composer nothing to hijack; `as_one` makes of both a component whose activations are logits,
and a run with no epochs and heads that pass on asks for its outputs alone.

>>> from quiltwork.models.split.targets import ClassTarget
>>> rows, target = torch.ones(4, 2), ClassTarget(torch.tensor([0, 1, 0, 1]), 2)
>>> part, head = (Component.built(lambda: nn.Linear(2, 2), name=name) for name in ("ash", "head of ash"))
>>> len(train_at_home(part, head, rows, target, Schedule(torch.arange(4).numpy(), batch=2, epochs=3)))
6
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quiltwork.models.split.component import Component
from quiltwork.models.split.targets import Target
from quiltwork.session.split.schedule import Schedule


def train_whole(
    components: Mapping[str, Component],
    composer: Component,
    fragments: Mapping[str, Tensor],
    target: Target,
    schedule: Schedule,
) -> list[float]:
    """Train components and composer as one graph, in place; the losses of the rounds.

    Args:
        components: by party.
        composer: its module takes the list of activations, sorted by party.
        fragments: rows ``[n, ...]`` by party.
        target: labels and loss.
        schedule: without absences.
    """
    losses = []
    for round_ in range(schedule.rounds):
        rows = torch.from_numpy(schedule.rows(round_))
        activations = [_activation(components[p], fragments[p][rows], round_) for p in sorted(components)]
        losses.append(_learn(composer, activations, target, rows, round_))
        for party in sorted(components):
            components[party].step()
    return losses


def train_at_home(
    component: Component, head: Component, fragment: Tensor, target: Target, schedule: Schedule
) -> list[float]:
    """Train a component and its head as one graph, in place; the losses of the rounds it takes part in.

    Args:
        component: the party's.
        head: maps its activations to logits.
        fragment: rows ``[n, ...]``.
        target: labels and loss.
        schedule: as the session's.
    """
    losses = []
    for round_ in range(schedule.rounds):
        if schedule.present([component.name], round_):
            rows = torch.from_numpy(schedule.rows(round_))
            activation = _activation(component, fragment[rows], round_)
            losses.append(_learn(head, activation, target, rows, round_))
            component.step()
    return losses


def as_one(component: Component, head: Component) -> Component:
    """The two in a row, as a component of the party whose activations are logits."""
    return Component(nn.Sequential(component.module, head.module), component.plan, name=component.name)


def _activation(component: Component, rows: Tensor, round_: int) -> Tensor:
    with component.drawing(round_):
        found: Tensor = component.module(rows).float()
    return found


def _learn(top: Component, below: Tensor | list[Tensor], target: Target, rows: Tensor, round_: int) -> float:
    with top.drawing(round_):
        logits: Tensor = top.module(below)
    cotangent, loss = target.answer(logits.detach(), rows)
    if logits.requires_grad:
        logits.backward(cotangent)
    top.step()
    return loss
