"""What a composition is worth to whom, including "do not collaborate".

For party p with its own held-out data, b(m, d) being the metric of model m on domain d, lower better:

    own gain       b(alone_p, p) - b(m, p)                          positive: p is better off in m than alone
    others' gain   mean over q != p of  b(alone_p, q) - b(m, q)     what p gets on the others' kinds of data
    effect of p    b(m without p, d) - b(m, d)                      positive: having p in m helps domain d

A party joins for the first and is wanted for the third, and the two need not agree. Each difference is held against
its error where that is known: the standard error of the paired difference where both models were scored on the same
items, else sqrt(s_a^2 + s_b^2). A difference within as many errors as the metric asks for, or one that three decimals
cannot show, is *no clear difference*. A best of several models is picked by the same numbers that then describe it:
the sentences here describe what was measured and are not significance tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.metrics import Metric, number
from quiltwork.evaluate.scores import Cell, Row, Scores

# models that are not compositions: the public start, and the bound that needs all data in one place
REFERENCES = ("base", "pooled")
# half a unit of the third decimal, the last that is shown
RESOLUTION = 0.0005
# a sentence with more names is not read
MAX_NAMED = 6

Advice: TypeAlias = Literal[
    "collaborate", "collaborate, but not all", "do not collaborate", "no clear difference", "not measured"
]


class Difference(NamedTuple):
    """A model against a reference: below zero where the model is better; ``error`` is None where it is not known."""

    value: float
    error: float | None

    def clearly_better(self, metric: Metric) -> bool:
        """Whether the model is better by more than the metric asks for and more than rounding."""
        return self._exceeds(-self.value, metric)

    def clearly_worse(self, metric: Metric) -> bool:
        """Whether the model is worse by more than the metric asks for and more than rounding."""
        return self._exceeds(self.value, metric)

    def _exceeds(self, size: float, metric: Metric) -> bool:
        return size > max(metric.clear * (self.error or 0.0), RESOLUTION)


class Comparison(NamedTuple):
    """One party's own data: the metric alone and in a method, and how much the method differs."""

    party: str
    alone: float
    method: float
    difference: Difference


class Gain(NamedTuple):
    """What is saved against a party's own model, on its own data and on the others' (None: not scored)."""

    party: str
    own: float | None
    own_error: float | None
    others: float | None


def difference(reference: Cell, cell: Cell, *, paired: bool = False) -> Difference:
    """How ``cell`` differs from ``reference``.

    Args:
        reference: what it is held against.
        cell: the model of interest.
        paired: whether ``reference`` is the model from which ``cell.paired`` was taken.

    >>> difference(Cell(value=2.0, spread=0.3), Cell(value=1.5, spread=0.4))
    Difference(value=-0.5, error=0.5)
    >>> difference(Cell(value=2.0, spread=0.3), Cell(value=1.5, spread=0.4, paired=0.1), paired=True)
    Difference(value=-0.5, error=0.1)
    """
    error = cell.paired if paired else None
    spreads = [c.spread for c in (reference, cell) if c.spread is not None]
    if error is None and spreads:
        error = math.hypot(*spreads)
    return Difference(cell.value - reference.value, error)


def composed(scores: Scores) -> list[str]:
    """The methods that are compositions: all but the public base and the pooled-data bound."""
    return [name for name in scores.methods if name not in REFERENCES]


def _method(scores: Scores, name: str) -> Row:
    scores.row(name)
    return scores.methods[name]


def compare(scores: Scores, party: str, method: str) -> Comparison | None:
    """The party's own data alone against ``method``; None where either was not scored.

    Raises:
        InvalidOption: no such method.
    """
    alone = scores.alone[party].domains.get(party) if party in scores.alone else None
    cell = _method(scores, method).domains.get(party)
    if alone is None or cell is None:
        return None
    return Comparison(party, alone.value, cell.value, difference(alone, cell, paired=True))


def _change(scores: Scores, found: Comparison) -> str:
    return scores.measure.change(found.method, found.alone, found.difference.error)


def gains(scores: Scores, method: str) -> list[Gain]:
    """Each party's gain in ``method`` over its own model, in the metric's unit (positive: better in ``method``).

    Raises:
        InvalidOption: no such method.
    """
    return [_gain(scores, party, method) for party in scores.parties]


def _gain(scores: Scores, party: str, method: str) -> Gain:
    found = compare(scores, party, method)
    alone = scores.alone[party].domains if party in scores.alone else {}
    row = _method(scores, method).domains
    others = [q for q in scores.parties if q != party and q in alone and q in row]
    return Gain(
        party,
        own=-found.difference.value if found else None,
        own_error=found.difference.error if found else None,
        others=_mean(alone[q].value - row[q].value for q in others),
    )


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None


def better_off_alone(scores: Scores, method: str) -> list[Comparison]:
    """The parties whose own model is clearly better than ``method`` on their own data.

    Raises:
        InvalidOption: no such method.
    """
    found = (compare(scores, party, method) for party in scores.parties)
    return [c for c in found if c and c.difference.clearly_worse(scores.measure)]


