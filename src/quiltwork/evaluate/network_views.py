"""What the report shows of models that answer rows, as text ready for the template: owners, classes, knowledge.

Tables for people tell accuracy, the share of right answers, where the score file has one minus it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from quiltwork.evaluate import insight
from quiltwork.evaluate.metrics import number
from quiltwork.evaluate.network_means import ENSEMBLE, class_rates, flips_at_home
from quiltwork.evaluate.pooling import pooled_methods
from quiltwork.evaluate.scores import Cell, Scores

POOLED = "pooled"
# a table of more classes is not read; those that change most are shown
MOST_CLASSES = 20


class OwnerCell(NamedTuple):
    """A figure, a note below it, whether it is the best of its row and whether clearly worse than the own model."""

    text: str
    note: str
    best: bool
    worse: bool


class OwnersView(NamedTuple):
    """Heads of the columns, and for each party its cells."""

    unit: str
    heads: list[str]
    rows: list[tuple[str, list[OwnerCell]]]


def owners_view(scores: Scores) -> OwnersView | None:
    """For each party, on its own rows: its own model, the best of the others', every composed model, the bound.

    None where the metric is of another kind, or no party's own model was scored.
    """
    parties = [p for p in scores.parties if p in scores.alone and p in scores.alone[p].domains]
    if scores.metric not in ("share wrong", "squared error") or not parties:
        return None
    columns = _columns(scores)
    unit = "accuracy in per cent" if scores.measure.points else scores.measure.title.lower()
    rows = [(party, _owner(scores, party, columns)) for party in parties]
    return OwnersView(unit, ["own model", "best other's", *map(_head, columns)], rows)


def _columns(scores: Scores) -> list[str]:
    composed = sorted(insight.composed(scores), key=lambda name: name != ENSEMBLE)
    return [*composed, *([POOLED] if POOLED in scores.methods else [])]


def _head(name: str) -> str:
    return "pooled data (bound)" if name == POOLED else name


def _owner(scores: Scores, party: str, columns: list[str]) -> list[OwnerCell]:
    own = scores.alone[party].domains[party]
    others = {q: row.domains[party] for q, row in scores.alone.items() if q != party and party in row.domains}
    found = {name: scores.methods[name].domains.get(party) for name in columns}
    known = [own, *others.values(), *(cell for name, cell in found.items() if cell and name != POOLED)]
    best = min(cell.value for cell in known)
    cells = [OwnerCell(_shown(scores, own), _error(scores, own), own.value == best, worse=False)]
    if others:
        other = min(others, key=lambda q: others[q].value)
        cells.append(OwnerCell(_shown(scores, others[other]), other, others[other].value == best, worse=False))
    else:
        cells.append(OwnerCell("–", "", best=False, worse=False))
    return cells + [_composed(scores, party, name, found[name], best) for name in columns]


def _composed(scores: Scores, party: str, name: str, cell: Cell | None, best: float) -> OwnerCell:
    """A composed model's cell, with its change against the party's own model."""
    if cell is None:
        return OwnerCell("–", "", best=False, worse=False)
    compared = insight.compare(scores, party, name)
    worse = compared is not None and compared.difference.clearly_worse(scores.measure)
    note = "" if compared is None else _gained(scores, compared.alone - compared.method)
    return OwnerCell(_shown(scores, cell), note, name != POOLED and cell.value == best, worse)


def _shown(scores: Scores, cell: Cell) -> str:
    return f"{100 * (1 - cell.value):.1f}" if scores.measure.points else number(cell.value)


def _gained(scores: Scores, gain: float) -> str:
    """A gain with its sign, in points of accuracy or in the metric's unit; above zero is better."""
    return f"{round(100 * gain, 1) + 0.0:+.1f} points" if scores.measure.points else number(gain, sign=True)


def reach_view(scores: Scores) -> list[str]:
    """One sentence a composed model: what owners gain on the others' rows, and who clearly loses on its own."""
    if owners_view(scores) is None:
        return []
    found = [(name, insight.gains(scores, name)) for name in _columns(scores) if name != POOLED]
    sentences = [_reach(scores, name, gains) for name, gains in found if any(g.others is not None for g in gains)]
    helped = any(max(gain.own or 0.0, gain.others or 0.0) > insight.RESOLUTION for _, gains in found for gain in gains)
    if sentences and not helped:
        sentences.append("Nobody gains anything by any of them, on own rows or on the others': do not collaborate")
    return sentences


