"""Who was trained on? Shadow models of whole sessions: ordinary, private in each record, and over-fitted on purpose.

Each model is a session of its own on a random half of the digits' training rows. Every one is attacked by all others
(`quiltwork.audit.attacks.membership.shadow_game`). The planted leak gets a hundred columns of noise at each owner, and
labels of which half were drawn anew: what it knows of those it knows by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from split_attacks import noised
from split_runs import accuracy, trained
from split_tasks import Task, digits

from quiltwork.audit.attacks.membership import confidence, shadow_game
from quiltwork.party.record_privacy import DPPlan

MODELS, DELTA = 24, 1e-5
EPOCHS, BATCH, NOISE = 30, 128, 100

Model = Callable[[Task, int, NDArray[np.int64]], tuple[NDArray[np.float64], float]]
"""Log-probabilities of the task's training rows, and accuracy on held-out ones, of a session on some rows."""


def membership(seed: int) -> dict[str, dict[str, float]]:
    """Share of members found at two rates of false alarms, beside the attacker's baseline and the model's accuracy."""
    task = digits(seed)
    found = {"isolated": attacked(_ordinary("isolated"), task, seed), "joint": attacked(_ordinary("joint"), task, seed)}
    for epsilon in (8.0, 1.0):
        found[f"isolated, record epsilon {epsilon:g}"] = attacked(_private(epsilon), task, seed)
    return {**found, "planted: over-fitted": attacked(_ordinary("joint"), _by_heart(task, seed), seed)}


def attacked(model: Model, task: Task, seed: int, models: int = MODELS) -> dict[str, float]:
    """The game over sessions on random halves."""
    draw, rows = np.random.default_rng([seed, 8]), len(task.train)
    had = np.array([draw.permutation(rows) < rows // 2 for _ in range(models)])
    # a row that nearly all had, or nearly none, cannot be judged
    usable = (had.sum(0) >= 3) & ((~had).sum(0) >= 3)
    labels, phi, right = task.labels[task.train].numpy(), [], []
    for number, chosen in enumerate(had):
        logs, score = model(task, 1000 * seed + number, task.train[chosen])
        phi.append(confidence(logs, labels))
        right.append(score)
    game = shadow_game(np.array(phi)[:, usable], had[:, usable], seed=seed)
    told = {"accuracy": float(np.mean(right)), "models": float(models)}
    for attack in game:
        rate = f"{100 * float(str(attack.further['rate'])):g} %"
        assert attack.low is not None
        assert attack.high is not None
        told |= {f"found at {rate}": attack.success, f"low at {rate}": attack.low, f"high at {rate}": attack.high}
        told |= {f"baseline at {rate}": attack.baseline}
    return told


def _ordinary(mode: str) -> Model:
    def model(task: Task, seed: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        run = trained(mode, task, seed, train=rows, epochs=EPOCHS)
        return run.predict(task.train), accuracy(run, task)

    return model


def _private(epsilon: float) -> Model:
    def model(task: Task, seed: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
        budget = DPPlan.within(epsilon, DELTA, rows=len(rows), batch=BATCH, epochs=EPOCHS, parties=len(task.fragments))
        outputs = noised(replace(task, train=rows), seed, budget)
        held = outputs.predict(task.test).argmax(1) == task.labels[task.test]
        return outputs.predict(task.train).numpy(), float(held.double().mean())

    return model


def _by_heart(task: Task, seed: int) -> Task:
    """The task with `NOISE` further columns of noise at each owner, and half of the labels drawn anew."""
    draw = np.random.default_rng([seed, 9])
    labels = task.labels.clone()
    chosen = np.flatnonzero(draw.random(len(labels)) < 0.5)
    labels[chosen] = torch.from_numpy(draw.integers(0, task.classes, len(chosen)))
    noise = {p: torch.from_numpy(draw.normal(size=(len(labels), NOISE)).astype(np.float32)) for p in task.fragments}
    return replace(task, labels=labels, fragments={p: torch.cat([x, noise[p]], 1) for p, x in task.fragments.items()})
