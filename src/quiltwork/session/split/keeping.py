"""The composer's states on disk, and the agreement with the parties' own.

Every so many rounds all parties save their components, then the composer saves what it learns, and last of all the
note that says which round counts. Whoever dies in between finds the round before whole at everybody: each keeps two.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quiltwork.errors import InvalidOption
from quiltwork.files import write_file
from quiltwork.models.split.component import Component
from quiltwork.models.split.saving import load_component, save_component

NOTE = "state.json"


class Keeping:
    """States of a composer in a folder.

    Args:
        folder: where; made as needed.
        plan: what a state must have in common with the run that goes on from it.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self._folder, self._plan = folder, dict(plan)

    def save(
        self,
        round_: int,
        learners: Mapping[str, Component],
        digests: Mapping[str, str],
        losses: list[Mapping[str, float]],
    ) -> None:
        """Save the learners of a round, then the note, then drop what is older than the state before.

        Raises:
            StorageError: the file system refuses.
        """
        for learner in learners.values():
            save_component(learner, self._path(round_, learner))
        note = {"round": round_, "plan": self._plan, "digests": dict(digests), "losses": [dict(x) for x in losses]}
        self._write(note)
        saved = sorted(self._folder.glob("round-*"), key=lambda p: int(p.name.split("-")[1]))
        for old in saved[:-2]:
            shutil.rmtree(old)

    def load(self, learners: Mapping[str, Component]) -> dict[str, Any] | None:
        """Put the learners back to the round that counts, and give its note; None where there is none.

        Raises:
            InvalidOption: the state is of another run, or cannot be read.
        """
        if not (self._folder / NOTE).exists():
            return None
        try:
            note: dict[str, Any] = json.loads((self._folder / NOTE).read_text())
            plan, round_ = note["plan"], int(note["round"])
        except (ValueError, LookupError, TypeError) as error:
            raise _foreign(self._folder, f"its {NOTE} is not one that was written here") from error
        if plan != self._plan:
            changed = sorted(k for k in {*plan, *self._plan} if plan.get(k) != self._plan.get(k))
            raise _foreign(self._folder, f"it belongs to a run with another {', '.join(changed)}")
        for learner in learners.values():
            load_component(learner, self._path(round_, learner))
        return note

    def forget(self, party: str, learners: Iterable[Component]) -> None:
        """Drop everything about a party that has left: its learners' states, its digests and losses.

        Raises:
            StorageError: the file system refuses.
        """
        for learner in learners:
            for path in self._folder.glob(f"round-*/{_file(learner)}"):
                path.unlink()
        if (self._folder / NOTE).exists():
            note = json.loads((self._folder / NOTE).read_text())
            for by_party in (note["digests"], *note["losses"]):
                by_party.pop(party, None)
            self._write(note)

    def _write(self, note: dict[str, Any]) -> None:
        write_file(self._folder / NOTE, json.dumps(note, indent=1, sort_keys=True), private=True)

    def _path(self, round_: int, learner: Component) -> Path:
        return self._folder / f"round-{round_}" / _file(learner)


def _file(learner: Component) -> str:
    # a learner's name may hold anything, and is no name of a file
    return f"{hashlib.sha256(learner.name.encode()).hexdigest()[:16]}.safetensors"


def _foreign(folder: Path, why: str) -> InvalidOption:
    return InvalidOption(f"state folder '{folder}'", why=why, mend="Use that run's settings, or start in a new folder.")
