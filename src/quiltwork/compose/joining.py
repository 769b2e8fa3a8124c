"""Parties that join a composed model later: the result is what composing all of them at once would have been.

    joined(compose(S), T) == compose(S + T)        bit for bit

A table composite keeps every local fit and a network composite every contribution, so only those who join hand
anything over. To a network composite a party that is in it may hand over more: stitches that it trained, say. What was
about a party that was not there is not in S, and is handed over again with that party.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quiltwork.compose.method import check_parties, check_parts, compose
from quiltwork.compose.tables import agreed_table, local_of, require_same_table
from quiltwork.composite import Entry, NetworkComposite, Provenance, TableComposite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import DuplicateParty, InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.trust import Trust


def joined(
    composite: TableComposite, contributions: Sequence[Contribution], *, trust: Trust | None = None
) -> TableComposite:
    """The composite of the machines that are in it and of those who join.

    Args:
        composite: a composed mixture; it stays as it is.
        contributions: of kind ``mixture``, of the same table; any order.
        trust: as in `require_trusted`.

    Raises:
        InvalidOption: nobody joins.
        DuplicateParty: a party is in it already, or joins twice.
        MissingPart, TableMismatch: a contribution does not hold what the method needs, or is of another table.
        UntrustedContribution, RevokedContribution, MalformedContribution: as `require_trusted`.
    """
    _require_somebody(contributions)
    require_trusted(composite, contributions, trust)
    ordered = sorted(contributions, key=lambda c: c.party)
    check_parties(ordered)
    for contribution in ordered:
        check_parts(contribution, composite.method)
    for contribution in ordered:
        _require_absent(composite, contribution.party)
    require_same_table(composite.table, agreed_table(ordered), composite.parties[0], ordered[0].party)
    locals_ = sorted((*composite.locals, *map(local_of, ordered)), key=lambda local: local.party)
    entries = tuple(Entry(local.party, local.digest, local.licence) for local in locals_)
    whole = TableComposite(
        composite.method, composite.table, tuple(locals_), Provenance(None, composite.method.name, entries)
    )
    _ = whole.solution  # what the method refuses is refused here, as by ``compose``
    return whole


def joined_network(
    composite: NetworkComposite, contributions: Sequence[Contribution], *, trust: Trust | None = None
) -> NetworkComposite:
    """The composite of what is in it and of what is handed over now.

    Args:
        composite: a composed network; it stays as it is.
        contributions: about the same task; any order.
        trust: as in `require_trusted`.

    Raises:
        InvalidOption: nobody joins.
        DuplicateParty: a party hands over what it has handed over already.
        MissingPart, TaskMismatch: they do not hold what the method needs, or are of another task.
        UntrustedContribution, RevokedContribution, MalformedContribution: as `require_trusted`.
    """
    _require_somebody(contributions)
    require_trusted(composite, contributions, trust)
    return compose([*composite.contributions, *contributions], composite.method)


def require_trusted(
    composite: TableComposite | NetworkComposite, contributions: Sequence[Contribution], trust: Trust | None
) -> None:
    """Refuse those who join unsigned, and whatever was taken back, also of what is in the composite already.

    A composite keeps no signatures: those were for whoever composed it to ask for.

    Args:
        composite: what they join.
        contributions: of those who join.
        trust: whose signatures to require, and what was taken back; None asks for nothing.

    Raises:
        UntrustedContribution, RevokedContribution, MalformedContribution: as `Trust.require`.
    """
    if trust is not None:
        trust.require(contributions)
        composite.provenance.refuse_revoked(trust)


def _require_somebody(contributions: Sequence[Contribution]) -> None:
    if not contributions:
        raise InvalidOption("an empty list", why="nobody would join", mend="Give at least one contribution.")


def _require_absent(composite: TableComposite, party: str) -> None:
    if party in composite.parties:
        raise DuplicateParty(
            f"party '{party}'",
            why="it is in the composed model already",
            mend=f"Take it out first: quiltwork remove --party {party}.",
        )
