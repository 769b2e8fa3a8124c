"""Time of a step: four parties in processes of their own against one process that trains the same graph.

Windows of rounds in turn, one process and then the session, so that what else the machine does disturbs both alike.
Every round counts by itself: the tenth percentile and the median. Beside them the CPU time a round of all processes
together, which other work disturbs little: where the processes of a session take turns, it bounds the time of a step
but for waking them. Every process has one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.process import ProcessChannel, Started
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import Labels, OwnLabels
from quiltwork.session.split.mode import Lesson
from quiltwork.session.split.one_process import train_whole
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

PARTIES = ("p0", "p1", "p2", "p3")
ROWS = 2048
PLAN = OptimiserPlan("adam", 1e-3)


@dataclass(frozen=True)
class Size:
    """Components of one size, and how long to look at them."""

    name: str
    columns: int
    hidden: tuple[int, ...]
    width: int
    rounds: int
    windows: int

    def component(self, party: str, *, stash: bool = False) -> Component:
        build = lambda: mlp(self.columns, self.width, self.hidden)  # noqa: E731
        return Component.built(build, PLAN, name=party, stash=stash)

    def rows(self, party: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(PARTIES.index(party))
        return torch.randn(ROWS, self.columns, generator=generator)

    def composer(self) -> Component:
        build = lambda: Concatenated(mlp(len(PARTIES) * self.width, 10, [64]))  # noqa: E731
        return Component.built(build, PLAN, name="composer")


SIZES = (Size("tiny", 16, (32,), 16, 40, 6), Size("large", 784, (1024, 512), 64, 6, 3))
CENTRAL, SESSIONS, MEASURES = "one process", ("session", "session, stale"), ("p10", "median", "CPU")


@dataclass(frozen=True)
class Begin:
    """Starts a party inside its process, where its rows are made."""

    size: Size
    party: str
    stale: bool

    def __call__(self) -> Started:
        torch.set_num_threads(1)
        return Started(ComponentNode(self.size.component(self.party, stash=self.stale), self.size.rows(self.party)))


class Window:
    """One round of a schedule, which goes on where the last one ended."""

    rounds = 1

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._at = schedule, 0

    def rows(self, _: int) -> np.ndarray:
        self._at += 1
        return self._schedule.rows(self._at - 1)


class Clocked(Joint):
    """Joint mode that notes when each round's activations are there."""

    def __init__(self, composer: Component, widths: dict[str, int]) -> None:
        super().__init__(composer, widths)
        self.marks: list[float] = []

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:
        self.marks.append(time.perf_counter())
        return super().learn(activations, labels, round_)


def steps() -> dict[str, dict[str, float]]:
    """Milliseconds a round, by size and batch."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, ROWS))
    return {name: row for size in SIZES for name, row in _of_size(size, ClassTarget(labels, 10)).items()}


def _of_size(size: Size, target: ClassTarget) -> dict[str, dict[str, float]]:
    terms = dict.fromkeys(PARTIES, component_terms(size.width))
    channels = {n: ProcessChannel({p: Begin(size, p, "stale" in n) for p in PARTIES}, terms) for n in SESSIONS}
    try:
        parameters = sum(p.numel() for p in size.component("p0").module.parameters())
        found = {}
        for batch in (64, 256, 1024):
            row = _of_batch(size, batch, target, channels)
            found[f"{size.name}, batch {batch}"] = {"parameters a component": float(parameters), **row}
        return found
    finally:
        for channel in channels.values():
            channel.close()


def _of_batch(size: Size, batch: int, target: ClassTarget, channels: dict[str, ProcessChannel]) -> dict[str, float]:
    # one more window than is counted: the first warms up
    schedule = Schedule(np.arange(ROWS), batch, 1 + size.rounds * (size.windows + 1) * batch // ROWS)
    widths = dict.fromkeys(PARTIES, size.width)
    runs = {
        n: SplitRun(c, Clocked(size.composer(), widths), OwnLabels(target), schedule, widths, stale="stale" in n)
        for n, c in channels.items()
    }
    ways: dict[str, Callable[[], list[float]]] = {CENTRAL: _central(size, target, schedule)}
    ways |= {n: partial(_session, run, size.rounds) for n, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    for number in range(size.windows + 1):
        for name, way in ways.items():
            before, found = _cpu_seconds(), way()
            if number:
                times[name] += found
                spent[name] += 1e3 * (_cpu_seconds() - before) / size.rounds / size.windows
    return _summary(times, spent)


def _central(size: Size, target: ClassTarget, schedule: Schedule) -> Callable[[], list[float]]:
    parts, top = {p: size.component(p) for p in PARTIES}, size.composer()
    data, window = {p: size.rows(p) for p in PARTIES}, Window(schedule)

    def way() -> list[float]:
        marks = [time.perf_counter()]
        for _ in range(size.rounds):
            train_whole(parts, top, data, target, window)  # type: ignore[arg-type]
            marks.append(time.perf_counter())
        return list(1e3 * np.diff(marks))

    return way


def _session(run: SplitRun, rounds: int) -> list[float]:
    assert isinstance(run.mode, Clocked)
    run.mode.marks.clear()
    run.train(rounds)
    return list(1e3 * np.diff(run.mode.marks))


def _cpu_seconds() -> float:
    """Of this process and of its children that live."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = [Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split() for child in active_children()]
    return time.process_time() + sum(int(f[11]) + int(f[12]) for f in fields) / ticks


def _summary(times: dict[str, list[float]], spent: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, values in times.items():
        found |= {f"{name}, p10": float(np.percentile(values, 10)), f"{name}, median": float(np.median(values))}
        found[f"{name}, CPU"] = spent[name]
    for name in SESSIONS:
        for what in MEASURES:
            found[f"{name} / {CENTRAL}, {what}"] = found[f"{name}, {what}"] / found[f"{CENTRAL}, {what}"]
            found[f"{name} - {CENTRAL}, {what}"] = found[f"{name}, {what}"] - found[f"{CENTRAL}, {what}"]
    return found
