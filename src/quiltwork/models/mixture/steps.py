"""One EM step of each family of experts, on rows in standard units.

A family says four things: the log density of a block's rows, the sums over rows that its step needs, the step itself,
and the penalty. With responsibilities tau (the row's weight included):

* Gaussian: exact weighted least squares from  sum tau z z',  sum tau y z,  sum tau y^2;  the variance after it

      s_k^2 = max(floor, (RSS_k + ridge |slopes|^2) / sum tau)

  so that the penalty, ridge |slopes|^2 / (2 s_k^2), is in units of the noise and both are the exact maximum.
* multinomial and Poisson: one Newton step on  sum tau log phi - ridge/2 |slopes|^2,  which `em` halves where needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts.poisson import MOST_LOG_RATE
from quiltwork.models.mixture.regression import (
    least_squares_all,
    newton_step,
    softmax_curvature,
    softmax_hessian,
)
from quiltwork.models.mixture.standard import Block

LEAST_SHARE = 1e-11
"""An expert with a smaller share of all weight keeps its parameters: there is nothing to learn them from."""


@dataclass(frozen=True, eq=False)
class Parameters:
    """A mixture in standard units.

    Attributes:
        gate: float64 ``[K, p]``, sums to zero over experts.
        coefficients: float64 ``[K, q, p]``.
        variances: float64 ``[K, q]``; without columns where a family has none.
    """

    gate: Array
    coefficients: Array
    variances: Array

    def towards(self, other: Parameters, share: float) -> Parameters:
        """The way to ``other``, gone by ``share``; variances are taken from it."""
        return Parameters(
            self.gate + share * (other.gate - self.gate),
            self.coefficients + share * (other.coefficients - self.coefficients),
            other.variances,
        )


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over rows that an expert step is made of.

    Attributes:
        mass: float64 ``[K]``, sum of tau.
        first: float64 ``[A, p]``.
        second: float64 ``[B, p, p]``.
        squares: float64 ``[K, q]``, Gaussian experts only.
    """

    mass: Array
    first: Array
    second: Array
    squares: Array


class Step(Protocol):
    """The EM step of a family; ``y`` lies inside it."""

    @property
    def exact(self) -> bool:
        """Whether the step maximises, so that no part of it is ever taken back."""
        ...

    def log_density(self, parameters: Parameters, block: Block, linear: Array) -> tuple[Array, Array]:
        """log phi_k of a block's rows from the linear predictors ``[K q, B]``: ``[K, B]``, and what `sums` reuses."""
        ...

    def sums(self, block: Block, tau: Array, state: Array) -> tuple[Array, Array, Array]:
        """Weights for ``first`` and ``second``, and ``squares``."""
        ...

    def update(self, parameters: Parameters, sums: Sums) -> Parameters:
        """The experts after the step; the gate as it was."""
        ...

    def penalty(self, parameters: Parameters) -> float:
        """What is subtracted from the log-likelihood."""
        ...

    def blank(self, n_experts: int, p: int) -> Parameters:
        """Equal experts without slopes, from which a first step is taken."""
        ...

    def position(self, block: Block) -> Array:
        """The responses as coordinates of about unit size, by which starts tell rows apart: float64 ``[r, B]``."""
        ...

    def take(self, rows: NDArray[np.intp]) -> Step:
        """The step for some of the rows."""
        ...


@dataclass(frozen=True, eq=False)
class GaussianStep:
    """Weighted least squares.

    Attributes:
        y: float64 ``[q, n]``, standard units.
        ridge: float64 ``[p]``, zero at the intercept.
        floor: least variance, in standard units.
    """

    y: Array
    ridge: Array
    floor: float
    exact: bool = True

    def log_density(self, parameters: Parameters, block: Block, linear: Array) -> tuple[Array, Array]:
        """log N(y; linear, variance), summed over outputs."""
        k, q = parameters.variances.shape
        residual = linear.reshape(k, q, -1)
        residual = np.subtract(self.y[:, block.rows], residual, out=residual)
        np.square(residual, out=residual)
        residual *= (-0.5 / parameters.variances)[:, :, None]
        value = residual[:, 0] if q == 1 else residual.sum(axis=1)
        value -= 0.5 * np.log(2 * np.pi * parameters.variances).sum(axis=1)[:, None]
        return value, value

    def sums(self, block: Block, tau: Array, state: Array) -> tuple[Array, Array, Array]:  # noqa: ARG002 - one signature
        """tau y for the cross products, tau for the Gram matrices."""
        y = self.y[:, block.rows]
        return (tau[:, None, :] * y).reshape(-1, y.shape[1]), tau, tau @ np.square(y).T

    def update(self, parameters: Parameters, sums: Sums) -> Parameters:
        """The exact maximum, expert by expert."""
        cross = sums.first.reshape(parameters.coefficients.shape)
        b = least_squares_all(sums.second, cross, self.ridge[1:])
        rss = sums.squares + (b * (b @ sums.second - 2 * cross + self.ridge * b)).sum(axis=2)
        alive = (sums.mass > LEAST_SHARE * sums.mass.sum())[:, None]
        variances = np.maximum(rss / np.where(alive, sums.mass[:, None], 1.0), self.floor)
        return Parameters(
            parameters.gate,
            np.where(alive[:, :, None], b, parameters.coefficients),
            np.where(alive, variances, parameters.variances),
        )

    def penalty(self, parameters: Parameters) -> float:
        """ridge |slopes|^2 / (2 s^2)."""
        return float((parameters.coefficients**2 @ self.ridge / (2 * parameters.variances)).sum())

    def blank(self, n_experts: int, p: int) -> Parameters:
        """Zero means, unit variances."""
        q = len(self.y)
        return Parameters(np.zeros((n_experts, p)), np.zeros((n_experts, q, p)), np.ones((n_experts, q)))

    def position(self, block: Block) -> Array:
        """The responses."""
        return self.y[:, block.rows]

    def take(self, rows: NDArray[np.intp]) -> GaussianStep:
        """The step for some of the rows."""
        return replace(self, y=self.y[:, rows])


