"""The training loop: AdamW with warm-up and cosine decay over packed blocks of tokens.

The loop knows nothing of parties or scopes: it optimises whatever parameters of the model require gradients. Devices,
mixed precision and several processes are accelerate's business (``accelerate launch`` or one plain process).

Every ``save_every`` steps, and when interrupted (after the step in progress), the whole state (weights, optimiser,
schedule, random numbers) is saved under a temporary name and renamed; a later call with the same plan and folder goes
on from there and ends with the same weights as an uninterrupted run on the same machine.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from quiltwork.errors import Interrupted, InvalidOption, StorageError
from quiltwork.files import storage_error, write_file
from quiltwork.progress import Progress


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        batch_size: sequences an optimiser step, over all processes and accumulation steps.
        sequence_length: tokens a sequence.
        learning_rate: peak rate of AdamW.
        warmup: share of the steps with a linearly rising rate.
        final_rate: rate at the end, as a share of the peak.
        weight_decay: AdamW's decoupled decay.
        clip: largest norm of the gradient.
        accumulation: micro-batches an optimiser step; must divide ``batch_size``.
        precision: ``"no"``, ``"bf16"`` or ``"fp16"`` (accelerate's mixed precision).
        seed: of batch order and initialisation.
        save_every: optimiser steps between checkpoints.
    """

    steps: int = 200
    batch_size: int = 16
    sequence_length: int = 192
    learning_rate: float = 2e-3
    warmup: float = 0.1
    final_rate: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulation: int = 1
    precision: str = "no"
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "sequence_length",
            "accumulation",
            "save_every",
            "learning_rate",
            "clip",
        ):
            if not getattr(self, name) > 0:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="it must be positive", mend="Choose a larger value."
                )
        if self.batch_size % self.accumulation:
            raise InvalidOption(
                f"accumulation={self.accumulation}",
                why=f"a batch of {self.batch_size} sequences does not split into that many equal parts",
                mend="Choose a divisor of batch_size.",
            )
        if self.sequence_length < 2:
            raise InvalidOption(
                f"sequence_length={self.sequence_length}",
                why="a sequence of one token has nothing to predict",
                mend="Choose at least 2.",
            )

    def rate(self, step: int) -> float:
        """Learning rate at ``step`` as a share of the peak: linear warm-up, then cosine."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        losses: mean loss in nats a token of each optimiser step since the run (or its resumption) began.
        tokens: tokens trained on, all steps together.
        seconds: wall time of this process's part of the run.
    """

    losses: list[float]
    tokens: int
    seconds: float


class _Blocks(IterableDataset):  # type: ignore[type-arg]
    """Blocks of token ids as the dataset that accelerate shards over processes."""

    def __init__(self, make_blocks: Callable[[], Iterable[np.ndarray]]) -> None:
        self._make_blocks = make_blocks

    def __iter__(self) -> Iterator[torch.Tensor]:
        for block in self._make_blocks():
            yield torch.from_numpy(block)


