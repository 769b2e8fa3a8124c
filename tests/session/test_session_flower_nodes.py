"""Relays of Flower nodes before residents, and how a composer finds them; in process, through Flower's own apps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from session_relays import RelayChannel
from session_starts import TERMS, Begin

from quiltwork.errors import InvalidOption, LostParty
from quiltwork.session.channel import LocalChannel
from quiltwork.session.flower import FlowerChannel, LocalGrid
from quiltwork.session.flower_nodes import addresses, relay_app
from quiltwork.session.flower_wire import FRAMES, NAME
from quiltwork.session.frames import Kind, Message

HEAVY = ("torch", "quiltwork.party", "quiltwork.models.split", "quiltwork.session.split", "quiltwork.cli")


def test_a_relay_has_nothing_to_open_data_with() -> None:
    """Its program loads no owner's code and no learning: a socket and frames are all it knows."""
    code = "import sys, quiltwork.session.flower_nodes\nprint(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert "quiltwork.session.resident" in loaded
    assert not [name for name in loaded if name in HEAVY]


@pytest.fixture
def flwr() -> Any:
    return pytest.importorskip("flwr", reason="flwr is not installed")


@pytest.fixture
def residents() -> Iterator[RelayChannel]:
    """Only its residents are used; what it would say goes over Flower."""
    found = RelayChannel({p: Begin("doubling") for p in ("ash", "birch")}, dict.fromkeys(("ash", "birch"), TERMS))
    yield found
    found.close()


def grid_of(residents: RelayChannel, **extra: dict[str, Any]) -> LocalGrid:
    configs = {p: {"party": p, "socket": str(pair.path), "timeout": 20.0} for p, pair in residents._pairs.items()}
    numbered = dict(enumerate((configs | extra).values(), 11))
    return LocalGrid({number: relay_app() for number in numbered}, numbered)


def over(grid: LocalGrid, residents: RelayChannel, **sealing: str) -> FlowerChannel:
    """A channel over Flower whose ends are those of the residents' pairs."""
    pairs = residents._pairs
    return FlowerChannel(
        grid, {"ash": 11, "birch": 12}, dict.fromkeys(pairs, TERMS), residents.keys, timeout=20, sealing=sealing
    )


def said(value: float, round_: int = 0) -> Message:
    return Message(Kind.ACTIVATION, round_, np.array([value], dtype=np.float32))


def test_frames_pass_through_relays_as_they_are(flwr: Any, residents: RelayChannel) -> None:
    channel = over(grid_of(residents), residents, ash="landlock")
    here = LocalChannel({"ash": _Doubling(), "birch": _Doubling()}, dict.fromkeys(("ash", "birch"), TERMS))
    for one in (channel, here):
        for party in one.nodes():
            one.push(party, said(1))
            one.push(party, said(2, 1))
        for party in one.nodes():
            assert [float(one.pull(party).array[0]) for _ in range(2)] == [2, 4]
    for party in ("ash", "birch"):
        for way in ("down", "up"):
            assert channel.log.digest(party, way) == here.log.digest(party, way)
            assert channel.log.bytes(party, way) == here.log.bytes(party, way)
    assert channel.sealing == {"ash": "landlock", "birch": "not sealed"}


class _Doubling:
    def handle(self, message: Message) -> Message:
        assert message.array is not None
        return Message(Kind.ACTIVATION, message.round, message.array * np.float32(2))


def test_a_resident_that_is_gone_is_a_lost_party_without_words(flwr: Any, residents: RelayChannel) -> None:
    channel = over(grid_of(residents), residents)
    residents._pairs["ash"].resident.close()
    with pytest.raises(LostParty, match="its node ended") as error:
        channel.call("ash", said(1))
    assert str(residents.place) not in str(error.value)
    assert float(channel.call("birch", said(3)).array[0]) == 6


def test_a_message_of_another_form_does_not_reach_the_resident(flwr: Any, residents: RelayChannel) -> None:
    grid, record = grid_of(residents), flwr.app.ConfigRecord
    content = flwr.app.RecordDict({"frames": record({"bytes": [b"x"]}), "orders": record({"run": "code"})})
    (name,) = grid.push_messages([flwr.app.Message(content, 11, FRAMES)])
    reply = awaited(grid, name)
    assert reply.has_error()
    assert reply.error.reason is None
    # the resident has heard nothing: its next frame is still the first
    assert float(over(grid, residents).call("ash", said(1)).array[0]) == 2


def awaited(grid: LocalGrid, name: str | None) -> Any:
    for _ in range(2000):
        if name and (found := grid.pull_messages([name])):
            return found[0]
        threading.Event().wait(0.005)
    raise AssertionError("no answer")


def test_nodes_are_found_by_their_parties_names(flwr: Any, residents: RelayChannel) -> None:
    strangers = {"oak": {"party": "oak"}, "nobody": {}}
    assert addresses(grid_of(residents, **strangers), ["ash", "birch"], timeout=20, pause=0.01) == {
        "ash": 11,
        "birch": 12,
    }


def test_a_node_that_is_not_there_or_twice(flwr: Any, residents: RelayChannel) -> None:
    with pytest.raises(LostParty, match="'oak'"):
        addresses(grid_of(residents), ["ash", "oak"], timeout=0.3, pause=0.01)
    with pytest.raises(InvalidOption, match="two nodes"):
        addresses(grid_of(residents, other={"party": "ash"}), ["ash", "oak"], timeout=20, pause=0.01)


def test_a_node_that_comes_late_is_found(flwr: Any, residents: RelayChannel) -> None:
    class Late(LocalGrid):
        looks = 0

        def get_node_ids(self) -> list[int]:
            self.looks += 1
            return super().get_node_ids() if self.looks > 2 else [11]

        def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
            questions = list(messages)
            asked.extend(m.metadata.dst_node_id for m in questions if m.metadata.message_type == NAME)
            return super().push_messages(questions)

    asked: list[int] = []
    early = grid_of(residents)
    grid = Late(early._apps, {n: context.node_config for n, context in early._contexts.items()})
    assert addresses(grid, ["ash", "birch"], timeout=20, pause=0.01)["birch"] == 12
    # each was asked once
    assert sorted(asked) == [11, 12]
