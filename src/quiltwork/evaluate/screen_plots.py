"""Figures of a screening as PNG bytes: effects, captures, sizes of changes, likeness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from quiltwork.evaluate.drawing import (
    BETTER,
    PUBLIC_GREY,
    WORSE,
    Grid,
    figure,
    heat_map,
    labels,
    robust_limit,
)
from quiltwork.evaluate.screen_record import Capture, Effect, Screening
from quiltwork.evaluate.screen_verdicts import is_of

MOST_NUMBERED = 24
ALL = "all, against the base"
_MARKS = {"harm": " ▲", "unknown": " ?"}


def last_effects(screening: Screening) -> dict[tuple[str, str], Effect]:
    """By party and text, the effect of the last round that the two were in; of "", all together, likewise."""
    return {(one.party, one.text): one for one in screening.effects}


def last_captures(screening: Screening) -> dict[tuple[str, str], Capture]:
    """By slot and text, the capture of the first round, in which all take part."""
    return {(one.party, one.text): one for one in screening.captures if one.round == 1}


def _map_size(rows: int, columns: int) -> tuple[float, float]:
    return max(
        6.5, 3.2 + 0.85 * min(columns, MOST_NUMBERED) + 0.17 * max(columns - MOST_NUMBERED, 0)
    ), 2.0 + 0.36 * rows


def _per_cent(one: Effect) -> float:
    """Rounded as it is shown; adding zero turns -0.0 into 0.0."""
    return round(100 * one.change / one.absent, 1) + 0.0


def effects_map(screening: Screening) -> bytes:
    """Heat map: by how many per cent a text is predicted worse because of a contribution."""
    found = last_effects(screening)
    rows = ["", *(one.party for one in screening.contributions)]
    cells = [[found.get((row, text)) for text in screening.texts] for row in rows]
    grid: Grid = [[None if c is None else _per_cent(c) for c in row] for row in cells]
    crowded = len(screening.texts) > MOST_NUMBERED
    texts = [
        ["–" if c is None else f"{100 * c.change / c.absent:+.1f}{_MARKS.get(c.kind, '')}" for c in row]
        for row in cells
    ]
    with figure(*_map_size(len(rows), len(screening.texts))) as (canvas, png):
        axes = canvas.add_subplot(xlabel="held-out text", ylabel="contribution")
        axes.set_title("Change of bits per byte with it, per cent (▲ harm, ? too few documents)")
        heat_map(
            axes,
            grid,
            [] if crowded else texts,
            rows=labels([ALL, *rows[1:]]),
            columns=labels(list(screening.texts)),
            bar="per cent (orange: worse)",
            limit=robust_limit(grid),
        )
        axes.axhline(0.5, color="black", linewidth=1.2)
    return png.getvalue()


def captures_map(screening: Screening) -> bytes:
    """Map: which share of a text each slot answers, its own texts framed."""
    found = last_captures(screening)
    slots = list(dict.fromkeys(slot for slot, _ in found))
    shares = [[found[slot, text].share for text in screening.texts] for slot in slots]
    uniform = next(iter(found.values())).uniform
    with figure(*_map_size(len(slots), len(screening.texts))) as (canvas, png):
        axes = canvas.add_subplot(xlabel="held-out text", ylabel="expert of")
        axes.set_title(f"Share of each text that an expert answers (even: {uniform:.0%}; framed: its own)")
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, slot in enumerate(slots):
            for j, text in enumerate(screening.texts):
                if len(screening.texts) <= MOST_NUMBERED:
                    ink = "white" if shares[i][j] > 0.6 else "black"
                    axes.text(j, i, f"{shares[i][j]:.0%}", ha="center", va="center", fontsize=8, color=ink)
                if is_of(text, slot) or (slot == "base" and text in screening.public):
                    axes.add_patch(_frame(j, i))
        axes.set_xticks(range(len(screening.texts)), labels(list(screening.texts)), rotation=40, ha="right")
        axes.set_yticks(range(len(slots)), labels(slots))
        canvas.colorbar(image, ax=axes, label="share", fraction=0.03)
    return png.getvalue()


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor=WORSE, linewidth=1.6)


def sizes_strip(screening: Screening) -> bytes:
    """Dots: the size of each tensor's change relative to the base's tensor; a mark for all together."""
    known = [(one.party, one.weights, one) for one in screening.contributions if one.weights is not None]
    with figure(9.0, 1.5 + 0.4 * len(known)) as (canvas, png):
        key = "grey: tensors; mark: all together, orange where far out; dotted: median of the others"
        axes = canvas.add_subplot(
            xlabel=f"size of the change relative to the base (root mean square), log scale\n{key}"
        )
        axes.set_title("How far each contribution moved the base")
        axes.set_xscale("log")
        for row, (_, weights, one) in enumerate(known):
            sizes = [size for size in weights.tensors.values() if size > 0]
            far = any(f.check == "norm" and f.level != "note" for f in one.findings)
            axes.plot(sizes, [row] * len(sizes), "o", color=PUBLIC_GREY, markersize=4, alpha=0.5, linestyle="")
            if weights.size > 0:
                axes.plot(weights.size, row, "D" if far else "|", color=WORSE if far else BETTER, markersize=12, mew=3)
            if weights.others is not None:
                axes.plot([weights.others] * 2, [row - 0.35, row + 0.35], color="black", linewidth=1, linestyle=":")
        axes.set_yticks(range(len(known)), labels([party for party, _, _ in known]))
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.spines[["top", "right"]].set_visible(False)
    return png.getvalue()


def likeness_map(screening: Screening) -> bytes:
    """Two maps of pairs: the cosine of their changes, and the text that their histograms have in common."""
    parties = [one.party for one in screening.contributions]
    known = {pair.parties: pair for pair in screening.likeness}
    cosine: dict[tuple[str, str], float] = {}
    shared: dict[tuple[str, str], float] = {}
    for pair, one in known.items():
        if one.cosine is not None:
            cosine[pair] = one.cosine
        if one.common_text:
            shared[pair] = max(one.common_text.values())
    drawn = [(title, values) for title, values in (("cosine of changes", cosine), ("common text", shared)) if values]
    size = 2.0 + 0.36 * len(parties)
    with figure(max(1.6 + size * len(drawn), 5.0), max(size, 3.0)) as (canvas, png):
        for axes, (title, values) in zip(canvas.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
            _pairs(axes, title, parties, values)
    return png.getvalue()


def _pairs(axes: Any, title: str, parties: Sequence[str], values: dict[tuple[str, str], float]) -> None:
    grid = [[values.get((a, b), values.get((b, a), math.nan)) for b in parties] for a in parties]
    axes.imshow(grid, cmap="Oranges", vmin=0, vmax=1)
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            if not math.isnan(value) and len(parties) <= MOST_NUMBERED:
                ink = "white" if value > 0.7 else "black"
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(len(parties)), labels(list(parties)), rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(parties)), labels(list(parties)), fontsize=8)


def wanted(screening: Screening) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Section, caption and drawing of each figure that there are numbers for."""
    if screening.effects:
        yield "effects", "Effect of each contribution on each text", lambda: effects_map(screening)
    if last_captures(screening):
        yield "captures", "Who answers which text", lambda: captures_map(screening)
    if any(one.weights is not None for one in screening.contributions):
        yield "sizes", "Sizes of the changes", lambda: sizes_strip(screening)
    if any(pair.cosine is not None or pair.common_text for pair in screening.likeness):
        yield "likeness", "Likeness of contributions", lambda: likeness_map(screening)
