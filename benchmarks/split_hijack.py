"""A composer that hijacks one quadrant's component, and what the party sees of it (digits)."""

from __future__ import annotations

import numpy as np
from split_runs import BATCH, WIDTH, component, trained
from split_tasks import digits

from quiltwork.audit.attacks.hijack import Hijacking, explained
from quiltwork.audit.scrutiny import neighbour_gap
from quiltwork.audit.tape import Tape
from quiltwork.models.split.targets import ClassTarget
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

ROUNDS = (0, 300, 1800)


def hijack(seed: int) -> dict[str, dict[str, float]]:
    """R squared of the columns that are read off after so many rounds, and the gap of honest and hijacked cotangents.

    The composer has the same quadrant of other images, half as many as there are; its baseline guesses their mean.
    """
    task = digits(seed)
    half = np.random.default_rng([seed, 9]).permutation(task.train)
    rows, others = np.sort(half[: len(half) // 2]), np.sort(half[len(half) // 2 :])
    truth, public = task.fragments["NW"][rows].numpy(), task.fragments["NW"][others]
    mode = Hijacking("NW", WIDTH, public, task.classes, seed=seed)
    node = ComponentNode(component(task, "NW", seed), task.fragments["NW"])
    tape = Tape(LocalChannel({"NW": node}, {"NW": component_terms(WIDTH)}))
    labels = OwnLabels(ClassTarget(task.heard(rows), task.classes))
    schedule = Schedule(rows, BATCH, 1 + ROUNDS[-1] * BATCH // len(rows), seed)
    run, read = SplitRun(tape, mode, labels, schedule, {"NW": WIDTH}), {}
    for rounds in ROUNDS:
        run.train(rounds - run.round)
        read[f"after {rounds} rounds"] = explained(truth, mode.stolen(run.activations(rows)["NW"]))
    read["baseline"] = explained(truth, np.broadcast_to(public.numpy().mean(0), truth.shape))
    return {"columns read by a hijack": read, "gap of cotangents, first epoch": _gaps(tape, seed, rows)}


def _gaps(planted: Tape, seed: int, rows: np.ndarray) -> dict[str, float]:
    task, found = digits(seed), {}
    an_epoch, known = -(-len(rows) // BATCH), task.heard(rows)
    for mode in ("joint", "isolated"):
        honest = trained(mode, task, seed, train=rows, epochs=1, tape=True)
        assert isinstance(honest.channel, Tape)
        found[f"honest, {mode}"] = neighbour_gap(honest.channel.lessons("NW").within(0, an_epoch), known).gap
    gap = neighbour_gap(planted.lessons("NW").within(0, an_epoch), known)
    return {**found, "hijack": gap.gap, "hijack is caught": float(not gap.carries)}
