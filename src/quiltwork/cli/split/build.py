"""From a plan and its cases to a run: nodes, channel, mode and schedule.

Nothing here is drawn but from seeds keyed by names, so a plan and its files give the same bytes again, and those are
the bytes that `quiltwork.session.split.estimators` gives for the same settings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.audit.tape import Tape
from quiltwork.cli.split import home, parts, summing
from quiltwork.cli.split.modes import crossing, mode, needs_prior, stepping, uniform
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.models.split.released import released_target
from quiltwork.models.split.seeds import seed_of
from quiltwork.models.split.targets import ClassTarget, NumberTarget, Target
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.channel import Channel, LocalChannel, Node, Terms
from quiltwork.session.flower import FlowerChannel
from quiltwork.session.process import ProcessChannel
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.home_node import HomeNode
from quiltwork.session.split.label_node import LabelNode
from quiltwork.session.split.labels import Labels, OwnLabels, PartyLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.records import Events
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms, label_terms


@dataclass(frozen=True)
class Started:
    """A run that is ready.

    Attributes:
        run: the run.
        components: at its parties' ends, by party; none where those are other processes.
        tape: of all that is said; None where none is kept.
    """

    run: SplitRun
    components: Mapping[str, Component]
    tape: Tape | None


def parted(plan: Plan, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and to hold out, sorted."""
    held = round(rows * plan.training.held_out)
    order = np.random.default_rng(seed_of(plan.training.seed, "held out")).permutation(rows).astype(np.int64)
    return np.sort(order[held:]), np.sort(order[:held])


def component(
    plan: Plan, party: str, columns: Sequence[str], training_rows: Tensor, root: Path, trusted: Collection[str]
) -> Component:
    """A party's component as it is before the first round.

    Args:
        plan: what learns.
        party: whose.
        columns: their names.
        training_rows: float32 ``[n, p]``, for the scales of columns.
        root: the plan's directory.
        trusted: whose own code may run.

    Raises:
        InvalidOption: as `parts.component`.
    """
    build = parts.component(plan, party, columns, training_rows, root, trusted)
    return Component.built(build, stepping(plan), name=party, seed=plan.training.seed, stash=plan.training.stale)


def node(
    plan: Plan, learner: Component, rows: Tensor, train: NDArray[np.int64], target: Target | None, folder: Path | None
) -> ComponentNode | HomeNode:
    """A party's end: of a component that learns over the channel, or of one that is trained at home, here and now.

    Args:
        plan: of what.
        learner: the party's component.
        rows: float32 ``[n, p]``, all its rows.
        train: int64, positions to train on.
        target: the released labels, for training at home; else nothing is done with it.
        folder: where its states go; None keeps none.

    Raises:
        InvalidOption: it is to be trained at home, and there are no released labels.
    """
    if plan.private:
        if target is None:
            raise InvalidOption(
                f"the component of party '{learner.name}'",
                why="it is trained at home, and the released labels are not there",
                mend="Release labels first: `quiltwork split train`, with parties in processes or in one.",
            )
        whole = home.trained(plan, learner.name, learner, rows, target, train)
        return HomeNode(whole, rows, train, folder=folder)
    return ComponentNode(learner, rows, precision=plan.training.precision, folder=folder)