def train(
    model: nn.Module,
    make_blocks: Callable[[], Iterable[np.ndarray]],
    plan: TrainingPlan,
    *,
    state_dir: Path | None = None,
    label: str = "training",
    force_cpu: bool = False,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: a causal language model that returns ``.loss`` for ``input_ids`` and ``labels``.
        make_blocks: starts the endless stream of int64 arrays ``[sequence_length]``, the same at every call.
        plan: steps, sizes, rates.
        state_dir: where to keep the state for resuming; None keeps none.
        label: what the progress display calls the work.
        force_cpu: do not use an accelerator that is there.

    Raises:
        Interrupted: the user stopped the run; the state is saved if ``state_dir`` is given.
        StorageError: the state could not be written.
        InvalidOption: ``state_dir`` belongs to a run with another plan.
    """
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    set_seed(plan.seed)
    accelerator = Accelerator(
        cpu=force_cpu,
        gradient_accumulation_steps=plan.accumulation,
        mixed_precision=plan.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=plan.weight_decay)
    micro = plan.batch_size // plan.accumulation
    loader = DataLoader(_Blocks(make_blocks), batch_size=micro, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    state = _State(state_dir, plan, accelerator)
    done = state.resume()
    model.train()
    losses: list[float] = []
    began = time.monotonic()
    batches = islice(iter(loader), done * plan.accumulation, None)
    with (
        Progress(label, plan.steps, done=done, enabled=accelerator.is_main_process) as progress,
        _stop_flag() as stop,
    ):
        for step in range(done, plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * plan.rate(step)
            losses.append(_optimiser_step(accelerator, model, optimizer, batches, plan, trainable))
            progress.advance(f"loss {losses[-1]:.3f}")
            done = step + 1
            if done < plan.steps and (stop.is_set() or done % plan.save_every == 0):
                state.save(done)
            if stop.is_set() and done < plan.steps:
                raise Interrupted(
                    f"{label} at step {done} of {plan.steps}",
                    why="it was told to stop",
                    mend="Run the same command again: it goes on from here." if state_dir else "Run it again.",
                )
    model.eval()
    return TrainingResult(
        losses=losses,
        tokens=plan.steps * plan.batch_size * plan.sequence_length,
        seconds=time.monotonic() - began,
    )


@contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """A flag that Ctrl-C or SIGTERM sets, so that the step in progress ends before the run does."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may handle signals
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, lambda *_: flag.set()) for s in signals}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optimiser_step(
    accelerator: Any,
    model: nn.Module,
    optimizer: Any,
    batches: Iterator[torch.Tensor],
    plan: TrainingPlan,
    trainable: list[nn.Parameter],
) -> float:
    """One step over ``plan.accumulation`` micro-batches; returns their mean loss."""
    total = 0.0
    for _ in range(plan.accumulation):
        ids = next(batches)
        with accelerator.accumulate(model):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trainable, plan.clip)
            optimizer.step()
            optimizer.zero_grad()
        total += float(loss.detach())
    return total / plan.accumulation


class _State:
    """Checkpoints of one run in one folder: ``step-N/`` with ``plan.json``."""

    def __init__(self, folder: Path | None, plan: TrainingPlan, accelerator: Any) -> None:
        self._folder = folder
        self._plan = asdict(plan)
        self._accelerator = accelerator

    def resume(self) -> int:
        """Load the newest state, if there is one; returns the steps already done."""
        if self._folder is None or not (self._folder / "plan.json").exists():
            return 0
        stored = json.loads((self._folder / "plan.json").read_text())
        if stored["plan"] != self._plan:
            changed = [k for k, v in self._plan.items() if stored["plan"].get(k) != v]
            raise InvalidOption(
                f"state folder '{self._folder}'",
                why=f"it belongs to a run with other settings ({', '.join(changed)})",
                mend="Use the settings of that run, or remove the folder to start anew.",
            )
        self._accelerator.load_state(str(self._folder / stored["state"]))
        return int(stored["step"])

    def save(self, step: int) -> None:
        """Write the state after ``step`` steps, then forget the one before it."""
        if self._folder is None:
            return
        name = f"step-{step}"
        partial = self._folder / f".{name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            self._accelerator.save_state(str(partial))
            if not self._accelerator.is_main_process:
                return
            shutil.rmtree(self._folder / name, ignore_errors=True)
            partial.rename(self._folder / name)
        except OSError as error:
            raise storage_error(self._folder, error) from error
        except RuntimeError as error:
            # torch's own writer reports a full disk as a RuntimeError
            raise StorageError(
                f"writing '{self._folder}'",
                why=str(error).splitlines()[0],
                mend="Free some space, then run again.",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        write_file(
            self._folder / "plan.json",
            json.dumps({"plan": self._plan, "step": step, "state": name}, indent=2),
        )
        for old in self._folder.glob("step-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
