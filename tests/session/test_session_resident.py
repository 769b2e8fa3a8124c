"""A party behind a socket: who may come, what a visitor can do to it, and how it ends."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from session_relays import RelayChannel
from session_starts import TERMS, Begin

from quiltwork.errors import InvalidOption, LostParty, QuiltworkError, StorageError
from quiltwork.session import resident as module
from quiltwork.session.channel import PairKeys
from quiltwork.session.frames import Kind, Message, largest_frame
from quiltwork.session.resident import LONGEST_PATH, Resident, asked
from quiltwork.session.stream import LENGTH, announced, read_frame


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, as sockets need, in a directory that only this user may enter."""
    with tempfile.TemporaryDirectory(prefix="qw") as name:
        yield Path(name)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> Iterator[RelayChannel]:
    kind = getattr(request, "param", "doubling")
    found = RelayChannel({"ash": Begin(kind)}, {"ash": TERMS}, timeout=2)
    yield found
    found.close()


def resident(path: Path, kind: str = "doubling", **options: float) -> Resident:
    return Resident("ash", Begin(kind), TERMS, PairKeys.fresh(), path, **options)


def said(value: float) -> Message:
    return Message(Kind.ACTIVATION, 0, np.array([value], dtype=np.float32))


def heard(channel: RelayChannel, value: float) -> float:
    array = channel.call("ash", said(value)).array
    assert array is not None
    return float(array[0])


def path_of(channel: RelayChannel) -> Path:
    return channel._pairs["ash"].path


def left_alone(_: Path) -> None:
    """The negative control of places: nothing is wrong with it."""


def opened_to_others(place: Path) -> None:
    place.chmod(0o750)


def a_file_there(place: Path) -> None:
    (place / "socket").write_text("somebody's notes")


def a_link_there(place: Path) -> None:
    (place / "socket").symlink_to(place / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (left_alone, None),
        (opened_to_others, "others may enter"),
        (a_file_there, "already there"),
        (a_link_there, "already there"),
    ],
)
def test_where_a_party_may_listen(spoil: Callable[[Path], None], why: str | None, place: Path) -> None:
    spoil(place)
    if why is None:
        with resident(place / "socket") as one:
            assert one.sealing == "not sealed"
            assert (place / "socket").stat().st_mode & 0o777 == 0o600
        assert not (place / "socket").exists()
        return
    before = sorted(p.name for p in place.iterdir())
    with pytest.raises(StorageError, match=why):
        resident(place / "socket")
    assert sorted(p.name for p in place.iterdir()) == before


def test_a_linked_directory_and_a_long_path(place: Path) -> None:
    (place / "link").symlink_to(place, target_is_directory=True)
    with pytest.raises(StorageError, match="others may enter"):
        resident(place / "link" / "socket")
    with pytest.raises(InvalidOption, match=f"{LONGEST_PATH} bytes"):
        resident(place / ("d" * LONGEST_PATH) / "socket")
    with pytest.raises(InvalidOption, match="timeout=0"):
        resident(place / "socket", timeout=0)
    assert not (place / "socket").exists()


def test_a_socket_that_was_left_behind_goes_and_one_in_use_stays(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "socket"))
    with resident(place / "socket"):
        with pytest.raises(StorageError, match="already there"):
            resident(place / "socket")
        assert (place / "socket").exists()


def visited(path: Path, data: bytes, *, finish: bool = True) -> bytes | None:
    """What a visitor gets who sends these bytes."""
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(20)
        near.connect(str(path))
        try:
            near.sendall(data)
            if finish:
                near.shutdown(socket.SHUT_WR)
        except OSError:
            return None  # shut out before all was said
        return read_frame(near, 1000)


