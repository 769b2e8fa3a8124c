"""What an owner is shown of a contribution that was just written, whatever its kind."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.cli.inputs import print_json, say

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution


def show(contribution: Contribution, out: Path, sealing: str, *, json: bool) -> None:
    """Everything it declares as JSON on standard output, or a note with its size, its name and what to do next."""
    from quiltwork.contribution.describe import describe

    if json:
        print_json(describe(contribution) | {"path": str(out), "confinement": sealing})
        return
    _tell(contribution, out)


def show_each(contributions: Sequence[Contribution], sealing: str, *, json: bool) -> None:
    """The same of several that were written side by side; as JSON, a list."""
    from quiltwork.contribution.describe import describe

    if json:
        print_json([describe(one) | {"path": str(one.path), "confinement": sealing} for one in contributions])
        return
    for one in contributions:
        _tell(one, one.path)


def _tell(contribution: Contribution, out: Path) -> None:
    say(f"wrote {out}: {contribution.bytes:,} bytes, {contribution.digest}")
    say(f"look at it before it leaves: quiltwork inspect {shlex.quote(str(out))}")