@dataclass(frozen=True, eq=False)
class MultinomialStep:
    """One Newton step of each expert's logistic regression.

    Attributes:
        y: int64 ``[n]``, class codes.
        ridge: float64 ``[p]``, zero at the intercept.
        classes: C.
    """

    y: NDArray[Any]
    ridge: Array
    classes: int
    exact: bool = False

    def log_density(self, parameters: Parameters, block: Block, linear: Array) -> tuple[Array, Array]:
        """log P_k(y), and the probabilities of all classes ``[K, C, B]``."""
        logits = linear.reshape(len(parameters.gate), self.classes, -1)
        logits -= logits.max(axis=1, keepdims=True)
        seen = logits[:, self.y[block.rows], np.arange(logits.shape[2])]
        p = np.exp(logits, out=logits)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        return seen - np.log(total[:, 0]), p

    def sums(self, block: Block, tau: Array, state: Array) -> tuple[Array, Array, Array]:
        """tau (1{y = c} - p_c) for the gradients, the edges of each expert's Laplacian for the curvature."""
        slope = -tau[:, None, :] * state
        slope[:, self.y[block.rows], np.arange(tau.shape[1])] += tau
        edges = [softmax_curvature(p, t) for p, t in zip(state, tau, strict=True)]
        return slope.reshape(-1, tau.shape[1]), np.concatenate(edges), np.empty((len(tau), 0))

    def update(self, parameters: Parameters, sums: Sums) -> Parameters:
        """A full Newton step, centred over classes."""
        coefficients = parameters.coefficients.copy()
        k, _, p = coefficients.shape
        slopes = sums.first.reshape(coefficients.shape) - self.ridge * coefficients
        edges = sums.second.reshape(k, -1, p, p)
        for one in np.flatnonzero(sums.mass > LEAST_SHARE * sums.mass.sum()):
            hessian = softmax_hessian(edges[one], self.classes, self.ridge)
            coefficients[one] += newton_step(slopes[one].ravel(), hessian).reshape(self.classes, p)
        return replace(parameters, coefficients=coefficients)

    def penalty(self, parameters: Parameters) -> float:
        """ridge/2 |slopes|^2."""
        return 0.5 * float((parameters.coefficients**2 @ self.ridge).sum())

    def blank(self, n_experts: int, p: int) -> Parameters:
        """Equal classes."""
        return Parameters(np.zeros((n_experts, p)), np.zeros((n_experts, self.classes, p)), np.empty((n_experts, 0)))

    def position(self, block: Block) -> Array:
        """None: experts that each know one class only are a poor start."""
        return np.empty((0, block.z.shape[1]))

    def take(self, rows: NDArray[np.intp]) -> MultinomialStep:
        """The step for some of the rows."""
        return replace(self, y=self.y[rows])


@dataclass(frozen=True, eq=False)
class PoissonStep:
    """One Newton step of each expert's Poisson regression.

    Attributes:
        y: float64 ``[n]``, counts.
        ridge: float64 ``[p]``, zero at the intercept.
        level: the mean count.
    """

    y: Array
    ridge: Array
    level: float
    exact: bool = False

    def log_density(self, parameters: Parameters, block: Block, linear: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """log Poisson(y), and the rates ``[K, B]``."""
        y = self.y[block.rows]
        log_rate = np.minimum(linear, MOST_LOG_RATE)
        rate = np.exp(log_rate)
        return y * log_rate - rate - gammaln(y + 1.0), rate

    def sums(self, block: Block, tau: Array, state: Array) -> tuple[Array, Array, Array]:
        """tau (y - rate) for the gradients, tau rate for the curvature."""
        return tau * (self.y[block.rows] - state), tau * state, np.empty((len(tau), 0))

    def update(self, parameters: Parameters, sums: Sums) -> Parameters:
        """A full Newton step."""
        coefficients = parameters.coefficients.copy()
        slopes = sums.first - self.ridge * coefficients[:, 0]
        for k in np.flatnonzero(sums.mass > LEAST_SHARE * sums.mass.sum()):
            coefficients[k, 0] += newton_step(slopes[k], sums.second[k] + np.diag(self.ridge))
        return replace(parameters, coefficients=coefficients)

    def penalty(self, parameters: Parameters) -> float:
        """ridge/2 |slopes|^2."""
        return 0.5 * float((parameters.coefficients**2 @ self.ridge).sum())

    def blank(self, n_experts: int, p: int) -> Parameters:
        """The mean rate."""
        coefficients = np.zeros((n_experts, 1, p))
        coefficients[:, :, 0] = np.log(max(self.level, 1e-8))
        return Parameters(np.zeros((n_experts, p)), coefficients, np.empty((n_experts, 0)))

    def position(self, block: Block) -> Array:
        """Square roots of the counts, whose noise is alike everywhere."""
        return np.asarray(np.sqrt(self.y[None, block.rows]) - np.sqrt(self.level))

    def take(self, rows: NDArray[np.intp]) -> PoissonStep:
        """The step for some of the rows."""
        return replace(self, y=self.y[rows])
