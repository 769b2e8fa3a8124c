"""The owner's verb for tables: ``contribute_mixture`` fits next to the rows and writes what leaves.

    table  ->  [fit a mixture of experts]  ->  [summarise]  ->  one contribution directory of a few kilobytes

No row leaves: parameters, how many rows they were fitted to, and the statistics asked for, each with a privacy event.
Parameters of an ordinary fit are released as they are, which the events say and the accountant prices at infinity; a
fit under noise (``private_em``) has a finite price. But for noise, equal inputs give equal bytes, on any number of
cores.
"""

from __future__ import annotations

from pathlib import Path

from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import (
    CovariatesStatistic,
    MixtureMethod,
    PrecisionStatistic,
    TableReference,
    TableStatistic,
)
from quiltwork.errors import StorageError
from quiltwork.models.mixture.local import Local, Table
from quiltwork.models.mixture.named import named
from quiltwork.party.fitting import Fit, fit_rows
from quiltwork.party.mixture_order import MixtureOrder
from quiltwork.party.software import versions
from quiltwork.party.table import TableFragment

__all__ = ["MixtureOrder", "contribute_mixture", "fit_table", "reference", "release", "require_absent"]

_UNWRITTEN = "sha256:" + "0" * 64


def contribute_mixture(
    fragment: TableFragment, target: str | Path, order: MixtureOrder, *, overwrite: bool = False
) -> Contribution:
    """Fit a mixture of experts to a table and write the contribution.

    Args:
        fragment: the party's table.
        target: directory to make.
        order: what to release.
        overwrite: replace an existing contribution.

    Returns:
        The contribution as it was written.

    Raises:
        FragmentError: the table has values that cannot be used or, unless the fit is private, no rows or a constant
            response.
        InvalidOption: an option of the fit does not fit the rows (more experts than rows).
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(target, overwrite)
    fit, table = fit_table(fragment, order)
    return release(fit, table, target, order, overwrite=overwrite)


def fit_table(fragment: TableFragment, order: MixtureOrder) -> tuple[Fit, Table]:
    """A fit to a table, and what its rows mean; nothing is written.

    Raises:
        FragmentError: as `contribute_mixture`.
        InvalidOption: likewise.
    """
    rows = fragment.arrays(any_rows=order.private is not None)
    return fit_rows(rows, fragment.family, order), fragment.meaning(rows.classes)


def require_absent(target: str | Path, overwrite: bool) -> None:
    """Refuse a target that exists before any work is done.

    Raises:
        StorageError: it does, and overwriting was not asked for.
    """
    if Path(target).exists() and not overwrite:
        raise StorageError(
            f"target '{target}'",
            why="something is already there",
            mend="Choose another target, remove it, or ask for overwriting.",
        )


def release(
    fit: Fit, table: Table, target: str | Path, order: MixtureOrder, *, overwrite: bool = False
) -> Contribution:
    """Write a fit as a contribution.

    Args:
        fit: what was fitted, and what it costs.
        table: what its rows mean.
        target: directory to make.
        order: names and words.
        overwrite: replace an existing contribution.

    Raises:
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    statistics: list[TableStatistic] = []
    if fit.covariates is not None:
        least = order.minimum_rows if isinstance(order.covariates, int) else 1
        statistics.append(CovariatesStatistic(components=len(fit.covariates.parts), minimum_rows=least))
    if fit.precision is not None:
        statistics.append(PrecisionStatistic())
    local = Local(order.party, _UNWRITTEN, order.licence, fit.mixture, fit.rows, fit.covariates, fit.precision)
    draft = Draft(
        party=order.party,
        method=_method(fit, table, order.seed),
        tensors=named(local),
        licence=order.licence,
        table=reference(table),
        statistics=statistics,
        privacy=fit.events,
        card=order.card,
    )
    return write(target, draft, overwrite=overwrite)


def _method(fit: Fit, table: Table, seed: int) -> MixtureMethod:
    return MixtureMethod(
        family=table.family,
        n_experts=fit.mixture.n_experts,
        n_features=table.n_features,
        n_outputs=table.n_outputs,
        rows=fit.rows,
        converged=fit.converged,
        iterations=fit.iterations,
        log_likelihood=fit.log_likelihood,
        seed=seed,
        software=versions("quiltwork", "numpy", "scipy", "scikit-learn"),
    )


def reference(table: Table) -> TableReference:
    """How a manifest names the table."""
    return TableReference(features=table.features, units=table.units, target=table.target, classes=table.classes)
