"""The score matrix of networks: every composed model, and every party's own, on every party's held-out inputs.

    share wrong     of the answers, for classes           squared error   mean over outputs, for numbers

An owner computes its column at home; what it tells are the numbers of the score file, among them, for classes,

    of each row of the matrix    log loss, Brier score, reliability by bins, hits by class
    of each party's own model    flips: the share of rows where another party's model is right and this one wrong
    of the plain ensemble        the individual loss and the diversity of its members (`network_insight.decompose`)

The plain ensemble of all modules, and what it is without each party, stands in the matrix unasked: it is the baseline
that anything else must beat. Every model runs once on every column.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from quiltwork.composite import NetworkComposite
from quiltwork.contribution.networks import TaskReference
from quiltwork.errors import CompatibilityError, InvalidOption
from quiltwork.evaluate.insight import REFERENCES
from quiltwork.evaluate.metrics import MetricName
from quiltwork.evaluate.naming import require_names
from quiltwork.evaluate.network_columns import Array, Column, columns_of
from quiltwork.evaluate.network_insight import decompose, flips, row_losses
from quiltwork.evaluate.network_means import ENSEMBLE, FLIPS, MULTIPLY_ADDS
from quiltwork.evaluate.network_measures import measures
from quiltwork.evaluate.scores import Cell, Row, Scores
from quiltwork.evaluate.standard_error import standard_error
from quiltwork.models.network.combining import combine
from quiltwork.models.network.cost import cost, network_cost
from quiltwork.models.network.network import Network
from quiltwork.models.network.stitched import StitchedNetwork

Model: TypeAlias = NetworkComposite | nn.Module
Rows: TypeAlias = tuple[ArrayLike, ArrayLike]
Outputs: TypeAlias = Mapping[str, Array]

_BATCH = 256


def score_networks(
    models: Mapping[str, Model],
    held_out: Mapping[str, Rows],
    *,
    task: TaskReference | None = None,
    alone: Mapping[str, nn.Module] | None = None,
    public: Mapping[str, Rows] | None = None,
    leave_one_out: Sequence[str] = (),
    on_row: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score every model on every party's held-out inputs.

    Args:
        models: composites and modules by name; a module takes raw inputs ``[n, *shape]`` to logits, or numbers.
            ``pooled`` is the name of one trained on all data together, which counts as a bound and no composition.
        held_out: each party's raw inputs ``[n, *shape]`` and labels: names of classes, codes, or numbers.
        task: of the models; by default that of the first composite.
        alone: each party's own model; by default the modules in the composites.
        public: further inputs by name, of no party.
        leave_one_out: the composites to score again without each party; a party that one cannot do without is skipped.
        on_row: called with the name of each row before it is scored.

    Raises:
        InvalidOption: rows that do not fit the task, composites of different tasks, names that clash, or outputs that
            are not finite.
    """
    composites = {name: model for name, model in models.items() if isinstance(model, NetworkComposite)}
    shared = _shared_task(composites, task)
    composed = [model for name, model in composites.items() if name not in REFERENCES]
    if alone is None:
        alone = {m.party: m.network for one in composed for m in one.members if "module" in m.parts}
    require_names(models, {*held_out, *alone}, public or {}, leave_one_out, composites, columns="inputs")
    work = _Work(columns_of({**held_out, **(public or {})}, shared), shared, on_row)
    own = {party: work.run(f"{party} alone", module) for party, module in alone.items()}
    ran = {name: work.run(name, model) for name, model in models.items()}
    plain = len(own) > 1 and ENSEMBLE not in ran
    methods = {ENSEMBLE: _ensemble(work, own)} if plain else {}
    methods |= {name: work.row(found, work.references(own)) for name, found in ran.items()}
    without = {name: _left_out(name, composites[name], work, ran[name].outputs) for name in leave_one_out}
    return Scores(
        machine=machine(),
        metric=work.metric,
        parties=tuple(dict.fromkeys((*held_out, *alone, *(p for one in composed for p in one.parties)))),
        public=tuple(public or ()),
        domains=tuple(work.columns),
        methods=methods,
        alone={party: _with_flips(work.row(found), party, own, work) for party, found in own.items()},
        leave_one_out=without | ({ENSEMBLE: _ensembles_without(work, own)} if plain else {}),
    )


def machine() -> str:
    """The machine in words: processor, Python and torch."""
    return f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


@dataclass(frozen=True)
class _Ran:
    """One model's outputs on every column, its size and work, and how long that took."""

    outputs: Outputs
    size: int
    work: int
    seconds: float


