"""Noisy EM: a mixture of linear experts whose every look at the rows is a Gaussian mechanism (Park et al. 2017).

Row (x, y) becomes u of at most unit length in units declared in advance (`quiltwork.evidence.clipped`), and
u~ = (1, u). Responsibilities tau follow from the row and from parameters that are already noisy. One matrix an expert
is all that an iteration takes from the rows:

    T_k = sum_i tau_ik u~_i u~_i'      |change by one row| = |tau_i| (1 + |u_i|^2) <= 2      |tau_i| <= sum tau_i = 1

so T_1 ... T_K together have L2 sensitivity 2, however many experts, features and responses there are. With

    T_k = [ G_k   c_k ]      G_k over (1, x)      b_k = (G_k + r I)^-1 c_k      s_k^2 = residual second moment / n_k
          [ c_k'  q_k ]      q_k over y           r = sigma sqrt(p): the size of the noise in G_k

everything else is free, also the gate: with means m_k and the pooled covariance S of x from the same matrices,

    a_k = S^-1 m_k        a_k0 = log n_k - m_k' S^-1 m_k / 2

which is the exact M-step of the joint model  k ~ n_k,  x | k ~ N(m_k, S),  y | x, k ~ N(b_k'x~, s_k^2),  whose p(k | x)
is a softmax of affine functions. A gate fitted by its own gradient would need further releases in every iteration.

T iterations are T events of one sigma; the accountant prices them. The matrices of successive iterations are averaged,
with weights that fall with their age, since near the end they are one statistic under independent noise.

Source: Park, Foulds, Chaudhuri and Welling, "DP-EM: differentially private expectation maximization", AISTATS 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.clipped import MOMENTS_SENSITIVITY, ClippedGaussian, noisy_matrices, shares, weighted_moments
from quiltwork.models.mixture.design import Array, blocks, in_raw_units
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.party.one_thread import one_thread
from quiltwork.party.table_rows import Rows
from quiltwork.privacy.accountant import calibrate_gaussian
from quiltwork.privacy.events import GaussianEvent

GaussianMixture = Mixture[GaussianExperts]

FORGETTING = 0.5
"""The matrices of iteration t enter their average with weight t^-1/2 (the stepwise EM of Cappe and Moulines 2009)."""

_LEAST_VARIANCE = 1e-6
_START_SPREAD = 1.0


@dataclass(frozen=True, eq=False)
class PrivateFit:
    """A rule for a fit under noise, all of it declared without a look at the rows.

    Attributes:
        bounds: centre, scale and clip over the features and then the responses, and the price of the whole fit.
        iterations: looks at the rows; more of them converge further, each under more noise.
    """

    bounds: ClippedGaussian
    iterations: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= 200:
            raise InvalidOption(
                f"iterations={self.iterations}", why="each costs privacy", mend="Choose 1 to 200, such as 20."
            )

    @property
    def sigma(self) -> float:
        """Noise of one iteration: T Gaussian releases weigh as one with sqrt(T) times the sensitivity."""
        whole = calibrate_gaussian(self.bounds.epsilon, self.bounds.delta, MOMENTS_SENSITIVITY)
        return whole * math.sqrt(self.iterations)

    def events(self) -> list[GaussianEvent]:
        """What the fit releases: one event an iteration."""
        one = GaussianEvent(released="mixture", unit="row", sigma=self.sigma, sensitivity=MOMENTS_SENSITIVITY)
        return [one] * self.iterations


@dataclass(frozen=True, eq=False)
class NoisyFit:
    """What the noisy EM ends with.

    Attributes:
        mixture: in raw units.
        rows: the noisy count, at least 1.
    """

    mixture: GaussianMixture
    rows: int


def fit_privately(
    rows: Rows, n_experts: int, rule: PrivateFit, seed: int = 0, *, rng: np.random.Generator | None = None
) -> NoisyFit:
    """Fit Gaussian experts under noise.

    Args:
        rows: regression rows without weights.
        n_experts: K.
        rule: bounds, price and iterations.
        seed: of the start, which does not depend on the rows.
        rng: of the noise, for tests only; None draws from the operating system's entropy.

    Raises:
        InvalidOption: the rule does not fit the columns, or rows have weights or classes.
    """
    table, d = _joined(rows, rule), rows.x.shape[1]
    width = 1 + table.shape[1]
    with one_thread():
        current = _start(n_experts, d, width - 1 - d, np.random.default_rng(seed))
        average = np.zeros((n_experts, width, width))
        for iteration in range(rule.iterations):
            totals = weighted_moments(table, responsibilities(current, table, rule.bounds), rule.bounds)
            noisy = noisy_matrices(totals, np.ones(n_experts), rule.sigma, rng)
            average += (noisy - average) * (1 + iteration) ** -FORGETTING
            current = _maximised(average, d, rule.sigma)
    return NoisyFit(_in_raw_units(current, rule.bounds, d), max(1, round(float(average[:, 0, 0].sum()))))


def _joined(rows: Rows, rule: PrivateFit) -> NDArray[np.float64]:
    """Features and responses side by side."""
    if rows.classes is not None or rows.weights is not None:
        why = "it takes numbers to predict, and rows that count alike"
        raise InvalidOption("a fit under noise", why=why, mend="Leave classes and weights out.")
    columns = rows.x.shape[1] + rows.y.shape[1]
    if rule.bounds.scale.size != columns:
        why = f"there are {rule.bounds.scale.size} centres and scales for {columns} features and responses"
        raise InvalidOption("bounds", why=why, mend="Declare one a column, the responses last.")
    return np.concatenate((rows.x, rows.y), axis=1, dtype=np.float64)


def responsibilities(mixture: GaussianMixture, table: Array, bounds: ClippedGaussian) -> Array:
    """tau of each row as clipped: float64 ``[n, K]``; a row's follow from that row and the parameters alone."""
    d, tau = mixture.n_features, np.empty((len(table), mixture.n_experts))
    for part in blocks(len(table)):
        u = bounds.clipped(table[part])
        tau[part] = mixture.responsibilities(u[:, :d], u[:, d:])
    return shares(tau)


