"""One fit from beginning to end: arrays in raw units in, a `Mixture` in raw units out.

Columns are standardised by their weighted moments, and Gaussian responses too; EM runs there, and the parameters come
back by ``design.in_raw_units``. With y = c + s u the log-likelihood in raw units is that of u less  sum_i w_i log s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, in_raw_units
from quiltwork.models.mixture.em import Run, maximise
from quiltwork.models.mixture.experts import FamilyName
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.likelihood import GateStep, Problem
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.standard import Standard, weighted_moments
from quiltwork.models.mixture.starts import Competition, best_start
from quiltwork.models.mixture.steps import GaussianStep, MultinomialStep, Parameters, PoissonStep, Step


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to fit; the names and meanings are those of the estimators' parameters."""

    family: FamilyName
    n_init: int = 8
    start_rows: int = 100_000
    max_iter: int = 500
    tol: float = 1e-6
    ridge_gate: float = 1e-3
    ridge_experts: float = 0.0
    min_variance: float = 1e-6
    gate_step: GateStep = "newton"
    standardise: bool = True

    def check(self) -> None:
        """Refuse what lies outside its domain.

        Raises:
            InvalidOption: naming the parameter.
        """
        for name in ("n_init", "start_rows", "max_iter"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "it counts things", "at least 1")
        for name in ("tol", "ridge_gate", "ridge_experts"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "it is not negative", "0 or more")
        positive = self.min_variance > 0
        _require("min_variance", self.min_variance, positive, "a density needs a positive variance", "1e-6 or so")
        known = self.gate_step in ("newton", "bohning")
        _require("gate_step", self.gate_step, known, "there is no such step", "'newton' or 'bohning'")


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted mixture.

    Attributes:
        mixture: in raw units; the gate's last row is zero, and multinomial experts sum to zero over classes.
        log_likelihood: of the weighted rows, in nats, without penalties.
        path: penalised log-likelihood at the start and after every iteration; it does not fall.
        converged: whether the last iteration gained no more than the tolerance.
    """

    mixture: Mixture[Any]
    log_likelihood: float
    path: tuple[float, ...]
    converged: bool


def fit(
    x: NDArray[Any],
    y: NDArray[Any],
    weights: Array,
    n_experts: int,
    settings: Settings,
    rng: np.random.Generator,
    *,
    n_classes: int = 0,
    watch: Callable[[int, float], None] | None = None,
) -> Fit:
    """Fit one mixture of ``n_experts``.

    Args:
        x: ``[n, d]``, finite, of a float type; may be a memory map.
        y: float64 ``[n, q]``, or int64 ``[n]`` class codes.
        weights: float64 ``[n]``, not negative, not all zero.
        n_experts: K, at most the number of rows that have weight.
        settings: see `Settings`.
        rng: for the starts.
        n_classes: C, for multinomial experts.
        watch: told the iteration and the penalised log-likelihood in standard units.

    Raises:
        InvalidOption: a setting outside its domain, or more experts than rows.
    """
    settings.check()
    used = int(np.count_nonzero(weights))
    if not 1 <= n_experts <= used:
        raise InvalidOption(
            f"n_experts={n_experts}",
            why=f"the table has n_samples = {used} with positive weight, and each expert needs at least one",
            mend="Choose between 1 and that many experts, or give more rows.",
        )
    rows = Standard.of(x, weights, standardise=settings.standardise)
    units = _units(y, weights, settings)
    step = _step(y, units, rows, settings, n_classes)
    problem = Problem(rows, step, _ridge(settings.ridge_gate, rows.p), settings.gate_step)
    competition = Competition(settings.n_init, rows=settings.start_rows)
    start = best_start(problem, n_experts, competition, rng)
    run = maximise(problem, start, tolerance=settings.tol, max_iterations=settings.max_iter, watch=watch)
    return _in_raw_units(run, rows, units, settings.family)


def _units(y: NDArray[Any], weights: Array, settings: Settings) -> tuple[Array, Array]:
    """Centre and scale ``[q]`` of Gaussian responses."""
    if settings.family != "gaussian":
        return np.zeros(1), np.ones(1)
    return weighted_moments(y, weights)


def _step(y: NDArray[Any], units: tuple[Array, Array], rows: Standard, settings: Settings, n_classes: int) -> Step:
    ridge = _ridge(settings.ridge_experts, rows.p)
    if settings.family == "gaussian":
        standard = np.ascontiguousarray(((y - units[0]) / units[1]).T)
        return GaussianStep(standard, ridge, settings.min_variance)
    if settings.family == "poisson":
        level = float(rows.weights @ y[:, 0] / rows.weights.sum())
        return PoissonStep(np.ascontiguousarray(y[:, 0]), ridge, level)
    return MultinomialStep(y, ridge, n_classes)


def _ridge(amount: float, p: int) -> Array:
    ridge = np.full(p, float(amount))
    ridge[0] = 0.0
    return ridge


def _in_raw_units(run: Run, rows: Standard, units: tuple[Array, Array], family: FamilyName) -> Fit:
    found = run.last.parameters
    gate = SoftmaxGate(in_raw_units(found.gate, rows.centre, rows.scale)).anchored()
    coefficients = in_raw_units(found.coefficients, rows.centre, rows.scale)
    shift = float(rows.weights.sum()) * float(np.log(units[1]).sum())
    experts = _experts(found, coefficients, units, family)
    path = tuple(value - shift for value in run.path)
    return Fit(Mixture(gate, experts), run.last.log_likelihood - shift, path, run.converged)


def _experts(found: Parameters, raw: Array, units: tuple[Array, Array], family: FamilyName) -> Any:
    if family == "multinomial":
        return MultinomialExperts(raw - raw.mean(axis=1, keepdims=True))
    if family == "poisson":
        return PoissonExperts(raw)
    centre, scale = units
    raw = raw * scale[:, None]
    raw[:, :, 0] += centre
    return GaussianExperts(raw, found.variances * scale**2)


def _require(name: str, value: object, holds: bool, why: str, mend: str) -> None:
    if not holds:
        raise InvalidOption(f"{name}={value!r}", why=why, mend=f"Choose {mend}.")
