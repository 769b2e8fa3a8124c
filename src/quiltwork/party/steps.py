"""A small training loop for an owner's step on networks: seeded, resumable, and blind to what it optimises.

    for step t:   rows = the next batch_size of a permutation seeded by (seed, epoch)
                  AdamW with rate  learning_rate * (1 + cos(pi t / steps)) / 2

What is to be trained are named tensors; what a step costs is a function of row numbers. On one machine equal inputs
give equal bytes. With a state file, the tensors, AdamW's moments and the losses are written every ``save_every`` steps,
at the end and when interrupted; a later call with the same plan goes on from there and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.files import write_file
from quiltwork.progress import Progress
from quiltwork.training.stopping import interrupted, require_finite, stop_flag


@dataclass(frozen=True)
class StepPlan:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        batch_size: rows a step.
        learning_rate: at the first step; it falls to zero as a cosine.
        weight_decay: AdamW's, decoupled.
        seed: of the order of rows.
        save_every: steps between states, where states are kept.

    Raises:
        InvalidOption: a value outside its domain.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "save_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="it must be positive and finite", mend="Choose another value."
                )
        for name, most in (("weight_decay", 1e6), ("seed", 2**32 - 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why=f"it lies outside 0 ... {most:g}", mend="Choose one within."
                )

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2


def optimise(
    tensors: Mapping[str, Tensor],
    loss: Callable[[Tensor], Tensor],
    rows: int,
    plan: StepPlan,
    *,
    state: Path | None = None,
    subject: str = "",
    label: str = "training",
    show: bool = False,
) -> list[float]:
    """Train tensors in place.

    Args:
        tensors: leaves that require gradients, by name.
        loss: mean loss of the rows with the given numbers, int64 ``[batch]``.
        rows: how many there are.
        plan: steps and rates.
        state: file to keep the state in; None keeps none. It is removed by the caller when the result is safe.
        subject: whatever else a state must have in common with the run that goes on from it.
        label: what the progress display calls the work.
        show: show progress on standard error.

    Returns:
        the loss of every step, those before a resumption included.

    Raises:
        InvalidOption: the loss is not finite any more, or the state belongs to another run.
        Interrupted: the user stopped; the state is saved if a file was given.
        StorageError: the state could not be written.
    """
    optimiser = torch.optim.AdamW(list(tensors.values()), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    run = hashlib.sha256(json.dumps([asdict(plan), rows, subject, sorted(tensors)]).encode()).hexdigest()
    losses = _resume(state, run, tensors, optimiser)
    with Progress(label, plan.steps, done=len(losses), enabled=show) as progress, stop_flag() as stop:
        for step in range(len(losses), plan.steps):
            for group in optimiser.param_groups:
                group["lr"] = plan.rate(step)
            losses.append(_step(optimiser, loss(batch_rows(plan, rows, step))))
            require_finite(losses[-1], f"{label} at step {step + 1} of {plan.steps}", plan.learning_rate)
            progress.advance(f"loss {losses[-1]:.3f}")
            if stop.is_set() or step + 1 == plan.steps or (step + 1) % plan.save_every == 0:
                _keep(state, run, tensors, optimiser, losses)
            if stop.is_set():
                raise interrupted(f"{label} at step {step + 1} of {plan.steps}", resumes=bool(state))
    return losses


def batch_rows(plan: StepPlan, rows: int, step: int) -> Tensor:
    """Numbers of the rows of a step: every epoch runs through all rows once, in an order of its own."""
    size = min(plan.batch_size, rows)
    per_epoch = rows // size
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((plan.seed, epoch)).permutation(rows)
    return torch.from_numpy(order[place * size : (place + 1) * size])


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return float(loss.detach())


def _keep(
    state: Path | None,
    run: str,
    tensors: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
    losses: list[float],
) -> None:
    if state is None:
        return
    held = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, tensor in tensors.items():
        held[f"value.{name}"] = tensor.detach().contiguous()
        moments = optimiser.state[tensor]
        held |= {f"{key}.{name}": moments[key].contiguous() for key in ("exp_avg", "exp_avg_sq", "step")}
    write_file(state, save(held, {"run": run}), private=True)


def _resume(
    state: Path | None, run: str, tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> list[float]:
    if state is None or not state.exists():
        return []
    try:
        data = state.read_bytes()
        size = int.from_bytes(data[:8], "little")
        found = json.loads(data[8 : 8 + size])["__metadata__"]["run"]
        held = load(data)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise _foreign(state, "it is no state that this version of quiltwork wrote") from error
    if found != run:
        raise _foreign(state, "it belongs to a run with another plan, other data or other networks")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(held[f"value.{name}"])
            optimiser.state[tensor] = {key: held[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    return [float(value) for value in held["losses"]]


def _foreign(state: Path, why: str) -> InvalidOption:
    return InvalidOption(
        f"state file '{state}'", why=why, mend="Use the settings of that run, or remove the file to start anew."
    )
