"""What a composition is worth to whom, including "do not collaborate".

For party p with its own held-out text, b(m, d) being bits per byte of model m on domain d, lower better:

    own gain       b(alone_p, p) - b(m, p)                          positive: p is better off in m than alone
    others' gain   mean over q != p of  b(alone_p, q) - b(m, q)     what p gets on the others' kinds of text
    effect of p    b(m without p, d) - b(m, d)                      positive: having p in m helps domain d

A party joins for the first and is wanted for the third, and the two need not agree. Each difference is held
against its standard deviation s = sqrt(s_a^2 + s_b^2) over runs where that is known: a difference of at most
one s, or one that three decimals cannot show, is *no clear difference*. One s is a low bar, and a best of
several models is picked by the same numbers that then describe it: the sentences here describe what was
measured and are not significance tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.scores import Cell, Row, Scores

# models that are not compositions: the public start, and the bound that needs all data in one place
REFERENCES = ("base", "pooled")
# half a unit of the third decimal, the last that is shown
RESOLUTION = 0.0005


class Comparison(NamedTuple):
    """One party's own text: bits per byte alone and in a method, and the method's excess in per cent."""

    party: str
    alone: float
    method: float
    percent: float


class Gain(NamedTuple):
    """Bits/byte saved against a party's own model, on its own text and on the others' (None: not scored)."""

    party: str
    own: float | None
    own_std: float | None
    others: float | None


def spread(a: Cell, b: Cell) -> float | None:
    """The standard deviation of ``a.bpb - b.bpb`` for independent runs; None where neither was repeated."""
    if a.bpb_std is None and b.bpb_std is None:
        return None
    return math.hypot(a.bpb_std or 0.0, b.bpb_std or 0.0)


def clearly_below(a: Cell, b: Cell) -> bool:
    """Whether ``a`` is better than ``b`` by more than one standard deviation and more than rounding.

    >>> clearly_below(Cell(bpb=1.9, bpb_std=0.02), Cell(bpb=2.0, bpb_std=0.02))
    True
    >>> clearly_below(Cell(bpb=1.9, bpb_std=0.2), Cell(bpb=2.0, bpb_std=0.2))
    False
    """
    return b.bpb - a.bpb > max(spread(a, b) or 0.0, RESOLUTION)


def composed(scores: Scores) -> list[str]:
    """The methods that are compositions: all but the public base and the pooled-data bound."""
    return [name for name in scores.methods if name not in REFERENCES]


def _method(scores: Scores, name: str) -> Row:
    scores.row(name)
    return scores.methods[name]


def _own_cells(scores: Scores, party: str, method: str) -> tuple[Cell, Cell] | None:
    """The party's own column, alone and in ``method``, if both were scored."""
    alone = scores.alone[party].domains.get(party) if party in scores.alone else None
    cell = _method(scores, method).domains.get(party)
    return (alone, cell) if alone is not None and cell is not None else None


def compare(scores: Scores, party: str, method: str) -> Comparison | None:
    """The party's own text alone against ``method``; None where either was not scored.

    Raises:
        InvalidOption: no such method.
    """
    if (cells := _own_cells(scores, party, method)) is None:
        return None
    alone, cell = cells
    return Comparison(party, alone.bpb, cell.bpb, percent_above(cell.bpb, alone.bpb))


def percent_above(value: float, reference: float) -> float:
    """By how many per cent ``value`` exceeds ``reference``; 0 where both are 0.

    >>> percent_above(1.8, 2.0)
    -10.0
    """
    if reference == 0:
        return 0.0 if value == 0 else math.inf
    return round(100 * (value - reference) / reference, 9)


def _change(cell: Cell, alone: Cell) -> str:
    # adding zero turns a rounded -0.0 into 0.0
    return f"{round(percent_above(cell.bpb, alone.bpb), 1) + 0.0:+.1f} %"


def gains(scores: Scores, method: str) -> list[Gain]:
    """Each party's gain in ``method`` over its own model, in bits per byte (positive: better in ``method``).

    Raises:
        InvalidOption: no such method.
    """
    return [_gain(scores, party, method) for party in scores.parties]


