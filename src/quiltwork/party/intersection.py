"""Cases that several owners have in common, by private set intersection: ids are compared without being shown.

Two owners, ids hashed to points of an elliptic curve, secret exponents a and b (Diffie and Hellman; Meadows 1986):

    asker     request  = { H(x)^a }                    its ids, blinded
    answerer  response = { H(x)^(ab) },  setup = { H(y)^b }
    asker     x is common  <=>  H(x)^(ab) raised to 1/a is in setup

The library of OpenMined (extra ``align``) computes; here the setup is its raw list, so that no false match happens.
Ids are matched exactly, byte by byte. What each learns, honest or not:

- the asker: which of its cases the answerer has, and how many the answerer has in all;
- the answerer: how many cases the asker has; and later the common ones;
- nobody: an id that it has not got itself. But whoever makes ids up, and many of them, learns which exist: the protocol
  does not bind a party to ids that it really holds, and small or guessable sets of ids are told by trying.

With more than two owners the first by name asks each other one, keeps what all have, and tells them; it learns each
pairwise intersection besides, and all learn the size of what is left.

>>> from quiltwork.party.alignment import in_order
>>> in_order({"bank": {"a": 0, "b": 1}, "shop": {"b": 0, "c": 1}}, ["b"])
{'bank': array([1]), 'shop': array([0])}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption, TableMismatch
from quiltwork.party.alignment import in_order, rows_by_id

_NO_FALSE_MATCH = 1e-9
"""Asked of the library, which takes a rate; its raw list has none."""


class Asker:
    """The end that learns the intersection.

    Args:
        ids: exact, each once.
        key: the secret of an end that asked before with these ids in this order; a new one where not given.

    Raises:
        InvalidOption: the extra is not installed.
    """

    def __init__(self, ids: Sequence[str], key: bytes | None = None) -> None:
        self._library, self._ids = _library(), list(ids)
        client = self._library.client
        self._end = client.CreateWithNewKey(True) if key is None else client.CreateFromKey(key, True)

    @property
    def key(self) -> bytes:
        """The secret exponent, 32 bytes, with which another process can go on; nobody else may have it."""
        return bytes(self._end.GetPrivateKeyBytes())

    def request(self) -> bytes:
        """What goes to the answerer: one blinded point an id."""
        return bytes(self._end.CreateRequest(self._ids).SerializeToString())

    def common(self, setup: bytes, response: bytes) -> list[str]:
        """The ids that both have, in the order of the asker's.

        Raises:
            TableMismatch: what came is not what an answerer sends.
        """
        try:
            messages = self._library.ServerSetup(), self._library.Response()
            for message, data in zip(messages, (setup, response), strict=True):
                message.ParseFromString(data)
            return [self._ids[row] for row in sorted(self._end.GetIntersection(*messages))]
        except Exception as error:
            raise _garbled("the answer") from error


class Answerer:
    """The end that learns how many cases the asker has.

    Args:
        ids: exact, each once.

    Raises:
        InvalidOption: the extra is not installed.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._library, self._ids = _library(), list(ids)
        self._end = self._library.server.CreateWithNewKey(True)

    def setup(self, asked: int) -> bytes:
        """The answerer's own points, for an asker of so many ids."""
        raw = self._library.DataStructure.RAW
        message = self._end.CreateSetupMessage(_NO_FALSE_MATCH, asked, self._ids, raw)
        return bytes(message.SerializeToString())

    def response(self, request: bytes) -> bytes:
        """The asker's points, blinded once more.

        Raises:
            TableMismatch: what came is no request.
        """
        try:
            return bytes(self._end.ProcessRequest(self._parsed(request)).SerializeToString())
        except Exception as error:
            raise _garbled("the request") from error

    def asked(self, request: bytes) -> int:
        """How many ids a request is about.

        Raises:
            TableMismatch: what came is no request.
        """
        try:
            return len(self._parsed(request).encrypted_elements)
        except Exception as error:
            raise _garbled("the request") from error

    def _parsed(self, request: bytes) -> Any:
        message = self._library.Request()
        message.ParseFromString(request)
        return message


class CommonRows:
    """A `quiltwork.party.alignment.Linkage` that keeps the cases that all parties have, in the order of their ids."""

    def positions(self, ids: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
        """By party, int64 ``[m]``: its row of each common case.

        Raises:
            FragmentError: a party has an id twice, or an empty one.
            TableMismatch: no case is common to all.
            InvalidOption: the extra is not installed.
        """
        rows = {party: rows_by_id(party, ids[party]) for party in sorted(ids)}
        first, *others = rows
        left = set(rows[first])
        for party in others:
            left &= set(intersection(list(rows[first]), list(rows[party])))
        if not left:
            raise TableMismatch(
                f"the cases of {', '.join(rows)}",
                why="none is common to all",
                mend="Write ids alike at all parties: they are compared byte by byte.",
            )
        return in_order(rows, sorted(left))


def intersection(own: Sequence[str], others: Sequence[str]) -> list[str]:
    """What two owners have in common, both ends in this process; messages still are bytes."""
    asker, answerer = Asker(own), Answerer(others)
    return asker.common(answerer.setup(len(own)), answerer.response(asker.request()))


def _library() -> Any:
    try:
        import private_set_intersection.python as library
    except ImportError as error:
        raise InvalidOption(
            "private set intersection",
            why=f"its library cannot be loaded ({error.name or 'another C library is needed'})",
            mend="pip install 'quiltwork[align]'; it needs Linux with glibc 2.35 or later, or macOS.",
        ) from None
    return library


def _garbled(what: str) -> TableMismatch:
    return TableMismatch(
        f"{what} of the intersection", why="its bytes are not of the protocol", mend="Start the alignment again."
    )
