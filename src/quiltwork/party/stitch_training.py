"""The owner's verb for stitches: adapters between published networks are trained on the owner's inputs, and leave.

    published networks, splices  ->  adapters from  1. stitches of an owner before  2. statistics of owners  3. own
    inputs
                                 ->  AdamW on the adapters alone  ->  one contribution of kind ``stitches``

Networks stay as they were published, so that whoever composes has them already: only adapters leave, a few thousand
numbers. Owners take turns by going on from each other's stitches (``start``), each on its own inputs; what went in is
listed, so that it can be left out again when its owner leaves. Where an owner has no labels, ``loss="penultimate"``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quiltwork.contribution.networks import ModuleReference, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.stitching import StitchesMethod, StitchStatisticsMethod, StitchTraining
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import CompatibilityError, InvalidOption
from quiltwork.files import require_absent
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.network import Network
from quiltwork.models.network.opening import open_network
from quiltwork.models.network.pair_moments import PairStatistics, merge
from quiltwork.models.network.splices import Splice
from quiltwork.models.network.stitched import require_one_task
from quiltwork.models.network.stitches import (
    adapter_tensors,
    fitted_adapters,
    read_pair_statistics,
    read_stitches,
    splice_records,
)
from quiltwork.party.examples import Examples
from quiltwork.party.network_task import require_task
from quiltwork.party.pair_statistics import StatisticsOrder, unreleased_statistics
from quiltwork.party.software import versions
from quiltwork.party.steps import StepPlan, optimise
from quiltwork.party.stitch_losses import LossName, loss_of
from quiltwork.privacy.events import Event, ExactEvent

Pair = tuple[str, str]


@dataclass(frozen=True)
class StitchOrder:
    """What is trained, and what leaves.

    Attributes:
        party: name of the owner.
        splices: where networks are joined; empty where the stitches of an owner before say it.
        loss: ``"task"`` with labels, ``"penultimate"`` without; see `quiltwork.party.stitch_losses`.
        plan: steps and rates.
        ridge: strength of the fit that training starts from; None: the best on held-out rows.
        double: the double batch, where splices lie behind each other.
        report_losses: tell the loss at the first and at the last step; both are functions of private rows.
        licence: of the contribution.
        card: free text.
    """

    party: str
    splices: Sequence[Splice] = ()
    loss: LossName = "task"
    plan: StepPlan = field(default_factory=StepPlan)
    ridge: float | None = None
    double: bool = True
    report_losses: bool = False
    licence: str = "LicenseRef-unstated"
    card: str = ""


class Start(NamedTuple):
    """What training starts from: splices, adapters, and the contributions whose numbers they hold."""

    splices: tuple[Splice, ...]
    adapters: tuple[tuple[Adapter, ...], ...]
    rests_on: tuple[str, ...]


def contribute_stitches(
    published: Sequence[Contribution],
    examples: Examples,
    target: str | Path,
    order: StitchOrder,
    *,
    start: Contribution | None = None,
    statistics: Sequence[Contribution] = (),
    state: Path | None = None,
    overwrite: bool = False,
    show: bool = False,
) -> Contribution:
    """Train stitches on an owner's inputs, and write them.

    Args:
        published: contributions of kind ``module``, one a party, of one task.
        examples: the owner's inputs; labels for ``loss="task"``.
        target: directory to make.
        order: what is trained.
        start: stitches that an owner before trained, to go on from.
        statistics: contributions about pairs of these networks, to start from; without any, the owner's own inputs give
            the same regression, which does not leave as such.
        state: file to keep the state in, so that an interrupted run goes on; removed when done.
        overwrite: replace an existing contribution.
        show: a progress line on standard error.

    Raises:
        CompatibilityError: networks, inputs, statistics or stitches that do not belong together.
        ContributionError: a network is not the one that its contribution declares.
        FragmentError: labels are needed, and there are none.
        InvalidOption: splices that are not possible, or training that diverges.
        Interrupted: stopped by the user; the same call goes on if a state is kept.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    networks = {one.party: open_network(one) for one in sorted(published, key=lambda one: one.party)}
    begun = _begin(networks, examples, order, start, statistics)
    losses = train_stitches(networks, begun.splices, begun.adapters, examples, order, state=state, show=show)
    draft = _draft(networks, begun, examples, order, losses)
    contribution = write(target, draft, overwrite=overwrite)
    if state is not None:
        state.unlink(missing_ok=True)
    return contribution


def train_stitches(
    networks: Mapping[str, Network],
    splices: Sequence[Splice],
    adapters: Sequence[Sequence[Adapter]],
    examples: Examples,
    order: StitchOrder,
    *,
    state: Path | None = None,
    show: bool = False,
) -> list[float]:
    """Train adapters in place; nothing is written but the state.

    Returns:
        the loss of each step.

    Raises:
        TaskMismatch: networks or inputs are of other tasks.
        FragmentError, InvalidOption, Interrupted: as `contribute_stitches`.
    """
    require_one_task(networks)
    task = TaskReference.of(next(iter(networks.values())).signature)
    require_task(examples, task, labelled=order.loss == "task")
    loss = loss_of(order.loss, networks, splices, adapters, double=order.double)
    trained = {
        f"{s}.{k}.{name}": tensor
        for s, row in enumerate(adapters)
        for k, adapter in enumerate(row)
        for name, tensor in adapter.named_parameters()
    }
    labels = None if examples.labels is None else torch.from_numpy(examples.labels)

    def step(rows: Tensor) -> Tensor:
        inputs = np.ascontiguousarray(examples.values[rows.numpy()], dtype=np.float32)
        return loss(torch.from_numpy(inputs), None if labels is None else labels[rows])

    subject = _subject(networks, splices, trained, examples, order)
    plan, size = order.plan, len(examples)
    return optimise(trained, step, size, plan, state=state, subject=subject, label="stitches", show=show)