def session(
    plan: Plan,
    cases: Cases,
    root: Path,
    *,
    trusted: Collection[str] = (),
    folder: Path | None = None,
    save_every: int = 0,
    released: ReleasedLabels | None = None,
    channel: ProcessChannel | FlowerChannel | None = None,
    taped: bool = False,
) -> Started:
    """A run that is ready to train.

    Args:
        plan: of what.
        cases: the rows.
        root: the plan's directory.
        trusted: whose own code may run.
        folder: where states for resuming go; None keeps none.
        save_every: rounds between them.
        released: labels to train on in place of the cases' own.
        channel: to parties in processes of their own, here or elsewhere; None makes them in this one.
        taped: whether to keep every message.
    """
    train, _ = parted(plan, len(cases))
    target = target_of(cases.labels, cases.classes, train, released)
    how = plan.training
    ends = {} if channel is not None else _nodes(plan, cases, target, root, trusted, folder)
    line: Channel = channel if channel is not None else _local(plan, ends, target, len(cases))
    tape = Tape(line) if taped else None
    line = tape or line
    labels: Labels = PartyLabels(line, plan.labels.party, target.outputs) if plan.labels.party else OwnLabels(target)
    prior = labels.prior() if needs_prior(plan) else uniform(target.outputs)
    schedule = Schedule(train, how.batch_size, 0 if plan.private else how.epochs, how.seed, how.absence)
    spent = () if released is None else (Events(plan.labels.party or "composer", (released.event,)),)
    learned = mode(plan, prior, root, trusted)
    kept: dict[str, Any] = {
        "folder": folder / "composer" if folder else None,
        "save_every": save_every,
        "sealing": None if channel is None else channel.sealing,
        "events": (*spent, *home.events(plan, len(train))),
    }
    if plan.masked:
        live = summing.summed_run(plan, line, learned, labels, schedule, **kept)
    else:
        widths = crossing(plan, target.outputs)
        live = SplitRun(line, learned, labels, schedule, widths, precision=how.precision, stale=how.stale, **kept)
    return Started(live, {party: end.component for party, end in ends.items()}, tape)


def _nodes(
    plan: Plan, cases: Cases, target: Target, root: Path, trusted: Collection[str], folder: Path | None
) -> dict[str, ComponentNode | HomeNode]:
    """The ends of parties that live in this process."""
    train, _ = parted(plan, len(cases))
    found = {}
    for party, rows in cases.fragments.items():
        seen = rows[torch.from_numpy(train)]
        learner = component(plan, party, cases.columns[party], seen, root, trusted)
        found[party] = node(plan, learner, rows, train, target, folder / party if folder else None)
    return found


def _local(plan: Plan, ends: Mapping[str, Node], target: Target, rows: int) -> LocalChannel:
    """A channel to parties that all live in this process, the label party among them."""
    dealt = summing.seated(plan)
    nodes = {party: summing.summand(end, dealt.get(party)) for party, end in ends.items()}
    labels = {plan.labels.party: LabelNode(target, rows)} if plan.labels.party else {}
    return LocalChannel({**nodes, **labels}, words(plan, target.outputs))


def words(plan: Plan, outputs: int) -> dict[str, Terms]:
    """What the composer and each party may say, the label party among them."""
    if plan.masked:
        found = summing.terms(plan)
    else:
        found = {p: component_terms(width, plan.training.precision) for p, width in crossing(plan, outputs).items()}
    return found | ({plan.labels.party: label_terms(outputs)} if plan.labels.party else {})


def answering(plan: Plan, learned: Mode, present: Mapping[str, tuple[Component, Tensor]], outputs: int) -> SplitRun:
    """A run that is only asked: the components that are up, over new rows.

    Args:
        plan: of the run that was trained.
        learned: its mode, restored.
        present: component and rows float32 ``[n, p]``, by party that is up.
        outputs: number of logits.
    """
    dealt = summing.seated(plan)
    nodes = {party: summing.summand(ComponentNode(*own), dealt.get(party)) for party, own in present.items()}
    widths = {party: width for party, width in crossing(plan, outputs).items() if party in present}
    said = summing.terms(plan) if plan.masked else {party: component_terms(width) for party, width in widths.items()}
    channel = LocalChannel(nodes, said)
    nothing: Target = (
        ClassTarget(torch.zeros(1, dtype=torch.int64), outputs)
        if plan.labels.task == "classification"
        else NumberTarget(torch.zeros(1))
    )
    schedule = Schedule(np.zeros(1, dtype=np.int64), 1, 0, plan.training.seed)
    if plan.masked:
        return summing.summed_run(plan, channel, learned, OwnLabels(nothing), schedule)
    return SplitRun(channel, learned, OwnLabels(nothing), schedule, widths)


def target_of(
    labels: Tensor, classes: Sequence[str] | None, train: NDArray[np.int64], released: ReleasedLabels | None = None
) -> Target:
    """Labels ``[n]`` of the training rows alone: those held out are marked as having none."""
    if released is not None:
        return released_target(released)
    known = torch.zeros(len(labels), dtype=torch.bool)
    known[torch.from_numpy(train)] = True
    if classes is None:
        return NumberTarget(torch.where(known, labels, torch.nan))
    return ClassTarget(torch.where(known, labels, -1), len(classes))
