"""A party in a process of its own: sealed off first, then it opens its own files, and only frames leave it.

    confine    reading: the party's files, and its code where that is trusted; writing: its own folder of states
    open       its columns, in the agreed order, which it is told as row numbers
    serve      its component

What it is handed at its start names files and holds no rows. `quiltwork.party.confine` says what the sealing covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from quiltwork.cli.split.build import components
from quiltwork.cli.split.plan import CodePart, Plan
from quiltwork.cli.split.rows import read_columns
from quiltwork.party.confine import confine
from quiltwork.session.process import Sealing, Started
from quiltwork.session.split.component_node import ComponentNode


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
    """

    plan: Plan
    party: str
    root: Path
    columns: tuple[str, ...]
    order: NDArray[np.int64]
    train: NDArray[np.int64]
    trusted: tuple[str, ...]
    folder: Path

    def __call__(self) -> Started:
        """Seal, open, and stand ready."""
        part = self.plan.parties[self.party]
        own = [self.root / file for file in part.files]
        if isinstance(part.component, CodePart) and self.party in self.trusted:
            own.append(self.root / part.component.file)
        level = confine(own, [self.folder]).level
        values = read_columns(part, self.plan.id, self.root, self.columns).values[self.order]
        rows = torch.from_numpy(values.astype(np.float32))
        seen = {self.party: rows[torch.from_numpy(self.train)]}
        learner = components(self.plan, seen, self.root, self.trusted)[self.party]
        node = ComponentNode(learner, rows, precision=self.plan.training.precision, folder=self.folder)
        return Started(node, Sealing.of(level))
