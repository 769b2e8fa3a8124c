"""What the report shows, as text ready for the template: the matrix, sample text, figures of cost.

Nothing here is escaped (the template does that) and nothing is invisible: line ends, tabs, control
characters and characters that reverse the direction of text are replaced by something that a reader sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from quiltwork.evaluate import insight
from quiltwork.evaluate.drawing import slot_styles
from quiltwork.evaluate.metrics import number
from quiltwork.evaluate.pareto import front
from quiltwork.evaluate.plots import ordered_domains, score_rows
from quiltwork.evaluate.pooling import pooled_methods
from quiltwork.evaluate.scores import Cell, Row, Sample, Scores

# what the report shows of a model's further measures, and how it calls them
MEASURES = {
    "r2": "R²",
    "rpe": "relative predictive error",
    "mae": "mean absolute error",
    "accuracy": "accuracy",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "coverage_50": "inside 50 % intervals",
    "coverage_80": "inside 80 %",
    "coverage_90": "inside 90 %",
    "coverage_95": "inside 95 %",
    "mean_ari": "gate against labels (ARI, mean over parties)",
    "parameter_error": "mean squared error of parameters",
    "transport_divergence": "transportation divergence to the truth",
    "relaxed_divergence": "its lower bound",
}
# a border tells slots apart where colours repeat
BORDERS = ("solid", "dashed", "dotted", "double")
# a shorter run of tokens has no room for the number of its slot
MIN_RUN_MARKED = 4

_CONTROLS: dict[int, str] = {code: chr(0x2400 + code) for code in range(32)} | {0x7F: "\u2421"}
_UNSEEN = [*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = _CONTROLS | dict.fromkeys(_UNSEEN, "\ufffd") | {ord("\n"): "↵\n", ord("\t"): "→\t"}


class CellView(NamedTuple):
    """A cell of the matrix: the number, its spread, whether it is best in its column or worse than alone."""

    text: str
    spread: str
    best: bool
    worse: bool


class RowView(NamedTuple):
    """A row of the matrix, its means, whether it is on the Pareto front, and who would do better alone."""

    label: str
    kind: str
    cells: list[CellView]
    mean_parties: str
    mean_public: str
    on_front: bool
    better_alone: list[str]


class SlotView(NamedTuple):
    """How the tokens of one slot look: its number in the legend, its name, colour and border."""

    number: int
    name: str
    colour: str
    border: str


class TokenView(NamedTuple):
    """A token of sample text; ``mark`` is the number of its slot where a longer run begins, else empty."""

    text: str
    slot: SlotView
    weight: str
    mark: str


def matrix_view(scores: Scores) -> list[RowView]:
    """The rows of the score matrix; the best of a column is sought among models that need no pooled data."""
    domains, rows, best = ordered_domains(scores), score_rows(scores), pareto_parties(scores)
    lowest = {d: _lowest(rows, d) for d in domains}
    views = []
    for name, cells in rows.items():
        worse = [c.party for c in insight.better_off_alone(scores, name)] if name in scores.methods else []
        shown = [_cell(cells.get(d), lowest[d] if name != "pooled" else None, worse=d in worse) for d in domains]
        means = (_mean(cells, scores.parties), _mean(cells, scores.public))
        views.append(RowView(name, _kind(scores, name), shown, *means, name in best, worse))
    return views


def _lowest(rows: Mapping[str, Mapping[str, Cell]], domain: str) -> float | None:
    found = [cells[domain].value for name, cells in rows.items() if name != "pooled" and domain in cells]
    return min(found, default=None)


def _kind(scores: Scores, name: str) -> str:
    if name not in scores.methods:
        return "alone"
    return "reference" if name in insight.REFERENCES else "composed"


def _cell(cell: Cell | None, lowest: float | None, *, worse: bool) -> CellView:
    if cell is None:
        return CellView("–", "", best=False, worse=False)
    spread = "" if cell.spread is None else f"± {number(cell.spread)}"
    return CellView(number(cell.value), spread, best=cell.value == lowest, worse=worse)


def _mean(cells: Mapping[str, Cell], domains: Sequence[str]) -> str:
    if not domains or any(d not in cells for d in domains):
        return "–"
    return number(math.fsum(cells[d].value for d in domains) / len(domains))


def pareto_parties(scores: Scores) -> list[str]:
    """The rows, models alone included and the pooled bound not, that none other beats for every party."""
    own = [p for p in scores.parties if p in scores.domains]
    rows = {
        name: [cells[p].value for p in own]
        for name, cells in score_rows(scores).items()
        if name != "pooled" and own and set(own) <= cells.keys()
    }
    return front(rows)


def spread_known(scores: Scores) -> bool:
    """Whether any cell of a method or a model alone says how sure it is."""
    rows: list[Row] = [*scores.methods.values(), *scores.alone.values()]
    return any(cell.spread is not None for row in rows for cell in row.domains.values())


class GainView(NamedTuple):
    """A party's gain in one method as text, on its own data and on the others', and whether it clearly loses."""

    own: str
    others: str
    worse: bool


def gains_view(scores: Scores, method: str) -> list[GainView]:
    """The gains of all parties in ``method``."""
    return [_gain(scores, gain) for gain in insight.gains(scores, method)]


def _gain(scores: Scores, gain: insight.Gain) -> GainView:
    own, others = ("–" if v is None else number(v, sign=True) for v in (gain.own, gain.others))
    lost = insight.Difference(-(gain.own or 0.0), gain.own_error)
    return GainView(own, others, lost.clearly_worse(scores.measure))


def measures_view(scores: Scores) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The further measures of all parties' rows together: the heads of the columns, and for each model its figures."""
    known = pooled_methods(scores)
    shown = [name for name in MEASURES if any(name in means for means in known.values())]
    rows = [(model, [_measure(name, means.get(name)) for name in shown]) for model, means in known.items()]
    return [MEASURES[name] for name in shown], rows


