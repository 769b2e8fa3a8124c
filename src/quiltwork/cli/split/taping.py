"""The tape of a run on disk, and its replay: each party again, alone and sealed, on the recorded messages.

    tape/NAME.down, tape/NAME.up      length (8 bytes, little-endian), frame; length, frame; ...

Frames are those of the session (`quiltwork.session.frames`) under a key of zeros: what vouches for a tape is that its
messages give the digests in the records. It holds cotangents, which tell of labels, and is readable by its owner alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from quiltwork.audit.check import Check
from quiltwork.audit.facts import altered
from quiltwork.audit.masks import masks
from quiltwork.audit.replay import replay
from quiltwork.audit.tape import Spool, Tape, require_genuine
from quiltwork.cli.split.attacking import canaries
from quiltwork.cli.split.build import words
from quiltwork.cli.split.folder import RunNote
from quiltwork.cli.split.owners import owner
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.rows import read_cases
from quiltwork.cli.split.subject import Subject
from quiltwork.errors import AlteredFrame, AlteredRecords
from quiltwork.session.channel import LocalChannel
from quiltwork.session.frames import Message, Opener, Schema, Sealer
from quiltwork.session.process import ProcessChannel

TAPE = "tape"
_LENGTH, _KEY = struct.Struct("<Q"), bytes(32)


def write_tape(place: Path, tape: Tape) -> None:
    """Write what was said so far."""
    (place / TAPE).mkdir()
    for party, spool in sorted(tape.spools.items()):
        _file(place, party, "down").write_bytes(_sealed(spool.down))
        _file(place, party, "up").write_bytes(_sealed(spool.up))


def read_tape(run: Path, plan: Plan, note: RunNote) -> Tape | None:
    """The tape of a run; None where none was kept.

    Raises:
        AlteredRecords: a part of it is missing, or holds what could not be said.
    """
    if not (run / TAPE).is_dir():
        return None
    found = Tape(LocalChannel({}, {}))
    for party, terms in words(plan, len(note.prior)).items():
        down, up = (_opened(_file(run, party, way), schema) for way, schema in (("down", terms.down), ("up", terms.up)))
        found.spools[party] = Spool(down, up)
    return found


def taped(subject: Subject) -> tuple[Tape | None, list[Check]]:
    """The tape of a run and what it shows: no foreign numbers, each party the same again; nothing without a tape.

    Raises:
        AlteredRecords: the tape is of another session.
    """
    tape = read_tape(subject.run, subject.plan, subject.note)
    if tape is None:
        return None, []
    require_genuine(tape, subject.facts)
    if subject.plan.masked:
        # under fresh keys no answer comes again; whether the masks were such is judged instead
        return tape, [masks(subject.facts, tape), *canaries(subject, tape)]
    return tape, [*_replays(subject, tape), *canaries(subject, tape)]


def _replays(subject: Subject, tape: Tape) -> list[Check]:
    """Each party afresh, in a sealed process, with its own files and the recorded messages alone."""
    plan, root = subject.plan, subject.root
    cases = read_cases(plan, root, covariates=False)
    terms = words(plan, len(subject.note.prior))

    def start(party: str, folder: Path) -> ProcessChannel:
        begin = owner(plan, cases, party, (root.resolve(), tuple(subject.trusted), folder / party))
        return ProcessChannel({party: begin}, {party: terms[party]}, timeout=plan.training.timeout, folder=folder)

    found = []
    for party in subject.facts.parties:
        with TemporaryDirectory() as folder:
            found.append(replay(subject.facts, tape, party, partial(start, party, Path(folder))))
    return found


def _file(place: Path, party: str, way: str) -> Path:
    return place / TAPE / f"{party}.{way}"


def _sealed(messages: list[Message]) -> bytes:
    sealer = Sealer(_KEY)
    frames = (sealer.seal(message) for message in messages)
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def _opened(path: Path, schema: Schema) -> list[Message]:
    opener = Opener(_KEY, schema)
    try:
        return [opener.open(frame) for frame in _frames(path.read_bytes())]
    except (OSError, struct.error, AlteredFrame) as error:
        raise _broken(path) from error


def _frames(content: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size + length
        yield content[at - length : at]


def _broken(path: Path) -> AlteredRecords:
    return altered(f"'{path}'", "it is not there, or holds what could not be said in this session")
