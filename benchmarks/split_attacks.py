"""Attacks of a curious party or composer on what crosses, each beside what it would have known anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from split_runs import accuracy, mode_of, right, trained
from split_tasks import Task, digit_sum, digits

from quiltwork.audit.attacks.algebra import algebraic, read_off
from quiltwork.audit.attacks.inversion import inversion
from quiltwork.audit.attacks.labels import label_recovery
from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.tape import Tape
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.models.split.released import released_target
from quiltwork.models.split.targets import ClassTarget
from quiltwork.party.record_privacy import DPPlan, train_privately
from quiltwork.privacy.events import Event
from quiltwork.privacy.labels import RandomisedResponse
from quiltwork.privacy.ledger import Ledger
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.outputs import Product
from quiltwork.session.split.run import SplitRun

DELTA = 1e-5


def attacks(seed: int) -> dict[str, dict[str, float]]:
    """Success and baseline of every attack."""
    return {**_labels(digits(seed), seed), **_operands(digit_sum(seed), seed), **_inversions(digits(seed), seed)}


def _told(attack: Attack) -> dict[str, float]:
    return {"success": attack.success, "baseline": attack.baseline}


# Labels from cotangents ---------------------------------------------------------------


def _labels(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """The owner of one quadrant knows one label a class."""
    found = {}
    for mode in ("joint", "isolated"):
        run = trained(mode, task, seed, tape=True)
        an_epoch = run.schedule.rounds // task.epochs
        found[f"labels, {mode}, first batch"] = _told(recovered(run, task, seed, 0, 1))
        for e in (1, 2, 5, 10, 30):
            attack = recovered(run, task, seed, (e - 1) * an_epoch, e * an_epoch)
            found[f"labels, {mode}, epoch {e}"] = _told(attack)
    return found


def recovered(run: SplitRun, task: Task, seed: int, first: int, after: int, party: str = "NW") -> Attack:
    """The attack on true labels with the cotangents of some rounds."""
    assert isinstance(run.channel, Tape)
    lessons = run.channel.lessons(party).within(first, after)
    own = task.fragments[party][lessons.rows].numpy()
    return label_recovery(party, lessons.cotangents, task.labels[lessons.rows].numpy(), own, seed=seed)


# The other's operand from a program's cotangents ------------------------------------------


def _operands(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """Zeros tell the sum; less the own digit, as the finished component reads it, they tell the other's."""
    run = trained("program", task, seed, tape=True)
    assert isinstance(run.channel, Tape)
    assert task.program is not None
    truth, found = task.labels.numpy(), {}
    own = run.activations(np.arange(len(truth)), ["ash"])["ash"].argmax(1).numpy()
    an_epoch = run.schedule.rounds // task.epochs
    for epoch in (1, task.epochs):
        lessons = run.channel.lessons("ash").within((epoch - 1) * an_epoch, epoch * an_epoch)
        given = lessons.activations, lessons.cotangents
        sums, _ = read_off(task.program, 0, *given)
        other = truth[lessons.rows] - own[lessons.rows]
        found[f"digit sum, the sum, epoch {epoch}"] = _told(
            algebraic("ash", task.program, 0, *given, truth[lessons.rows])
        )
        found[f"digit sum, the other digit, epoch {epoch}"] = {
            "success": float((sums - own[lessons.rows] == other).mean()),
            "baseline": float(np.bincount(other.clip(0, 9)).max() / len(other)),
        }
    return found


# Columns from activations ---------------------------------------------------------------


