"""Which rows of several owners are the same case: row ids, pseudonyms of them, and the agreed order of rows.

    positions(ids)  =  {party: p},  such that row p_party[j] is the same case at every party, for j = 0 ... m - 1

``SameRows`` wants the same ids at every party and puts them in one order. ``CommonRows`` keeps the cases that all have,
found by private set intersection (`quiltwork.party.intersection`). ``Linkage`` is the seam: anything that answers ids
with positions, such as a linkage by similar names, can stand in their place.

What a session is given are pseudonyms,

    pseudonym(id) = HMAC-SHA-256(key, id)

under a key that the owners share and the composer has not: without the key nobody can try ids, with it anybody can.
An error never tells an id, but the party and the number of the row.

>>> SameRows().positions({"bank": ["7", "3"], "shop": ["3", "7"]})
{'bank': array([1, 0]), 'shop': array([0, 1])}
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError, InvalidOption, TableMismatch

KEY_BYTES = 16
"""Least length of a key for pseudonyms."""


class Linkage(Protocol):
    """How rows of several parties are matched."""

    def positions(self, ids: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
        """By party, int64 ``[m]``: its row of each agreed case, in the agreed order.

        Raises:
            FragmentError: a party has an id twice.
            TableMismatch: the parties' rows cannot be matched.
        """
        ...


class SameRows:
    """Every party has exactly the same ids, in whatever order; the agreed order is that of the ids as text."""

    def positions(self, ids: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.int64]]:
        """As `Linkage`; refuses the first party that differs from the first of all."""
        rows = {party: rows_by_id(party, ids[party]) for party in sorted(ids)}
        first, *others = rows
        for party in others:
            _require_same(first, rows[first], party, rows[party])
        return in_order(rows, sorted(rows[first]))


def in_order(rows: Mapping[str, Mapping[str, int]], common: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """By party the rows of some ids that all have, in the order of the ids given."""
    return {party: np.array([at[i] for i in common], dtype=np.int64) for party, at in rows.items()}


def rows_by_id(party: str, ids: Sequence[str]) -> dict[str, int]:
    """Row numbers from 0 by id.

    Raises:
        FragmentError: an id is empty, or appears twice.
    """
    found: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name or name in found:
            why = f"its id is that of row {found[name] + 1}" if name else "its id is empty"
            raise FragmentError(
                f"row {row + 1} of party '{party}'", why=why, mend="Give each case one row and an id of its own."
            )
        found[name] = row
    return found


def require_equal_counts(counts: Mapping[str, int]) -> None:
    """Refuse parties that have not the same number of rows, where rows are matched by their order.

    Raises:
        TableMismatch: the first that differs.
    """
    first, *others = sorted(counts)
    for party in others:
        if counts[party] != counts[first]:
            raise TableMismatch(
                f"the rows of party '{party}'",
                why=f"they are {counts[party]}, and party '{first}' has {counts[first]}",
                mend="Align the tables, or name the column of row ids.",
            )


def pseudonyms(ids: Sequence[str], key: bytes) -> list[str]:
    """Keyed pseudonyms of ids, 64 hexadecimal digits each.

    Args:
        ids: exact: "7" and "07" are two cases.
        key: at least 16 secret bytes, the same at all owners and unknown to the composer.

    Raises:
        InvalidOption: the key is too short.
    """
    if len(key) < KEY_BYTES:
        raise InvalidOption(
            f"a key of {len(key)} bytes",
            why="whoever guesses it can try ids",
            mend="Draw 32 bytes: secrets.token_bytes(32).",
        )
    return [hmac.new(key, name.encode(), hashlib.sha256).hexdigest() for name in ids]


def _require_same(one: str, first: Mapping[str, int], other: str, second: Mapping[str, int]) -> None:
    for party, here, there, rows in ((other, second, first, one), (one, first, second, other)):
        lost = next((name for name in here if name not in there), None)
        if lost is not None:
            raise TableMismatch(
                f"row {here[lost] + 1} of party '{party}'",
                why=f"party '{rows}' has no row of its id ({len(here)} rows, and {len(there)})",
                mend="Align the parties' rows first, or keep the common cases only.",
            )
