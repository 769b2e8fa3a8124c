"""All parties of a plan in processes of their own, and the states that they save themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quiltwork.cli.split.build import component_words, parted
from quiltwork.cli.split.owner import Owner
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases
from quiltwork.session.frames import Kind, Message
from quiltwork.session.process import ProcessChannel
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.words import SAVE


def processes(plan: Plan, cases: Cases, root: Path, trusted: tuple[str, ...], states: Path) -> ProcessChannel:
    """Start a sealed process for each party; ``states`` is where each gets a folder of its own.

    Raises:
        LostParty: one did not get ready; its own output is beside its folder, in ``<party>.txt``.
    """
    train, _ = parted(plan, len(cases))
    starts = {}
    for party in sorted(plan.parties):
        (states / party).mkdir(exist_ok=True)
        order, columns = cases.order[party], cases.columns[party]
        starts[party] = Owner(plan, party, root, columns, order, train, trusted, states / party)
    return ProcessChannel(starts, component_words(plan), timeout=plan.training.timeout, folder=states)


def saved(run: SplitRun, states: Path) -> dict[str, Path]:
    """Have each party save its component, and say where; said after the records were taken, as the farewells are."""
    found = {}
    for party in run.parties:
        run.channel.call(party, Message(Kind.STATE, run.round, np.array([SAVE], dtype=np.int64)))
        found[party] = states / party / f"round-{run.round}.safetensors"
    return found
