"""All parties of a plan in processes of their own, and the states that they save themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from quiltwork.cli.split.build import parted, words
from quiltwork.cli.split.owner import LabelOwner, Owner
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import LABELS, Cases
from quiltwork.cli.split.summing import owners_of, seated
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.frames import Kind, Message
from quiltwork.session.process import ProcessChannel, Start
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.words import SAVE

_START, _A_DAY = 120.0, 86_400.0


def processes(
    plan: Plan, cases: Cases, root: Path, trusted: tuple[str, ...], states: Path, released: ReleasedLabels | None = None
) -> ProcessChannel:
    """Start a sealed process for each party, the label party among them.

    Args:
        plan: of what.
        cases: the agreed order and the classes.
        root: the plan's directory.
        trusted: whose own code may run.
        states: where each party with a component gets a folder of its own.
        released: labels to train on in place of the cases' own.

    Raises:
        LostParty: one did not get ready; its own output is beside its folder, in ``<party>.txt``.
    """
    dealt = seated(plan)
    starts: dict[str, Start] = {
        party: replace(owner(plan, cases, party, (root, trusted, states / party), released), seat=dealt.get(party))
        for party in sorted(plan.parties)
    }
    if plan.labels.party:
        train, _ = parted(plan, len(cases))
        starts[plan.labels.party] = LabelOwner(plan, root, cases.order[LABELS], train, released)
    outputs = 1 if cases.classes is None else len(cases.classes)
    # a party that trains at home is silent until it is done; that it has ended is seen at once
    patience = _A_DAY if plan.private else max(_START, plan.training.timeout)
    return ProcessChannel(
        starts, words(plan, outputs), timeout=plan.training.timeout, start_timeout=patience, folder=states
    )


def owner(
    plan: Plan,
    cases: Cases,
    party: str,
    places: tuple[Path, tuple[str, ...], Path],
    released: ReleasedLabels | None = None,
) -> Owner:
    """What one party's process begins with; ``places`` are the plan's directory, whose code may run, and its folder."""
    root, trusted, folder = places
    folder.mkdir(parents=True, exist_ok=True)
    train, _ = parted(plan, len(cases))
    return Owner(
        plan, party, root, cases.columns[party], cases.order[party], train, trusted, folder,
        released if plan.private else None,
    )  # fmt: skip


def saved(run: SplitRun, states: Path) -> dict[str, Path]:
    """Have each party save its component, and say where; said after the records were taken, as the farewells are."""
    for party in run.parties:
        run.channel.call(party, Message(Kind.STATE, run.round, np.array([SAVE], dtype=np.int64)))
    return {party: states / party / f"round-{run.round}.safetensors" for party in owners_of(run)}
