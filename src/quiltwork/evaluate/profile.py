"""Where a mixture is looked at: a middle, a range for each covariate, and which covariates matter most.

A picture shows one or two covariates. The others are held at their medians, so a picture is one slice through the model
and not an average over people; captions say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture

STEPS = 161
"""Points along an axis of a picture."""


@dataclass(frozen=True, eq=False)
class Profile:
    """A slice through covariate space.

    Attributes:
        names: of the d covariates.
        centre: float64 ``[d]``, where those that are not drawn are held.
        low, high: float64 ``[d]``, the range that is drawn.
    """

    names: tuple[str, ...]
    centre: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, x: Array, names: Sequence[str] | None = None) -> Profile:
        """Medians, and the range of all but the outermost hundredth on either side, of rows ``x`` ``[n, d]``."""
        low, centre, high = np.quantile(x, [0.01, 0.5, 0.99], axis=0)
        wide = np.where(high > low, 0.0, 0.5)
        return cls(tuple(names or (f"x{j}" for j in range(x.shape[1]))), centre, low - wide, high + wide)

    def axis(self, feature: int, steps: int = STEPS) -> Array:
        """Values of one covariate: float64 ``[steps]``."""
        return np.linspace(self.low[feature], self.high[feature], steps)

    def slice(self, *drawn: tuple[int, Array]) -> Array:
        """Rows at the centre but for the covariates ``drawn``, each with its values: float64 ``[n, d]``."""
        rows = np.tile(self.centre, (len(drawn[0][1]), 1))
        for feature, values in drawn:
            rows[:, feature] = values
        return rows

    def most_telling(self, mixture: Mixture[Experts]) -> list[int]:
        """The covariates by how much the prediction moves along each, most first.

        The move is that of the mean relative to its standard deviation, plus that of the gate.
        """
        moves = []
        for feature in range(len(self.centre)):
            x = self.slice((feature, self.axis(feature, 33)))
            scale = np.sqrt(mixture.variance(x).mean(axis=0)) + 1e-300
            mean = np.ptp(mixture.mean(x), axis=0) / scale
            moves.append(float(mean.mean()) + gate_move(mixture, x))
        return list(map(int, np.argsort(-np.array(moves), kind="stable")))

    def gate_movers(self, mixture: Mixture[Experts]) -> list[int]:
        """The covariates by how much the gate moves along each, most first."""
        moves = [gate_move(mixture, self.slice((j, self.axis(j, 33)))) for j in range(len(self.centre))]
        return list(map(int, np.argsort(-np.array(moves), kind="stable")))


def gate_move(mixture: Mixture[Experts], x: Array) -> float:
    """The largest change of a gate's probability along the rows of ``x``."""
    return float(np.ptp(np.exp(mixture.log_gate(x)), axis=0).max())