def _measure(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if name.startswith("coverage") else f"{value:.4g}"


def legend_view(scores: Scores) -> dict[str, SlotView]:
    """The slots of all samples, numbered from 1, with the colours that the figures use."""
    used = {token.slot for sample in scores.samples for token in sample.tokens}
    styles = {slot: style for slot, style in slot_styles(scores).items() if slot in used}
    return {
        slot: SlotView(number, slot, colour, BORDERS[turn % len(BORDERS)])
        for number, (slot, (colour, turn)) in enumerate(styles.items(), start=1)
    }


def sample_view(sample: Sample, legend: Mapping[str, SlotView]) -> list[TokenView]:
    """The tokens of one sample as shown."""
    views: list[TokenView] = []
    for slot, run in groupby(sample.tokens, key=lambda token: token.slot):
        tokens, look = list(run), legend[slot]
        marks = [str(look.number) if len(tokens) >= MIN_RUN_MARKED else "", *[""] * (len(tokens) - 1)]
        views += [
            TokenView(visible(token.text), look, f"{token.weight:.2f}", mark)
            for token, mark in zip(tokens, marks, strict=True)
        ]
    return views


def visible(text: str) -> str:
    r"""Text with line ends, tabs, blanks standing alone and control characters made visible.

    >>> visible("a\tb\n"), visible("    "), visible("\x00")
    ('a→\tb↵\n', '····', '␀')
    """
    if text and not text.strip(" "):
        return "·" * len(text)
    return text.translate(_SHOWN)


def count(value: float | None) -> str:
    """A number of parameters in three significant digits; a dash for one that is not known.

    >>> count(1_103_872), count(950), count(7e9), count(None)
    ('1.10 M', '950', '7.00 G', '–')
    """
    return "–" if value is None else _scaled(value, "")


def size(value: float) -> str:
    """A number of bytes in three significant digits, in powers of ten.

    >>> size(2_411_008)
    '2.41 MB'
    """
    return _scaled(value, "B")


def _scaled(value: float, unit: str) -> str:
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.5 k would be rounded to 1000 k
        if value >= power * 0.9995:
            scaled = value / power
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()
