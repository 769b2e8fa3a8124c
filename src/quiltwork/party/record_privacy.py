"""A component and its head, trained at home by DP-SGD: what leaves is differentially private in each record.

    per step    S ~ each row with probability q = batch / n, independently           (Poisson sampling)
                g = sum_{j in S} clip(grad_j, C) + N(0, (z C)^2 I),   theta' = step(theta, g / batch)

(Abadi et al. 2016, arXiv 1607.00133.) Gradients per row, clipping and noise are Opacus'; the sampling, the randomness
and the record are ours. The party holds labels, its own or randomised ones; no cotangent crosses, and no loss is told,
for a loss is a function of the private rows like any other. The event is what the accountant prices; a case that n
parties hold parts of pays n times (`quiltwork.privacy.ledger`), and `DPPlan.within` takes that into account.

**What it covers.** The released parameters, and all that is computed from them and from other rows. *Not* activations
of the rows that were trained on: sent in a session, h(x_j) is x_j through a known function, however private h is.

**What is refused.** Modules with buffers (batch normalisation, or scaling by the fragment's own mean and deviation):
they take statistics of the rows past the noise. Scale columns by public constants instead. Learners that have trained
before, since nothing is known of what they learned from. A position given twice, which would count a row twice.

**What is presumed.** A module maps each row by itself. One that mixes rows without a buffer (x - mean(x) of a batch, in
a layer of one's own) is not recognised, and has no bound.

**Rows that overflow.** The gradient of a row in which anything is infinite or no number counts as zero: clipping it
gives no number, and a sum that is none would tell that the row is there.

**Randomness.** Sampling, noise and dropout come from a generator of their own, seeded from the operating system's
entropy and never from the session's seed, which all know: whoever draws the noise again subtracts it. A known dropout
mask belongs to a place in the sample, so one row less would give the rows behind it other masks, and the sum would
change by more than C; masks that are drawn in secret may be thought of as the rows' own. Each noise term is a sum of
four draws (Holohan and Braghin 2021, arXiv 2107.10138), against attacks on floating-point noise. The generator is
torch's Mersenne twister, which is statistical and no cipher.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.models.split.component import Component
from quiltwork.models.split.seeds import drawing
from quiltwork.models.split.targets import Target
from quiltwork.privacy.accountant import calibrate_sampled_gaussian
from quiltwork.privacy.events import SampledGaussianEvent


@dataclass(frozen=True)
class DPPlan:
    """How much is sampled, clipped and noised.

    Attributes:
        noise_multiplier: z, the noise's standard deviation over the clipping norm.
        batch: expected rows a step.
        epochs: expected number of times that a row is sampled.
        clip: C, the largest L2 norm of one row's gradient over all parameters of component and head.

    Raises:
        InvalidOption: a value outside its domain.
    """

    noise_multiplier: float
    batch: int = 64
    epochs: int = 10
    clip: float = 1.0

    def __post_init__(self) -> None:
        sound = 0 < self.noise_multiplier < math.inf and 0 < self.clip < math.inf
        if not sound or self.batch < 1 or self.epochs < 1:
            raise InvalidOption(
                f"noise_multiplier={self.noise_multiplier}, clip={self.clip}, batch={self.batch}, epochs={self.epochs}",
                why="they are positive and finite",
                mend="Choose values within.",
            )

    @classmethod
    def within(
        cls,
        epsilon: float,
        delta: float,
        *,
        rows: int,
        batch: int = 64,
        epochs: int = 10,
        clip: float = 1.0,
        parties: int,
    ) -> Self:
        """The least noise with which a case of ``rows`` pays at most epsilon at ``delta``, over all ``parties`` that
        hold a part of it and follow the same plan.

        Raises:
            InvalidOption: a value outside its domain.
            PrivacyError: dp-accounting is needed and not installed.
        """
        draft = cls(1.0, batch, epochs, clip)
        rate, steps = draft.rate(rows), draft.steps(rows)
        noise = calibrate_sampled_gaussian(epsilon, delta, sampling_rate=rate, steps=steps, releases=parties)
        return cls(noise, batch, epochs, clip)

    def rate(self, rows: int) -> float:
        """The probability with which each row enters a step."""
        return min(1.0, self.batch / rows)

    def steps(self, rows: int) -> int:
        """Steps in all."""
        return math.ceil(self.epochs / self.rate(rows))

    def event(self, rows: int) -> SampledGaussianEvent:
        """The record of one training on ``rows`` rows."""
        return SampledGaussianEvent(
            released="component",
            sigma=self.noise_multiplier * self.clip,
            sensitivity=self.clip,
            sampling_rate=self.rate(rows),
            steps=self.steps(rows),
        )


def train_privately(
    component: Component,
    head: Component,
    fragment: Tensor,
    target: Target,
    plan: DPPlan,
    *,
    positions: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> SampledGaussianEvent:
    """Train a component and its head on private rows, in place, and give the record of what that released.

    Args:
        component: the party's; both step by its optimiser plan.
        head: maps its activations to logits.
        fragment: rows ``[n, ...]``, each a function of one case alone.
        target: labels and loss, by position; its loss is a mean over rows.
        plan: sampling, clipping, noise.
        positions: the rows to train on, each once; None for all.
        generator: None for one seeded from the operating system's entropy, as every release must; tests pass one.

    Raises:
        InvalidOption: a module that lets rows past the noise, a learner that has trained before, or a row twice.
        PrivacyError: Opacus is not installed.
    """
    wrapper, wrap = _opacus()
    modules = nn.Sequential(component.module, head.module)
    _require_private(modules, component, head)
    rows = torch.arange(len(fragment)) if positions is None else _distinct(torch.as_tensor(positions))
    drawn = generator or torch.Generator().manual_seed(secrets.randbits(63))
    whole = wrapper(modules, loss_reduction="sum")
    optimiser = wrap(
        component.plan.build([p for p in modules.parameters() if p.requires_grad]),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.clip,
        expected_batch_size=plan.batch,
        generator=drawn,
        secure_mode=True,
    )
    try:
        for _ in range(plan.steps(len(rows))):
            draws = torch.rand(len(rows), generator=drawn, dtype=torch.float64)
            sample = rows[draws < plan.rate(len(rows))]
            with drawing(int(torch.randint(2**63 - 1, (1,), generator=drawn))):
                logits = whole(_leaf(fragment[sample]))
            logits.backward(_summed(target, logits.detach(), sample))
            _silence_overflow(modules)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    finally:
        _unwrap(whole, modules)
    return plan.event(len(rows))


def _distinct(positions: Tensor) -> Tensor:
    if (positions < 0).any() or len(positions.unique()) < len(positions):
        raise InvalidOption(
            "positions",
            why="one is negative or comes twice, and a row that counts twice changes a sum by twice the clipping norm",
            mend="Give each row once, counted from 0.",
        )
    return positions


def _silence_overflow(modules: nn.Module) -> None:
    """Zero the gradients of rows in which anything is not finite."""
    held = (getattr(parameter, "grad_sample", None) for parameter in modules.parameters())
    found = [each for each in held if isinstance(each, Tensor)]
    if not found or not len(found[0]):
        return
    sound = torch.stack([each.reshape(len(each), -1).isfinite().all(1) for each in found]).all(0)
    for each in found:
        each[~sound] = 0.0


def _leaf(rows: Tensor) -> Tensor:
    """Rows as a leaf of the graph where they can be one: hooks on a module whose inputs have no gradient warn."""
    return rows.requires_grad_() if rows.is_floating_point() else rows


def _summed(target: Target, logits: Tensor, sample: Tensor) -> Tensor:
    """Cotangents of the sum of the rows' losses; a sample may be empty, and its step is noise alone."""
    if not len(sample):
        return torch.zeros_like(logits)
    return target.answer(logits, sample)[0] * len(sample)