def _subject(
    networks: Mapping[str, Network],
    splices: Sequence[Splice],
    trained: Mapping[str, Tensor],
    examples: Examples,
    order: StitchOrder,
) -> str:
    """All that a state must share with the run that goes on from it."""
    running = hashlib.sha256(repr(([n.digest for n in networks.values()], splices, order.loss, order.double)).encode())
    for tensor in trained.values():
        running.update(tensor.detach().numpy().tobytes())
    running.update(examples.values.tobytes())
    return running.hexdigest()


def _begin(
    networks: Mapping[str, Network],
    examples: Examples,
    order: StitchOrder,
    start: Contribution | None,
    statistics: Sequence[Contribution],
) -> Start:
    if start is not None and statistics:
        raise InvalidOption(
            "statistics", why="stitches to go on from are given too, and they begin where these ended", mend="Give one."
        )
    if start is not None:
        return _going_on(networks, order, start)
    if not order.splices:
        raise InvalidOption(
            "splices", why="there are none", mend="Say where networks are joined, or give stitches to go on from."
        )
    splices = tuple(order.splices)
    if not statistics:
        return Start(splices, fitted_adapters(networks, splices, _own(networks, splices, examples), order.ridge), ())
    merged = _merged(networks, statistics)
    rests_on = tuple(sorted({one.digest for one in statistics}))
    return Start(splices, fitted_adapters(networks, splices, merged, order.ridge), rests_on)


def _going_on(networks: Mapping[str, Network], order: StitchOrder, start: Contribution) -> Start:
    found = read_stitches(start)
    if order.splices and tuple(order.splices) != found.splices:
        raise CompatibilityError(
            f"the stitches of party '{start.party}'",
            why="they join the networks at other places than are asked for",
            mend="Leave the splices out, to go on from these, or start anew.",
        )
    rests_on = tuple(sorted({start.digest, *found.rests_on}))
    return Start(found.splices, found.adapters(networks), rests_on)


def _merged(networks: Mapping[str, Network], statistics: Sequence[Contribution]) -> dict[Pair, PairStatistics]:
    """Sums of all owners, by the pair of parties."""
    groups: dict[Pair, list[PairStatistics]] = {}
    for one in sorted(statistics, key=lambda one: one.digest):
        method = one.manifest.method
        held = read_pair_statistics(one)
        assert isinstance(method, StitchStatisticsMethod)
        for reference in method.about:
            if reference.party not in networks or networks[reference.party].digest != reference.digest:
                raise CompatibilityError(
                    f"the statistics of party '{one.party}'",
                    why=f"they are about another network of party '{reference.party}' than the one that is given",
                    mend="Ask for statistics about the networks as they are published now.",
                )
        groups.setdefault((method.a.party, method.b.party), []).append(held)
    return {pair: merge(found) for pair, found in groups.items()}


def _own(networks: Mapping[str, Network], splices: Sequence[Splice], examples: Examples) -> dict[Pair, PairStatistics]:
    """Regression statistics of the owner's own inputs, at the points of the splices."""
    wanted: dict[Pair, tuple[set[str], set[str]]] = {}
    for splice in splices:
        for source in splice.sources:
            a, b = sorted((source, splice.into))
            points = wanted.setdefault((a.party, b.party), (set(), set()))
            points[0].add(a.point)
            points[1].add(b.point)
    found = {}
    for (a_party, b_party), (points_a, points_b) in wanted.items():
        order = StatisticsOrder("own", sorted(points_a), sorted(points_b), largest_grid=None)
        found[a_party, b_party] = unreleased_statistics(networks[a_party], networks[b_party], examples, order)
    return found


def _draft(
    networks: Mapping[str, Network], begun: Start, examples: Examples, order: StitchOrder, losses: Sequence[float]
) -> Draft:
    plan, told = order.plan, order.report_losses
    training = StitchTraining(
        loss=order.loss,
        rows=len(examples),
        steps=plan.steps,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        loss_first=losses[0] if told else None,
        loss_last=losses[-1] if told else None,
        software=versions("quiltwork", "numpy", "torch"),
    )
    events: list[Event] = [ExactEvent(released="stitches", unit="row", note="trained without differential privacy")]
    if told:
        events.append(ExactEvent(released="training", unit="row", note="first and last training loss"))
    first = next(iter(networks.values()))
    return Draft(
        party=order.party,
        method=StitchesMethod(
            networks=tuple(ModuleReference(party=party, digest=n.digest) for party, n in networks.items()),
            splices=splice_records(networks, begun.splices),
            rests_on=begun.rests_on,
            training=training,
        ),
        tensors=adapter_tensors(begun.adapters),
        licence=order.licence,
        task=TaskReference.of(first.signature),
        privacy=events,
        card=order.card,
    )
