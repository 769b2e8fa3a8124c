"""Drawings of a certificate: what is held, bytes a round beside the formula, epsilon by party; scores and losses.

    standing     one row a guarantee; a filled square is held, an empty one is not
    bytes        all bytes of a direction over the number of rounds, as a bar; the formula's, as a line across it
    epsilon      the price of one row or label at each party alone, and over all; no bound is a hatched bar to the edge
    scores       of the composed model and of each party alone, run beside run
    losses       of the composer or of each party, by round

Colour is never the only sign. Numbers are those of the certificate; nothing is estimated here.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate
from quiltwork.audit.facts import WAYS, Facts
from quiltwork.audit.static import books
from quiltwork.evaluate.drawing import BETTER, HATCHES, OKABE_ITO, PUBLIC_GREY, WORSE, figure, label, labels
from quiltwork.privacy.ledger import CaseUnit

UNITS: tuple[CaseUnit, ...] = ("row", "label")
OVER_ALL = "over all"

_MOST_POINTS = 400


def drawable() -> bool:
    """Whether the library that draws is installed."""
    return importlib.util.find_spec("matplotlib") is not None


class Price(NamedTuple):
    """What one row or label pays at a party, or over all of them.

    Attributes:
        unit: what is bounded.
        party: whose releases; `OVER_ALL` for the composition.
        epsilon: infinite where there is no bound.
        mechanisms: that it is the price of.
    """

    unit: CaseUnit
    party: str
    epsilon: float
    mechanisms: tuple[str, ...]


def prices(certificate: Certificate) -> list[Price]:
    """The ledger by unit: each holder by itself, then all together, at the certificate's delta.

    Raises:
        PrivacyError: events need dp-accounting, which is not installed.
    """
    ledger, found = books(certificate.facts), []
    for unit in UNITS:
        whole = ledger.line(unit, delta=certificate.delta)
        holders = ledger.columns if unit == "row" else ledger.labels
        for party in sorted({*holders, *whole.parties}):
            own = type(ledger)(
                {party: ledger.events.get(party, ())},
                columns=(party,) if party in ledger.columns else (),
                labels=(party,) if party in ledger.labels else (),
            ).line(unit, delta=certificate.delta)
            found.append(Price(unit, party, own.epsilon, own.mechanisms))
        found.append(Price(unit, OVER_ALL, whole.epsilon, whole.mechanisms))
    return found


def certificate_png(certificate: Certificate) -> bytes:
    """Standings, bytes a round and the ledger in one figure, as PNG.

    Raises:
        InvalidOption: matplotlib is not installed.
        PrivacyError: events need dp-accounting, which is not installed.
    """
    found = prices(certificate)
    facts = certificate.facts
    tall = max(5.4, 1.6 + 0.5 * (len(facts.formula) + len(found) / 2))
    with figure(13.0, tall) as (canvas, png):
        left, right = canvas.subfigures(1, 2, width_ratios=(0.82, 1.0))
        _standings(left.add_subplot(), certificate)
        bytes_, epsilon = right.subplots(2, 1, height_ratios=(max(2, len(facts.formula)), max(2, len(found) / 2)))
        _bytes(bytes_, facts)
        _epsilons(epsilon, found, certificate.delta)
    return png.getvalue()


def scores_png(scores: Mapping[str, Mapping[str, float]], measure: str) -> bytes:
    """Scores on held-out rows by run and by who answered, as PNG.

    Raises:
        InvalidOption: matplotlib is not installed.
    """
    who = list(dict.fromkeys(name for row in scores.values() for name in row))
    with figure(9.0, 1.4 + 0.34 * max(2, len(who)) * max(1, len(scores)) ** 0.6) as (canvas, png):
        axes = canvas.add_subplot(title="Held-out rows: the composed model, and parties alone", xlabel=measure)
        high = 0.8 / max(1, len(scores))
        for i, (run, row) in enumerate(scores.items()):
            at = [who.index(name) + i * high - 0.4 + high / 2 for name in row]
            style = {"color": OKABE_ITO[i % len(OKABE_ITO)], "hatch": HATCHES[i // len(OKABE_ITO) % len(HATCHES)]}
            bars = axes.barh(at, list(row.values()), height=high * 0.92, label=label(run), edgecolor="white", **style)
            axes.bar_label(bars, [f"{value:.3f}" for value in row.values()], padding=3, fontsize=8)
        axes.set_yticks(range(len(who)), labels(who))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        if len(scores) > 1:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png.getvalue()


def losses_png(losses: Sequence[Mapping[str, float]]) -> bytes:
    """Training loss by round and by whose it is, as PNG; many rounds are thinned to means of neighbours.

    Raises:
        InvalidOption: matplotlib is not installed.
    """
    who = sorted({name for row in losses for name in row})
    lines = cycle(("-", "--", ":", "-."))
    with figure(9.0, 3.2) as (canvas, png):
        axes = canvas.add_subplot(title="Training loss", xlabel="round", ylabel="loss")
        for i, name in enumerate(who):
            known = [(t, row[name]) for t, row in enumerate(losses) if name in row]
            x, y = _thinned(known)
            axes.plot(x, y, linestyle=next(lines), color=OKABE_ITO[i % len(OKABE_ITO)], label=label(name))
        axes.legend(fontsize=8)
    return png.getvalue()


def _thinned(known: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    step = max(1, math.ceil(len(known) / _MOST_POINTS))
    parts = [known[i : i + step] for i in range(0, len(known), step)]
    return (
        [sum(t for t, _ in part) / len(part) for part in parts],
        [sum(value for _, value in part) / len(part) for part in parts],
    )


def _standings(axes: Any, certificate: Certificate) -> None:
    held = {s.number: s.held for s in certificate.standings}
    for i, one in enumerate(GUARANTEES):
        colour = BETTER if held[one.number] else WORSE
        axes.scatter([0], [i], marker="s", s=90, edgecolor=colour, facecolor=colour if held[one.number] else "none")
        axes.text(0.06, i, f"{one.number}  {one.title}", va="center", fontsize=9)
        state = "held" if held[one.number] else "not held"
        axes.text(1.0, i, state, va="center", ha="right", fontsize=9, color=colour)
    axes.set(xlim=(-0.05, 1.02), ylim=(len(GUARANTEES) - 0.4, -0.6), xticks=[], yticks=[])
    axes.set_title(f"Guarantees of this run, {label(certificate.facts.mode)} mode", fontsize=11)
    axes.spines[:].set_visible(False)


def _bytes(axes: Any, facts: Facts) -> None:
    parties, rounds = sorted(facts.formula), max(1, facts.rounds)
    for w, way in enumerate(WAYS):
        at = [i + 0.4 * w - 0.2 for i in range(len(parties))]
        crossed = [facts.bytes(party, way) / rounds for party in parties]
        formula = [getattr(facts.formula[party], way) / rounds for party in parties]
        name = "to the party" if way == "down" else "from the party"
        axes.barh(at, crossed, height=0.36, color=OKABE_ITO[4 * w], label=name)
        axes.vlines(formula, [y - 0.19 for y in at], [y + 0.19 for y in at], color="black", linewidth=2)
    axes.plot([], [], color="black", linewidth=2, label="the formula")
    names = [f"{label(party)}\n({label(facts.sealing.get(party, 'not on record'))})" for party in parties]
    axes.set_yticks(range(len(parties)), names, fontsize=8)
    axes.set_title("Bytes a round, and the sealing of each party", fontsize=11)
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _epsilons(axes: Any, found: Sequence[Price], delta: float) -> None:
    finite = [one.epsilon for one in found if math.isfinite(one.epsilon)]
    edge = 1.25 * max([*finite, 1.0])
    for i, one in enumerate(found):
        bounded = math.isfinite(one.epsilon)
        colour = PUBLIC_GREY if one.party != OVER_ALL else BETTER if bounded else WORSE
        hatch = "" if bounded else "///"
        axes.barh([i], [one.epsilon if bounded else edge], color=colour if bounded else "white", hatch=hatch,
                  edgecolor=colour, height=0.7)  # fmt: skip
        text = f" {one.epsilon:.3g}" if bounded else " no bound"
        at = one.epsilon if bounded else 0.0
        axes.text(at, i, text, va="center", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    names = [f"one {one.unit}, {label(one.party)}" for one in found]
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.set(xlim=(0, edge))
    axes.set_title(f"Epsilon at delta {delta:g}", fontsize=11)
    axes.invert_yaxis()
