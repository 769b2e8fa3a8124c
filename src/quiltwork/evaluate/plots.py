"""Figures of the score matrix as PNG bytes; each states its direction, and none needs colour alone.

A figure takes ``Scores`` and returns one PNG; ``draw_all`` makes every figure that the scores have numbers
for.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from quiltwork.evaluate import insight
from quiltwork.evaluate.calibration_plots import calibrated, calibration
from quiltwork.evaluate.drawing import (
    BETTER,
    HATCHES,
    OKABE_ITO,
    Grid,
    figure,
    heat_map,
    label,
    labels,
    limit_of,
    panel_grid,
    robust_limit,
    slot_styles,
)
from quiltwork.evaluate.gain_plots import party_gains
from quiltwork.evaluate.metrics import percent_above
from quiltwork.evaluate.network_means import flips_at_home
from quiltwork.evaluate.network_plots import classes_map, flips_map, owners_pareto, owners_points
from quiltwork.evaluate.network_views import class_table
from quiltwork.evaluate.pareto import front
from quiltwork.evaluate.routing_plots import (
    MOST_PANELS,
    load_balance,
    own_by_position,
    positioned,
    slots_by_position,
)
from quiltwork.evaluate.scores import Cell, Scores

MARKERS = "osD^vPX*<>hp"
# with more parties a row for each one's own model hides the rows that matter
MOST_ALONE = 16
# with more columns cells have no room for numbers
MOST_NUMBERED = 24
# a narrower part of a bar cannot hold its number
MIN_SHARE_SHOWN = 0.07


def score_rows(scores: Scores) -> dict[str, Mapping[str, Cell]]:
    """All rows of the matrix by label: the methods, then each party's own model as ``alone: NAME``.

    With more than `MOST_ALONE` parties these are one row, ``alone: each on its own``: every party's own model in that
    party's column.
    """
    rows: dict[str, Mapping[str, Cell]] = {name: row.domains for name, row in scores.methods.items()}
    if len(scores.alone) > MOST_ALONE:
        own = {party: row.domains[party] for party, row in scores.alone.items() if party in row.domains}
        return rows | {"alone: each on its own": own}
    return rows | {f"alone: {party}": row.domains for party, row in scores.alone.items()}


def ordered_domains(scores: Scores) -> list[str]:
    """The parties' own domains, then the public ones, then the rest."""
    known = [d for d in (*scores.parties, *scores.public) if d in scores.domains]
    return [*known, *(d for d in scores.domains if d not in known)]


def score_matrix(scores: Scores) -> bytes:
    """Heat map of the metric; colour is the change against the public base, or else the column's median."""
    rows, domains = score_rows(scores), ordered_domains(scores)
    base = scores.row("base") if "base" in scores.methods else {}
    reference = {d: base[d] if d in base else _column_median(rows, d) for d in domains}
    ratio = scores.measure.ratio
    change: Grid = [
        [_change(cells[d].value, reference[d], ratio=ratio) if d in cells else None for d in domains]
        for cells in rows.values()
    ]
    texts = [[_short(cells.get(d), 3 if scores.measure.points else 2) for d in domains] for cells in rows.values()]
    crowded = len(domains) > MOST_NUMBERED
    with figure(_width(domains), 1.9 + 0.36 * len(rows)) as (canvas, png):
        metric = scores.measure
        title = f"{metric.title} on {metric.material} (lower is better)"
        axes = canvas.add_subplot(title=title, ylabel="model", xlabel=metric.material)
        unit = "%" if ratio else metric.name
        bar = f"change against the\n{'public base' if base else 'column median'}, {unit}"
        limit = limit_of(change) if ratio else robust_limit(change)
        alone = [name.removeprefix("alone: ") for name in list(rows)[len(scores.methods) :]]
        names = [*labels(list(scores.methods)), *(f"alone: {name}" for name in labels(alone))]
        heat_map(axes, change, [] if crowded else texts, rows=names, columns=labels(domains), bar=bar, limit=limit)
        if crowded:
            axes.tick_params(axis="x", labelsize=6)
        split = len(_own_domains(scores)) - 0.5
        if 0 < split < len(domains) - 1:
            axes.axvline(split, color="black", linewidth=1.5)
    return png.getvalue()


