"""Accuracy of every mode beside centralised training; bytes against the formula; equality by hashes, with controls."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from split_runs import PLAN, accuracy, central_digests, component, right, started, trained, undecomposed
from split_tasks import Task, digits, tasks

from quiltwork.audit.tape import Tape
from quiltwork.errors import LostParty
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.bill import training_bytes
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.outputs import Mean, Median, Product
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.stacking import Stacked
from quiltwork.session.split.words import component_terms


def accuracies(data: Path, seed: int) -> dict[str, dict[str, float]]:
    """By task, accuracies on rows that nobody trained on, and whether joint equals one process."""
    return {name: _methods(make(seed), seed) for name, make in tasks(data).items()}


def _methods(task: Task, seed: int) -> dict[str, float]:
    joint, isolated = trained("joint", task, seed), trained("isolated", task, seed)
    found = {
        "joint": accuracy(joint, task),
        "isolated": accuracy(isolated, task),
        "stacking": stacked(task, seed),
        "best single party": max(accuracy(isolated, task, [party]) for party in task.fragments),
        "undecomposed": undecomposed(task, seed),
        "commonest class": float(torch.bincount(task.labels[task.test]).max()) / len(task.test),
        "joint equals one process": float(joint.digests() == central_digests(task, seed)),
    }
    if task.program is not None:
        found["program"] = accuracy(trained("program", task, seed), task)
    return found


def stacked(task: Task, seed: int) -> float:
    """Weights fitted on a sixth of the training rows, which components did without."""
    order = np.random.default_rng([seed, 5]).permutation(task.train)
    held, rest = np.sort(order[: len(order) // 6]), np.sort(order[len(order) // 6 :])
    run = trained("isolated", task, seed, train=rest)
    assert isinstance(run.mode, Isolated)
    run.mode.composition = Stacked(run.mode.outputs(run.activations(held)), task.labels[held])
    return accuracy(run, task)


def other_heads(seed: int) -> dict[str, dict[str, float]]:
    """Digits in isolated mode with other heads and widths, against joint mode of the same width."""
    task, found = digits(seed), {}
    for width in (16, 32):
        run = trained("joint", task, seed, width=width)
        found[f"width {width}"] = {"joint": accuracy(run, task)}
        for name, hidden in (("linear heads", []), ("heads with 64 hidden", [64])):
            found[f"width {width}"][f"isolated, {name}"] = accuracy(_headed(task, seed, width, hidden), task)
    return found


def _headed(task: Task, seed: int, width: int, hidden: list[int]) -> SplitRun:
    run = started("isolated", task, seed, width=width)
    assert isinstance(run.mode, Isolated)
    heads = {
        p: Component.built(lambda: mlp(width, task.classes, hidden), PLAN, name=f"head of {p}", seed=seed)
        for p in task.fragments
    }
    run.mode = Isolated(heads, run.mode.composition)
    run.train()
    return run


# Bytes ------------------------------------------------------------------------------


def bytes_against_formula(seed: int) -> dict[str, dict[str, float]]:
    """By mode: bytes a round, and whether log and formula are equal for every party and direction."""
    task = digits(seed)
    found = {}
    for mode in ("joint", "isolated"):
        run = trained(mode, task, seed, epochs=3)
        due = training_bytes(run.schedule, run.widths)
        logged = {p: (run.channel.log.bytes(p, "down"), run.channel.log.bytes(p, "up")) for p in run.parties}
        run.digests()
        run.activations(task.test)
        both = all(run.channel.log.bytes(p, w) == run.bill.bytes(p, w) for p in run.parties for w in ("down", "up"))
        # the control: one undeclared frame of the smallest size must show
        run.channel.call("NW", Message(Kind.DIGEST, run.round))
        shown = run.channel.log.bytes("NW", "down") != run.bill.bytes("NW", "down")
        found[mode] = {
            "down a round, all parties": sum(d for d, _ in due.values()) / run.round,
            "up a round, all parties": sum(u for _, u in due.values()) / run.round,
            "equal": float(logged == due and both),
            "an undeclared frame shows": float(shown),
        }
    return found


# Equality -----------------------------------------------------------------------------


def equalities(seed: int) -> dict[str, dict[str, float]]:
    """Joint against one process at several batches and optimisers; replay, swap and leaving, each with its control."""
    task = digits(seed)
    return {"joint equals one process": _central(task, seed), **_replayed(task, seed), **_swapped(task, seed)}


def _central(task: Task, seed: int) -> dict[str, float]:
    found = {}
    for plan in (PLAN, OptimiserPlan("sgd", 5e-2)):
        for batch in (64, 256, 1024):
            options = {"batch": batch, "plan": plan, "epochs": 4}
            run = trained("joint", task, seed, **options)
            found[f"{plan.method}, batch {batch}"] = float(run.digests() == central_digests(task, seed, **options))
    other = trained("joint", task, seed + 100, epochs=4).digests()
    found["control: another seed differs"] = float(other != central_digests(task, seed, epochs=4))
    return found


def _replayed(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """A fresh party, alone, fed what was recorded: same answers, same parameters."""
    found = {}
    for mode in ("isolated", "joint"):
        run = trained(mode, task, seed, epochs=3, tape=True)
        assert isinstance(run.channel, Tape)
        due = run.digests()["NW"]
        said, heard = run.channel.spools["NW"].down, run.channel.log.digest("NW", "up")
        nudged = [_nudged(m) if m.kind is Kind.COTANGENT and m.round == run.round - 1 else m for m in said]
        found[f"replay, {mode}"] = {
            "same answers and parameters": float(_fed(task, seed, said) == (due, heard)),
            "control: one cotangent off by 1e-4 differs": float(_fed(task, seed, nudged)[0] != due),
        }
    return found


def _fed(task: Task, seed: int, messages: list[Message]) -> tuple[str, str]:
    node = ComponentNode(component(task, "NW", seed), task.fragments["NW"])
    channel = LocalChannel({"NW": node}, {"NW": component_terms(16)})
    for message in messages:
        channel.call("NW", message)
    return node.component.digest(), channel.log.digest("NW", "up")


def _nudged(message: Message) -> Message:
    assert message.array is not None
    array = message.array.copy()
    array.flat[0] += 1e-4
    return Message(message.kind, message.round, array)


def _swapped(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """All fragments but one replaced by noise; and a party that leaves against one that never came."""
    noise = torch.Generator().manual_seed(seed)
    parts = {p: x if p == "NW" else torch.randn(x.shape, generator=noise) for p, x in task.fragments.items()}
    other = replace(task, fragments=parts)
    same = {
        mode: _view(trained(mode, task, seed, epochs=3)) == _view(trained(mode, other, seed, epochs=3))
        for mode in ("isolated", "joint")
    }
    leaver = trained("isolated", task, seed, epochs=3)
    before = leaver.digests()
    leaver.leave("SE")
    without = replace(task, fragments={p: x for p, x in task.fragments.items() if p != "SE"})
    never = trained("isolated", without, seed, epochs=3).digests()
    return {
        "swap": {
            "isolated: nothing of the others shows": float(same["isolated"]),
            "control: joint mode leaks": float(not same["joint"]),
        },
        "leaving": {
            "isolated: as if never there": float(leaver.digests() == never),
            "control: before it leaves they differ": float(before != never),
        },
    }


def _view(run: SplitRun) -> tuple[str, str]:
    return run.digests()["NW"], run.channel.log.digest("NW", "down")


# Parties that are away, or lie ------------------------------------------------------------


def faults(seed: int) -> dict[str, dict[str, float]]:
    """Accuracy by the number of parties present, and with parties that send noise, on four quadrants."""
    task = digits(seed)
    runs = {
        "joint": trained("joint", task, seed),
        "joint, trained with absence 0.4": trained("joint", task, seed, absence=0.4),
        "isolated": trained("isolated", task, seed),
    }
    found = {f"quorum, {name}": _quorum(run, task) for name, run in runs.items()}
    found["Byzantine"] = _liars(runs["joint"], runs["isolated"], task, seed)
    found["refusals"] = _refused(task, seed)
    return found


def _quorum(run: SplitRun, task: Task) -> dict[str, float]:
    """Mean over all subsets of a size."""
    activations, found = run.activations(task.test), {}
    for size in range(len(activations), 0, -1):
        scores = [
            right(run.mode.infer({p: activations[p] for p in some}), task)
            for some in combinations(sorted(activations), size)
        ]
        found[f"t={size}"] = float(np.mean(scores))
    return found


def _liars(joint: SplitRun, isolated: SplitRun, task: Task, seed: int) -> dict[str, float]:
    """No, one or two parties send ten times normal noise for activations; mean over which."""
    assert isinstance(isolated.mode, Isolated)
    prior = isolated.labels.prior()
    ways = {"sum": Product(prior), "floor -3": Product(prior, -3.0), "mean": Mean(), "median": Median()}
    noise, found = torch.Generator().manual_seed(seed), {}
    for count in (0, 1, 2):
        scores: dict[str, list[float]] = {name: [] for name in ("joint", *ways)}
        for liars in combinations(task.fragments, count):
            false = {p: 10 * torch.randn(len(task.test), 16, generator=noise) for p in liars}
            scores["joint"].append(right(joint.mode.infer({**joint.activations(task.test), **false}), task))
            outputs = isolated.mode.outputs({**isolated.activations(task.test), **false})
            for name, way in ways.items():
                scores[name].append(right(way.compose(outputs), task))
        found |= {f"{count} of 4 lie, {name}": float(np.mean(values)) for name, values in scores.items()}
    return found


def _refused(task: Task, seed: int) -> dict[str, float]:
    """Shares of bad messages that a party refuses, and goes on after."""
    run = started("isolated", task, seed, epochs=1)
    rows = np.arange(4, dtype=np.int64)
    run.channel.call("NW", Message(Kind.ROWS, 0, rows))
    bad = {
        "cotangents that are not finite": Message(Kind.COTANGENT, 0, np.full((4, 16), np.nan, np.float32)),
        "cotangents of another shape": Message(Kind.COTANGENT, 0, np.zeros((5, 16), np.float32)),
        "cotangents of another round": Message(Kind.COTANGENT, 9, np.zeros((4, 16), np.float32)),
        "rows that are not there": Message(Kind.OUTPUT, 0, np.array([10**6])),
    }
    found = {}
    for what, message in bad.items():
        try:
            run.channel.call("NW", message)
            found[what] = 0.0
        except LostParty:
            found[what] = 1.0
    reply = run.channel.call("NW", Message(Kind.COTANGENT, 0, np.zeros((4, 16), np.float32)))
    return found | {"a sound message after these": float(reply.kind is Kind.DONE)}


SECTIONS: dict[str, Any] = {
    "accuracy": accuracies,
    "heads": lambda _, seed: other_heads(seed),
    "equality": lambda _, seed: equalities(seed),
    "bytes": lambda _, seed: bytes_against_formula(seed),
    "faults": lambda _, seed: faults(seed),
}
