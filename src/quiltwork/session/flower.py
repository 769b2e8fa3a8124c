"""The channel over Flower, for owners on different machines: frames in a message, and nothing else.

    composer     inside a ``ServerApp``: ``FlowerChannel(grid, addresses, terms, keys)``
    party        inside its ``SuperNode``: `quiltwork.session.flower_nodes.relay_app`, and a process that stays
    in process   `party_app` and `LocalGrid`, or both at once: `rehearsal`

Flower carries messages and promises no order among them. So at most one message of a party is under way. And a message
takes its time, seconds between machines, whatever its size. So what is said to a party waits until the composer
listens, and leaves as one message: the cotangents of a round and the rows of the next go together, which makes a round
of split learning one message to each party. Several parties work at the same time.

Flower sees every frame: the tags of ``frames`` keep it, and whoever runs the SuperLink, from changing or replaying one,
and TLS is what keeps others from reading. The keys are agreed on another way before the session, never over Flower.

Source: Beutel et al. 2020, arXiv:2007.14390 (Flower); https://flower.ai/docs/framework (``Grid``, ``ClientApp``).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from quiltwork.errors import InvalidOption, LostParty
from quiltwork.session.channel import ComposerEnd, Log, Node, PairKeys, PartyEnd, Terms, known, lost
from quiltwork.session.flower_wire import ENDED, FRAMES, flower, frames_content, frames_of, short
from quiltwork.session.frames import Message

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
        sealing: how each party is confined, as its owner says.

    Attributes:
        log: what crossed.
        sealing: as given; a party that nothing is said of is "not sealed".

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
        sealing: Mapping[str, str] | None = None,
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
        self.sealing = {name: (sealing or {}).get(name, "not sealed") for name in sorted(addresses)}
        self._grid, self._timeout, self._longest = grid, timeout, longest_wait
        self._pairs = {
            name: _Pair(name, addresses[name], ComposerEnd(name, terms[name], keys[name], self.log))
            for name in sorted(addresses)
        }

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        return tuple(self._pairs)

    def push(self, node: str, message: Message) -> None:
        """Say something to a party; it leaves when the composer listens to anybody."""
        pair = self._pairs[known(node, self.nodes())]
        pair.require_there()
        pair.waiting.append((pair.end.seal(message), message.round))

    def pull(self, node: str) -> Message:
        """The next answer of a party; meanwhile all are sent what waits for them, and their answers are taken in."""
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
    due: int = 0
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
        frames, self.due = [frame for frame, _ in self.waiting], len(self.waiting)
        round_ = str(self.waiting[-1][1])
        self.waiting.clear()
        message = flower().app.Message(frames_content(frames), self.address, FRAMES, ttl=timeout, group_id=round_)
        (self.sent,) = list(grid.push_messages([message])) or [None]
        if not self.sent:
            self.gone("the grid did not take what it was sent")

    def _take(self, replies: list[Any]) -> None:
        if not replies:
            return
        self.sent = None
        if replies[0].has_error():
            self.gone(f"its node ended (Flower's code {replies[0].error.code})")
            return
        frames = frames_of(replies[0])
        if frames is None or len(frames) != self.due:
            self.gone("it answered something else than a frame for each")
        else:
            self.arrived.extend(frames)


def party_app(answer: Callable[[bytes], bytes]) -> Any:
    """The ``flwr.clientapp.ClientApp`` of a party that lives in the app's own process.

    Args:
        answer: the frame that answers a frame: ``PartyEnd(node, terms, keys).answer``.

    Returns:
        An app that knows the one message type of frames. After a failure it answers nothing but errors.

    Raises:
        InvalidOption: Flower is not installed.
    """
    package = flower()
    app, speaker = package.clientapp.ClientApp(), _Speaker(answer)

    @app.query(short(FRAMES))  # type: ignore[untyped-decorator]
    def frames(message: Any, _context: Any) -> Any:
        found = speaker.say(frames_of(message))
        content = package.app.Error(ENDED) if found is None else frames_content(found)
        return package.app.Message(content, reply_to=message)

    return app


class _Speaker:
    """Answers frames one at a time; what it raises would cross as Flower's words, so it ends the party instead."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer, self._ended, self._lock = answer, False, threading.Lock()

    def say(self, frames: list[bytes] | None) -> list[bytes] | None:
        with self._lock:
            if frames is None or self._ended:
                self._ended = True
                return None
            try:
                return [self._answer(frame) for frame in frames]
            except Exception:
                self._ended = True
                return None


class LocalGrid:
    """Flower's grid inside this process, for rehearsals and tests: each app answers in a thread, without a server.

    Args:
        apps: a ``ClientApp`` for each of Flower's node numbers.
        configs: the configuration of nodes that have one.

    Raises:
        InvalidOption: Flower is not installed.
    """

    def __init__(self, apps: Mapping[int, Any], configs: Mapping[int, Mapping[str, Any]] | None = None) -> None:
        app = flower().app
        _identify()
        self._apps, given = dict(apps), configs or {}
        self._contexts = {i: app.Context(1, i, dict(given.get(i, {})), app.RecordDict(), {}) for i in self._apps}
        self._boxes: dict[str, list[Any]] = {}

    def get_node_ids(self) -> list[int]:
        """All of them, at once."""
        return sorted(self._apps)

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
            app = flower().app
            box.append(app.Message(app.Error(ENDED), reply_to=message))


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


def _identify() -> None:
    """Outside a run Flower refuses to make messages, for want of the numbers of the task; here they mean nothing."""
    from flwr.supercore.task_identity import TaskIdentity

    try:
        _ = TaskIdentity.run_id
    except RuntimeError:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