def _width(domains: Sequence[str]) -> float:
    """Inches for a map with a column for each domain."""
    return 4.2 + 0.17 * len(domains) if len(domains) > MOST_NUMBERED else max(7.0, 3.6 + 0.85 * len(domains))


def _column_median(rows: Mapping[str, Mapping[str, Cell]], domain: str) -> float:
    # a model far from a column's data can be worse by orders of magnitude, and would move a mean
    return statistics.median([cells[domain].value for cells in rows.values() if domain in cells] or [0.0])


def _change(value: float, reference: float, *, ratio: bool) -> float:
    return percent_above(value, reference) if ratio else value - reference


def _short(cell: Cell | None, digits: int) -> str:
    """A score in the width of a cell of the figure."""
    if cell is None:
        return "–"
    return f"{cell.value:.{digits}f}" if abs(cell.value) < 1000 else f"{cell.value:.1e}"


def pareto_public(scores: Scores) -> bytes:
    """Mean over the parties against mean over the public domains; the front leaves out the pooled bound."""
    public = _public_domains(scores)
    points = {m: scores.mean(m, public) for m in _complete(scores, [*_own_domains(scores), *public])}
    return _scatter(scores, points, f"mean {scores.metric} over {len(public)} public domains", log=False)


def pareto_active(scores: Scores) -> bytes:
    """Mean over the parties against active parameters per token; the front leaves out the pooled bound."""
    sizes = {m: scores.methods[m].active_params for m in _complete(scores, _own_domains(scores))}
    points = {m: float(size) for m, size in sizes.items() if size is not None}
    return _scatter(scores, points, "active parameters per token", log=True)


def _own_domains(scores: Scores) -> list[str]:
    return [p for p in scores.parties if p in scores.domains]


def _public_domains(scores: Scores) -> list[str]:
    return [d for d in scores.public if d in scores.domains]


def _complete(scores: Scores, domains: Sequence[str]) -> list[str]:
    """The methods that were scored on all of ``domains``."""
    return [m for m, row in scores.methods.items() if domains and set(domains) <= row.domains.keys()]


def _scatter(scores: Scores, x: Mapping[str, float], xlabel: str, *, log: bool) -> bytes:
    own = _own_domains(scores)
    points = {m: (x[m], scores.mean(m, own)) for m in x}
    best = front({m: point for m, point in points.items() if m != "pooled"})
    with figure(8.6, 4.6) as (canvas, png):
        axes = canvas.add_subplot(xlabel=xlabel, ylabel=f"mean {scores.metric} over {len(own)} parties")
        axes.set_title("Down and left is better; the line is the Pareto front")
        if log:
            axes.set_xscale("log")
        line = sorted(points[m] for m in best)
        look = {"where": "post", "color": "#444444", "linestyle": "--", "linewidth": 1}
        axes.step([p[0] for p in line], [p[1] for p in line], **look)
        for i, name in enumerate(sorted(points, key=lambda m: points[m][1])):
            _point(axes, i, points[name], name, _point_note(name, best))
        axes.margins(0.08)
        axes.grid(alpha=0.3)
        title = "best mean over parties first"
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title=title)
    return png.getvalue()


def _point_note(name: str, best: Sequence[str]) -> str:
    if name == "pooled":
        return " (bound, needs pooled data)"
    return " – on the front" if name in best else ""


def _point(axes: Any, place: int, point: tuple[float, float], name: str, note: str) -> None:
    colour, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
    face = "none" if name == "pooled" else colour
    look = {"color": colour, "marker": marker, "mfc": face, "markersize": 9, "alpha": 0.85, "linestyle": ""}
    axes.plot(*point, label=label(name) + note, **look)


def routing_shares(scores: Scores, method: str) -> bytes:
    """One stacked bar a domain: the share of each slot in the answers, averaged over layers."""
    routing, styles = scores.routing[method], slot_styles(scores)
    domains = [d for d in ordered_domains(scores) if d in routing]
    slots = [s for s in styles if any(s in routing[d].slots for d in domains)]
    with figure(9.0, 1.5 + 0.36 * max(len(domains), 0.8 * len(slots))) as (canvas, png):
        axes = canvas.add_subplot(xlabel="share of the answers, mean over layers", xlim=(0, 1))
        axes.set_title(f"Which expert answers which text: {label(method)}")
        left = [0.0] * len(domains)
        for slot, name in zip(slots, labels(slots), strict=True):
            shares = [routing[d].mean().get(slot, 0.0) for d in domains]
            _stack(axes, shares, left, name, styles[slot])
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(domains)), labels(domains))
        axes.invert_yaxis()
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, title="expert of")
    return png.getvalue()