@dataclass(frozen=True, eq=False)
class _Work:
    """Runs one model at a time on all columns."""

    columns: Mapping[str, Column]
    task: TaskReference
    on_row: Callable[[str], None]

    @property
    def metric(self) -> MetricName:
        return "squared error" if self.task.classes is None else "share wrong"

    def run(self, name: str, model: Model) -> _Ran:
        self.on_row(name)
        began, module = time.monotonic(), model.model() if isinstance(model, NetworkComposite) else model
        outputs = {domain: _outputs(module, column) for domain, column in self.columns.items()}
        for domain, found in outputs.items():
            if found.shape != (len(self.columns[domain].inputs), self.task.outputs) or not np.isfinite(found).all():
                raise InvalidOption(
                    f"model '{name}' on '{domain}'",
                    why=f"its outputs are not {self.task.outputs} finite numbers an input",
                    mend="Look at that model, or leave it out.",
                )
        size = sum(tensor.numel() for tensor in module.state_dict().values())
        return _Ran(outputs, size, _work_of(module), time.monotonic() - began)

    def losses(self, outputs: Outputs) -> dict[str, Array]:
        """The metric of every row of every column."""
        return {domain: self._losses(found, self.columns[domain]) for domain, found in outputs.items()}

    def _losses(self, outputs: Array, column: Column) -> Array:
        if self.task.classes is None:
            return row_losses(outputs, column.truth, "squared")
        return np.asarray(outputs.argmax(axis=1) != column.truth, dtype=np.float64)

    def references(self, own: Mapping[str, _Ran]) -> dict[str, Array]:
        """What each party's own model loses on its own rows."""
        known = {party: ran.outputs[party] for party, ran in own.items() if party in ran.outputs}
        return self.losses(known)

    def row(self, ran: _Ran, references: Mapping[str, Array] | None = None) -> Row:
        held = references or {}
        cells = {
            domain: Cell(
                value=float(losses.mean()),
                spread=standard_error(losses),
                paired=standard_error(losses - held[domain]) if domain in held else None,
                amount=len(losses),
                extra=measures(ran.outputs[domain], self.columns[domain].truth, self.task),
            )
            for domain, losses in self.losses(ran.outputs).items()
        }
        extra = {MULTIPLY_ADDS: float(ran.work)} if ran.work else {}
        return Row(domains=cells, total_params=ran.size, seconds=ran.seconds, extra=extra)

    def mean_of(self, members: Mapping[str, _Ran]) -> _Ran:
        """The mean of members' probabilities, or numbers, from what they gave."""
        rule, task = ("mean", "numbers") if self.task.classes is None else ("probability", "classes")
        outputs = {
            domain: combine(self.stacked(members, domain), None, rule, task).numpy()  # type: ignore[arg-type]
            for domain in self.columns
        }
        ran = members.values()
        size, work = sum(one.size for one in ran), sum(one.work for one in ran)
        return _Ran(outputs, size, work, sum(one.seconds for one in ran))

    def stacked(self, members: Mapping[str, _Ran], domain: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([member.outputs[domain] for member in members.values()]))


def _work_of(module: nn.Module) -> int:
    """Multiply-adds an input, as far as networks and adapters tell them; 0 where there are none of these."""
    if isinstance(module, StitchedNetwork):
        return cost(module).multiply_adds
    return sum(network_cost(part).multiply_adds for part in module.modules() if isinstance(part, Network))


def _outputs(module: nn.Module, column: Column) -> Array:
    with torch.no_grad():
        parts = [module(torch.from_numpy(part)) for part in np.split(column.inputs, _cuts(len(column.inputs)))]
    return np.asarray(torch.cat(parts).double().numpy(), dtype=np.float64)


def _cuts(rows: int) -> list[int]:
    return list(range(_BATCH, rows, _BATCH))


def _ensemble(work: _Work, own: Mapping[str, _Ran]) -> Row:
    """The plain ensemble's row, with what its loss is made of."""
    row = work.row(work.mean_of(own), work.references(own))
    cells = {}
    for domain, cell in row.domains.items():
        loss = "squared" if work.task.classes is None else "log"
        parts = decompose(work.stacked(own, domain).numpy(), work.columns[domain].truth, loss)  # type: ignore[arg-type]
        told = {"individual": parts.individual, "diversity": parts.diversity}
        cells[domain] = cell.model_copy(update={"extra": cell.extra | told})
    return row.model_copy(update={"domains": cells})


def _ensembles_without(work: _Work, own: Mapping[str, _Ran]) -> dict[str, Row]:
    whole = work.losses(work.mean_of(own).outputs)
    others = {p: {q: ran for q, ran in own.items() if q != p} for p in own}
    return {party: work.row(work.mean_of(members), whole) for party, members in others.items()}


def _left_out(name: str, composite: NetworkComposite, work: _Work, whole: Outputs) -> dict[str, Row]:
    """The composite without each party that it can do without."""
    found: dict[str, Row] = {}
    for party in composite.parties if len(composite.parties) > 1 else ():
        try:
            rest = composite.without(party)
        except (CompatibilityError, InvalidOption):
            # the method names that party, or the others do not hold what it needs
            continue
        found[party] = work.row(work.run(f"{name} without {party}", rest), work.losses(whole))
    return found


def _with_flips(row: Row, party: str, own: Mapping[str, _Ran], work: _Work) -> Row:
    """The row of a party's own model with what the other models know that it does not."""
    if work.task.classes is None:
        return row
    cells = {}
    for domain, cell in row.domains.items():
        answers: dict[str, Any] = {p: ran.outputs[domain].argmax(axis=1) for p, ran in own.items()}
        known = flips(answers, work.columns[domain].truth)[party]
        cells[domain] = cell.model_copy(update={"extra": cell.extra | {f"{FLIPS}{q}": v for q, v in known.items()}})
    return row.model_copy(update={"domains": cells})


def _shared_task(composites: Mapping[str, NetworkComposite], task: TaskReference | None) -> TaskReference:
    found = task or next((composite.task for composite in composites.values()), None)
    if found is None:
        raise InvalidOption("the models", why="none says what its task is", mend="Give task=TaskReference(...).")
    for name, composite in composites.items():
        if composite.task != found:
            raise InvalidOption(
                f"model '{name}'",
                why="it is of another task: other inputs, units or classes, or their order",
                mend="Evaluate it apart.",
            )
    return found
