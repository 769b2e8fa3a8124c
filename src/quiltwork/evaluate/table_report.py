"""The report on mixtures composed on tables, in one call: the score matrix, and figures of the models themselves.

Figures of the models need more than the scores: the experts along the covariates that matter most, the gate over two,
the objective of each composition, its machines and their distances, and the likelihood on all parties' rows as machines
are added. Held-out rows set the ranges that are drawn, and are not drawn themselves unless that is asked for: points in
a picture are rows that leave their owner.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from quiltwork.composite import TableComposite
from quiltwork.errors import QuiltworkError
from quiltwork.evaluate import composition_plots, table_plots
from quiltwork.evaluate.composition_plots import Point
from quiltwork.evaluate.held_out import Column, Rows, Shape, checked, thinned
from quiltwork.evaluate.plots import Drawing, drawn
from quiltwork.evaluate.profile import Profile
from quiltwork.evaluate.report import write_report
from quiltwork.evaluate.scores import Scores
from quiltwork.evaluate.standard_error import standard_error
from quiltwork.evaluate.tables import Model, mixture_of, score_table
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.transport import divergence_bound

# slices of one model; more are not looked at
COVARIATES = 2
# rows that set the ranges of pictures
PROFILE_ROWS = 50_000
# rows at which machines' models are compared with the composed one
SUPPORT_ROWS = 512
# curves need a model anew for each point; above this many machines they start at a sixteenth
FEW = 16

Wanted: TypeAlias = Iterator[tuple[str, str, Callable[[], bytes]]]


def table_report(
    models: Mapping[str, Model],
    held_out: Mapping[str, Rows],
    target: str | os.PathLike[str],
    *,
    scores: Scores | None = None,
    plots_dir: str | os.PathLike[str] | None = None,
    show_rows: bool = False,
    curve: bool = True,
    target_name: str | None = None,
) -> list[Path]:
    """Write the report on composed mixtures as one HTML file, with figures and numbers beside it.

    Args:
        models: composites and other models by name, as in ``score_table``.
        held_out: each party's own rows.
        target: the HTML file.
        scores: what ``score_table`` found for them, perhaps with contributions added; by default it is called.
        plots_dir: where the PNG files go; by default ``NAME-plots`` beside the HTML.
        show_rows: draw held-out rows as points, where the report may hold them.
        curve: compose anew with fewer machines, for the figure of likelihood against their number.
        target_name: what the response is called; by default as the composites' table has it.

    Returns:
        The paths written: the HTML, the JSON, then the figures.

    Raises:
        InvalidOption: rows or models that do not fit, a target that is not HTML, or jinja2 or matplotlib is missing.
        StorageError: the file system refuses.
    """
    found = score_table(models, held_out) if scores is None else scores
    extra = table_drawings(models, held_out, found, show_rows=show_rows, curve=curve, target_name=target_name)
    return write_report(found, target, plots_dir=plots_dir, extra=extra)


def table_drawings(
    models: Mapping[str, Model],
    held_out: Mapping[str, Rows],
    scores: Scores,
    *,
    show_rows: bool = False,
    curve: bool = True,
    target_name: str | None = None,
) -> list[Drawing]:
    """The figures of ``table_report`` that are not drawn from scores alone; arguments as there."""
    composites = {name: model for name, model in models.items() if isinstance(model, TableComposite)}
    table = next((composite.table for composite in composites.values()), None)
    shape = Shape.of(
        [mixture_of(model) for model in models.values()],
        features=table.features if table else None,
        classes=table.classes if table else None,
    )
    columns = checked(held_out, shape)
    wanted: list[tuple[str, str, Callable[[], bytes]]] = []
    if name := _model_to_show(models, scores):
        responses = (target_name,) if target_name else table.target if table else ("y",)
        wanted += _of_model(name, mixture_of(models[name]), columns, shape, responses, show_rows=show_rows)
    wanted += _of_compositions(composites, columns)
    if curve and any(len(composite.parties) > 2 for composite in composites.values()):
        pooled = mixture_of(models["pooled"]) if "pooled" in models else None
        draw = partial(_curve, composites, columns, pooled)
        wanted.append(("composition", "Likelihood against number of machines", draw))
    return drawn(wanted)


def _model_to_show(models: Mapping[str, Model], scores: Scores) -> str | None:
    """The composed model with the lowest mean over the parties among those with few experts."""
    small = [m for m in models if m != "pooled" and mixture_of(models[m]).n_experts <= table_plots.MOST_EXPERTS]
    own = [p for p in scores.parties if p in scores.domains]
    known = [m for m in small if m in scores.methods and own and set(own) <= scores.methods[m].domains.keys()]
    return min(known, key=lambda m: scores.mean(m, own), default=next(iter(small), None))


def _of_model(
    name: str,
    mixture: Mixture[Experts],
    columns: Mapping[str, Column],
    shape: Shape,
    targets: Sequence[str],
    *,
    show_rows: bool,
) -> Wanted:
    x, y = thinned(columns, PROFILE_ROWS)
    profile = Profile.of(x, shape.features)
    for feature in profile.most_telling(mixture)[:COVARIATES]:
        along = f"along {profile.names[feature]}"
        if shape.family == "multinomial":
            classes = partial(table_plots.classes_over, mixture, feature, profile, classes=shape.classes)
            yield "model", f"Classes {along}: {name}", classes
            continue
        for output, response in enumerate(targets):
            draw = partial(
                table_plots.experts_over,
                mixture,
                feature,
                profile,
                target=response,
                output=output,
                data=(x, y) if show_rows else None,
            )
            yield "model", f"{response if len(targets) > 1 else 'Experts'} {along}: {name}", draw
    if shape.n_features > 1 and mixture.n_experts > 1:
        one, two = profile.gate_movers(mixture)[:2]
        surface = partial(table_plots.gate_surface, mixture, (one, two), profile, data=x if show_rows else None)
        yield "model", f"Gate over {profile.names[one]} and {profile.names[two]}: {name}", surface


def _of_compositions(composites: Mapping[str, TableComposite], columns: Mapping[str, Column]) -> Wanted:
    objectives = {n: c.solution.objective for n, c in composites.items() if len(c.solution.objective) > 1}
    if objectives:
        yield "composition", "Objective at every step", partial(composition_plots.objective_steps, objectives)
    support, _ = thinned(columns, SUPPORT_ROWS)
    for name, composite in composites.items():
        # an unreduced mixture holds every machine's model, at no distance
        if isinstance(composite.mixture.gate, SoftmaxGate) and len(composite.locals) > 1:
            distances = machine_distances(composite, support)
            excluded = composite.solution.excluded
            draw = partial(composition_plots.machine_distances, distances, excluded, method=name)
            yield "composition", f"Machines: {name}", draw


def machine_distances(composite: TableComposite, x: Array) -> dict[str, float]:
    """For each machine how far its model is from the composed one, at most: mean divergence over ``x``, in nats."""
    return {
        local.party: float(divergence_bound(local.mixture, composite.mixture, x).mean()) for local in composite.locals
    }


def _curve(
    composites: Mapping[str, TableComposite], columns: Mapping[str, Column], pooled: Mixture[Experts] | None
) -> bytes:
    curves = {name: machines_curve(composite, columns) for name, composite in composites.items()}
    reference = None if pooled is None else _point(0, pooled, columns)
    return composition_plots.likelihood_by_machines(curves, pooled=reference)


def machines_curve(
    composite: TableComposite, columns: Mapping[str, Column], *, counts: Sequence[int] | None = None, seed: int = 0
) -> list[Point]:
    """The composition of growing numbers of machines, each scored on all parties' rows.

    Machines are added in one random order, drawn from ``seed``; another order gives another curve. A number of machines
    that the method refuses or fails to compose has no point.

    Args:
        composite: all machines.
        columns: checked rows, see ``held_out.checked``.
        counts: how many machines; by default powers of two and all.
        seed: of the order.
    """
    everyone = len(composite.locals)
    order = np.random.default_rng(seed).permutation(everyone)
    points = []
    for count in counts or _powers(everyone):
        chosen = tuple(composite.locals[i] for i in sorted(order[:count]))
        parties = {local.party for local in chosen}
        kept = tuple(entry for entry in composite.provenance.contributions if entry.party in parties)
        fewer = TableComposite(
            composite.method, composite.table, chosen, replace(composite.provenance, contributions=kept)
        )
        with suppress(QuiltworkError, np.linalg.LinAlgError):
            points.append(_point(count, (composite if count == everyone else fewer).mixture, columns))
    return points


def _powers(most: int) -> list[int]:
    """Powers of two up to ``most``, and ``most``.

    >>> _powers(12), _powers(64)
    ([1, 2, 4, 8, 12], [4, 8, 16, 32, 64])
    """
    first = 0 if most <= FEW else int(math.log2(most // FEW))
    found = [2**i for i in range(first, int(math.log2(most)) + 1)]
    return found if found[-1] == most else [*found, most]


def _point(count: int, mixture: Mixture[Experts], columns: Mapping[str, Column]) -> Point:
    losses = np.concatenate([-mixture.log_density(column.x, column.y) for column in columns.values()])
    return Point(count, float(losses.mean()), standard_error(losses))
