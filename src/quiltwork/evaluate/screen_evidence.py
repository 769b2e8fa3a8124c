"""What histograms say by themselves: copies, rows that say nothing, rows that would win other parties' text.

Let n_v be the counts of one party and m_v another's, N and M their sums.

*Copies.* The Jensen-Shannon divergence of n / N and m / M is near zero for two histograms of one text, and also for
large samples of one kind of text. How near independent samples come is known: had the tokens been dealt to the two
owners at random, n_v of each pooled count c_v would be Binomial(c_v, N / (N + M)). So

    common text = 1 - JS(n, m) / E JS(dealt at random)

is 0 for independent tokens of one and the same source, below 0 (told as 0) for text of different kinds and for
documents in which words cluster, above 0 where words are spread more evenly than by chance, and 1 for a copy; if two
owners share a part f of otherwise independent text, it is about f. A scaled copy keeps the divergence at zero.

*Says nothing.* The divergence of u from uniform, in units of log V, is 0 for a flat row: such a row wins whatever is
rare elsewhere.

*Captures.* A router that adds up log u(v) prefers p to q on text of q where

    gain = sum_v (m_v / M) log( u_p(v) / u_q(v) ) > 0

u with the router's smoothing. Without smoothing this is minus a Kullback-Leibler divergence and never positive. It is
positive where q counted little text and is smoothed towards flat, while p, with counts that are many (or merely
declared to be many), is not. So it finds the histogram that is scaled to win, and the owner who honestly has far more
text of the same kind; the latter is only noted, where it says it was trained on as many tokens as it counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.fields import owner_of
from quiltwork.evaluate.screen_record import Finding, Histogram, Level
from quiltwork.evidence.histogram import TokenHistogram

Array = NDArray[np.float64]

COMMON = 0.5
FLAT = 0.05
LEAST_GAIN = 0.01
MASS = 100.0


def jensen_shannon(n: Array, m: Array) -> float:
    """Divergence of two count vectors' distributions, in nats.

    >>> round(jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 5.0])), 4)  # log 2
    0.6931
    """
    p, q = n / n.sum(), m / m.sum()
    middle = (p + q) / 2
    return float(sum(_relative(one, middle) for one in (p, q)) / 2)


def _relative(p: Array, q: Array) -> float:
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def common_text(n: Array, m: Array, seed: int) -> float:
    """Share of the counted text that must be the same; see the module's docstring. 0 where a histogram is empty."""
    total = np.rint(n + m).astype(np.int64)
    if not (n.sum() >= 1 and m.sum() >= 1 and total.any()):
        return 0.0
    dealt = np.random.default_rng(seed).binomial(total, n.sum() / (n.sum() + m.sum())).astype(np.float64)
    rest = total - dealt
    if not (dealt.any() and rest.any()):
        return 0.0
    chance = jensen_shannon(dealt, rest)
    # what is left of two equal histograms is rounding
    return max(0.0, 1.0 - jensen_shannon(n, m) / chance) if chance > 1e-12 else 0.0


def pair_seed(one: str, other: str) -> int:
    """Of a pair of parties, whoever else takes part."""
    return int.from_bytes(hashlib.sha256("\n".join(sorted((one, other))).encode()).digest()[:8], "big")


def information(counts: Array) -> float:
    """Divergence from uniform over log V; 0 for a flat or empty histogram."""
    if not counts.sum() > 0:
        return 0.0
    size = len(counts)
    return _relative(counts / counts.sum(), np.full(size, 1 / size)) / float(np.log(size)) if size > 1 else 0.0


def gain(of: TokenHistogram, over: TokenHistogram, smoothing: float) -> float:
    """Nats a symbol by which the row of ``of`` explains the counts of ``over`` better than its own row does."""
    total = over.counts.sum()
    if not total > 0:
        return 0.0
    difference = of.log_probabilities(smoothing) - over.log_probabilities(smoothing)
    return float((over.counts / total) @ difference)


def describe(
    party: str, histograms: Mapping[str, TokenHistogram], trained: int | None, smoothing: float
) -> Histogram | None:
    """One party's histogram among the others' (and that of ``public`` text); None if it has none."""
    own = histograms.get(party)
    if own is None:
        return None
    others = {
        name: gain(own, other, smoothing)
        for name, other in histograms.items()
        if owner_of(name) != owner_of(party) and len(other.counts) == len(own.counts)
    }
    total = float(own.counts.sum())
    return Histogram(total=total, information=information(own.counts), trained=trained, captures=others)


def histogram_findings(part: str, found: Mapping[str, Histogram]) -> Iterator[tuple[str, Finding]]:
    """What is wrong with the histograms of one part, with the party whose it is."""
    for party, own in found.items():
        if own.information < FLAT:
            what = f"its histogram of {part} is nearly flat ({100 * own.information:.1f} % of the possible information)"
            why = (
                "a flat row says nothing of its owner's text and wins what is rare in all others'; noise does that too"
            )
            yield party, _finding("look", part, what, why, "Ask for one of more text or with less noise.")
        won = {name: nats for name, nats in own.captures.items() if nats > LEAST_GAIN}
        if won:
            name = max(won, key=lambda one: won[one])
            level: Level = "note" if own.trained and own.trained >= own.total else "look"
            what = f"its histogram of {part} explains the counts of {_named(won)} better than theirs"
            why = (
                f"by {won[name]:.2f} nats a symbol, so an evidence router gives it their text; counts blown up do that"
            )
            yield party, _finding(level, part, what, why, "Set a bound on evidence (bound), or ask the owner.")
        if own.trained and own.total > MASS * own.trained:
            what = f"its histogram counts {own.total:.3g} {part}, and it was trained on {own.trained:.3g} tokens"
            why = f"more than {MASS:g} times as many: the larger the counts, the less its row is smoothed"
            yield party, _finding("look", part, what, why, "Ask the owner which text was counted.")


def _named(names: Mapping[str, float]) -> str:
    ordered = sorted(names, key=lambda name: -names[name])
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _finding(level: Level, about: str, what: str, why: str, mend: str) -> Finding:
    return Finding(check="histogram", level=level, about=about, what=what, why=why, mend=mend)