STRANGE = {
    "nothing": b"",
    "half a length": b"\1\0",
    "half a frame": announced(b"a frame")[:-1],
    "too long a frame": LENGTH.pack(largest_frame(TERMS.down) + 1),
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
def test_a_visitor_without_a_frame_changes_nothing(data: bytes, channel: RelayChannel) -> None:
    assert heard(channel, 1) == 2
    assert visited(path_of(channel), data) is None
    assert heard(channel, 3) == 6


def test_a_visitor_who_dawdles_is_left(channel: RelayChannel) -> None:
    began = time.monotonic()
    assert visited(path_of(channel), b"\1", finish=False) is None
    assert time.monotonic() - began > 1
    assert heard(channel, 1) == 2


def test_one_is_heard_at_a_time(channel: RelayChannel) -> None:
    """A second visitor waits for the first; it is not refused, and its frame is the next."""
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path_of(channel)))
        found: list[float] = []
        second = threading.Thread(target=lambda: found.append(heard(channel, 5)))
        second.start()
        second.join(0.3)
        assert not found
    second.join(20)
    assert found == [10]


def test_a_frame_that_is_not_the_next_ends_the_party(channel: RelayChannel) -> None:
    assert heard(channel, 1) == 2
    assert visited(path_of(channel), announced(bytes(60))) is None
    with pytest.raises(LostParty):
        channel.call("ash", said(1))
    channel._pairs["ash"].served.join(20)
    assert "ended" in channel._pairs["ash"].why


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the system does not tell who is at the other end")
def test_another_user_is_not_heard(channel: RelayChannel, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = announced(channel._pairs["ash"].end.seal(said(1)))
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
        assert visited(path_of(channel), frame) is None
        with pytest.raises(LostParty, match="another user listens"):
            asked(path_of(channel), frame)
    # negative control: the same frame of the same user is the next one, and is answered
    assert visited(path_of(channel), frame) is not None


def test_it_ends_well_when_its_node_stopped(place: Path) -> None:
    channel = RelayChannel({"ash": Begin("leaving")}, {"ash": TERMS})
    assert channel.call("ash", Message(Kind.STOP)).kind is Kind.DONE
    pair = channel._pairs["ash"]
    pair.served.join(20)
    assert not pair.served.is_alive()
    assert pair.why == ""
    channel.close()
    assert not pair.path.exists()
    with pytest.raises(LostParty, match="No such file"):
        asked(pair.path, b"")


def test_a_frame_after_the_farewell_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's side may not have seen yet that the process is gone."""
    channel = RelayChannel({"ash": Begin("leaving")}, {"ash": TERMS})
    pair = channel._pairs["ash"]
    answer = pair.resident._answer

    def twice(frame: bytes) -> bytes:
        found = answer(frame)
        pair.resident._process._process.join(20)
        answer(frame)
        return found

    monkeypatch.setattr(pair.resident, "_answer", twice)
    with pytest.raises(LostParty):
        channel.call("ash", Message(Kind.STOP))
    pair.served.join(20)
    assert pair.why == ""
    channel.close()


@pytest.mark.parametrize(
    ("channel", "why"), [("dying", "ended"), ("silent", "silent within the timeout")], indirect=["channel"]
)
def test_a_party_that_dies_or_is_silent(channel: RelayChannel, why: str) -> None:
    with pytest.raises(LostParty):
        channel.call("ash", said(1))
    channel._pairs["ash"].served.join(20)
    assert why in channel._pairs["ash"].why


def test_nobody_comes(place: Path) -> None:
    with resident(place / "socket") as one, pytest.raises(LostParty, match="nobody asked"):
        one.serve(patience=0.05)


@pytest.mark.parametrize(("kind", "wait"), [("broken", 60.0), ("never", 0.3)])
def test_a_party_that_does_not_start_leaves_no_socket(kind: str, wait: float, place: Path) -> None:
    with pytest.raises(QuiltworkError) as error:
        resident(place / "socket", kind, start_timeout=wait)
    assert "fragment" not in str(error.value)
    assert not (place / "socket").exists()
