"""The score matrix of mixtures on tables: every model on every party's held-out rows.

    nats per row = - mean_i log f(y_i | x_i)        lower is better; its sign means nothing

The comparison that decides, alone against composed on a party's own rows, is paired: row by row on the same data, with
the standard error of the mean difference, which is far smaller than the spread of the rows. Rows that belong together
(one patient, one day) are not independent, and ``HeldOutRows.groups`` says so: then the error is computed from the sums
of groups (cluster-robust), and no smaller than the groups allow.

Held-out rows need not be pooled: an owner scores at home, on its own rows only, and ``merging.merge`` joins the parts.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.composite import TableComposite
from quiltwork.errors import InvalidOption
from quiltwork.evaluate.held_out import Column, Rows, Shape, checked, thinned
from quiltwork.evaluate.measures import measures
from quiltwork.evaluate.naming import require_names
from quiltwork.evaluate.scores import Cell, Row, Scores
from quiltwork.evaluate.standard_error import standard_error
from quiltwork.evaluate.truth import DIVERGENCE_ROWS, distances, gate_ari, n_free_parameters
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture


class Fitted(Protocol):
    """An estimator of ``models.mixture`` after ``fit``."""

    mixture_: Mixture[Experts]


Model: TypeAlias = Mixture[Experts] | TableComposite | Fitted


def mixture_of(model: Model) -> Mixture[Experts]:
    """The mixture of a composite, of a fitted estimator, or the model itself.

    Raises:
        InvalidOption: the model is none of these, or is not fitted.
    """
    if isinstance(model, Mixture):
        return model
    found = model.mixture if isinstance(model, TableComposite) else getattr(model, "mixture_", None)
    if isinstance(found, Mixture):
        return found
    raise InvalidOption(
        f"model of type {type(model).__name__}",
        why="it holds no mixture: the score matrix needs a density for each row",
        mend="Give a composite, a fitted mixture-of-experts estimator, or a Mixture.",
    )


def score_table(
    models: Mapping[str, Model],
    held_out: Mapping[str, Rows],
    *,
    alone: Mapping[str, Model] | None = None,
    public: Mapping[str, Rows] | None = None,
    leave_one_out: Sequence[str] = (),
    truth: Mixture[Experts] | None = None,
    classes: Sequence[object] | None = None,
    on_row: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score every model on every party's held-out rows.

    Args:
        models: compositions and other models by name; ``pooled`` is the name of the fit on all data together, which
            counts as a bound and not as a composition.
        held_out: each party's own rows.
        alone: each party's own model; by default those in the composites, if any model is one.
        public: further rows by name, of no party.
        leave_one_out: the composites to score again without each party.
        truth: the density that gave the rows, where it is known: distances to it are added to every row's ``extra``.
        classes: names of the classes in the order of their codes; by default those of the composites' table.
        on_row: called with the name of each row before it is scored.

    Raises:
        InvalidOption: rows that are empty, not finite or of another width, a class that is not known, a name that is
            twice there, or a model that gives some row no finite density.
    """
    composites = {name: model for name, model in models.items() if isinstance(model, TableComposite)}
    if alone is None:
        alone = {local.party: local.mixture for composite in composites.values() for local in composite.locals}
    parties = _parties(held_out, alone, composites.values())
    require_names(models, parties, public or {}, leave_one_out, composites, columns="rows")
    table = next((composite.table for composite in composites.values()), None)
    shape = Shape.of(
        [mixture_of(model) for model in (*models.values(), *alone.values())],
        features=table.features if table else None,
        classes=classes or (table.classes if table else None),
    )
    columns = checked({**held_out, **(public or {})}, shape)
    work = _Work(columns, truth, on_row)
    own = {party: work.score(f"{party} alone", model, measured={party}) for party, model in alone.items()}
    references = {party: losses[party] for party, (_, losses) in own.items() if party in losses}
    methods = {name: work.score(name, model, references, measured=columns) for name, model in models.items()}
    return Scores(
        machine=machine(),
        metric="nats per row",
        parties=parties,
        public=tuple(public or ()),
        domains=tuple(columns),
        methods={name: _told(row, models[name]) for name, (row, _) in methods.items()},
        alone={party: row for party, (row, _) in own.items()},
        leave_one_out={name: _left_out(name, composites[name], work, methods[name][1]) for name in leave_one_out},
    )


def _left_out(name: str, composite: TableComposite, work: _Work, whole: Mapping[str, Array]) -> dict[str, Row]:
    parties = composite.parties if len(composite.parties) > 1 else ()
    return {p: work.score(f"{name} without {p}", composite.without(p), whole)[0] for p in parties}


def machine() -> str:
    """The machine in words: processor, Python and NumPy."""
    return f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}"


def _told(row: Row, model: Model) -> Row:
    """The row with the parties that the composition left out."""
    if not isinstance(model, TableComposite):
        return row
    return row.model_copy(update={"excluded": dict(model.solution.excluded)})


def _parties(
    held_out: Mapping[str, Rows], alone: Mapping[str, Model], composites: Iterable[TableComposite]
) -> tuple[str, ...]:
    # those with rows first: an owner who scores at home still leaves the others out, one by one
    return tuple(dict.fromkeys(chain(held_out, alone, *(composite.parties for composite in composites))))


@dataclass(frozen=True, eq=False)
class _Work:
    """Scores one model at a time on all columns."""

    columns: Mapping[str, Column]
    truth: Mixture[Experts] | None
    on_row: Callable[[str], None]

    def score(
        self,
        name: str,
        model: Model,
        references: Mapping[str, Array] | None = None,
        *,
        measured: Container[str] = (),
    ) -> tuple[Row, dict[str, Array]]:
        """The row of one model, and its loss on every row of every column.

        ``references`` are the losses that it is held against, by column; ``measured`` are the columns that are given
        further measures.
        """
        self.on_row(name)
        began, mixture = time.monotonic(), mixture_of(model)
        losses = {domain: _losses(mixture, column, name, domain) for domain, column in self.columns.items()}
        cells = {
            domain: Cell(
                value=float(losses[domain].mean()),
                spread=standard_error(losses[domain], column.groups),
                paired=_paired(losses[domain], (references or {}).get(domain), column.groups),
                amount=len(losses[domain]),
                extra=_extra(mixture, column) if domain in measured else {},
            )
            for domain, column in self.columns.items()
        }
        extra = {} if self.truth is None else distances(mixture, self.truth, self._support)
        seconds = time.monotonic() - began
        return Row(domains=cells, total_params=n_free_parameters(mixture), seconds=seconds, extra=extra), losses

    @cached_property
    def _support(self) -> Array:
        return thinned(self.columns, DIVERGENCE_ROWS)[0]


def _losses(mixture: Mixture[Experts], column: Column, name: str, domain: str) -> Array:
    losses = -mixture.log_density(column.x, column.y)
    if not np.isfinite(losses).all():
        raise InvalidOption(
            f"model '{name}' on '{domain}'",
            why=f"row {int(np.flatnonzero(~np.isfinite(losses))[0])} has no finite density under it",
            mend="Look at the model's parameters and at that row; leave one of the two out.",
        )
    return losses


def _extra(mixture: Mixture[Experts], column: Column) -> dict[str, float]:
    labels = {} if column.labels is None else {"ari": gate_ari(mixture, column.x, column.labels)}
    return measures(mixture, column.x, column.y) | labels


def _paired(losses: Array, reference: Array | None, groups: NDArray[Any] | None) -> float | None:
    return None if reference is None else standard_error(losses - reference, groups)