def _gain(scores: Scores, party: str, method: str) -> Gain:
    cells = _own_cells(scores, party, method)
    alone = scores.alone[party].domains if party in scores.alone else {}
    row = _method(scores, method).domains
    others = [q for q in scores.parties if q != party and q in alone and q in row]
    return Gain(
        party,
        own=cells[0].bpb - cells[1].bpb if cells else None,
        own_std=spread(*cells) if cells else None,
        others=_mean(alone[q].bpb - row[q].bpb for q in others),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None


def better_off_alone(scores: Scores, method: str) -> list[Comparison]:
    """The parties whose own model is clearly better than ``method`` on their own text.

    Raises:
        InvalidOption: no such method.
    """
    found = []
    for party in scores.parties:
        cells, comparison = _own_cells(scores, party, method), compare(scores, party, method)
        if cells and comparison and clearly_below(*cells):
            found.append(comparison)
    return found


def externalities(scores: Scores, method: str) -> dict[str, dict[str, float]]:
    """For each party left out of ``method``, its effect on each domain in bits per byte (positive: it helps).

    Raises:
        InvalidOption: no such method, or nothing was left out of it.
    """
    row = _method(scores, method).domains
    if method not in scores.leave_one_out:
        raise InvalidOption(
            f"leave-one-out of {method!r}",
            why="it was not measured",
            mend=f"Evaluate it with leave-one-out, or choose one of {sorted(scores.leave_one_out)}.",
        )
    return {
        party: {d: cell.bpb - row[d].bpb for d, cell in without.domains.items() if d in row}
        for party, without in scores.leave_one_out[method].items()
    }


def who_should_join(scores: Scores, method: str) -> list[str]:
    """One sentence a party: what joining does for it (against staying alone) and for the other parties.

    Raises:
        InvalidOption: no such method, or nothing was left out of it.
    """
    effects = externalities(scores, method)
    return [_joining(scores, party, method) for party in scores.parties if party in effects]


def _joining(scores: Scores, party: str, method: str) -> str:
    own = _own_cells(scores, party, method)
    itself = "its own gain was not measured" if own is None else _own_phrase(*own)
    helped, hurt, total = _others(scores, party, method)
    names = [f"helps {', '.join(helped)}"] * bool(helped) + [f"costs {', '.join(hurt)}"] * bool(hurt)
    effect = " and ".join(names) or "makes no clear difference to the other parties"
    mean = (
        ""
        if total is None
        else f" ({round(total, 3) + 0.0:+.3f} bits per byte for them on average, positive is better)"
    )
    return f"{party}: {itself}; joining {method} {effect}{mean}."


def _own_phrase(alone: Cell, cell: Cell) -> str:
    change = f"{_change(cell, alone)} bits per byte against alone"
    if clearly_below(cell, alone):
        return f"gains by joining ({change})"
    if clearly_below(alone, cell):
        return f"loses by joining ({change})"
    return f"sees no clear difference by joining ({change})"


def _others(scores: Scores, party: str, method: str) -> tuple[list[str], list[str], float | None]:
    """The other parties clearly helped and clearly hurt by ``party``, and the mean effect on all of them."""
    row, without = scores.methods[method].domains, scores.leave_one_out[method][party].domains
    others = [q for q in scores.parties if q != party and q in row and q in without]
    helped = [q for q in others if clearly_below(row[q], without[q])]
    hurt = [q for q in others if clearly_below(without[q], row[q])]
    return helped, hurt, _mean(without[q].bpb - row[q].bpb for q in others)


def best_for(scores: Scores, party: str) -> str | None:
    """The composed method with the lowest bits per byte on the party's own text; None: none was scored."""
    measured = [m for m in composed(scores) if party in scores.methods[m].domains]
    return min(measured, key=lambda m: scores.methods[m].domains[party].bpb, default=None)


def verdicts(scores: Scores) -> list[str]:
    """One plain sentence a party: better off in a composed model, alone, or with the public base?"""
    return [f"{party}: {_verdict(scores, party)[1]}" for party in scores.parties]


def _verdict(scores: Scores, party: str) -> tuple[str, str]:
    """The kind of verdict, as ``headline`` counts it, and the verdict with its figures."""
    best = best_for(scores, party)
    cells = _own_cells(scores, party, best) if best else None
    if best is None or cells is None:
        return "not measured", "not measured (needs its own model and a composed one, scored on its own text)"
    alone, cell = cells
    base = scores.methods["base"].domains.get(party) if "base" in scores.methods else None
    if base and not clearly_below(alone, base) and not clearly_below(cell, base):
        figures = f"({base.bpb:.3f}, {alone.bpb:.3f} alone, {cell.bpb:.3f} in {best})"
        return "served as well by the public base", f"the public base is as good {figures}"
    change = _change(cell, alone)
    if clearly_below(cell, alone):
        figures = f"({cell.bpb:.3f} against {alone.bpb:.3f} alone, {change})"
        return "better off in a composed model", f"better off in {best} {figures}"
    if clearly_below(alone, cell):
        figures = f"({alone.bpb:.3f} alone against {cell.bpb:.3f} in {best}, the best of them, {change})"
        return "better off alone", f"better off alone than in any composed model {figures}"
    figures = f"alone ({alone.bpb:.3f}) and {best} ({cell.bpb:.3f}, {change})"
    return "without a clear difference", f"no clear difference between {figures}"


def headline(scores: Scores) -> str:
    """The answer in one paragraph: who is better off how, and the composed model with the lowest mean."""
    kinds = Counter(_verdict(scores, party)[0] for party in scores.parties)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none listed"
    start = f"Of {len(scores.parties)} parties, judged on their own held-out text: {counts}."
    return f"{start} {_best_mean(scores)}".rstrip()


def _best_mean(scores: Scores) -> str:
    parties = [p for p in scores.parties if p in scores.domains]
    means = {
        name: scores.mean(name, parties)
        for name, row in scores.methods.items()
        if parties and set(parties) <= row.domains.keys()
    }
    candidates = [name for name in composed(scores) if name in means]
    if not candidates:
        return ""
    best = min(candidates, key=means.__getitem__)
    known = "".join(f"; {means[name]:.3f} for {name}" for name in REFERENCES if name in means)
    figures = f"({means[best]:.3f} bits per byte{known})"
    told = f"The composed model with the lowest mean over the parties is {best} {figures}"
    if not any(compare(scores, party, best) for party in scores.parties):
        return f"{told}."
    worse = [c.party for c in better_off_alone(scores, best)]
    return f"{told}; in it {', '.join(worse) or 'nobody'} would do better alone."
