"""What every backend of the channel must do, held against each; and what processes add."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from session_relays import RelayChannel
from session_starts import KINDS, TERMS, Begin

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.session.channel import Channel, ComposerEnd, LocalChannel
from quiltwork.session.flower import FlowerChannel, rehearsal
from quiltwork.session.frames import Kind, Message, frame_bytes
from quiltwork.session.process import ProcessChannel, Sealing

Open = Callable[..., Channel]


def local(**kinds: str) -> Channel:
    return LocalChannel({p: KINDS[k]() for p, k in kinds.items()}, dict.fromkeys(kinds, TERMS))


def processes(**kinds: str) -> Channel:
    return ProcessChannel({p: Begin(k) for p, k in kinds.items()}, dict.fromkeys(kinds, TERMS), timeout=20)


def residents(**kinds: str) -> Channel:
    return RelayChannel({p: Begin(k) for p, k in kinds.items()}, dict.fromkeys(kinds, TERMS))


def flower(**kinds: str) -> Channel:
    return rehearsal({p: KINDS[k]() for p, k in kinds.items()}, dict.fromkeys(kinds, TERMS), timeout=20)


def far_end(channel: Channel, party: str) -> ComposerEnd:
    """Where all frames of a pair pass, whatever carries them."""
    if isinstance(channel, LocalChannel):
        return channel._near[party]
    assert isinstance(channel, ProcessChannel | RelayChannel | FlowerChannel)
    return channel._pairs[party].end


NO_FLOWER = pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="flwr is not installed")
BACKENDS = [local, processes, residents, pytest.param(flower, marks=NO_FLOWER)]


@pytest.fixture(params=BACKENDS, ids=["local", "processes", "residents", "flower"])
def begin(request: pytest.FixtureRequest) -> Iterator[Open]:
    opened: list[Channel] = []

    def opening(**kinds: str) -> Channel:
        opened.append(request.param(**kinds))
        return opened[-1]

    yield opening
    for channel in opened:
        channel.close()
        channel.close()


def said(values: list[float], round_: int = 0) -> Message:
    return Message(Kind.ACTIVATION, round_, np.array(values, dtype=np.float32))


def content(message: Message) -> list[float]:
    assert message.array is not None
    return list(message.array)


def test_a_conversation(begin: Open) -> None:
    """The verbs, the order, a refusal, a failure, sizes and an end: one start of processes for all."""
    channel = begin(birch="doubling", ash="doubling")
    assert channel.nodes() == ("ash", "birch")
    assert content(channel.call("ash", said([1, 2], 5))) == [2, 4]
    for number in range(4):
        channel.push("birch", said([number], number))
    heard = [channel.pull("birch") for _ in range(4)]
    assert [(m.round, content(m)) for m in heard] == [(n, [2.0 * n]) for n in range(4)]
    with pytest.raises(LostParty, match="refused round 3: unexpected"):
        channel.call("ash", Message(Kind.LOCAL, 3))
    with pytest.raises(LostParty, match="refused round 13: failed"):
        channel.call("ash", Message(Kind.STOP, 13))
    assert content(channel.call("ash", said([8]))) == [16]
    with pytest.raises(LostParty, match="nothing more"):
        channel.pull("ash")
    with pytest.raises(InvalidOption, match="cedar"):
        channel.push("cedar", said([1]))
    value = frame_bytes("float32", (1,))
    assert channel.log.bytes("birch", "down") == channel.log.bytes("birch", "up") == 4 * value
    refusals = 2 * frame_bytes("uint8", (1,))
    assert channel.log.bytes("ash", "up") == frame_bytes("float32", (2,)) + value + refusals
    assert channel.log.bytes("ash", kind=Kind.LOCAL) == frame_bytes(None)


def test_the_transcript_is_that_of_any_other_backend(begin: Open) -> None:
    one, two = begin(ash="doubling"), local(ash="doubling")
    for channel in (one, two):
        channel.call("ash", said([1, 2, 3], 1))
    assert [one.log.digest("ash", way) for way in ("up", "down")] == [
        two.log.digest("ash", way) for way in ("up", "down")
    ]
    two.call("ash", said([4], 2))
    assert one.log.digest("ash", "up") != two.log.digest("ash", "up")


def test_large_frames_both_ways_at_once(begin: Open) -> None:
    channel = begin(ash="doubling")
    large = np.arange(2**20, dtype=np.float32)
    for round_ in range(3):
        channel.push("ash", Message(Kind.ACTIVATION, round_, large))
    for round_ in range(3):
        found = channel.pull("ash")
        assert found.round == round_
        assert found.array is not None
        assert np.array_equal(found.array, 2 * large)
    assert channel.log.bytes("ash", "up") == 3 * frame_bytes("float32", (2**20,))


def test_an_answer_that_was_not_declared_is_refused(begin: Open) -> None:
    channel = begin(ash="liar")
    with pytest.raises(AlteredFrame, match="does not carry that kind"):
        channel.call("ash", said([1]))


def test_a_message_that_was_not_declared_ends_the_party(begin: Open) -> None:
    """In one process the party's own error shows; from another process nothing but its end does."""
    channel = begin(ash="doubling")
    with pytest.raises((AlteredFrame, LostParty)):
        channel.call("ash", Message(Kind.ACTIVATION, 0, np.ones((2, 2), np.float32)))