def _stack(axes: Any, shares: list[float], left: list[float], name: str, style: tuple[str, int]) -> None:
    colour, hatch = style
    look = {"color": colour, "hatch": HATCHES[hatch % len(HATCHES)], "edgecolor": "white", "linewidth": 0.8}
    axes.barh(range(len(shares)), shares, left=left, label=name, height=0.72, **look)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "boxstyle": "round,pad=0.15"}
    for i, (share, start) in enumerate(zip(shares, left, strict=True)):
        if share >= MIN_SHARE_SHOWN:
            text = f"{share:.0%}"
            axes.text(start + share / 2, i, text, ha="center", va="center", fontsize=8, bbox=box)


def varies_by_layer(scores: Scores, method: str) -> bool:
    """Whether any domain is routed differently in different layers."""
    return any(len(set(routing.layers)) > 1 for routing in scores.routing[method].values())


def routing_layers(scores: Scores, method: str) -> bytes:
    """One panel a domain: layers downwards, slots across, darkness the share."""
    routing = scores.routing[method]
    domains = [d for d in ordered_domains(scores) if d in routing]
    across, down = panel_grid(len(domains))
    slots = max((len(routing[d].slots) for d in domains), default=1)
    depth = max((len(routing[d].layers) for d in domains), default=1)
    with figure(1.0 + across * (0.9 + 0.26 * slots), 0.6 + down * (1.5 + 0.16 * depth)) as (canvas, png):
        panels = canvas.subplots(down, across, squeeze=False).ravel()
        for axes, domain in zip(panels, domains, strict=False):
            image = axes.imshow(routing[domain].layers, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_title(label(domain), fontsize=9)
            names = labels(routing[domain].slots)
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axes.set_yticks(range(len(routing[domain].layers)))
            axes.tick_params(axis="y", labelsize=7)
        for axes in panels[len(domains) :]:
            axes.set_visible(False)
        canvas.suptitle(f"Share by layer: {label(method)}", fontsize=11)
        canvas.supylabel("layer", fontsize=9)
        if domains:
            canvas.colorbar(image, ax=list(panels), label="share", fraction=0.03)
    return png.getvalue()


def externalities(scores: Scores, method: str) -> bytes:
    """Heat map: the effect of each party on each domain, in units of the metric saved (positive: it helps)."""
    effects, domains = insight.externalities(scores, method), ordered_domains(scores)
    parties = list(effects)
    grid: Grid = [[effects[p].get(d) for d in domains] for p in parties]
    # adding zero turns a rounded -0.0 into 0.0
    texts = [["–" if v is None else f"{round(v, 2) + 0.0:+.2f}" for v in row] for row in grid]
    # a party's own column is far larger than the rest and would leave the rest white
    others = limit_of(grid, skip=lambda i, j: parties[i] == domains[j])
    limit = max(others, limit_of(grid) / 20)
    crowded = len(domains) > MOST_NUMBERED
    with figure(_width(domains), 2.4 + (0.17 if crowded else 0.36) * len(parties)) as (canvas, png):
        title = f"Saved by having a party in {label(method)} (positive: it helps)"
        axes = canvas.add_subplot(title=title, ylabel="party", xlabel=scores.measure.material)
        bar = f"{scores.metric} saved"
        names = {"rows": labels(parties), "columns": labels(domains)}
        heat_map(axes, grid, [] if crowded else texts, **names, bar=bar, limit=limit, high_is_better=True)
        if crowded:
            axes.tick_params(labelsize=6)
    return png.getvalue()


def contribution_bytes(scores: Scores) -> bytes:
    """Bars: how many bytes each party handed over."""
    parties = [p for p in scores.parties if p in scores.contributions]
    sizes = [scores.contributions[p].bytes for p in parties]
    crowded = len(parties) > MOST_NUMBERED
    scale, unit = (1e6, "megabytes") if max(sizes, default=0) >= 1e6 else (1e3, "kilobytes")
    with figure(8.0, 1.2 + (0.1 if crowded else 0.34) * len(parties)) as (canvas, png):
        axes = canvas.add_subplot(xlabel=f"{unit} handed over ({scale:,.0f} bytes)")
        axes.set_title("Size of each contribution")
        bars = axes.barh(range(len(parties)), [s / scale for s in sizes], color=BETTER, height=0.65)
        if not crowded:
            axes.bar_label(bars, [f"{s / scale:.2f}" for s in sizes], padding=4, fontsize=8)
        axes.set_yticks(range(len(parties)), labels(parties), fontsize=5 if crowded else None)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01 if crowded else None)
        axes.spines[["top", "right"]].set_visible(False)
    return png.getvalue()


