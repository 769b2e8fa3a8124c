"""The channel over Flower, for owners on different machines: a frame a message, and nothing else in it.

    composer     inside a ``ServerApp``: ``FlowerChannel(grid, addresses, terms, keys)``
    party        inside its ``SuperNode``: ``app = party_app(PartyEnd(node, terms, keys).answer)``
    on the way   message type ``query.frame``, content {"frame": ConfigRecord {"bytes": one frame}}
    no answer    ``Error`` of one fixed code, without words

Flower carries messages and promises no order among them. So at most one message of a party is under way; what is
pushed meanwhile waits here, and leaves when the answer is in. Several parties still work at the same time.

Flower sees every frame: the tags of ``frames`` keep it, and whoever runs the SuperLink, from changing or replaying one,
and TLS is what keeps others from reading. The keys are agreed on another way before the session, never over Flower.

Flower reports its use to its makers, and asks them for newer versions, unless the environment says otherwise when it is
imported; it is imported here, in functions, after the environment says so. A program that imports it earlier sets
``FLWR_TELEMETRY_ENABLED=0`` and ``FLWR_DISABLE_UPDATE_CHECK=1`` itself.

Source: Beutel et al. 2020, arXiv:2007.14390 (Flower); https://flower.ai/docs/framework (``Grid``, ``ClientApp``).
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from quiltwork.errors import InvalidOption, LostParty
from quiltwork.session.channel import ComposerEnd, Log, Node, PairKeys, PartyEnd, Terms, known, lost
from quiltwork.session.frames import Message

_TYPE, _RECORD, _FIELD = "query.frame", "frame", "bytes"
_ENDED = 2  # what Flower itself answers for an app that raised, but without the app's words
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
_FIRST_LOOK = 0.0005


class Grid(Protocol):
    """What is used of ``flwr.serverapp.Grid``."""

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str | None]:
        """Send; an identifier a message, None for one that was not taken."""
        ...

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """The answers that are in."""
        ...


class FlowerChannel:
    """Parties behind a Flower grid.

    Args:
        grid: what Flower hands a ``ServerApp``, or a `LocalGrid`.
        addresses: Flower's number of each party's node, by name.
        terms: what each pair may say.
        keys: of each pair; the party has the same.
        timeout: seconds that a party may be silent.
        longest_wait: seconds between two looks for answers, at most; it starts at half a millisecond and doubles.

    Attributes:
        log: what crossed.

    Raises:
        InvalidOption: addresses, terms and keys name different parties, or a time is not positive.
        LostParty: (all verbs) a party is gone, silent, or refuses, or the grid fails.
    """

    def __init__(
        self,
        grid: Grid,
        addresses: Mapping[str, int],
        terms: Mapping[str, Terms],
        keys: Mapping[str, PairKeys],
        *,
        timeout: float = 60.0,
        longest_wait: float = 0.1,
    ) -> None:
        if not sorted(addresses) == sorted(terms) == sorted(keys) or not addresses:
            raise InvalidOption(
                "terms and keys",
                why=f"they are for {sorted(terms)} and {sorted(keys)}, and the parties are {sorted(addresses)}",
                mend="Give each party its own.",
            )
        if not (timeout > 0 and longest_wait > 0):
            raise InvalidOption(
                f"timeout={timeout}, longest_wait={longest_wait}",
                why="no party answers in no time",
                mend="Give seconds.",
            )
        self.log = Log()
        self._grid, self._timeout, self._longest = grid, timeout, longest_wait
        self._pairs = {
            name: _Pair(name, addresses[name], ComposerEnd(name, terms[name], keys[name], self.log))
            for name in sorted(addresses)
        }

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        return tuple(self._pairs)

    def push(self, node: str, message: Message) -> None:
        """Say something to a party; it leaves at once, or after the answer to what was said before."""
        pair = self._pairs[known(node, self.nodes())]
        pair.require_there()
        pair.waiting.append((pair.end.seal(message), message.round))
        pair.advance(self._grid, self._timeout)

    def pull(self, node: str) -> Message:
        """The next answer of a party; meanwhile the answers of others are taken in."""
        pair = self._pairs[known(node, self.nodes())]
        if pair.idle():
            pair.require_there()
            raise lost(node, "it has nothing more to say")
        deadline, pause = time.monotonic() + self._timeout, _FIRST_LOOK
        while not pair.arrived:
            pair.require_there()
            for other in self._pairs.values():
                other.advance(self._grid, self._timeout)
            if pair.arrived or pair.why:
                continue
            if time.monotonic() >= deadline:
                raise pair.gone("it was silent within the timeout")
            time.sleep(pause)
            pause = min(2 * pause, self._longest)
        return pair.end.open(pair.arrived.popleft())

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        """Say no more; the nodes are Flower's to end."""
        for pair in self._pairs.values():
            pair.why = pair.why or "the session is closed"


