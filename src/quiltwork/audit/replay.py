"""Replay: a party with its own fragment and the recorded messages alone comes to the same answers and the same state.

    confinement (G1)    in_i equal  =>  out_i and theta_i equal, for all fragments of the others

A fresh party is started with X_i and nothing else, and gets the recorded messages of the composer, byte for byte. Its
answers, as one digest over all frames, and with them the digest of its parameters, have to be those on record. What
reached the party in any other way (a file, shared memory, a global) is missing there, and shows.

How the party is started is the caller's: as a process of its own, sealed, for a certificate; the level in force goes
into the evidence. The control is a second replay in which the last cotangent is 1e-4 larger in one number.

By testing this is evidence on the tested messages; what makes it hold for all is the sealing of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts, altered
from quiltwork.audit.tape import Tape, digest_again
from quiltwork.errors import LostParty
from quiltwork.session.channel import Channel
from quiltwork.session.frames import Kind, Message

NUDGE = 1e-4
"""What is added to one number of the last cotangent in the control."""

Start = Callable[[], Channel]
"""Starts the party afresh, with its own fragment, and gives a channel to it."""


def replay(facts: Facts, tape: Tape, party: str, start: Start) -> Check:
    """Does the party come to the same without the others?

    Args:
        facts: of the run.
        tape: of the run.
        party: which.
        start: a fresh start of that party alone.

    Raises:
        AlteredRecords: the tape is of another session, or says nothing of the party.
    """
    spool = tape.spools[party]
    recorded = facts.transcripts[party]
    if digest_again(party, "down", spool.down) != recorded.down:
        raise altered(f"the tape of party '{party}'", "its messages are not those that the log counted")
    again, sealing = _transcript(party, spool.down, start)
    other, _ = _transcript(party, _nudged(party, spool.down), start)
    passed, control = again == recorded.up, other != recorded.up
    says = (
        f"Party '{party}' alone, {sealing}, gave {'the same answers' if passed else 'OTHER answers'} to the last bit."
    )
    return check(
        "replay",
        facts,
        "G1",
        "hash",
        subject=party,
        passed=passed,
        control=control,
        found={"recorded": recorded.up, "replayed": again, "nudged": other, "sealing": sealing},
        says=says,
    )


def _transcript(party: str, messages: Sequence[Message], start: Start) -> tuple[str, str]:
    """The digest of a fresh party's answers, and how it was sealed, as its channel says."""
    channel = start()
    try:
        # a party that refuses half way has given other answers, and that is all there is to say
        with suppress(LostParty):
            for message in messages:
                channel.call(party, message)
        return channel.log.digest(party, "up"), getattr(channel, "sealing", {}).get(party, "not sealed")
    finally:
        channel.close()


def _nudged(party: str, messages: Sequence[Message]) -> list[Message]:
    """The messages with the last cotangent changed in one number."""
    at = [i for i, m in enumerate(messages) if m.kind is Kind.COTANGENT]
    if not at:
        raise altered(f"the tape of party '{party}'", "no cotangents are on it")
    found, last = list(messages), messages[at[-1]]
    assert last.array is not None
    array = last.array.copy()
    step = 1 if array.dtype == np.int8 else NUDGE
    array.flat[0] = array.flat[0] - step if array.flat[0] > 0 else array.flat[0] + step
    # the answer to the last cotangent is DONE: only a question after it can tell, and the digest is one
    found[at[-1]] = Message(last.kind, last.round, array)
    return found
