"""Alignment of owners that never meet on a line: files that are handed over, and what each owner does with them.

    asker      request(ids)              -> request, for every other owner            + a secret that stays
    others     answer(ids, request)      -> answer, for the asker alone
    asker      finish(ids, secret, answers)  -> the common ids
               agreement(common)         -> agreement, for every other owner; never for the composer
    everybody  apply(ids, agreement)     -> which rows, in which order, under which pseudonyms

The first three are the private set intersection of `quiltwork.party.intersection`, whose page says what each learns;
the asker learns every pairwise intersection, the others the common cases. The agreement holds a fresh key and the
pseudonyms HMAC-SHA-256(key, id) of the common cases, in their own order, which tells nothing of ids. With the key ids
can be tried, so whoever is not to know which cases take part must not get it.

Each file starts with its kind, holds its parts with their lengths, and ends with a digest: a file of another step, or
one that was cut, is refused before its parts are used. The digest keeps mistakes away, not forgers: hand the files over
by a way that you trust.

>>> files = agreement(["b", "c"])
>>> rows, names = apply(["c", "a", "b"], files)
>>> sorted(rows), names == sorted(names)
([0, 2], True)
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Sequence

from quiltwork.errors import InvalidOption, TableMismatch
from quiltwork.party.alignment import pseudonyms, rows_by_id
from quiltwork.party.intersection import Answerer, Asker

MOST_BYTES = 2**31
"""No file of the alignment is larger; 35 bytes a case are usual."""

_MAGIC = b"quiltwork align 1\n"
_REQUEST, _SECRET, _ANSWER, _AGREEMENT = b"request  ", b"secret   ", b"answer   ", b"agreement"
_DIGEST = 32


def request(ids: Sequence[str]) -> tuple[bytes, bytes]:
    """The request for the other owners, and the secret with which `finish` goes on.

    Args:
        ids: of the asker's rows, exact, each once.

    Raises:
        FragmentError: an id is empty, or there twice.
        InvalidOption: the extra ``align`` is not installed.
    """
    asker = Asker(list(rows_by_id("this", ids)))
    return _packed(_REQUEST, asker.request()), _packed(_SECRET, asker.key, _mark(asker.key, ids))


def answer(ids: Sequence[str], asked: bytes) -> bytes:
    """The answer for the asker.

    Args:
        ids: of this owner's rows.
        asked: the request.

    Raises:
        FragmentError: an id is empty, or there twice.
        TableMismatch: the file is no request.
        InvalidOption: the extra ``align`` is not installed.
    """
    (message,) = _parts(asked, _REQUEST, 1)
    answerer = Answerer(list(rows_by_id("this", ids)))
    response = answerer.response(message)
    return _packed(_ANSWER, answerer.setup(answerer.asked(message)), response)


def finish(ids: Sequence[str], secret: bytes, answers: Sequence[bytes]) -> list[str]:
    """The ids that all have, in the order of the asker's.

    Args:
        ids: those that were asked with, in the same order.
        secret: that `request` gave.
        answers: one of each other owner.

    Raises:
        TableMismatch: a file is of another step, the ids are others than were asked with, or none is common.
        InvalidOption: the extra ``align`` is not installed, or no answer is given.
    """
    key, mark = _parts(secret, _SECRET, 2)
    if not hmac.compare_digest(mark, _mark(key, ids)):
        raise TableMismatch(
            "the ids of this table",
            why="they are not those that were asked with, in the same order",
            mend="Take the table as it was, or start with a new request.",
        )
    if not answers:
        raise InvalidOption("the alignment", why="no answer is given", mend="Give one of each other owner.")
    common = set(ids)
    for one in answers:
        setup, response = _parts(one, _ANSWER, 2)
        common &= set(Asker(ids, key).common(setup, response))
    if not common:
        raise TableMismatch(
            "the cases of the owners",
            why="none is common to all",
            mend="Write ids alike at all owners: they are compared byte by byte.",
        )
    return [name for name in ids if name in common]


def agreement(common: Sequence[str]) -> bytes:
    """The file by which every owner finds the common cases: a fresh key and their pseudonyms."""
    key = secrets.token_bytes(32)
    return _packed(_AGREEMENT, key, b"".join(bytes.fromhex(name) for name in sorted(pseudonyms(common, key))))


def apply(ids: Sequence[str], agreed: bytes) -> tuple[list[int], list[str]]:
    """Row numbers from 0 of the common cases in the agreed order, and their pseudonyms.

    Args:
        ids: of this owner's rows.
        agreed: the agreement.

    Raises:
        FragmentError: an id is empty, or there twice.
        TableMismatch: the file is no agreement, or this owner lacks a case of it.
    """
    key, names = _parts(agreed, _AGREEMENT, 2)
    if len(key) != 32 or not names or len(names) % 32:
        raise _unfit("it is damaged")
    wanted = [names[i : i + 32].hex() for i in range(0, len(names), 32)]
    rows = dict(zip(pseudonyms(list(rows_by_id("this", ids)), key), range(len(ids)), strict=True))
    if missing := sum(name not in rows for name in wanted):
        raise TableMismatch(
            "this table",
            why=f"it lacks {missing} of the {len(wanted)} cases that were agreed on",
            mend="Take the table that was answered with.",
        )
    return [rows[name] for name in wanted], wanted


def _mark(key: bytes, ids: Sequence[str]) -> bytes:
    """By which ids are known again without being written down."""
    told = hmac.new(key, digestmod="sha256")
    for name in ids:
        told.update(struct.pack("<I", len(name.encode())) + name.encode())
    return told.digest()


def _packed(kind: bytes, *parts: bytes) -> bytes:
    body = _MAGIC + kind + b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    return body + hashlib.sha256(body).digest()


def _parts(data: bytes, kind: bytes, count: int) -> list[bytes]:
    start = len(_MAGIC) + len(kind)
    if data[:start] != _MAGIC + kind:
        raise _unfit(f"it is no file of the step that makes the {kind.decode().strip()}")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise _unfit("it was cut or changed")
    found, at = [], start
    for _ in range(count):
        size = int.from_bytes(body[at : at + 8], "little")
        found.append(body[at + 8 : at + 8 + size])
        at += 8 + size
    if at != len(body):
        raise _unfit("it is damaged")
    return found


def _unfit(why: str) -> TableMismatch:
    return TableMismatch("a file of the alignment", why=why, mend="Ask for the file of this step again.")