def flipped(frames: list[bytes]) -> bytes:
    return bytes([*frames[-1][:40], frames[-1][40] ^ 1, *frames[-1][41:]])


MEDDLING: dict[str, Callable[[list[bytes]], bytes]] = {
    "flipped": flipped,
    "longer": lambda frames: frames[-1] + b"\0",
    "replayed": lambda frames: frames[0],
    "truncated": lambda frames: frames[-1][:-1],
}


def meddle(monkeypatch: pytest.MonkeyPatch, end: ComposerEnd, way: str, by: Callable[[list[bytes]], bytes]) -> None:
    """Let somebody between the ends change frames from the second on."""
    seen: list[bytes] = []

    def passing(frame: bytes) -> bytes:
        seen.append(frame)
        return frame if len(seen) == 1 else by(seen)

    seal, open_ = end.seal, end.open
    if way == "down":
        monkeypatch.setattr(end, "seal", lambda message: passing(seal(message)))
    else:
        monkeypatch.setattr(end, "open", lambda frame: open_(passing(frame)))


@pytest.mark.parametrize("way", ["down", "up"])
def test_somebody_in_between_is_noticed(begin: Open, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = begin(**dict.fromkeys((*MEDDLING, "honest"), "doubling"))
    for party in channel.nodes():
        meddle(monkeypatch, far_end(channel, party), way, MEDDLING.get(party, lambda frames: frames[-1]))
        assert content(channel.call(party, said([1], 0))) == [2]
    for party in MEDDLING:
        with pytest.raises(AlteredFrame if way == "up" else (AlteredFrame, LostParty)):
            channel.call(party, said([3], 1))
        assert channel.log.frames[party, "up", Kind.ACTIVATION] == 1
    # negative control: the same detour without a change
    assert content(channel.call("honest", said([3], 1))) == [6]


def test_nothing_crosses_but_what_is_declared(begin: Open) -> None:
    channel = begin(ash="doubling")
    channel.call("ash", said([1, 2]))
    with pytest.raises(LostParty):
        channel.call("ash", Message(Kind.LOCAL, 1))
    allowed = {("down", kind) for kind in TERMS.down} | {("up", kind) for kind in TERMS.up}
    assert {(way, kind) for _, way, kind in channel.log.frames} <= allowed
    for (_, way, kind), count in channel.log.frames.items():
        size = {Kind.ACTIVATION: frame_bytes("float32", (2,)), Kind.LOCAL: frame_bytes(None)}
        assert channel.log.sizes["ash", way, kind] == count * size.get(kind, frame_bytes("uint8", (1,)))


# Processes ------------------------------------------------------------


def parties_left() -> list[str]:
    """Parties' processes that are still there; other tests of the same worker may have pools of their own."""
    return [child.name for child in multiprocessing.active_children() if child.name.startswith("party ")]


def test_a_party_that_dies_is_lost_at_once_and_stays_lost() -> None:
    with ProcessChannel({"ash": Begin("dying"), "birch": Begin("doubling")}, {"ash": TERMS, "birch": TERMS}) as channel:
        began = time.monotonic()
        with pytest.raises(LostParty, match="ended"):
            channel.call("ash", said([1]))
        with pytest.raises(LostParty, match="ended"):
            channel.push("ash", said([1]))
        assert content(channel.call("birch", said([1]))) == [2]
        # far below the timeout of a minute
        assert time.monotonic() - began < 30
    assert not parties_left()


def test_a_silent_party_is_given_up() -> None:
    with ProcessChannel({"ash": Begin("silent")}, {"ash": TERMS}, timeout=0.2) as channel:
        with pytest.raises(LostParty, match="silent within the timeout"):
            channel.call("ash", said([1]))
        with pytest.raises(LostParty, match="silent"):
            channel.pull("ash")
    assert not parties_left()


def test_a_party_that_does_not_read_is_given_up() -> None:
    with ProcessChannel({"ash": Begin("silent")}, {"ash": TERMS}, timeout=0.3) as channel:
        channel.push("ash", said([1]))
        with pytest.raises(LostParty, match="did not take"):
            channel.push("ash", Message(Kind.ACTIVATION, 1, np.ones(2**22, np.float32)))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the party finds its socket in /proc")
def test_an_announcement_of_too_much_is_not_waited_for() -> None:
    with (
        ProcessChannel({"ash": Begin("shouting")}, {"ash": TERMS}) as channel,
        pytest.raises(LostParty, match="is the most declared"),
    ):
        channel.call("ash", said([1]))


def test_a_frame_above_the_declared_size_is_not_read(begin: Open) -> None:
    channel = begin(ash="doubling")
    with pytest.raises((AlteredFrame, LostParty)):
        channel.call("ash", Message(Kind.ACTIVATION, 0, np.ones(2**22 + 1, np.float32)))


@pytest.mark.parametrize(("kind", "wait", "why"), [("broken", 60, "ended"), ("never", 0.3, "did not get ready")])
def test_a_party_that_does_not_start(kind: str, wait: float, why: str, tmp_path: Path) -> None:
    with pytest.raises(LostParty, match=why) as error:
        ProcessChannel({"ash": Begin(kind)}, {"ash": TERMS}, start_timeout=wait, folder=tmp_path)
    assert "fragment" not in str(error.value)
    assert not parties_left()
    if kind == "broken":
        assert "the fragment is not there" in (tmp_path / "ash.txt").read_text()


def test_sealing_and_output_stay_out_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    with ProcessChannel({"ash": Begin("doubling", Sealing.LANDLOCK)}, {"ash": TERMS}) as channel:
        assert channel.sealing == {"ash": "landlock"}
        assert channel.log.bytes() == 0
    assert [str(level) for level in Sealing] == ["not sealed", "audit-hook", "landlock"]
    assert "words" not in capfd.readouterr().err
    with pytest.raises(LostParty, match="closed"):
        channel.push("ash", said([1]))


@pytest.mark.parametrize("way", ["killed", "interrupted"])
def test_parties_end_with_the_composer(way: str) -> None:
    """A composer that is killed leaves nobody behind, nor does Ctrl-C, which reaches all, while a party is at work."""
    script = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from session_starts import TERMS, Begin\n"
        "from quiltwork.session.frames import Kind, Message\n"
        "from quiltwork.session.process import ProcessChannel\n"
        # a shell starts background jobs with SIGINT ignored
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if __name__ == '__main__':\n"
        "    c = ProcessChannel({'ash': Begin(sys.argv[2])}, {'ash': TERMS})\n"
        "    print(c._pairs['ash'].process.pid, flush=True)\n"
        "    if sys.argv[2] == 'silent': c.call('ash', Message(Kind.STOP))\n"
        "    sys.stdin.read()\n"
    )
    kind = "doubling" if way == "killed" else "silent"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), kind]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as composer:
        assert composer.stdout is not None
        party = int(composer.stdout.readline())
        assert _alive(party)
        if way == "killed":
            composer.kill()
        else:
            os.killpg(composer.pid, signal.SIGINT)
        composer.wait(30)
    deadline = time.monotonic() + 30
    while _alive(party) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(party)


def _alive(process: int) -> bool:
    """A zombie that nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_bad_options() -> None:
    with pytest.raises(InvalidOption, match="parties"):
        ProcessChannel({"ash": Begin("doubling")}, {"birch": TERMS})
    with pytest.raises(InvalidOption, match="timeout"):
        ProcessChannel({"ash": Begin("doubling")}, {"ash": TERMS}, timeout=0)