class Drawing(NamedTuple):
    """A figure with the stem of its file name, the part of the report it belongs to, and what it shows."""

    stem: str
    section: str
    caption: str
    png: bytes


def draw_all(scores: Scores) -> list[Drawing]:
    """Every figure that the scores have numbers for, in the order of the report.

    Raises:
        InvalidOption: matplotlib is not installed.
    """
    return drawn(_wanted(scores))


def drawn(wanted: Iterable[tuple[str, str, Callable[[], bytes]]]) -> list[Drawing]:
    """Draw figures that are given by section, caption and how to draw them, each with a stem of its own."""
    done: list[Drawing] = []
    for section, caption, draw in wanted:
        done.append(Drawing(_stem(caption, {d.stem for d in done}), section, caption, draw()))
    return done


def _wanted(scores: Scores) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    own, public = _own_domains(scores), _public_domains(scores)
    if scores.domains and score_rows(scores):
        yield "matrix", "Score matrix", lambda: score_matrix(scores)
    if own and public and _complete(scores, [*own, *public]):
        yield "pareto", "Pareto: parties against public text", lambda: pareto_public(scores)
    sized = _complete(scores, own)
    if sized and all(scores.methods[m].active_params for m in sized):
        yield "pareto", "Pareto: parties against active parameters", lambda: pareto_active(scores)
    if scores.measure.material == "held-out rows" and len(owners_points(scores)) > 1:
        yield "pareto", "Pareto: owners against each other", lambda: owners_pareto(scores)
    if len(class_table(scores)) > 1 and "alone" in class_table(scores):
        yield "classes", "Accuracy by class", lambda: classes_map(scores)
    if flips_at_home(scores):
        yield "knowledge", "Knowledge of others' models", lambda: flips_map(scores)
    if any(gain.own is not None for m in scores.methods if m != "base" for gain in insight.gains(scores, m)):
        yield "gains", "Gain of each party", lambda: party_gains(scores)
    for method in scores.routing:
        yield "routing", f"Routing: {method}", partial(routing_shares, scores, method)
        if varies_by_layer(scores, method):
            yield "routing", f"Routing by layer: {method}", partial(routing_layers, scores, method)
    yield from _of_positions(scores)
    for method in scores.leave_one_out:
        if method in scores.methods:
            yield "leave-one-out", f"Leave one out: {method}", partial(externalities, scores, method)
    if calibrated(scores):
        yield "calibration", "Calibration", lambda: calibration(scores)
    if scores.contributions:
        yield "contributions", "Contributions", lambda: contribution_bytes(scores)


def _of_positions(scores: Scores) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """How evenly experts are used, and who answers at which position."""
    domains = ordered_domains(scores)
    for method, routings in scores.routing.items():
        known = [domain for domain in domains if domain in routings and len(routings[domain].slots) > 1]
        if known:
            yield "balance", f"Load balance: {method}", partial(load_balance, scores, method, known)
    spread = {method: positioned(scores, method, domains) for method in scores.routing}
    if any(spread.values()):
        yield "positions", "Own party by position", lambda: own_by_position(scores, domains)
    for method, known in spread.items():
        if known:
            yield "positions", f"By position: {method}", partial(slots_by_position, scores, method, known[:MOST_PANELS])


def _stem(caption: str, taken: Container[str]) -> str:
    """A file stem of plain characters: names of methods come from strangers and may hold slashes."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", caption.lower())[:80].strip("-")
    stem, copy = plain, 2
    while stem in taken:
        stem, copy = f"{plain}-{copy}", copy + 1
    return stem
