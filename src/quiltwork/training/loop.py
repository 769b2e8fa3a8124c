"""The training loop: AdamW with warm-up and cosine decay over packed blocks of tokens.

The loop knows nothing of parties or scopes: it optimises whatever parameters of the model require gradients. Devices,
mixed precision and several processes are accelerate's business (``accelerate launch`` or one plain process).

Every ``save_every`` steps, at the end, and when interrupted (after the step in progress), the whole state (weights,
optimiser, losses, random numbers) is saved under a temporary name and renamed; a later call with the same plan and
folder goes on from there and ends with the same weights as an uninterrupted run on the same machine.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from quiltwork.errors import InvalidOption, StorageError
from quiltwork.files import storage_error, write_file
from quiltwork.progress import Progress
from quiltwork.training.stopping import interrupted, require_finite, stop_flag

if TYPE_CHECKING:
    from accelerate import Accelerator


PRECISIONS = ("no", "bf16", "fp16")
"""Mixed precisions of a plan."""


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
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why="it must be positive and finite", mend="Choose another value."
                )
        for name, most in (
            ("warmup", 1),
            ("final_rate", 1),
            ("weight_decay", 1e9),
            ("learning_rate", 1e9),
            ("seed", 2**32 - 1),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}",
                    why=f"it lies outside 0 ... {most}",
                    mend="Choose a value within.",
                )
        if self.precision not in PRECISIONS:
            raise InvalidOption(
                f"precision={self.precision!r}",
                why="there is no such mixed precision",
                mend=f"Choose one of {', '.join(PRECISIONS)}.",
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

    def require_positions(self, positions: int) -> None:
        """Refuse sequences longer than a model has positions.

        Raises:
            InvalidOption: they are longer.
        """
        if self.sequence_length > positions:
            raise InvalidOption(
                f"sequence_length={self.sequence_length}",
                why=f"the model has {positions} positions (max_position_embeddings)",
                mend=f"Choose {positions} or less.",
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
        losses: mean loss in nats a token of each optimiser step, those before a resumption included.
        tokens: tokens trained on, all steps together.
        seconds: wall time since the run or its resumption began.
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
    subject: Mapping[str, str] = MappingProxyType({}),
    label: str = "training",
    force_cpu: bool = False,
) -> TrainingResult:
    """Train ``model`` in place.

    Args:
        model: a causal language model that returns ``.loss`` for ``input_ids`` and ``labels``.
        make_blocks: starts the endless stream of int64 arrays ``[sequence_length]``, the same at every call.
        plan: steps, sizes, rates.
        state_dir: where to keep the state for resuming; None keeps none.
        subject: whatever else a state must have in common with the run that goes on from it, by name.
        label: what the progress display calls the work.
        force_cpu: do not use an accelerator that is there.

    Raises:
        Interrupted: the user stopped the run; the state is saved if ``state_dir`` is given.
        StorageError: the state could not be written.
        InvalidOption: ``state_dir`` belongs to a run with another plan or subject, or the loss is not finite any more.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DataLoaderConfiguration, set_seed

    set_seed(plan.seed)
    # at every state it warns that tied weights are saved once
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    # accelerate keeps the precision of a process's first run for all that follow
    AcceleratorState._reset_state()
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
    state = _State(state_dir, plan, subject, accelerator)
    losses = state.losses()
    done = len(losses)
    began = time.monotonic()
    batches = iter(loader)
    # wind the stream forward before the random numbers are restored: starting it draws one
    for _ in range(done * plan.accumulation):
        next(batches)
    state.load()
    model.train()
    with (
        Progress(label, plan.steps, done=done, enabled=accelerator.is_main_process) as progress,
        stop_flag() as stop,
    ):
        for step in range(done, plan.steps):
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * plan.rate(step)
            losses.append(_optimiser_step(accelerator, model, optimizer, batches, plan, trainable))
            require_finite(losses[-1], f"{label} at step {step + 1} of {plan.steps}", plan.learning_rate)
            progress.advance(f"loss {losses[-1]:.3f}")
            # a signal may reach one process of several, and all must save together
            if stop.is_set():
                accelerator.set_trigger()
            stopping = accelerator.check_trigger()
            if stopping or step + 1 == plan.steps or (step + 1) % plan.save_every == 0:
                state.save(losses)
            if stopping:
                raise interrupted(f"{label} at step {step + 1} of {plan.steps}", resumes=bool(state_dir))
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
    return TrainingResult(
        losses=losses,
        tokens=plan.steps * plan.batch_size * plan.sequence_length,
        seconds=time.monotonic() - began,
    )


