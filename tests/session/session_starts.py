"""Parties for the tests of channels; imported by their processes, so nothing heavy is imported here."""

from __future__ import annotations

import os
import stat
import struct
import sys
import time
from dataclasses import dataclass

import numpy as np

from quiltwork.session.channel import RefusedRequest, Terms
from quiltwork.session.frames import Kind, Message, Refusal, Spec, largest_frame
from quiltwork.session.process import Sealing, Started

ANY = Spec("float32", (None,), most=2**22)
TERMS = Terms(
    down={Kind.ACTIVATION: ANY, Kind.LOCAL: Spec(), Kind.STOP: Spec()},
    up={Kind.ACTIVATION: ANY, Kind.DONE: Spec()},
)


class Doubling:
    """Doubles an array; refuses LOCAL; fails at STOP."""

    def handle(self, message: Message) -> Message:
        if message.kind is Kind.LOCAL:
            raise RefusedRequest(Refusal.UNEXPECTED)
        if message.kind is Kind.STOP:
            raise ValueError("words that must not cross")
        assert message.array is not None
        return Message(Kind.ACTIVATION, message.round, message.array * np.float32(2))


class Leaving:
    """Agrees to stop."""

    def handle(self, message: Message) -> Message:
        return Message(Kind.DONE, message.round)


class Liar:
    """Answers with a kind that was not declared."""

    def handle(self, message: Message) -> Message:
        return Message(Kind.STATE, message.round)


class Dying:
    """Ends its process in the middle of an answer."""

    def handle(self, message: Message) -> Message:
        os._exit(7)


class Silent:
    """Thinks for a minute."""

    def handle(self, message: Message) -> Message:
        time.sleep(60)
        return Message(Kind.DONE, message.round)


class Shouting:
    """Announces a frame longer than any that was declared, past its own end of the channel."""

    def handle(self, message: Message) -> Message:
        handles = [int(name) for name in os.listdir("/proc/self/fd")]
        for handle in handles:
            if handle > 2 and is_socket(handle):
                os.write(handle, struct.pack("<Q", largest_frame(TERMS.up) + 1))
        time.sleep(60)
        return Message(Kind.DONE, message.round)


def is_socket(handle: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(handle).st_mode)
    except OSError:
        return False


KINDS = {
    "doubling": Doubling,
    "leaving": Leaving,
    "liar": Liar,
    "dying": Dying,
    "silent": Silent,
    "shouting": Shouting,
}


@dataclass(frozen=True)
class Begin:
    """Starts a party of a kind."""

    kind: str
    sealing: Sealing = Sealing.NOT_SEALED

    def __call__(self) -> Started:
        print("words that nobody asked for", file=sys.stderr)
        if self.kind == "broken":
            raise ValueError("the fragment is not there")
        if self.kind == "never":
            time.sleep(60)
        return Started(KINDS[self.kind](), self.sealing)
