"""What a score counts: the closed table of metrics, and the words and the arithmetic that follow from each.

A metric has a unit and a direction: lower is better in all of them. Two kinds differ in what may be said of a
difference. *Ratio* metrics have a natural zero and are never below it, so a change may be told in per cent. The others
may have any sign (a density can exceed one, and then its negative logarithm is below zero): a change is told in the
metric's own unit, because per cent of a number that crosses zero mean nothing.

A cell also says how sure it is. For bits per byte the spread is a standard deviation over repeated runs, and more than
one of it counts as clear. For rows it is a standard error over held-out rows, and two of it are asked for.

Accuracy is kept as the share of wrong answers, one minus it, so that lower is better here too; tables made for people
turn it round. Its changes are told in points, hundredths of all rows: "half the errors" of one in a thousand would read
like news.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

# decimals of numbers beyond this mean nothing to a reader
LARGE = 10_000

MetricName: TypeAlias = Literal["bits per byte", "nats per row", "share wrong", "squared error"]


@dataclass(frozen=True)
class Metric:
    """One metric; lower is better.

    Attributes:
        name: as a score file names it; also the unit of its values.
        title: what is measured, as the head of a table or figure.
        material: what is held out.
        amount: what a cell's ``amount`` counts.
        items: what a cell's ``items`` counts; None where there is nothing else to count.
        ratio: whether it has a natural zero, so that per cent make sense.
        spread: what a cell's ``spread`` is.
        clear: how many times the spread of a difference a clear difference exceeds.
        limit: what it does not measure.
        points: whether a change is told in points, hundredths of one.
    """

    name: MetricName
    title: str
    material: str
    amount: str
    items: str | None
    ratio: bool
    spread: str
    clear: float
    limit: str
    points: bool = False

    def change(self, value: float, reference: float, error: float | None = None) -> str:
        """A change with its sign: in per cent for ratio metrics, else in the metric's unit with its error.

        >>> METRICS["bits per byte"].change(2.2, 2.0)
        '+10.0 %'
        >>> METRICS["nats per row"].change(-0.6, -0.5, error=0.02)
        '-0.100 ± 0.020 nats per row'
        >>> METRICS["share wrong"].change(0.02, 0.05, error=0.01)
        '-3.0 ± 1.0 points'
        """
        if self.ratio:
            return f"{without_minus_zero(percent_above(value, reference), 1):+.1f} %"
        if self.points:
            spread = "" if error is None else f" ± {100 * error:.1f}"
            return f"{without_minus_zero(100 * (value - reference), 1):+.1f}{spread} points"
        spread = "" if error is None else f" ± {number(error)}"
        return f"{number(value - reference, sign=True)}{spread} {self.name}"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                name="bits per byte",
                title="Bits per byte",
                material="held-out text",
                amount="bytes",
                items="documents",
                ratio=True,
                spread="standard deviation over repeated runs",
                clear=1.0,
                limit="Bits per byte measure prediction of text and nothing else.",
            ),
            Metric(
                name="nats per row",
                title="Negative log-likelihood, nats per row",
                material="held-out rows",
                amount="rows",
                items=None,
                ratio=False,
                spread="standard error over held-out rows",
                clear=2.0,
                limit="A log-likelihood measures how well the whole distribution of the target is predicted, in nats; "
                "it depends on the target's unit, and one row far from all predictions can decide it.",
            ),
            Metric(
                name="share wrong",
                title="Share of wrong answers (one minus accuracy)",
                material="held-out rows",
                amount="rows",
                items=None,
                ratio=False,
                spread="standard error over held-out rows",
                clear=2.0,
                limit="Accuracy counts all mistakes alike and says nothing of how sure an answer was; where classes "
                "are unequal, a model may be right by naming the common one.",
                points=True,
            ),
            Metric(
                name="squared error",
                title="Mean squared error",
                material="held-out rows",
                amount="rows",
                items=None,
                ratio=True,
                spread="standard error over held-out rows",
                clear=2.0,
                limit="A squared error depends on the target's unit, and few rows far off can decide it.",
            ),
        )
    }
)


def percent_above(value: float, reference: float) -> float:
    """By how many per cent ``value`` exceeds ``reference``; 0 where both are 0.

    >>> percent_above(1.8, 2.0)
    -10.0
    """
    if reference == 0:
        return 0.0 if value == 0 else float("inf")
    return round(100 * (value - reference) / reference, 9)


def number(value: float, *, sign: bool = False) -> str:
    """A value of any metric as people read it: three decimals, three digits if it is large, no minus before zero.

    >>> number(-0.0001), number(1.23456, sign=True), number(-15_300_000.0)
    ('0.000', '+1.235', '-1.53e+07')
    """
    shown = without_minus_zero(value, 3)
    return f"{shown:{'+' if sign else ''}{'.3f' if abs(shown) < LARGE else '.2e'}}"


def without_minus_zero(value: float, digits: int) -> float:
    """``value`` rounded; -0.0 becomes 0.0, which prints without a sign that means nothing."""
    return round(value, digits) + 0.0
