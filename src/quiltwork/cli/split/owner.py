"""A party in a process of its own: sealed off first, then it opens its own files, and only frames leave it.

    confine    reading: the party's files, and its code where that is trusted; writing: its own folder of states
    open       its columns, in the agreed order, which it is told as row numbers
    serve      its component, or the labels

What it is handed at its start names files and holds no rows. `quiltwork.party.confine` says what the sealing covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from quiltwork.cli.split.build import component, node, target_of
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.plan_parts import CodePart
from quiltwork.cli.split.rows import coded, label_words, read_columns
from quiltwork.cli.split.summing import summand
from quiltwork.models.split.released import released_target
from quiltwork.party.confine import confine
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.process import Sealing, Started
from quiltwork.session.split.label_node import LabelNode

if TYPE_CHECKING:
    from quiltwork.sharing.seats import Seat


@dataclass(frozen=True, eq=False)
class Owner:
    """What a party's process begins with.

    Attributes:
        plan: the whole plan; it names no rows.
        party: whose process it is.
        root: the plan's directory.
        columns: of the fit, in order.
        order: int64 ``[n]``, its row of each agreed case.
        train: int64 ``[t]``, positions to train on, for the scales of its columns.
        trusted: parties whose own code may run.
        folder: where its states go; exists.
        released: randomised labels, for a component that is trained at home.
        seat: its key and the others' names in secure sums; None where there are none.
    """

    plan: Plan
    party: str
    root: Path
    columns: tuple[str, ...]
    order: NDArray[np.int64]
    train: NDArray[np.int64]
    trusted: tuple[str, ...]
    folder: Path
    released: ReleasedLabels | None = None
    seat: Seat | None = None

    def __call__(self) -> Started:
        """Seal, open, train where that is done at home, and stand ready."""
        part = self.plan.parties[self.party]
        own = [self.root / file for file in part.files]
        if isinstance(part.component, CodePart) and self.party in self.trusted:
            own.append(self.root / part.component.file)
        level = confine(own, [self.folder]).level
        values = read_columns(part, self.plan.id, self.root, self.columns).values[self.order]
        rows = torch.from_numpy(values.astype(np.float32))
        seen = rows[torch.from_numpy(self.train)]
        learner = component(self.plan, self.party, self.columns, seen, self.root, self.trusted)
        target = None if self.released is None else released_target(self.released)
        end = node(self.plan, learner, rows, self.train, target, self.folder)
        return Started(summand(end, self.seat), Sealing.of(level))


@dataclass(frozen=True, eq=False)
class LabelOwner:
    """What the label party's process begins with.

    Attributes:
        plan: the whole plan; it names no labels but the classes.
        root: the plan's directory.
        order: int64 ``[n]``, its row of each agreed case.
        train: int64 ``[t]``, positions to train on; the others have no label here.
        released: labels that were randomised, in place of its own, which it then does not open.
    """

    plan: Plan
    root: Path
    order: NDArray[np.int64]
    train: NDArray[np.int64]
    released: ReleasedLabels | None = None

    def __call__(self) -> Started:
        """Seal, open, and stand ready."""
        part = self.plan.labels
        level = confine([] if self.released is not None else [self.root / file for file in part.files], []).level
        if self.released is not None:
            return Started(LabelNode(released_target(self.released), len(self.order)), Sealing.of(level))
        words, _ = label_words(part, self.plan.id, self.root)
        labels, classes, _, _ = coded(part, [words[row] for row in self.order])
        return Started(LabelNode(target_of(labels, classes, self.train), len(self.order)), Sealing.of(level))
