"""From a plan and its cases to a run: nodes, channel, mode and schedule.

Nothing here is drawn but from seeds keyed by names, so a plan and its files give the same bytes again, and those are
the bytes that `quiltwork.session.split.estimators` gives for the same settings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.cli.split import parts
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.released import released_target
from quiltwork.models.split.seeds import seed_of
from quiltwork.models.split.targets import ClassTarget, NumberTarget, Target
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.channel import Channel, LocalChannel, Node, Terms
from quiltwork.session.process import ProcessChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.labels import Labels, OwnLabels, PartyLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.outputs import Composition, Mean, Median, Product
from quiltwork.session.split.records import Events
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms, label_terms


@dataclass(frozen=True)
class Started:
    """A run, and the components at its parties' ends, by party; none where those are other processes."""

    run: SplitRun
    components: Mapping[str, Component]


def parted(plan: Plan, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and to hold out, sorted."""
    held = round(rows * plan.training.held_out)
    order = np.random.default_rng(seed_of(plan.training.seed, "held out")).permutation(rows).astype(np.int64)
    return np.sort(order[held:]), np.sort(order[:held])


def components(
    plan: Plan, training_rows: Mapping[str, Tensor], root: Path, trusted: Collection[str]
) -> dict[str, Component]:
    """Each party's component as it is before the first round.

    Args:
        plan: what learns.
        training_rows: float32 ``[n, p]`` by party; parties that are not among them get none.
        root: the plan's directory.
        trusted: parties whose own code may run.
    """
    found = {}
    for party, rows in training_rows.items():
        build = parts.component(plan.parties[party].component, party, rows, root, trusted)
        found[party] = Component.built(
            build, stepping(plan), name=party, seed=plan.training.seed, stash=plan.training.stale
        )
    return found


def mode(plan: Plan, outputs: int, prior: Tensor) -> Mode:
    """The plan's mode over all its parties; ``prior`` of classes counts in a product of experts only."""
    seed, classes = plan.training.seed, plan.labels.task == "classification"
    if plan.training.mode == "joint":
        widths = plan.widths
        one = Component.built(
            lambda: parts.composer(plan.composer, list(widths.values()), outputs),
            stepping(plan), name="composer", seed=seed,
        )  # fmt: skip
        return Joint(one, widths, classes=classes)
    heads = {p: _head(plan, p, width, outputs) for p, width in plan.widths.items()}
    return Isolated(heads, _composition(plan, prior), classes=classes)


def session(
    plan: Plan,
    cases: Cases,
    root: Path,
    *,
    trusted: Collection[str] = (),
    folder: Path | None = None,
    save_every: int = 0,
    released: ReleasedLabels | None = None,
    channel: ProcessChannel | None = None,
) -> Started:
    """A run that is ready to train.

    Args:
        plan: of what.
        cases: the rows.
        root: the plan's directory.
        trusted: parties whose own code may run.
        folder: where states for resuming go; None keeps none.
        save_every: rounds between them.
        released: labels to train on in place of the cases' own.
        channel: to parties in processes of their own; None makes them in this one.
    """
    train, _ = parted(plan, len(cases))
    target = target_of(cases, train, released)
    how = plan.training
    learners: dict[str, Component] = {}
    line: Channel
    if channel is None:
        learners = components(plan, {p: x[torch.from_numpy(train)] for p, x in cases.fragments.items()}, root, trusted)
        line = _local(plan, cases, learners, target, folder)
    else:
        line = channel
    labels: Labels = PartyLabels(line, plan.labels.party, target.outputs) if plan.labels.party else OwnLabels(target)
    prior = labels.prior() if needs_prior(plan) else torch.ones(target.outputs).double() / target.outputs
    schedule = Schedule(train, how.batch_size, how.epochs, how.seed, how.absence)
    live = SplitRun(
        line, mode(plan, target.outputs, prior), labels, schedule, plan.widths,
        precision=how.precision, stale=how.stale, folder=folder / "composer" if folder else None, save_every=save_every,
        sealing=None if channel is None else channel.sealing,
        events=() if released is None else (Events(plan.labels.party or "composer", (released.event,)),),
    )  # fmt: skip
    return Started(live, learners)


def _local(
    plan: Plan, cases: Cases, learners: Mapping[str, Component], target: Target, folder: Path | None
) -> LocalChannel:
    """A channel to parties that all live in this process, the label party among them."""
    precision = plan.training.precision
    nodes: dict[str, Node] = {}
    for party, learner in learners.items():
        own = folder / party if folder else None
        nodes[party] = ComponentNode(learner, cases.fragments[party], precision=precision, folder=own)
    terms = component_words(plan)
    if plan.labels.party:
        nodes[plan.labels.party] = LabelNode(target, len(cases))
        terms[plan.labels.party] = label_terms(target.outputs)
    return LocalChannel(nodes, terms)


def component_words(plan: Plan) -> dict[str, Terms]:
    """What the composer and each component may say."""
    return {p: component_terms(width, plan.training.precision) for p, width in plan.widths.items()}


def answering(plan: Plan, learned: Mode, present: Mapping[str, tuple[Component, Tensor]], outputs: int) -> SplitRun:
    """A run that is only asked: the components that are up, over new rows.

    Args:
        plan: of the run that was trained.
        learned: its mode, restored.
        present: component and rows float32 ``[n, p]``, by party that is up.
        outputs: number of logits.
    """
    nodes = {party: ComponentNode(one, rows) for party, (one, rows) in present.items()}
    widths = {party: plan.widths[party] for party in sorted(present)}
    channel = LocalChannel(nodes, {party: component_terms(width) for party, width in widths.items()})
    nothing: Target = (
        ClassTarget(torch.zeros(1, dtype=torch.int64), outputs)
        if plan.labels.task == "classification"
        else NumberTarget(torch.zeros(1))
    )
    schedule = Schedule(np.zeros(1, dtype=np.int64), 1, 0, plan.training.seed)
    return SplitRun(channel, learned, OwnLabels(nothing), schedule, widths)


def stepping(plan: Plan) -> OptimiserPlan:
    """How every learner of a plan steps."""
    return OptimiserPlan(plan.training.optimiser, plan.training.learning_rate)


def needs_prior(plan: Plan) -> bool:
    """Whether the class frequencies enter: they are one release of the label party."""
    return (
        plan.training.mode == "isolated"
        and plan.labels.task == "classification"
        and plan.composer.outputs in (None, "product")
    )


def _head(plan: Plan, party: str, width: int, outputs: int) -> Component:
    return Component.built(
        lambda: parts.head(plan.composer, width, outputs),
        stepping(plan), name=f"head of {party}", seed=plan.training.seed,
    )  # fmt: skip


def _composition(plan: Plan, prior: Tensor) -> Composition:
    classes = plan.labels.task == "classification"
    if plan.composer.outputs == "median":
        return Median(classes)
    if plan.composer.outputs == "mean" or not classes:
        return Mean(classes)
    return Product(prior, plan.composer.floor)


def target_of(cases: Cases, train: NDArray[np.int64], released: ReleasedLabels | None = None) -> Target:
    """Labels of the training rows alone: those held out are marked as having none."""
    if released is not None:
        return released_target(released)
    known = torch.zeros(len(cases), dtype=torch.bool)
    known[torch.from_numpy(train)] = True
    if cases.classes is None:
        return NumberTarget(torch.where(known, cases.labels, torch.nan))
    return ClassTarget(torch.where(known, cases.labels, -1), len(cases.classes))
