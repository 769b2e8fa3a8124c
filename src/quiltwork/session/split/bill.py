"""The bytes that a session must have cost, computed from what was agreed and never from the frames.

    training   sum over rounds t and parties i present of  round_bytes(b_t, d_i)
    label      sum over rounds t of  bytes(ROWS [b_t]) + bytes(DONE) + one answer a head present
    answer     2 bytes(float32 [b_t, k]) + bytes(LOSS) + bytes(float64 [1])

plus what was asked for besides: outputs, digests, states, farewells. A channel's log that says anything else has
carried something undeclared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from quiltwork.session.channel import Direction
from quiltwork.session.frames import frame_bytes
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import Precision, round_bytes

DIGEST = (frame_bytes(None), frame_bytes("uint8", (32,)))
"""Bytes of a request for a digest, down and up."""

STATE = (frame_bytes("int64", (1,)), frame_bytes("uint8", (32,)))
"""Bytes of a request to save or restore a state, down and up."""

STOP = (frame_bytes(None), frame_bytes(None))
"""Bytes of a farewell, down and up."""


def rows_bytes(rows: int) -> tuple[int, int]:
    """Bytes of telling the label party the rows of a round, down and up."""
    return frame_bytes("int64", (rows,)), frame_bytes(None)


def answer_bytes(rows: int, outputs: int) -> tuple[int, int]:
    """Bytes of the label party's answer to the logits of one head, cotangents and loss, down and up."""
    logits = frame_bytes("float32", (rows, outputs))
    return logits + frame_bytes(None), logits + frame_bytes("float64", (1,))


def prior_bytes(outputs: int) -> tuple[int, int]:
    """Bytes of the label party's prior, down and up."""
    return frame_bytes(None), frame_bytes("float64", (outputs,))


class Bill:
    """A sum of expected bytes, by party and direction."""

    def __init__(self) -> None:
        self._sums: Counter[tuple[str, Direction]] = Counter()

    def add(self, party: str, cost: tuple[int, int], times: int = 1) -> None:
        """Add bytes down and up, as often as they were spent."""
        self._sums[party, "down"] += times * cost[0]
        self._sums[party, "up"] += times * cost[1]

    def bytes(self, party: str | None = None, direction: Direction | None = None) -> int:
        """The sum, of all or of one party, one direction."""
        return sum(size for (who, way), size in self._sums.items() if party in (None, who) and direction in (None, way))


def training_bytes(
    schedule: Schedule, widths: Mapping[str, int], precision: Precision = "float32"
) -> dict[str, tuple[int, int]]:
    """Bytes down and up that each component's party will have cost after all rounds."""
    sums = {party: [0, 0] for party in widths}
    for round_ in range(schedule.rounds):
        rows = len(schedule.rows(round_))
        for party in schedule.present(list(widths), round_):
            for way, size in enumerate(round_bytes(rows, widths[party], precision)):
                sums[party][way] += size
    return {party: (down, up) for party, (down, up) in sums.items()}