def _optimiser_step(
    accelerator: Accelerator,
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
        total += float(accelerator.reduce(loss.detach(), reduction="mean"))
    return total / plan.accumulation


class _State:
    """Checkpoints of one run in one folder: ``step-N/``, and ``plan.json``, which says which one counts."""

    def __init__(
        self, folder: Path | None, plan: TrainingPlan, subject: Mapping[str, str], accelerator: Accelerator
    ) -> None:
        self._folder = folder
        self._run = {**asdict(plan), **subject}
        self._accelerator = accelerator

    def _stored(self) -> dict[str, Any] | None:
        if self._folder is None or not (self._folder / "plan.json").exists():
            return None
        try:
            stored = json.loads((self._folder / "plan.json").read_text())
            return {name: stored[name] for name in ("run", "state", "losses")}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise InvalidOption(
                f"state folder '{self._folder}'",
                why="its plan.json is not one that this version of quiltwork wrote",
                mend="Remove the folder to start anew.",
            ) from error

    def losses(self) -> list[float]:
        """The losses of the steps already done."""
        stored = self._stored()
        if stored is None:
            return []
        if stored["run"] != self._run:
            changed = sorted(k for k in {*self._run, *stored["run"]} if stored["run"].get(k) != self._run.get(k))
            raise InvalidOption(
                f"state folder '{self._folder}'",
                why=f"it belongs to a run with other settings ({', '.join(changed)})",
                mend="Use the settings of that run, or remove the folder to start anew.",
            )
        return list(stored["losses"])

    def load(self) -> None:
        """Restore weights, optimiser and random numbers, if there is a state."""
        if (stored := self._stored()) is not None:
            assert self._folder is not None
            self._accelerator.load_state(str(self._folder / stored["state"]))

    def save(self, losses: list[float]) -> None:
        """Write the state after as many steps as there are ``losses``, then forget the one before it.

        All processes write into one partial folder, and the main one publishes it.
        """
        if self._folder is None:
            return
        partial = self._folder / ".state.partial"
        main = self._accelerator.is_main_process
        try:
            if main:
                shutil.rmtree(partial, ignore_errors=True)
            self._accelerator.wait_for_everyone()
            self._accelerator.save_state(str(partial))
            self._accelerator.wait_for_everyone()
            if main:
                self._publish(partial, losses)
        except OSError as error:
            raise storage_error(self._folder, error) from error
        except (RuntimeError, SafetensorError) as error:
            # the writers of torch and safetensors report a full disk in errors of their own
            raise StorageError(
                f"writing '{self._folder}'",
                why=str(error).splitlines()[0],
                mend="Free some space, then run again.",
            ) from error
        finally:
            if main:
                shutil.rmtree(partial, ignore_errors=True)

    def _publish(self, partial: Path, losses: list[float]) -> None:
        assert self._folder is not None
        name = f"step-{len(losses)}"
        shutil.rmtree(self._folder / name, ignore_errors=True)
        partial.rename(self._folder / name)
        content = {"run": self._run, "state": name, "losses": losses}
        write_file(self._folder / "plan.json", json.dumps(content, indent=2))
        for old in self._folder.glob("step-*"):
            if old.name != name:
                shutil.rmtree(old, ignore_errors=True)
