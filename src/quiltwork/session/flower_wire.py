"""What Flower carries for a session: its messages, and the package itself, imported when its reports home are off.

    query.frames   {"frames": ConfigRecord {"bytes": [frame, ...]}}   answered by as many frames, in the same form
    query.name     {}                                                 answered {"name": ConfigRecord {"party": name}}
    no answer      ``Error`` of one fixed code, without words

Anything beside or instead of that is refused on both sides.

Flower reports its use to its makers, and asks them for newer versions, unless the environment says otherwise when it is
imported; `flower` says so first. A program that imports Flower earlier, such as Flower's own commands, needs
``FLWR_TELEMETRY_ENABLED=0`` and ``FLWR_DISABLE_UPDATE_CHECK=1`` in its environment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from quiltwork.errors import InvalidOption

FRAMES, NAME = "query.frames", "query.name"
"""The two types of message."""

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""What the environment must say."""

ENDED = 2
"""What Flower itself answers for an app that raised, but without the app's words."""

_PLACES = {FRAMES: ("frames", "bytes"), NAME: ("name", "party")}


def flower() -> Any:
    """The package ``flwr``, imported when its reports and questions home are off.

    Raises:
        InvalidOption: it is not installed.
    """
    os.environ.update(QUIET)
    try:
        import flwr.app
        import flwr.clientapp
    except ImportError as error:
        raise InvalidOption(
            "a session over Flower",
            why="the package flwr is not installed",
            mend="Install quiltwork[flower]; its requirements are narrow, so give it an environment of its own.",
        ) from error
    return flwr


def short(kind: str) -> str:
    """A type of message as an app registers it."""
    return kind.partition(".")[2]


def frames_content(frames: Sequence[bytes]) -> Any:
    """The content of a message that carries frames."""
    return _content(FRAMES, list(frames))


def name_content(party: str) -> Any:
    """The content of an answer that tells a party's name."""
    return _content(NAME, party)


def frames_of(message: Any) -> list[bytes] | None:
    """The frames of a message, at least one; None where its content is anything else."""
    found = _only(message, FRAMES)
    fits = isinstance(found, list) and found and all(isinstance(frame, bytes) for frame in found)
    return list(found) if fits else None


def name_of(message: Any) -> str | None:
    """The party that a node says it is; None where its content is anything else."""
    found = _only(message, NAME)
    return found if isinstance(found, str) else None


def _content(kind: str, value: Any) -> Any:
    package, (record, field) = flower(), _PLACES[kind]
    return package.app.RecordDict({record: package.app.ConfigRecord({field: value})})


def _only(message: Any, kind: str) -> Any:
    """The one value of the one record that a message of the kind may hold."""
    name, field = _PLACES[kind]
    if message.has_error() or list(message.content) != [name]:
        return None
    record = message.content[name]
    if not isinstance(record, flower().app.ConfigRecord) or list(record) != [field]:
        return None
    return record[field]
