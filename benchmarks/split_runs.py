"""Sessions of the benchmark: the same components and sizes for every mode, over a channel in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from split_tasks import Task
from torch import Tensor, nn

from quiltwork.audit.tape import Tape
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, Standardised, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.one_process import train_at_home, train_whole
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.program import Programmed
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

PLAN = OptimiserPlan("adam", 3e-3)
BATCH, WIDTH = 64, 16


def component(task: Task, party: str, seed: int, width: int = WIDTH, plan: OptimiserPlan = PLAN) -> Component:
    """A party's component: columns standardised by its own training rows, one hidden layer."""
    rows = task.fragments[party]
    if task.program is not None and width == 10:
        return Component.built(lambda: mlp(rows.shape[1], width, [64]), plan, name=party, seed=seed)
    build = lambda: nn.Sequential(Standardised(rows[task.train]), *mlp(rows.shape[1], width, [32]))  # noqa: E731
    return Component.built(build, plan, name=party, seed=seed)


def composer(task: Task, seed: int, width: int = WIDTH, plan: OptimiserPlan = PLAN) -> Component:
    """The composer of joint mode."""
    parties = len(task.fragments)
    return Component.built(
        lambda: Concatenated(mlp(parties * width, task.classes, [64])), plan, name="composer", seed=seed
    )


def mode_of(name: str, task: Task, target: ClassTarget, seed: int, width: int, plan: OptimiserPlan) -> Mode:
    """A mode over all parties of a task."""
    if name == "program":
        assert task.program is not None
        return Programmed(task.program, sorted(task.fragments), seed=seed)
    if name == "joint":
        return Joint(composer(task, seed, width, plan), dict.fromkeys(task.fragments, width))
    heads = {
        # as deep as the composer of joint mode
        p: Component.built(lambda: mlp(width, task.classes, [64]), plan, name=f"head of {p}", seed=seed)
        for p in task.fragments
    }
    return Isolated(heads, Product(target.prior()))


def started(
    mode: str,
    task: Task,
    seed: int,
    *,
    width: int = WIDTH,
    batch: int = BATCH,
    epochs: int | None = None,
    plan: OptimiserPlan = PLAN,
    absence: float = 0.0,
    target: ClassTarget | None = None,
    train: NDArray[np.int64] | None = None,
    tape: bool = False,
) -> SplitRun:
    """A session that is ready to train."""
    width = 10 if mode == "program" else width
    rows = task.train if train is None else train
    target = target or ClassTarget(task.heard(rows), task.classes)
    nodes = {p: ComponentNode(component(task, p, seed, width, plan), x) for p, x in task.fragments.items()}
    local = LocalChannel(nodes, dict.fromkeys(nodes, component_terms(width)))
    schedule = Schedule(rows, batch, task.epochs if epochs is None else epochs, seed, absence)
    return SplitRun(
        Tape(local) if tape else local,
        mode_of(mode, task, target, seed, width, plan),
        OwnLabels(target),
        schedule,
        dict.fromkeys(nodes, width),
    )


def trained(mode: str, task: Task, seed: int, **options: Any) -> SplitRun:
    """A session that has been trained."""
    run = started(mode, task, seed, **options)
    run.train()
    return run


def accuracy(run: SplitRun, task: Task, parties: Sequence[str] | None = None) -> float:
    """Share of test rows that a session, or some of its parties, predict right."""
    return right(torch.from_numpy(run.predict(task.test, parties)), task)


def right(scores: Tensor, task: Task) -> float:
    """Share of test rows whose largest score is at the label."""
    return float((scores.argmax(1) == task.labels[task.test]).double().mean())


def central_digests(
    task: Task, seed: int, *, batch: int = BATCH, plan: OptimiserPlan = PLAN, epochs: int | None = None
) -> dict[str, str]:
    """Digests after one process has trained the graph of joint mode, all fragments in one place."""
    parts, top = {p: component(task, p, seed, plan=plan) for p in task.fragments}, composer(task, seed, plan=plan)
    schedule = Schedule(task.train, batch, task.epochs if epochs is None else epochs, seed)
    train_whole(parts, top, task.fragments, ClassTarget(task.heard(task.train), task.classes), schedule)
    return {name: part.digest() for name, part in {**parts, top.name: top}.items()}


def undecomposed(task: Task, seed: int) -> float:
    """Accuracy of one network over all columns side by side, as wide as all components together."""
    table = torch.cat([task.fragments[p] for p in sorted(task.fragments)], 1)
    parties = len(task.fragments)
    build = lambda: nn.Sequential(  # noqa: E731
        Standardised(table[task.train]), *mlp(table.shape[1], parties * WIDTH, [parties * 32])
    )
    body = Component.built(build, PLAN, name="body", seed=seed)
    top = Component.built(lambda: mlp(parties * WIDTH, task.classes, [64]), PLAN, name="top", seed=seed)
    target = ClassTarget(task.heard(task.train), task.classes)
    train_at_home(body, top, table, target, Schedule(task.train, BATCH, task.epochs, seed))
    return right(top.predict(body.predict(table[task.test])), task)