@dataclass
class _Pair:
    """The composer's side of one party: what waits, what is under way, what came."""

    party: str
    address: int
    end: ComposerEnd
    waiting: deque[tuple[bytes, int]] = field(default_factory=deque)
    arrived: deque[bytes] = field(default_factory=deque)
    sent: str | None = None
    why: str = ""

    def idle(self) -> bool:
        """Whether no answer is due."""
        return not (self.waiting or self.arrived or self.sent)

    def require_there(self) -> None:
        """Raises LostParty for one that was given up."""
        if self.why:
            raise lost(self.party, self.why)

    def gone(self, why: str) -> LostParty:
        """Give the party up for good: an answer that comes too late would be taken for the next one."""
        self.why = why
        self.waiting.clear()
        return lost(self.party, why)

    def advance(self, grid: Grid, timeout: float) -> None:
        """Take an answer in, if it is there, and send what waits for it; a failure shows when its turn comes."""
        if self.why:
            return
        try:
            if self.sent:
                self._take(list(grid.pull_messages([self.sent])))
            if not self.sent and self.waiting and not self.why:
                self._send(grid, timeout)
        except Exception as error:
            # the grid is a client of a server elsewhere, and any of its libraries may raise
            self.gone(f"the grid failed ({type(error).__name__})")

    def _send(self, grid: Grid, timeout: float) -> None:
        frame, round_ = self.waiting.popleft()
        flower = _flower()
        message = flower.app.Message(_content(frame), self.address, _TYPE, ttl=timeout, group_id=str(round_))
        (self.sent,) = list(grid.push_messages([message])) or [None]
        if not self.sent:
            self.gone("the grid did not take what it was sent")

    def _take(self, replies: list[Any]) -> None:
        if not replies:
            return
        self.sent = None
        if replies[0].has_error():
            self.gone(f"its node ended (Flower's code {replies[0].error.code})")
        elif (frame := _frame(replies[0])) is None:
            self.gone("it answered something else than one frame")
        else:
            self.arrived.append(frame)


def party_app(answer: Callable[[bytes], bytes]) -> Any:
    """The ``flwr.clientapp.ClientApp`` of a party.

    Args:
        answer: the frame that answers a frame: ``PartyEnd(node, terms, keys).answer`` where Flower keeps the process,
            otherwise a function that asks the process that holds the node.

    Returns:
        An app that knows the one message type of this module. After a failure it answers nothing but errors.

    Raises:
        InvalidOption: Flower is not installed.
    """
    flower = _flower()
    app, speaker = flower.clientapp.ClientApp(), _Speaker(answer)

    @app.query(_TYPE.partition(".")[2])  # type: ignore[untyped-decorator]
    def frame(message: Any, _context: Any) -> Any:
        found = speaker.say(_frame(message))
        content = flower.app.Error(_ENDED) if found is None else _content(found)
        return flower.app.Message(content, reply_to=message)

    return app