def _require_private(modules: nn.Module, component: Component, head: Component) -> None:
    from opacus.validators import ModuleValidator

    buffers = [name for name, _ in modules.named_buffers()]
    faults = [str(fault) for fault in ModuleValidator.validate(modules, strict=False)]
    if buffers or faults:
        raise InvalidOption(
            f"component '{component.name}'",
            why=f"it takes statistics of the rows past the noise: {', '.join(buffers or faults)[:500]}",
            mend="Leave out normalisation over rows, and scale columns by public constants before they come in.",
        )
    if not any(p.requires_grad for p in modules.parameters()) or head.plan != component.plan:
        raise InvalidOption(
            f"component '{component.name}' and its head",
            why="they have nothing to train, or step by different plans",
            mend="Give both the same optimiser plan.",
        )
    if component.trained or head.trained:
        raise InvalidOption(
            f"component '{component.name}'",
            why="it or its head has trained before, and what it learned from is in no record",
            mend="Build it anew from its seed.",
        )


def _unwrap(whole: Any, modules: nn.Module) -> None:
    """Leave the modules as plain as they came."""
    whole.remove_hooks()
    for parameter in modules.parameters():
        parameter.grad = None
        for name in ("grad_sample", "summed_grad"):
            if hasattr(parameter, name):
                delattr(parameter, name)


def _opacus() -> tuple[Any, Any]:
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer
    except ImportError as error:
        raise PrivacyError(
            "training with record-level privacy",
            why="the package opacus, which clips and noises gradients, is not installed",
            mend="Install quiltwork[dp].",
        ) from error
    return GradSampleModule, DPOptimizer
