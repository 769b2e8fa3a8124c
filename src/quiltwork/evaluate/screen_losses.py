"""Whether a contribution harms: the loss with it and without it, paired by document.

For a text of documents i with b_i bytes, let d_i be the nats that the model with the contribution needs for document i
less those that the model without it needs. In bits per byte

    change = sum d_i / (ln 2 sum b_i)
    error  = sqrt( n / (n - 1) sum (d_i - ln 2 change b_i)^2 ) / (ln 2 sum b_i)

the standard error of a ratio over n documents taken as a sample of many (Cochran 1977, section 6.4). Documents are
compared with themselves, so what makes a document hard cancels. What counts as harm is in ``Rule``.

Who takes a little of everybody's text harms each text in few documents, and no text beyond chance. So the mean of the
relative changes over all others' texts T is held against the same rule:

    mean = 1/m sum_T change_T / absent_T        error = 1/m sqrt( sum_T (error_T / absent_T)^2 )

>>> one = Losses((700.0, 690.0, 710.0, 705.0, 695.0), (250,) * 5)
>>> two = Losses((720.0, 708.0, 731.0, 724.0, 716.0), (250,) * 5)
>>> found = effect("ash", "wiki", two, one, Rule(), judged=1)
>>> round(found.change, 3), found.kind
(0.114, 'harm')
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quiltwork.evaluate.screen_record import Effect, Kind, Rule

UNPREDICTABLE = 1000.0
"""Nats a byte of a document that a broken model gives no probability at all."""


class Losses(NamedTuple):
    """A model on a text: nats and bytes of each document."""

    nats: tuple[float, ...]
    bytes: tuple[int, ...]

    @property
    def bits_per_byte(self) -> float:
        """Over all documents together."""
        return float(_nats(self).sum()) / (math.log(2) * sum(self.bytes))


def errors_needed(rule: Rule, documents: int, judged: int) -> float:
    """Standard errors that a harm must exceed, on one of ``judged`` texts, of so many documents (at least four).

    >>> round(errors_needed(Rule(), 10**6, 1), 3), round(errors_needed(Rule(), 10, 5), 2)
    (2.0, 2.96)
    """
    tail = math.erfc(rule.errors / math.sqrt(2)) / 2 / judged  # the distribution's own loses what is beyond 8
    return -NormalDist().inv_cdf(tail) * math.sqrt((documents - 1) / (documents - 3))


def effect(party: str, text: str, present: Losses, absent: Losses, rule: Rule, judged: int, number: int = 1) -> Effect:
    """One contribution's effect on one text, on ``judged`` of which it is judged, in round ``number``."""
    size = math.log(2) * sum(present.bytes)
    difference = _nats(present) - _nats(absent)
    change = float(difference.sum()) / size
    n = len(difference)
    error: float | None = None
    if n > 1:
        rest = difference - math.log(2) * change * np.array(present.bytes)
        error = math.sqrt(n / (n - 1) * float((rest**2).sum())) / size
    chance = None if error is None or n < rule.documents else errors_needed(rule, n, judged) * error
    return Effect(
        party=party,
        text=text,
        present=present.bits_per_byte,
        absent=absent.bits_per_byte,
        change=change,
        error=error,
        chance=chance,
        kind=_kind(change, absent.bits_per_byte, chance, rule),
        documents=n,
        round=number,
    )


class Together(NamedTuple):
    """A contribution's effect on several texts: the mean of relative changes, its error, and what may be chance."""

    mean: float
    error: float
    chance: float
    texts: int


def together(effects: Sequence[Effect], rule: Rule) -> Together | None:
    """Over the texts of some effects; None where fewer than two have documents enough."""
    enough = [one for one in effects if one.error is not None and one.kind != "unknown"]
    if len(enough) < 2:
        return None
    mean = sum(one.change / one.absent for one in enough) / len(enough)
    error = math.sqrt(sum(((one.error or 0.0) / one.absent) ** 2 for one in enough)) / len(enough)
    chance = errors_needed(rule, min(one.documents for one in enough), 1) * error
    return Together(mean, error, chance, len(enough))


def _kind(change: float, absent: float, chance: float | None, rule: Rule) -> Kind:
    if chance is None:
        return "unknown"
    if abs(change) <= max(chance, rule.cost * absent):
        return "none"
    return "help" if change < 0 else "harm" if change > rule.harm * absent + chance else "cost"


def _nats(losses: Losses) -> NDArray[np.float64]:
    nats, most = np.array(losses.nats), UNPREDICTABLE * np.array(losses.bytes)
    return np.where(np.isfinite(nats), np.minimum(nats, most), most)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """A mean over documents, and its standard error; None with one document."""
    n = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else None
