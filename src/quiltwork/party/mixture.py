"""The owner's verb for tables: ``contribute_mixture`` fits next to the rows and writes what leaves.

    table  ->  [fit a mixture of experts]  ->  [summarise]  ->  one contribution directory of a few kilobytes

No row leaves: parameters, how many rows they were fitted to, and the statistics asked for, each with a privacy event.
Parameters of an ordinary fit are released as they are, which the events say and the accountant prices at infinity.
Equal inputs give equal bytes, on any number of cores.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from quiltwork.contribution.fields import Card, PartyName, Short
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import (
    CovariatesStatistic,
    MixtureMethod,
    PrecisionStatistic,
    TableReference,
    TableStatistic,
)
from quiltwork.errors import InvalidOption, PrivacyError, StorageError
from quiltwork.evidence.covariates import MINIMUM_ROWS
from quiltwork.models.mixture.local import Local, Table
from quiltwork.models.mixture.named import named
from quiltwork.party.fitting import Fit, FitPlan, fit_rows
from quiltwork.party.table import TableFragment
from quiltwork.privacy.events import Event, ExactEvent

_UNWRITTEN = "sha256:" + "0" * 64


@dataclass(frozen=True)
class MixtureOrder:
    """What an owner of a table wants to contribute.

    Attributes:
        party: its name.
        n_experts: K, or ``"bic"`` to choose it by the Bayesian information criterion.
        covariates: the most groups in the summary of covariates (1: a mean and a covariance), or None to release none.
        minimum_rows: fewest rows of a group in that summary; a smaller one would show its rows.
        precision: release how sharply the rows determine the parameters.
        report_likelihood: state the log-likelihood of the rows, which is a figure of private rows.
        licence: of the contribution, an SPDX expression or a sentence.
        card: free text for whoever composes.
        seed: of starts and of the groups of covariates.
        options: further options of the estimator, by name.
    """

    party: str
    n_experts: int | Literal["bic"] = 2
    covariates: int | None = 1
    minimum_rows: int = MINIMUM_ROWS
    precision: bool = False
    report_likelihood: bool = True
    licence: str = "LicenseRef-unstated"
    card: str = ""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        check_words({"party": self.party, "licence": self.licence, "card": self.card})

    @property
    def plan(self) -> FitPlan:
        """How the fit is made."""
        return FitPlan(self.n_experts, self.covariates, self.minimum_rows, self.precision, self.seed, self.options)


def check_words(words: Mapping[str, str]) -> None:
    """Refuse now what writing would refuse after a long fit; ``party``, ``licence`` and ``card`` by name.

    Raises:
        InvalidOption: one of them breaks the format's rules.
    """
    kinds = {"party": PartyName, "licence": Short, "card": Card}
    for name, text in words.items():
        try:
            TypeAdapter(kinds[name]).validate_python(text)
        except ValidationError as error:
            raise InvalidOption(
                f"{name} {text[:100]!r}", why=error.errors()[0]["msg"], mend="Choose one that docs/format.md allows."
            ) from error


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
        FragmentError: the table has values that cannot be used, no rows, or a constant response.
        InvalidOption: an option of the fit does not fit the rows (more experts than rows).
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(target, overwrite)
    fit, table, events = fit_table(fragment, order)
    return release(fit, table, target, order, events, overwrite=overwrite)


def fit_table(fragment: TableFragment, order: MixtureOrder) -> tuple[Fit, Table, list[Event]]:
    """A fit to a table, what its rows mean, and the events of releasing it; nothing is written.

    Raises:
        FragmentError: as `contribute_mixture`.
        InvalidOption: likewise.
    """
    rows = fragment.arrays()
    return fit_rows(rows, fragment.family, order.plan), fragment.meaning(rows.classes), exact_events(order)


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


def exact_events(order: MixtureOrder) -> list[Event]:
    """The events of an ordinary fit: nothing bounds what it tells about a row."""
    events: list[Event] = [exact("mixture", "fitted without differential privacy")]
    if order.covariates is not None:
        events.append(exact("covariates"))
    if order.precision:
        events.append(exact("precision"))
    if order.report_likelihood:
        events.append(exact("training", "log-likelihood of the rows"))
    return events


def exact(released: str, note: str = "") -> ExactEvent:
    """An exact release about rows."""
    return ExactEvent(released=released, unit="row", note=note)


def release(
    fit: Fit,
    table: Table,
    target: str | Path,
    order: MixtureOrder,
    events: Sequence[Event],
    *,
    overwrite: bool = False,
) -> Contribution:
    """Write a fit as a contribution.

    Args:
        fit: what was fitted.
        table: what its rows mean.
        target: directory to make.
        order: names and words.
        events: one or more for each part.
        overwrite: replace an existing contribution.

    Raises:
        PrivacyError: a part has no event.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    told = fit.log_likelihood if order.report_likelihood else None
    statistics: list[TableStatistic] = []
    if fit.covariates is not None:
        statistics.append(CovariatesStatistic(components=len(fit.covariates.parts), minimum_rows=order.minimum_rows))
    if fit.precision is not None:
        statistics.append(PrecisionStatistic())
    parts = {"mixture", *(one.name for one in statistics), *(["training"] if told is not None else [])}
    if unpriced := sorted(parts - {event.released for event in events}):
        raise PrivacyError(f"part '{unpriced[0]}'", why="no event prices it", mend="Leave it out, or state its event.")
    local = Local(order.party, _UNWRITTEN, order.licence, fit.mixture, fit.rows, fit.covariates, fit.precision)
    draft = Draft(
        party=order.party,
        method=_method(fit, table, order.seed, told),
        tensors=named(local),
        licence=order.licence,
        table=reference(table),
        statistics=statistics,
        privacy=events,
        card=order.card,
    )
    return write(target, draft, overwrite=overwrite)


def _method(fit: Fit, table: Table, seed: int, told: float | None) -> MixtureMethod:
    return MixtureMethod(
        family=table.family,
        n_experts=fit.mixture.n_experts,
        n_features=table.n_features,
        n_outputs=table.n_outputs,
        rows=fit.rows,
        converged=fit.converged,
        iterations=fit.iterations,
        log_likelihood=told,
        seed=seed,
        software={name: importlib.metadata.version(name) for name in ("quiltwork", "numpy", "scipy", "scikit-learn")},
    )


def reference(table: Table) -> TableReference:
    """How a manifest names the table."""
    return TableReference(features=table.features, units=table.units, target=table.target, classes=table.classes)
