"""The run under audit: its directory, its plan and its facts, and what can be restored or read from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from quiltwork.audit.facts import Facts
from quiltwork.cli.split.folder import RunNote, restored_component, restored_mode
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import Cases, read_cases
from quiltwork.models.split.component import Component
from quiltwork.session.split.mode import Mode


@dataclass(frozen=True)
class Subject:
    """A run under audit.

    Attributes:
        run: its directory.
        plan: of it.
        note: its run.json.
        facts: its records.
        root: the plan's directory.
        trusted: whose own code may run.
    """

    run: Path
    plan: Plan
    note: RunNote
    facts: Facts
    root: Path
    trusted: Sequence[str]

    def mode(self) -> Mode:
        """As it was after the last round; raises as `restored_mode`."""
        return restored_mode(self.run, self.plan, self.note, self.root, self.trusted)

    def component(self, party: str) -> Component:
        """As it was after the last round; raises as `restored_component`."""
        return restored_component(self.run, self.plan, self.note, party, self.root, self.trusted)

    @cached_property
    def cases(self) -> Cases:
        """Everything that the plan's files say, read when it is first asked for; raises as `read_cases`."""
        return read_cases(self.plan, self.root)