def externalities(scores: Scores, method: str) -> dict[str, dict[str, float]]:
    """For each party left out of ``method``, its effect on each domain in the metric's unit (positive: it helps).

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
        party: {d: cell.value - row[d].value for d, cell in without.domains.items() if d in row}
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
    own = compare(scores, party, method)
    itself = "its own gain was not measured" if own is None else _own_phrase(scores, own)
    effects = _effects_on_others(scores, party, method)
    helped = [q for q, effect in effects.items() if effect.clearly_worse(scores.measure)]
    hurt = [q for q, effect in effects.items() if effect.clearly_better(scores.measure)]
    names = [f"helps {_named(helped)}"] * bool(helped) + [f"costs {_named(hurt)}"] * bool(hurt)
    effect = " and ".join(names) or "makes no clear difference to the other parties"
    total = _mean(effect.value for effect in effects.values())
    unit = f"{scores.metric} for them on average, positive is better"
    mean = "" if total is None else f" ({number(total, sign=True)} {unit})"
    return f"{party}: {itself}; joining {method} {effect}{mean}."


def _own_phrase(scores: Scores, own: Comparison) -> str:
    unit = f" {scores.metric}" if scores.measure.ratio else ""
    change = f"{_change(scores, own)}{unit} against alone"
    if own.difference.clearly_better(scores.measure):
        return f"gains by joining ({change})"
    if own.difference.clearly_worse(scores.measure):
        return f"loses by joining ({change})"
    return f"sees no clear difference by joining ({change})"


def _effects_on_others(scores: Scores, party: str, method: str) -> dict[str, Difference]:
    """For each other party the method without ``party`` against the whole method: above zero where ``party`` helps."""
    row, without = scores.methods[method].domains, scores.leave_one_out[method][party].domains
    others = [q for q in scores.parties if q != party and q in row and q in without]
    return {q: difference(row[q], without[q], paired=True) for q in others}


def best_for(scores: Scores, party: str) -> str | None:
    """The composed method with the lowest value on the party's own data; None: none was scored."""
    measured = [m for m in composed(scores) if party in scores.methods[m].domains]
    return min(measured, key=lambda m: scores.methods[m].domains[party].value, default=None)


def verdicts(scores: Scores) -> list[str]:
    """One plain sentence a party: better off in a composed model, alone, or with the public base?"""
    return [f"{party}: {_verdict(scores, party)[1]}" for party in scores.parties]


def _verdict(scores: Scores, party: str) -> tuple[str, str]:
    """The kind of verdict, as ``headline`` counts it, and the verdict with its figures."""
    best = best_for(scores, party)
    found = compare(scores, party, best) if best else None
    if best is None or found is None:
        return "not measured", f"not measured (needs its own model and a composed one, {_scored_on(scores)})"
    base = scores.methods["base"].domains.get(party) if "base" in scores.methods else None
    if (
        base
        and not _beats(scores, scores.alone[party], base, party)
        and not _beats(scores, scores.methods[best], base, party)
    ):
        figures = f"({number(base.value)}, {number(found.alone)} alone, {number(found.method)} in {best})"
        return "served as well by the public base", f"the public base is as good {figures}"
    change = _change(scores, found)
    if found.difference.clearly_better(scores.measure):
        figures = f"({number(found.method)} against {number(found.alone)} alone, {change})"
        return "better off in a composed model", f"better off in {best} {figures}"
    if found.difference.clearly_worse(scores.measure):
        figures = f"({number(found.alone)} alone against {number(found.method)} in {best}, the best of them, {change})"
        return "better off alone", f"better off alone than in any composed model {figures}"
    figures = f"alone ({number(found.alone)}) and {best} ({number(found.method)}, {change})"
    return "without a clear difference", f"no clear difference between {figures}"


def _scored_on(scores: Scores) -> str:
    return f"scored on its own {scores.measure.material.removeprefix('held-out ')}"


def _beats(scores: Scores, row: Row, base: Cell, party: str) -> bool:
    return difference(base, row.domains[party]).clearly_better(scores.measure)


def advice(scores: Scores) -> Advice:
    """One answer for all parties together, from the verdicts on each one's own data.

    *do not collaborate*: more parties are clearly better off alone than are clearly better off in a composed model,
    each compared with the composed model that suits it best. *collaborate, but not all*: some are better off alone,
    though no more than gain.
    """
    kinds = Counter(_verdict(scores, party)[0] for party in scores.parties)
    gain, lose = kinds["better off in a composed model"], kinds["better off alone"]
    if kinds["not measured"] == len(scores.parties):
        return "not measured"
    if lose > gain:
        return "do not collaborate"
    if gain:
        return "collaborate, but not all" if lose else "collaborate"
    return "no clear difference"


def headline(scores: Scores) -> str:
    """The answer in one paragraph: the advice, who is better off how, the composed model with the lowest mean."""
    kinds = Counter(_verdict(scores, party)[0] for party in scores.parties)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none listed"
    answer = advice(scores)
    told = "" if answer == "not measured" else f"{answer.capitalize()}. "
    start = f"{told}Of {len(scores.parties)} parties, judged on their own {scores.measure.material}: {counts}."
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
    known = "".join(f"; {number(means[name])} for {name}" for name in REFERENCES if name in means)
    figures = f"({number(means[best])} {scores.metric}{known})"
    told = f"The composed model with the lowest mean over the parties is {best} {figures}"
    if not any(compare(scores, party, best) for party in scores.parties):
        return f"{told}."
    worse = [c.party for c in better_off_alone(scores, best)]
    return f"{told}; in it {_named(worse) or 'nobody'} would do better alone."


def _named(names: Sequence[str]) -> str:
    """Names for a sentence; of many the first few and how many more."""
    more = len(names) - MAX_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:MAX_NAMED])} and {more} more"
