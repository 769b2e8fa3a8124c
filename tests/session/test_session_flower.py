"""What the backend over Flower adds: its own failures, its wire, its silence towards its makers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from session_starts import TERMS, Doubling

from quiltwork.errors import InvalidOption, LostParty
from quiltwork.session.channel import Node, PairKeys, PartyEnd
from quiltwork.session.flower import FlowerChannel, LocalGrid, party_app, rehearsal
from quiltwork.session.flower_wire import FRAMES
from quiltwork.session.frames import Kind, Message


def test_without_flower_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flwr", "flwr.app", "flwr.clientapp"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InvalidOption, match=r"quiltwork\[flower\]"):
        rehearsal({"ash": Doubling()}, {"ash": TERMS})


def test_bad_options() -> None:
    keys = {"ash": PairKeys.fresh()}
    with pytest.raises(InvalidOption, match="birch"):
        FlowerChannel(Mute(), {"birch": 1}, {"ash": TERMS}, keys)
    with pytest.raises(InvalidOption, match="timeout=0"):
        FlowerChannel(Mute(), {"ash": 1}, {"ash": TERMS}, keys, timeout=0)
    with pytest.raises(InvalidOption, match="parties"):
        rehearsal({"ash": Doubling()}, {"birch": TERMS})


class Mute:
    """A grid that takes nothing and answers nothing."""

    def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
        return [None for _ in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        return []


# With Flower ------------------------------------------------------------


@pytest.fixture
def flwr() -> Any:
    return pytest.importorskip("flwr", reason="flwr is not installed")


def said(value: float, round_: int = 0) -> Message:
    return Message(Kind.ACTIVATION, round_, np.array([value], dtype=np.float32))


def heard(channel: FlowerChannel, party: str, value: float) -> float:
    found = channel.call(party, said(value)).array
    assert found is not None
    return float(found[0])


class Talk:
    """Two parties over a grid that a test may replace."""

    def __init__(
        self,
        grid: Callable[[dict[int, Any]], Any] = LocalGrid,
        answer: Callable[[bytes], bytes] | None = None,
        node: Node | None = None,
        timeout: float = 20,
    ) -> None:
        addresses, keys = {"ash": 1, "birch": 2}, {"ash": PairKeys.fresh(), "birch": PairKeys.fresh()}
        ends = {addresses[p]: PartyEnd(node or Doubling(), TERMS, keys[p]).answer for p in addresses}
        if answer:
            ends[1] = answer
        self.grid = grid({number: party_app(end) for number, end in ends.items()})
        self.channel = FlowerChannel(self.grid, addresses, dict.fromkeys(addresses, TERMS), keys, timeout=timeout)


def test_a_silent_party_is_given_up_for_good(flwr: Any) -> None:
    awake = threading.Event()

    def sleeping(frame: bytes) -> bytes:
        awake.wait(60)
        return frame

    channel = Talk(answer=sleeping, timeout=0.2).channel
    with pytest.raises(LostParty, match="silent within the timeout"):
        heard(channel, "ash", 1)
    with pytest.raises(LostParty, match="silent"):
        channel.push("ash", said(1))
    assert heard(channel, "birch", 1) == 2
    awake.set()


def test_a_party_that_fails_is_lost_at_once_without_words(flwr: Any) -> None:
    said_by_app: list[Any] = []

    class Listening(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            found = super().pull_messages(message_ids)
            said_by_app.extend(found)
            return found

    def failing(frame: bytes) -> bytes:
        raise ValueError("the income of row 7 is not a number")

    channel = Talk(grid=Listening, answer=failing).channel
    with pytest.raises(LostParty, match="its node ended") as error:
        heard(channel, "ash", 1)
    assert "income" not in str(error.value)
    assert heard(channel, "birch", 3) == 6
    assert [reply.error.reason for reply in said_by_app if reply.has_error()] == [None]


def test_an_app_that_ended_says_no_more(flwr: Any) -> None:
    calls: list[bytes] = []

    def once(frame: bytes) -> bytes:
        calls.append(frame)
        raise ValueError

    talk = Talk(answer=once)
    for _ in range(2):
        (name,) = talk.grid.push_messages([_asked(flwr, {"frames": flwr.app.ConfigRecord({"bytes": [b"x"]})})])
        assert _awaited(talk.grid, name).has_error()
    assert len(calls) == 1


@pytest.mark.parametrize("shape", ["another record", "two fields", "text", "not in a list", "none", "beside it"])
def test_nothing_but_frames_reaches_a_party(shape: str, flwr: Any) -> None:
    record = flwr.app.ConfigRecord
    contents = {
        "another record": {"orders": record({"bytes": [b"x"]})},
        "two fields": {"frames": record({"bytes": [b"x"], "path": "secret"})},
        "text": {"frames": record({"bytes": ["x"]})},
        "not in a list": {"frames": record({"bytes": b"x"})},
        "none": {"frames": record({"bytes": []})},
        "beside it": {"frames": record({"bytes": [b"x"]}), "orders": record({"run": "code"})},
    }
    calls: list[bytes] = []

    def noting(frame: bytes) -> bytes:
        calls.append(frame)
        return frame

    grid = Talk(answer=noting).grid
    (name,) = grid.push_messages([_asked(flwr, contents[shape])])
    assert _awaited(grid, name).has_error()
    assert not calls
    # negative control: frames alone do reach it, in order
    grid = Talk(answer=noting).grid
    (name,) = grid.push_messages([_asked(flwr, {"frames": record({"bytes": [b"x", b"y"]})})])
    assert not _awaited(grid, name).has_error()
    assert calls == [b"x", b"y"]


def added(flwr: Any, reply: Any) -> None:
    reply.content["rows"] = flwr.app.ConfigRecord({"of": "the fragment"})


def doubled(flwr: Any, reply: Any) -> None:
    frames = list(reply.content["frames"]["bytes"])
    reply.content["frames"] = flwr.app.ConfigRecord({"bytes": [*frames, *frames]})


@pytest.mark.parametrize("change", [added, doubled])
def test_something_else_than_frames_ends_the_talk(change: Callable[[Any, Any], None], flwr: Any) -> None:
    class Changing(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            found = super().pull_messages(message_ids)
            for reply in found:
                change(flwr, reply)
            return found

    with pytest.raises(LostParty, match="something else than a frame for each"):
        heard(Talk(grid=Changing).channel, "ash", 1)


def test_what_waits_leaves_together_and_one_message_is_under_way_at_a_time(flwr: Any) -> None:
    """So a grid without any order cannot disturb the order of frames."""
    sent: list[int] = []
    most: list[int] = []

    class Counting(LocalGrid):
        open = 0

        def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
            messages = list(messages)
            sent.extend(len(message.content["frames"]["bytes"]) for message in messages)
            self.open += 1
            most.append(self.open)
            return super().push_messages(messages)

        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            found = super().pull_messages(message_ids)
            self.open -= len(found)
            return found

    channel = Talk(grid=Counting).channel
    for number in range(3):
        channel.push("ash", said(number, number))
    # nothing leaves before the composer listens
    assert sent == []
    assert channel.pull("ash").round == 0
    for number in range(3, 5):
        channel.push("ash", said(number, number))
    assert [channel.pull("ash").round for _ in range(4)] == [1, 2, 3, 4]
    assert sent == [3, 2]
    assert most == [1, 1]


def test_parties_work_at_the_same_time(flwr: Any) -> None:
    """Each waits for the other, so that neither answers where they take turns."""
    both = threading.Barrier(2, timeout=20)

    class Meeting(Doubling):
        def handle(self, message: Message) -> Message:
            both.wait()
            return super().handle(message)

    channel = rehearsal({"ash": Meeting(), "birch": Meeting()}, {"ash": TERMS, "birch": TERMS})
    for party in channel.nodes():
        channel.push(party, said(1))
        channel.push(party, said(2, 1))
    assert [channel.pull("ash").round, channel.pull("ash").round, channel.pull("birch").round] == [0, 1, 0]


def test_a_grid_that_fails(flwr: Any) -> None:
    class Broken(Mute):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            raise ConnectionError("words of a library")

        def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
            return ["1" for _ in messages]

    with pytest.raises(LostParty, match=r"the grid failed \(ConnectionError\)"):
        heard(Talk(grid=lambda apps: (LocalGrid(apps), Broken())[1]).channel, "ash", 1)
    with pytest.raises(LostParty, match="did not take"):
        heard(Talk(grid=lambda apps: (LocalGrid(apps), Mute())[1]).channel, "ash", 1)
    talk = Talk()
    talk.channel.close()
    with pytest.raises(LostParty, match="closed"):
        talk.channel.push("ash", said(1))


def test_frames_pass_the_wire_of_flower(flwr: Any) -> None:
    """Each message and answer goes through the bytes that Flower sends between machines."""
    serde, proto = pytest.importorskip("flwr.common.serde"), pytest.importorskip("flwr.proto.message_pb2")
    sizes: list[int] = []

    def wired(message: Any) -> Any:
        data = serde.message_to_proto(message).SerializeToString()
        sizes.append(len(data))
        return serde.message_from_proto(proto.Message.FromString(data))

    class Wired(LocalGrid):
        def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
            return super().push_messages([wired(message) for message in messages])

        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            return [wired(reply) for reply in super().pull_messages(message_ids)]

    channel = Talk(grid=Wired).channel
    large = np.arange(2**18, dtype=np.float32)
    for round_ in range(2):
        found = channel.call("ash", Message(Kind.ACTIVATION, round_, large)).array
        assert found is not None
        assert np.array_equal(found, 2 * large)
    assert min(sizes) > large.nbytes


OURS = {
    "channel": "from quiltwork.session.flower import LocalGrid; LocalGrid({})",
    "relay": "from quiltwork.session.flower_nodes import relay_app; relay_app()",
    "composer": "from quiltwork.cli.split.flower import composer_app; composer_app()",
    "negative control": "",
}


@pytest.mark.parametrize("first", OURS.values(), ids=OURS)
def test_flower_does_not_report_home(first: str, flwr: Any) -> None:
    code = f"{first}\nimport os, flwr.supercore.telemetry as t\nprint(t.FLWR_TELEMETRY_ENABLED)\n"
    code += "print(os.environ.get('FLWR_DISABLE_UPDATE_CHECK', '-'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_without_wishes())
    assert done.stdout.split() == (["0", "1"] if first else ["1", "-"]), done.stderr


def _without_wishes() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}


def _asked(flwr: Any, records: dict[str, Any]) -> Any:
    return flwr.app.Message(flwr.app.RecordDict(records), 1, FRAMES)


def _awaited(grid: Any, name: str) -> Any:
    for _ in range(2000):
        if found := grid.pull_messages([name]):
            return found[0]
        threading.Event().wait(0.005)
    raise AssertionError("no answer")
