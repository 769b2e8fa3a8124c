"""Time of a step: four parties in processes of their own against one process that trains the same graph.

Windows of a few rounds are timed in turn, one process and then the session, so that what else the machine does disturbs
both alike; the least and the median window count. The session has one thread a process. One process is timed with one
thread and with as many as there are cores.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, mlp
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.process import ProcessChannel, Started
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
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


SIZES = (Size("tiny", 16, (32,), 16, 10, 12), Size("large", 784, (1024, 512), 64, 3, 5))


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
    """A few rounds of a schedule, which go on where the last window ended."""

    def __init__(self, schedule: Schedule, rounds: int) -> None:
        self._schedule, self.rounds, self._start = schedule, rounds, 0

    def rows(self, round_: int) -> np.ndarray:
        return self._schedule.rows(self._start + round_)

    def on(self) -> None:
        self._start += self.rounds


def steps() -> dict[str, dict[str, float]]:
    """Milliseconds a round, by size and batch."""
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, ROWS))
    return {name: row for size in SIZES for name, row in _of_size(size, ClassTarget(labels, 10)).items()}


def _of_size(size: Size, target: ClassTarget) -> dict[str, dict[str, float]]:
    names = ("session", "session, stale")
    channels = {n: ProcessChannel({p: Begin(size, p, "stale" in n) for p in PARTIES}, _terms(size)) for n in names}
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
    total = size.rounds * (size.windows + 1)
    schedule = Schedule(np.arange(ROWS), batch, 1 + total * batch // ROWS)
    widths = dict.fromkeys(PARTIES, size.width)
    runs = {
        n: SplitRun(c, Joint(size.composer(), widths), OwnLabels(target), schedule, widths, stale="stale" in n)
        for n, c in channels.items()
    }
    parts, top = {p: size.component(p) for p in PARTIES}, size.composer()
    data, window = {p: size.rows(p) for p in PARTIES}, Window(schedule, size.rounds)
    cores = len(os.sched_getaffinity(0))

    def central(threads: int) -> None:
        torch.set_num_threads(threads)
        train_whole(parts, top, data, target, window)  # type: ignore[arg-type]
        torch.set_num_threads(1)

    ways = {
        "one process, 1 thread": lambda: central(1),
        f"one process, {cores} threads": lambda: central(cores),
        **{n: (lambda run=run: run.train(size.rounds)) for n, run in runs.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(size.windows + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                times[name].append(1e3 * (time.perf_counter() - began) / size.rounds)
        window.on()
    return _summary(times)


def _summary(times: dict[str, list[float]]) -> dict[str, float]:
    found = {f"{name}, {what}": f(values) for name, values in times.items() for what, f in _MEASURES.items()}
    central = [name for name in times if name.startswith("one")]
    for what in _MEASURES:
        best = min(found[f"{name}, {what}"] for name in central)
        for name in ("session", "session, stale"):
            found[f"{name} / best of one process, {what}"] = found[f"{name}, {what}"] / best
            found[f"{name} - best of one process, {what}"] = found[f"{name}, {what}"] - best
    return found


_MEASURES = {"least": min, "median": statistics.median}


def _terms(size: Size) -> dict[str, object]:
    return dict.fromkeys(PARTIES, component_terms(size.width))