def _inversions(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """A composer with 100 leaked cases; its baseline is the other parties' activations, since quadrants of a digit tell
    of each other."""
    found = {}
    for width in (16, 8, 4, 2):
        run = trained("isolated", task, seed, width=width, epochs=15)
        activations = run.activations(task.train)
        others = torch.cat([h for p, h in activations.items() if p != "NW"], 1).numpy()
        columns = task.fragments["NW"][task.train].numpy()
        attack = inversion("NW", activations["NW"].numpy(), columns, own=others, seed=seed)
        found[f"columns, width {width}"] = {**_told(attack), "accuracy of the session": accuracy(run, task)}
    return found


# Labels randomised, records noised ------------------------------------------------------------


def label_privacy(seed: int) -> dict[str, dict[str, float]]:
    """Accuracy, and the first epoch's attack on true labels, where labels were randomised before the first step."""
    task = replace(digits(seed), epochs=10)
    found = {"no noise": _randomised(task, seed, None)}
    for epsilon in (8.0, 4.0, 3.0, 2.0):
        found[f"epsilon {epsilon:g}"] = _randomised(task, seed, epsilon)
    return found


def _randomised(task: Task, seed: int, epsilon: float | None) -> dict[str, float]:
    found, target = {"posterior of a released label": 1.0}, None
    if epsilon is not None:
        response = RandomisedResponse(task.classes, epsilon)
        # a seed, so that the figures can be had again; a release draws from the operating system
        released = response.release(task.heard(task.train).numpy(), rng=np.random.default_rng([seed, 7]))
        target, found["posterior of a released label"] = released_target(released), response.keep
    for mode in ("joint", "isolated"):
        run = trained(mode, task, seed, target=target, tape=True)
        found[f"accuracy, {mode}"] = accuracy(run, task)
        attack = recovered(run, task, seed, 0, run.schedule.rounds // task.epochs)
        found[f"attack, {mode}"], found["attack, own columns"] = attack.success, attack.baseline
    return found


def record_privacy(seed: int) -> dict[str, dict[str, float]]:
    """Accuracy of isolated components trained by DP-SGD; epsilon is over all four parties, columns and label."""
    task, found = digits(seed), {}
    for epsilon in (None, 8.0, 3.0, 1.0):
        plan = DPPlan(1e-9, 256, 30)
        if epsilon is not None:
            plan = DPPlan.within(epsilon, DELTA, rows=len(task.train), batch=256, epochs=30, parties=4)
        row = "clipped and sampled, no noise" if epsilon is None else f"epsilon {epsilon:g}"
        found[row] = _noised(task, seed, plan, priced=epsilon is not None)
    return found


def _noised(task: Task, seed: int, plan: DPPlan, *, priced: bool) -> dict[str, float]:
    learned = noised(task, seed, plan)
    found = {"accuracy": right(learned.predict(task.test), task), "noise multiplier": plan.noise_multiplier}
    if priced:
        found["epsilon by the ledger"] = Ledger(learned.events, columns=tuple(learned.parts)).price("row", delta=DELTA)
    return found


@dataclass(frozen=True, eq=False)
class Noised:
    """Components trained at home with noise, and what their owners state of it."""

    task: Task
    parts: Mapping[str, Component]
    heads: Isolated
    events: Mapping[str, tuple[Event, ...]]

    def predict(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Log-probabilities ``[n, k]``."""
        return self.heads.infer({p: part.predict(self.task.fragments[p][rows]) for p, part in self.parts.items()})


def noised(task: Task, seed: int, plan: DPPlan) -> Noised:
    """Isolated components of all owners, trained by DP-SGD on the task's training rows."""
    steps = OptimiserPlan("adam", 1e-2)
    target, parts = ClassTarget(task.heard(task.train), task.classes), {}
    heads = mode_of("isolated", task, target, seed, 16, steps)
    assert isinstance(heads, Isolated)
    heads.composition, events = Product(torch.full((task.classes,), 1 / task.classes, dtype=torch.float64)), {}
    for number, party in enumerate(sorted(task.fragments)):
        # pixels are scaled by a public constant, not by their own spread
        parts[party] = Component.built(lambda: mlp(16, 16, [32]), steps, name=party, seed=seed)
        generator = torch.Generator().manual_seed(1000 * seed + number)
        data = task.fragments[party], target, plan
        event = train_privately(
            parts[party], heads.heads[party], *data, positions=task.train.tolist(), generator=generator
        )
        events[party] = (event,)
    return Noised(task, parts, heads, events)


SECTIONS: dict[str, Any] = {
    "attacks": lambda _, seed: attacks(seed),
    "label privacy": lambda _, seed: label_privacy(seed),
    "record privacy": lambda _, seed: record_privacy(seed),
}
