"""The composer of a session whose owners are elsewhere: it has the plan, the labels and the owners' invitations.

    cases      the label files alone; each owner's rows are the same cases, in the order of the ids as text
    channel    over a Flower grid, to a resident of each owner (`quiltwork split host`)
    result     the run directory of `quiltwork split train`, without the components: those stay at their owners

Nothing here opens an owner's file, nor could it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quiltwork.cli.split.build import session, words
from quiltwork.cli.split.folder import plan_digest
from quiltwork.cli.split.invitation import Invitation, ids_digest, read_invitation
from quiltwork.cli.split.owners import saved
from quiltwork.cli.split.plan import Plan, read_plan
from quiltwork.cli.split.programs import note_openings, with_outcomes
from quiltwork.cli.split.rows import LABELS, Cases, coded, label_words
from quiltwork.cli.split.train import released_labels, states_of, write_finished
from quiltwork.errors import InvalidOption, QuiltworkError, StorageError, TableMismatch
from quiltwork.models.split.component import Component
from quiltwork.party.alignment import SameRows, require_equal_counts
from quiltwork.session.flower import FlowerChannel
from quiltwork.session.flower_nodes import addresses
from quiltwork.session.split.run import SplitRun


@dataclass(frozen=True)
class Orders:
    """What a composer is told to do.

    Attributes:
        plan: the plan's file.
        invitations: the folder of what owners handed over.
        out: the run directory to make.
        save_every: rounds between states; 0 for none.
        resume: whether to go on from the last state.
        trusted: whose own code may run here: the program's.
        patience: seconds until all owners' nodes must have shown up.
    """

    plan: Path
    invitations: Path
    out: Path
    save_every: int = 0
    resume: bool = False
    trusted: tuple[str, ...] = ()
    patience: float = 300.0


def plan_apart(path: Path, trusted: tuple[str, ...]) -> Plan:
    """A plan that owners on machines of their own can follow, with the outcomes of its program, as the composer needs.

    Raises:
        InvalidOption: as `owners_plan`, or the program cannot be gone through, or its code is not trusted.
    """
    return with_outcomes(owners_plan(path), path.parent, trusted)


def owners_plan(path: Path) -> Plan:
    """The same as an owner needs it, who has not the program's code, and runs none but the own.

    Raises:
        InvalidOption: as `read_plan`, or it wants what only works where all parties are in one place.
    """
    plan = read_plan(path)
    refused = (
        (plan.align != "same", "align", "no owner sees another's ids", "Match the cases before, and leave align out."),
        (plan.labels.party, "labels.party", "the composer has the labels", "Leave labels.party out."),
        (plan.private, "parties.epsilon", "nothing is trained at home", "Train by `quiltwork split train`."),
    )
    for wrong, key, why, mend in refused:
        if wrong:
            raise InvalidOption(f"plan '{path}', key '{key}'", why=f"over Flower {why}", mend=mend)
    return plan


def train_apart(grid: Any, orders: Orders) -> dict[str, object]:
    """Train by a plan over a Flower grid, and write the run directory.

    Args:
        grid: what Flower hands a ``ServerApp``.
        orders: what to do.

    Returns:
        What `quiltwork split train` prints.

    Raises:
        InvalidOption: a plan or an invitation that cannot be used.
        TableMismatch: an owner's cases are not those of the labels.
        LostParty: a party is not there, or died, fell silent or refused.
        StorageError: the run directory is there already, or the file system refuses.
    """
    plan, data = plan_apart(orders.plan, orders.trusted), orders.plan.read_bytes()
    if orders.out.exists():
        raise StorageError(f"target '{orders.out}'", why="something is already there", mend="Choose another --out.")
    invited = {p: read_invitation(orders.invitations, p, plan_digest(data)) for p in sorted(plan.parties)}
    cases = cases_apart(plan, orders.plan.parent, invited)
    states = states_of(orders.out, data, orders.resume)
    released = released_labels(plan, cases, states)
    started = session(
        plan, cases, orders.plan.parent, trusted=orders.trusted, folder=states, save_every=orders.save_every,
        released=released, channel=_channel(grid, plan, cases, invited, orders.patience),
    )  # fmt: skip
    live = started.run
    try:
        resumed = live.resume() if orders.resume else 0
        note_openings(live)
        live.train()
        places = (orders.out, lambda: _kept_by_owners(live, states))
        result = write_finished(plan, data, cases, (started, released), places, orders.save_every, resumed)
    except BaseException:
        # owners' processes stay until they are told to stop
        with suppress(QuiltworkError):
            live.close()
        raise
    shutil.rmtree(states, ignore_errors=True)
    return result


def _kept_by_owners(live: SplitRun, states: Path) -> dict[str, Component | Path]:
    """Have each owner save its component; the composer gets none."""
    saved(live, states)
    return {}


def cases_apart(plan: Plan, root: Path, invited: Mapping[str, Invitation]) -> Cases:
    """The labels in the agreed order; of the owners' columns only the names.

    Raises:
        FragmentError: a label file cannot be used, or an id appears twice.
        TableMismatch: an owner's cases are not those of the labels.
    """
    found, ids = label_words(plan.labels, plan.id, root)
    require_equal_counts({party: one.cases for party, one in invited.items()} | {LABELS: len(found)})
    order = np.arange(len(found)) if ids is None else SameRows().positions({LABELS: ids})[LABELS]
    agreed = None if ids is None else tuple(ids[row] for row in order)
    for party, one in invited.items():
        if one.ids != (None if agreed is None else ids_digest(agreed, one.keys)):
            raise TableMismatch(
                f"the rows of party '{party}'",
                why="their ids are not those of the labels",
                mend="Match the cases before, so that all files have the same ids.",
            )
    labels, classes, centre, scale = coded(plan.labels, [found[row] for row in order])
    columns = {party: tuple(one.columns) for party, one in invited.items()}
    return Cases({}, columns, labels, classes, centre, scale, agreed, {LABELS: order})


def _channel(grid: Any, plan: Plan, cases: Cases, invited: Mapping[str, Invitation], patience: float) -> FlowerChannel:
    outputs = 1 if cases.classes is None else len(cases.classes)
    return FlowerChannel(
        grid, addresses(grid, invited, timeout=patience), words(plan, outputs),
        {party: one.keys for party, one in invited.items()}, timeout=plan.training.timeout, longest_wait=0.5,
        sealing={party: one.sealing for party, one in invited.items()},
    )  # fmt: skip
