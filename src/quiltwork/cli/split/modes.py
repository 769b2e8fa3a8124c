"""From a plan to its mode: one composer, a head for each party, or a program; and how wide what crosses is.

Where components are trained at home (`quiltwork.cli.split.home`), the head is the party's too: what crosses are its
logits, and the mode's own heads pass them on.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from quiltwork.cli.split import parts
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.programs import program
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.outputs import Composition, Mean, Median, Product
from quiltwork.session.split.program import Programmed


def mode(plan: Plan, prior: Tensor, root: Path, trusted: Collection[str]) -> Mode:
    """The plan's mode over all its parties, as it is before the first round.

    Args:
        plan: of what.
        prior: float64 ``[k]`` for k outputs; of classes, counts in a product of experts only.
        root: the plan's directory.
        trusted: whose own code may run.

    Raises:
        InvalidOption: a program that cannot be built.
    """
    outputs, classes = len(prior), plan.labels.task == "classification"
    if plan.training.mode == "program":
        return Programmed(program(plan, root, trusted), plan.operands, seed=plan.training.seed)
    if plan.training.mode == "joint":
        widths = plan.widths
        one = Component.built(
            lambda: parts.composer(plan.composer, list(widths.values()), outputs),
            stepping(plan), name="composer", seed=plan.training.seed,
        )  # fmt: skip
        return Joint(one, widths, classes=classes)
    passing = {p: Component(nn.Identity(), name=f"output of {p}") for p in plan.widths}
    heads = passing if plan.private else {p: head(plan, p, outputs) for p in plan.widths}
    return Isolated(heads, _composition(plan, prior), classes=classes)


def head(plan: Plan, party: str, outputs: int) -> Component:
    """A party's head in isolated mode."""
    return Component.built(
        lambda: parts.head(plan.composer, plan.widths[party], outputs),
        stepping(plan), name=f"head of {party}", seed=plan.training.seed,
    )  # fmt: skip


def crossing(plan: Plan, outputs: int) -> dict[str, int]:
    """Widths of what parties put out, by party, sorted."""
    return dict.fromkeys(plan.widths, outputs) if plan.private else plan.widths


def stepping(plan: Plan) -> OptimiserPlan:
    """How every learner of a plan steps."""
    return OptimiserPlan(plan.training.optimiser, plan.training.learning_rate)


def needs_prior(plan: Plan) -> bool:
    """Whether the class frequencies enter: they are one release of the label party, with no bound for a record."""
    return (
        plan.training.mode == "isolated"
        and plan.labels.task == "classification"
        and plan.composer.outputs in (None, "product")
        and not plan.private
    )


def uniform(outputs: int) -> Tensor:
    """The prior that says nothing."""
    return torch.ones(outputs, dtype=torch.float64) / outputs


def _composition(plan: Plan, prior: Tensor) -> Composition:
    classes = plan.labels.task == "classification"
    if plan.composer.outputs == "median":
        return Median(classes)
    # stacking takes the place of the mean once there are outputs to fit it to
    if plan.composer.outputs in ("mean", "stacked") or not classes:
        return Mean(classes)
    return Product(prior, plan.composer.floor)