def _start(experts: int, d: int, q: int, rng: np.random.Generator) -> GaussianMixture:
    """Experts that differ in where the gate lets them be and in what they say; no row has a part in it."""
    gate = _START_SPREAD * rng.standard_normal((experts, 1 + d))
    gate[:, 0] = 0.0
    coefficients = 0.5 * rng.standard_normal((experts, q, 1 + d)) / math.sqrt(1 + d)
    return Mixture(SoftmaxGate(gate), GaussianExperts(coefficients, np.full((experts, q), 0.1)))


def _maximised(matrices: Array, d: int, sigma: float) -> GaussianMixture:
    """Parameters from noisy matrices, valid whatever the noise did."""
    floor = sigma * math.sqrt(1 + d)
    counts = np.maximum(matrices[:, 0, 0], floor)
    grams = _semidefinite(matrices[:, : 1 + d, : 1 + d])
    cross = matrices[:, : 1 + d, 1 + d :]
    coefficients = np.linalg.solve(grams + floor * np.eye(1 + d), cross)
    explained = np.einsum("kpq,kpq->kq", coefficients, 2 * cross - grams @ coefficients)
    squares = np.diagonal(matrices[:, 1 + d :, 1 + d :], axis1=1, axis2=2)
    variances = np.clip((squares - explained) / counts[:, None], _LEAST_VARIANCE, 1.0)
    experts = GaussianExperts(np.array(coefficients.transpose(0, 2, 1)), np.array(variances, dtype=np.float64))
    return Mixture(_gate(grams, counts, floor), experts)


def _gate(grams: Array, counts: Array, floor: float) -> SoftmaxGate:
    """The softmax of affine functions that Gaussian covariates with one covariance have."""
    means = grams[:, 1:, 0] / counts[:, None]
    within = (grams[:, 1:, 1:] - counts[:, None, None] * means[:, :, None] * means[:, None, :]).sum(axis=0)
    pooled = _semidefinite(within) + floor * np.eye(means.shape[1])
    slopes = np.linalg.solve(pooled / counts.sum(), means.T).T
    intercepts = np.log(counts / counts.sum()) - 0.5 * (slopes * means).sum(axis=1)
    return SoftmaxGate(np.column_stack((intercepts, slopes))).anchored()


def _semidefinite(matrices: Array) -> Array:
    values, vectors = np.linalg.eigh(matrices)
    return np.asarray((vectors * np.maximum(values, 0.0)[..., None, :]) @ np.swapaxes(vectors, -1, -2))


def _in_raw_units(mixture: GaussianMixture, bounds: ClippedGaussian, d: int) -> GaussianMixture:
    """From units in which clipped rows are at most 1 long to those of the table."""
    reach, centre = bounds.reach, bounds.centre
    assert isinstance(mixture.gate, SoftmaxGate)
    gate = in_raw_units(mixture.gate.coefficients, centre[:d], reach[:d])
    coefficients = in_raw_units(mixture.experts.coefficients, centre[:d], reach[:d]) * reach[d:, None]
    coefficients[..., 0] += centre[d:]
    return Mixture(SoftmaxGate(gate), GaussianExperts(coefficients, mixture.experts.variances * reach[d:] ** 2))
