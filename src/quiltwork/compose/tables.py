"""Composition over tables: what machines must agree on, and one machine as a method sees it.

    table_of(c)          Table: features, units, target, classes, family
    agreed_table(cs)     the one table of all, or a refusal that names the party and the first thing that differs
    local_of(c)          Local: the fit, the rows, the summary and the precision that its owner declared

Methods live in files of their own; the nouns they share are gathered here.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiltwork.composite.solution import Solution, TableMethod
from quiltwork.contribution.manifest import MixtureManifest
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import MissingPart, TableMismatch
from quiltwork.models.mixture.local import Local, Precision, Table
from quiltwork.models.mixture.named import from_named

__all__ = ["Local", "Precision", "Solution", "Table", "TableMethod", "agreed_table", "local_of", "table_of"]


def table_of(contribution: Contribution) -> Table:
    """The table that a contribution's rows are of.

    Raises:
        MissingPart: it is no mixture.
    """
    manifest = _manifest(contribution)
    named = manifest.table
    return Table(named.features, named.units, named.target, named.classes, manifest.method.family)


def local_of(contribution: Contribution) -> Local:
    """One machine as a method sees it, from its contribution.

    Raises:
        MissingPart: it is no mixture.
        AlteredContribution: a tensor is not the one that was checked.
    """
    manifest = _manifest(contribution)
    tensors = {name: contribution.tensor(name).double().numpy() for name in contribution.tensor_names()}
    parts = from_named(tensors, table_of(contribution), contribution.party)
    return Local(
        contribution.party,
        contribution.digest,
        manifest.licence,
        parts.mixture,
        manifest.method.rows,
        parts.covariates,
        parts.precision,
        manifest.method.converged,
    )


def agreed_table(contributions: Sequence[Contribution]) -> Table:
    """The table of all contributions.

    Raises:
        TableMismatch: they are of different tables; says which party differs from the first, and where.
        MissingPart: one is no mixture.
    """
    tables = {contribution.party: table_of(contribution) for contribution in contributions}
    (first, table), *others = tables.items()
    for party, other in others:
        require_same_table(table, other, first, party)
    return table


def _manifest(contribution: Contribution) -> MixtureManifest:
    manifest = contribution.manifest
    if not isinstance(manifest, MixtureManifest):
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"it is of kind '{contribution.kind}', and holds no mixture",
            mend="Ask the party for a contribution of kind 'mixture', or leave it out.",
        )
    return manifest


def require_same_table(table: Table, other: Table, one: str, who: str) -> None:
    """Refuse the table of party ``who`` if it is another than that of party ``one``; the first difference is named.

    Raises:
        TableMismatch: it is.
    """
    _require_same_features(table.features, other.features, one, who)
    for feature, unit, its in zip(table.features, table.units, other.units, strict=True):
        if unit != its:
            why = f"feature '{feature}' is in {_unit(its)}, and in {_unit(unit)} at party '{one}'"
            raise _differs(who, why, "Ask for a fit in the same units; coefficients carry them.")
    if table.target != other.target:
        why = f"it predicts {_list(other.target)}, and party '{one}' predicts {_list(table.target)}"
        raise _differs(who, why, "Compose the parties that predict the same.")
    if table.family != other.family:
        why = f"its experts are {other.family}, and those of party '{one}' {table.family}"
        raise _differs(who, why, "Ask for a fit of the same family.")
    if table.classes is not None and other.classes is not None:
        _require_same_classes(table.classes, other.classes, one, who)


def _require_same_features(features: Sequence[str], its: Sequence[str], one: str, who: str) -> None:
    missing = [name for name in features if name not in its]
    extra = [name for name in its if name not in features]
    if missing or extra:
        parts = [f"has no feature '{missing[0]}', which party '{one}' has"] if missing else []
        parts += [f"has a feature '{extra[0]}', which party '{one}' has not"] if extra else []
        raise _differs(who, "it " + ", and ".join(parts), "Ask for a fit to the features that all machines have.")
    for number, (name, other) in enumerate(zip(features, its, strict=True), start=1):
        if name != other:
            why = f"its features are in another order: number {number} is '{other}', and '{name}' at party '{one}'"
            raise _differs(who, why, f"Ask for a fit with the columns in the order {_list(features)}.")


def _require_same_classes(classes: Sequence[str], its: Sequence[str], one: str, who: str) -> None:
    for name in classes:
        if name not in its:
            mend = "Ask for a fit that declares the classes of all machines, its own and those it has not seen."
            raise _differs(who, f"it does not know class '{name}', which party '{one}' has", mend)
    for name in its:
        if name not in classes:
            mend = "Ask for fits that declare the classes of all machines."
            raise _differs(who, f"it has a class '{name}', which party '{one}' does not know", mend)
    if tuple(classes) != tuple(its):
        why = f"its classes are in another order than those of party '{one}'"
        raise _differs(who, why, f"Ask for a fit with the classes in the order {_list(classes)}.")


def _differs(who: str, why: str, mend: str) -> TableMismatch:
    return TableMismatch(f"party '{who}'", why=why, mend=mend)


def _unit(unit: str) -> str:
    return f"'{unit}'" if unit else "no stated unit"


def _list(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
