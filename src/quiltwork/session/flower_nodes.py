"""Flower between machines: the app of an owner's node, which relays, and which node is whose.

    SuperLink  --  SuperNode of the owner  --  ClientApp, a program for each message: `relay_app`
                                                  |  frames
                                               Resident, a process that stays (`quiltwork.session.resident`)

A node's configuration names the party and the socket: ``--node-config 'party="bank" socket="/home/bank/quilt/s"'``.
The app opens no file, holds no key and keeps nothing: frames go through it as they came.

Flower numbers its nodes by itself, so a composer asks each for its party (`addresses`). What a node says of itself is
not proved by that; whoever lies about it has not the party's keys, and its first frame is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from quiltwork.errors import InvalidOption, LostParty
from quiltwork.session.flower_wire import (
    ENDED,
    FRAMES,
    NAME,
    flower,
    frames_content,
    frames_of,
    name_content,
    name_of,
    short,
)
from quiltwork.session.resident import asked

PARTY, SOCKET, TIMEOUT = "party", "socket", "timeout"
"""Keys of a node's configuration; the last may be left out."""


class Nodes(Protocol):
    """What is used of ``flwr.serverapp.Grid`` to find nodes."""

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the nodes that are up."""
        ...

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str | None]:
        """Send; an identifier a message, None for one that was not taken."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """The answers that are in."""
        ...


def relay_app() -> Any:
    """The ``flwr.clientapp.ClientApp`` of an owner's node.

    Returns:
        An app that asks the resident whose socket the node's configuration names. What fails is answered by one code.

    Raises:
        InvalidOption: Flower is not installed.
    """
    package = flower()
    app = package.clientapp.ClientApp()

    @app.query(short(FRAMES))  # type: ignore[untyped-decorator]
    def frames(message: Any, context: Any) -> Any:
        found = _relayed(frames_of(message), context.node_config)
        return _reply(message, None if found is None else frames_content(found))

    @app.query(short(NAME))  # type: ignore[untyped-decorator]
    def name(message: Any, context: Any) -> Any:
        party = context.node_config.get(PARTY)
        return _reply(message, name_content(party) if isinstance(party, str) else None)

    return app


def _relayed(frames: list[bytes] | None, config: Any) -> list[bytes] | None:
    """The resident's answers; None where there is anything but frames to relay, or no answer."""
    if frames is None:
        return None
    try:
        path, timeout = Path(config[SOCKET]), float(config.get(TIMEOUT, 60.0))
        return [asked(path, frame, timeout=timeout) for frame in frames]
    except Exception:
        # an exception's words would cross; the owner's own process tells its owner
        return None


def _reply(message: Any, content: Any) -> Any:
    package = flower()
    return package.app.Message(package.app.Error(ENDED) if content is None else content, reply_to=message)


def addresses(grid: Nodes, parties: Iterable[str], *, timeout: float = 120.0, pause: float = 0.5) -> dict[str, int]:
    """Flower's number of each party's node, by name.

    Args:
        grid: what Flower hands a ``ServerApp``.
        parties: who must be there; nodes of others are left alone.
        timeout: seconds until all must have answered.
        pause: seconds between two looks.

    Raises:
        LostParty: a party's node is not there in time.
        InvalidOption: two nodes say that they are the same party.
    """
    wanted, found = set(parties), dict[str, int]()
    greeted: set[int] = set()
    under_way: list[str] = []
    deadline = time.monotonic() + timeout
    while True:
        under_way += _ask_names(grid, greeted, timeout)
        for reply in grid.pull_messages(under_way) if under_way else ():
            party, node = name_of(reply), int(reply.metadata.src_node_id)
            if party in wanted and found.setdefault(party, node) != node:
                raise _twice(party)
        if not (absent := wanted - found.keys()):
            return found
        if time.monotonic() >= deadline:
            raise _missing(min(absent), timeout)
        time.sleep(pause)


def _ask_names(grid: Nodes, greeted: set[int], timeout: float) -> list[str]:
    """Ask nodes that were not asked yet, and add them to those greeted; the identifiers of the questions."""
    app, order = flower().app, sorted(set(grid.get_node_ids()) - greeted)
    questions = [app.Message(app.RecordDict(), node, NAME, ttl=timeout, group_id="names") for node in order]
    sent = list(grid.push_messages(questions)) if questions else []
    taken = {node: name for node, name in zip(order, sent, strict=True) if name}
    greeted.update(taken)
    return list(taken.values())


def _missing(party: str, timeout: float) -> LostParty:
    return LostParty(
        f"party '{party}'",
        why=f"no node of the grid said within {timeout:g} seconds that it is this party",
        mend=f'Start its SuperNode with --node-config \'{PARTY}="{party}" {SOCKET}="..."\'.',
    )


def _twice(party: str) -> InvalidOption:
    return InvalidOption(
        f"party '{party}'", why="two nodes of the grid say that they are it", mend="Stop the one that is not."
    )