class _Speaker:
    """Answers frames one at a time; what it raises would cross as Flower's words, so it ends the party instead."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer, self._ended, self._lock = answer, False, threading.Lock()

    def say(self, frame: bytes | None) -> bytes | None:
        with self._lock:
            if frame is None or self._ended:
                self._ended = True
                return None
            try:
                return self._answer(frame)
            except Exception:
                self._ended = True
                return None


class LocalGrid:
    """Flower's grid inside this process, for rehearsals and tests: each app answers in a thread, without a server.

    Args:
        apps: a ``ClientApp`` for each of Flower's node numbers.

    Raises:
        InvalidOption: Flower is not installed.
    """

    def __init__(self, apps: Mapping[int, Any]) -> None:
        flower = _flower()
        _identify()
        self._apps = dict(apps)
        self._contexts = {i: flower.app.Context(1, i, {}, flower.app.RecordDict(), {}) for i in self._apps}
        self._boxes: dict[str, list[Any]] = {}

    def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
        """Start an answer for each message; None where there is no such node."""
        return [self._started(message) if message.metadata.dst_node_id in self._apps else None for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """The answers that are in; each is given once."""
        return [self._boxes.pop(i)[0] for i in message_ids if self._boxes.get(i)]

    def _started(self, message: Any) -> str:
        name = uuid.uuid4().hex
        box: list[Any] = []
        self._boxes[name] = box
        threading.Thread(target=self._run, args=(message, box), daemon=True).start()
        return name

    def _run(self, message: Any, box: list[Any]) -> None:
        node = message.metadata.dst_node_id
        try:
            box.append(self._apps[node](message, self._contexts[node]))
        except Exception:
            flower = _flower()
            box.append(flower.app.Message(flower.app.Error(_ENDED), reply_to=message))


def rehearsal(nodes: Mapping[str, Node], terms: Mapping[str, Terms], *, timeout: float = 60.0) -> FlowerChannel:
    """A session over Flower's messages with all parties in this process.

    Raises:
        InvalidOption: Flower is not installed, or nodes and terms name different parties.
    """
    if sorted(nodes) != sorted(terms):
        raise InvalidOption(
            "terms", why=f"they are for {sorted(terms)}, and the parties are {sorted(nodes)}", mend="Give each its own."
        )
    keys = {name: PairKeys.fresh() for name in nodes}
    addresses = {name: number for number, name in enumerate(sorted(nodes), 1)}
    ends = {name: PartyEnd(node, terms[name], keys[name]) for name, node in nodes.items()}
    grid = LocalGrid({addresses[name]: party_app(end.answer) for name, end in ends.items()})
    return FlowerChannel(grid, addresses, terms, keys, timeout=timeout)


def _content(frame: bytes) -> Any:
    flower = _flower()
    return flower.app.RecordDict({_RECORD: flower.app.ConfigRecord({_FIELD: frame})})


def _frame(message: Any) -> bytes | None:
    """The frame of a message, None where its content is anything else."""
    if message.has_error() or list(message.content) != [_RECORD]:
        return None
    record = message.content[_RECORD]
    if not isinstance(record, _flower().app.ConfigRecord) or list(record) != [_FIELD]:
        return None
    frame = record[_FIELD]
    return frame if isinstance(frame, bytes) else None


def _flower() -> Any:
    """The package, imported when its reports and questions home are off."""
    os.environ.update(_QUIET)
    try:
        import flwr.app
        import flwr.clientapp
    except ImportError as error:
        raise InvalidOption(
            "a channel over Flower",
            why="the package flwr is not installed",
            mend="Install quiltwork[flower]; its requirements are narrow, so give it an environment of its own.",
        ) from error
    return flwr


def _identify() -> None:
    """Outside a run Flower refuses to make messages, for want of the numbers of the task; here they mean nothing."""
    from flwr.supercore.task_identity import TaskIdentity

    try:
        _ = TaskIdentity.run_id
    except RuntimeError:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