def reach_headline(scores: Scores) -> str:
    """Which composed model gives most on the others' rows while nobody clearly loses on its own; empty: none."""
    if owners_view(scores) is None:
        return ""
    means = {
        name: _mean_of_others(insight.gains(scores, name))
        for name in _columns(scores)
        if name != POOLED and not insight.better_off_alone(scores, name)
    }
    known = {name: mean for name, mean in means.items() if mean is not None and mean > insight.RESOLUTION}
    if not known:
        return ""
    best = max(known, key=known.__getitem__)
    return (
        f"On the others' rows owners gain most in {best}, {_gained(scores, known[best])} on average, "
        "with nobody clearly losing on its own."
    )


def _mean_of_others(gains: list[insight.Gain]) -> float | None:
    known = [gain.others for gain in gains if gain.others is not None]
    return sum(known) / len(known) if known else None


def _reach(scores: Scores, name: str, gains: list[insight.Gain]) -> str:
    mean = _mean_of_others(gains) or 0.0
    losers = [c.party for c in insight.better_off_alone(scores, name)]
    lost = f"on their own {', '.join(losers)} clearly lose" if losers else "on their own nobody clearly loses"
    unit = "" if scores.measure.points else f" {scores.metric} saved"
    return f"{name}: owners gain {_gained(scores, mean)}{unit} on the others' rows, on average; {lost}"


def _error(scores: Scores, cell: Cell) -> str:
    if cell.spread is None:
        return ""
    return f"± {100 * cell.spread:.1f}" if scores.measure.points else f"± {number(cell.spread)}"


def classes_view(scores: Scores) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """Accuracy by class over all parties' own rows: own models first, then every composed model; None: not told."""
    rates = class_table(scores)
    if not rates:
        return None
    names = list(next(iter(rates.values())))
    shown = sorted(names, key=lambda name: -_widest(rates, name))[:MOST_CLASSES]
    rows = [(name, [f"{100 * of[name]:.1f}" if name in of else "–" for of in rates.values()]) for name in names]
    return [_head(name) for name in rates], [row for row in rows if row[0] in shown]


def class_table(scores: Scores) -> dict[str, dict[str, float]]:
    """For each model the share of right answers by class; own models as ``alone``, which comes first."""
    known = {name: class_rates(means) for name, means in pooled_methods(scores).items()}
    rows = [*scores.methods.values(), *scores.alone.values()]
    # a file keeps the order of the classes, and means of several parties do not
    classes = dict.fromkeys(name for row in rows for cell in row.domains.values() for name in class_rates(cell.extra))
    found = {name: known[name] for name in ("alone", *_columns(scores)) if known.get(name)}
    return {name: {c: rates[c] for c in classes if c in rates} for name, rates in found.items()}


def _widest(rates: Mapping[str, Mapping[str, float]], name: str) -> float:
    values = [of[name] for of in rates.values() if name in of]
    return max(values) - min(values)


def knowledge_view(scores: Scores) -> list[str]:
    """One sentence a party: whose model knows most that its own does not, on its own rows."""
    found = []
    for party, known in flips_at_home(scores).items():
        best = max(known, key=lambda q: known[q])
        wrong = scores.alone[party].domains[party].value
        found.append(
            f"{party}: its own model is wrong on {100 * wrong:.1f} % of its rows; "
            f"that of {best} is right on {100 * known[best]:.1f} % of all rows among these"
        )
    return found


def decomposition_view(scores: Scores) -> list[tuple[str, str, str, str]]:
    """For each domain the plain ensemble's loss: members' own, less diversity, is the ensemble's."""
    row = scores.methods.get(ENSEMBLE)
    extras = {} if row is None else {domain: cell.extra for domain, cell in row.domains.items()}
    known = {domain: e for domain, e in extras.items() if {"individual", "diversity"} <= e.keys()}
    return [
        (domain, number(e["individual"]), number(e["diversity"]), number(e["individual"] - e["diversity"]))
        for domain, e in known.items()
    ]
