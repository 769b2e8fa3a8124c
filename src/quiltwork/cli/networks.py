"""What several verbs do with composed networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import NetworkComposite
    from quiltwork.contribution.sealed import Contribution


def is_network(directory: Path) -> bool:
    """Whether a directory holds composed networks; False for every other model.

    Raises:
        CheckpointError: it holds provenance that cannot be read.
    """
    from quiltwork.composite import PROVENANCE, saved_kind

    return (directory / PROVENANCE).is_file() and saved_kind(directory) == "network"


def open_network(directory: Path) -> NetworkComposite:
    """Composed networks.

    Raises:
        InvalidOption: the directory holds something else, or nothing.
        CheckpointError: a file in it was changed.
    """
    from quiltwork.compose.reopen import open_network_composite

    if not is_network(directory):
        raise InvalidOption(
            f"model '{directory}'",
            why="it holds no composed networks",
            mend="Name a directory that quiltwork compose wrote with one of its methods for networks.",
        )
    return open_network_composite(directory)


def told(composite: NetworkComposite, out: Path, given: Sequence[Contribution] = ()) -> dict[str, Any]:
    """Say what was written, what was found, and what of ``given`` is not in it; what quiltwork.json says of it."""
    say(f"wrote {out}: {composite.method.name} of {', '.join(composite.parties)}")
    for contribution in given:
        if contribution not in composite.contributions:
            what = f"{contribution.kind} of {contribution.party} ({contribution.digest[:19]}…)"
            say(f"set aside: {what}, which stands on a module or a contribution that is not given")
    for note in composite.solution.notes:
        say(f"note: {note}")
    return composite.to_json() | {"path": str(out)}


def readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """What quiltwork.json says, in the words and the order that people read."""
    task = result["task"]
    gives = ", ".join(task["classes"]) if task["classes"] else f"{task['outputs']} numbers"
    return {
        "method": {"name": result["method"], **result["options"]},
        "takes": f"{' x '.join(map(str, task['shape']))} in {task['units']}",
        "gives": gives,
        "contributions": [f"{c['party']}: {c['kind']}, {c['licence']}, {c['digest']}" for c in result["contributions"]],
        "found": result["figures"],
        "notes": result["notes"],
        "digest": result["digest"],
    }
