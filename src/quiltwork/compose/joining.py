"""Machines that join a composed mixture later: the result is what composing all of them at once would have been.

    joined(compose(S), T) == compose(S + T)        bit for bit

A table composite keeps every local fit, so only those who join hand anything over.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.compose.method import check_parties, check_parts
from quiltwork.compose.tables import agreed_table, local_of, require_same_table
from quiltwork.composite import Entry, Provenance, TableComposite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import DuplicateParty, InvalidOption


def joined(composite: TableComposite, contributions: Sequence[Contribution]) -> TableComposite:
    """The composite of the machines that are in it and of those who join.

    Args:
        composite: a composed mixture; it stays as it is.
        contributions: of kind ``mixture``, of the same table; any order.

    Raises:
        InvalidOption: nobody joins.
        DuplicateParty: a party is in it already, or joins twice.
        MissingPart, TableMismatch: a contribution does not hold what the method needs, or is of another table.
    """
    if not contributions:
        raise InvalidOption("an empty list", why="nobody would join", mend="Give at least one contribution.")
    ordered = sorted(contributions, key=lambda c: c.party)
    check_parties(ordered)
    for contribution in ordered:
        _require_absent(composite, contribution.party)
        check_parts(contribution, composite.method)
    require_same_table(composite.table, agreed_table(ordered), composite.parties[0], ordered[0].party)
    locals_ = sorted((*composite.locals, *map(local_of, ordered)), key=lambda local: local.party)
    entries = tuple(Entry(local.party, local.digest, local.licence) for local in locals_)
    whole = TableComposite(
        composite.method, composite.table, tuple(locals_), Provenance(None, composite.method.name, entries)
    )
    _ = whole.solution  # what the method refuses is refused here, as by ``compose``
    return whole


def _require_absent(composite: TableComposite, party: str) -> None:
    if party in composite.parties:
        raise DuplicateParty(
            f"party '{party}'",
            why="it is in the composed model already",
            mend=f"Take it out first: quiltwork remove --party {party}.",
        )
