"""Weighted regressions with soft responses: the steps that fits and compositions share.

* softmax:  minimise  - sum_i w_i sum_c T_ic log softmax_c(x_i' B) + ridge/2 |slopes|^2
* Poisson:  minimise  sum_i w_i (exp(x_i' b) - t_i x_i' b)         + ridge/2 |slopes|^2
* linear:   minimise  sum_i w_i (t_i - x_i' b)^2                   + ridge   |slopes|^2, from its Gram matrix

The first two are convex; `newton` takes Newton steps and halves each until the objective does not rise. The softmax
curvature is the Laplacian of the complete graph over classes whose edge (k, l) weighs sum_i w_i p_ik p_il x_i x_i',
positive semi-definite by construction. It does not see a vector added to all classes; solutions are centred over
classes, so that no class is special.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import log_softmax

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, in_raw_units, in_standard_units
from quiltwork.models.mixture.standard import Standard, symmetric

Local: TypeAlias = tuple[float, Array, Array]
"""An objective near a point: value, gradient ``[m]``, Hessian ``[m, m]``."""

MOST_HALVINGS = 30

TINY = float(np.finfo(np.float64).tiny)

DAMPING = 1e-10
"""Added to a Hessian's diagonal, in units of its largest entry, so that unidentified directions stay put."""

RANK = 1e-11
"""Pivots (unit diagonal) or eigenvalues below this share of the largest count as rank deficiency."""


def softmax_regression(
    x: NDArray[Any],
    targets: Array,
    weights: Array | None = None,
    *,
    start: Array | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> Array:
    """Multinomial logistic regression on soft targets.

    Args:
        x: ``[n, d]``, raw units.
        targets: float64 ``[n, C]``, not negative; a row's sum counts as its mass.
        weights: float64 ``[n]``; ones if None.
        start: float64 ``[C, 1 + d]``; equal classes if None.
        ridge: on the slopes in the units of x, not on intercepts.
        tolerance: stop when an iteration gains at most so many nats per unit of mass.
        max_iterations: Newton steps at most; separated classes have no finite optimum and end here or by tolerance.

    Returns:
        float64 ``[C, 1 + d]``, intercept first; sums to zero over classes.

    Raises:
        InvalidOption: shapes do not fit, or there is no mass.

    >>> x = np.array([[0.0], [0.0], [1.0], [1.0]])
    >>> targets = np.array([[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.8, 0.2]])
    >>> b = softmax_regression(x, targets)
    >>> bool(np.allclose(np.exp(b[0] - b[1]), [1.0, 4.0]))
    True
    """
    table, mass = _table(x, targets, weights)
    classes = targets.shape[1]
    penalty = _penalty(ridge, table)
    first = np.zeros((classes, table.p)) if start is None else in_standard_units(start, table.centre, table.scale)

    def near(point: Array) -> Local:
        return _softmax_local(table, targets, mass, point.reshape(classes, table.p), penalty)

    best = newton(near, _centred(first).ravel(), tolerance * float(mass.sum()), max_iterations)
    return in_raw_units(best.reshape(classes, table.p), table.centre, table.scale)


def poisson_regression(
    x: NDArray[Any],
    targets: Array,
    weights: Array | None = None,
    *,
    start: Array | None = None,
    ridge: float = 0.0,
    tolerance: float = 1e-8,
    max_iterations: int = 100,
) -> Array:
    """Poisson regression with logarithmic link on counts or expected counts.

    Args:
        x: ``[n, d]``, raw units.
        targets: float64 ``[n]``, not negative.
        weights: float64 ``[n]``; ones if None.
        start: float64 ``[1 + d]``; the constant rate if None, or if that is better.
        ridge: on the slopes in the units of x.
        tolerance: stop when an iteration gains at most so many nats per unit of weight.
        max_iterations: Newton steps at most.

    Returns:
        float64 ``[1 + d]``, intercept first, of the log-rate.

    Raises:
        InvalidOption: shapes do not fit, or there is no mass.
    """
    table, mass = _table(x, targets[:, None], weights, total=False)
    penalty = _penalty(ridge, table)

    def near(point: Array) -> Local:
        return _poisson_local(table, targets, mass, point, penalty)

    first = np.zeros(table.p)
    first[0] = np.log(max(float(mass @ targets) / float(mass.sum()), 1e-8))
    if start is not None:
        given = in_standard_units(start, table.centre, table.scale)
        first = given if near(given)[0] < near(first)[0] else first
    best = newton(near, first, tolerance * float(mass.sum()), max_iterations)
    return in_raw_units(best, table.centre, table.scale)


def weighted_least_squares(gram: Array, cross: Array, ridge: float | Array = 0.0) -> Array:
    """Least squares from its statistics.

    Args:
        gram: float64 ``[p, p]``, sum of w x~ x~' with the intercept first.
        cross: float64 ``[p, q]``, sum of w x~ t'.
        ridge: added to the diagonal, the intercept's entry excepted; one number or ``[p - 1]``.

    Returns:
        float64 ``[q, p]``. Where the matrix is rank deficient: the solution of least norm in units of its diagonal.

    >>> weighted_least_squares(np.array([[2.0, 0.0], [0.0, 8.0]]), np.array([[2.0], [4.0]]))
    array([[1. , 0.5]])
    """
    return np.asarray(least_squares_all(gram[None], cross.T[None], ridge)[0])


def least_squares_all(grams: Array, crosses: Array, ridge: float | Array) -> Array:
    """`weighted_least_squares` for several experts: ``[K, p, p]`` and ``[K, q, p]`` to ``[K, q, p]``."""
    p = grams.shape[-1]
    full = grams.copy()
    diagonal = full.reshape(len(full), -1)[:, :: p + 1]
    diagonal[:, 1:] += ridge
    unit = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    full *= unit[:, :, None]
    full *= unit[:, None, :]
    right = crosses * unit[:, None, :]
    for k, matrix in enumerate(full):
        right[k] = _solve(matrix, right[k].T).T
    right *= unit[:, None, :]
    return right


def _solve(matrix: Array, right: Array) -> Array:
    """Symmetric positive semi-definite system: Cholesky, or the pseudo-inverse where a pivot vanishes."""
    factor, failed = lapack.dpotrf(matrix, lower=1)
    if not failed and factor.diagonal().min() ** 2 > RANK:
        return np.asarray(lapack.dpotrs(factor, right, lower=1)[0])
    values, vectors = np.linalg.eigh(matrix)
    kept = values > RANK * max(float(values[-1]), TINY)
    inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
    return np.asarray(vectors @ (inverse[:, None] * (vectors.T @ right)))


def newton(near: Callable[[Array], Local], start: Array, tolerance: float, max_iterations: int) -> Array:
    """Minimise a convex function; it never rises.

    Args:
        near: value, gradient and Hessian at a point.
        start: the first point, float64 ``[m]``.
        tolerance: stop when a step lowers the value by no more.
        max_iterations: steps at most.

    Returns:
        the last point, float64 ``[m]``.
    """
    point, (value, gradient, hessian) = start, near(start)
    for _ in range(max_iterations):
        step = newton_step(gradient, hessian)
        for halving in range(MOST_HALVINGS):
            candidate = point - step * 0.5**halving
            local = near(candidate)
            if local[0] <= value:
                break
        else:
            return point
        gain, point, (value, gradient, hessian) = value - local[0], candidate, local
        if gain <= tolerance:
            break
    return point


def newton_step(gradient: Array, hessian: Array) -> Array:
    """H^-1 g for a positive semi-definite H; directions without curvature are left alone."""
    # a symmetric matrix is its own transpose, which lies as LAPACK wants it and is not copied again
    _, step, failed = lapack.dposv(_damped(hessian).T, gradient, overwrite_a=1)
    return _solve(_damped(hessian), gradient) if failed else np.asarray(step)


def _damped(hessian: Array) -> Array:
    damped = hessian.copy()
    diagonal = damped.reshape(-1)[:: len(damped) + 1]
    diagonal += DAMPING * max(float(diagonal.max()), TINY)
    return damped


def softmax_curvature(probabilities: Array, mass: Array) -> Array:
    """The weights of the edges k < l: mass p_k p_l for probabilities ``[C, B]``: float64 ``[C (C - 1) / 2, B]``."""
    low, high = _edges(len(probabilities))
    edges = probabilities[low]
    edges *= probabilities[high]
    edges *= mass
    return edges


def softmax_hessian(edges: Array, classes: int, penalty: Array) -> Array:
    """The graph Laplacian of edges ``[C (C - 1) / 2, p, p]`` and a penalty ``[p]``: ``[C p, C p]`` of full rank.

    A term along equal shifts makes the rank full. It acts only on vectors added to all classes, of which gradients of
    centred points have none.
    """
    p = edges.shape[-1]
    flat = _laplacian(classes) @ edges.reshape(len(edges), p * p)
    hessian = np.ascontiguousarray(flat.reshape(classes, classes, p, p).transpose(0, 2, 1, 3))
    shift = 2 * float(np.einsum("eaa->", edges)) / (classes * classes * p)
    np.einsum("kala->kla", hessian)[...] += max(shift, TINY)
    np.einsum("kaka->ka", hessian)[...] += penalty
    return hessian.reshape(classes * p, classes * p)


@cache
def _laplacian(classes: int) -> Array:
    """What each edge adds to the graph Laplacian, float64 ``[C C, E]``: 1 at kk and ll, -1 at kl and lk."""
    low, high = _edges(classes)
    ends = np.eye(classes)[low] - np.eye(classes)[high]
    return np.asarray(np.einsum("ek,el->kle", ends, ends).reshape(classes * classes, -1))


@cache
def _edges(classes: int) -> tuple[list[int], list[int]]:
    """The ends k < l of every edge."""
    low, high = np.triu_indices(classes, 1)
    return low.tolist(), high.tolist()


def _softmax_local(table: Standard, targets: Array, mass: Array, b: Array, penalty: Array) -> Local:
    classes = len(b)
    value = 0.5 * float((penalty * b**2).sum())
    gradient, edges = penalty * b, table.no_second(classes * (classes - 1) // 2)
    for block in table.blocks():
        goal = (targets[block.rows] * table.weights[block.rows, None]).T
        log_p = log_softmax(b @ block.z, axis=0)
        p = np.exp(log_p)
        value -= float((goal * log_p).sum())
        gradient = gradient + block.first(p * mass[block.rows] - goal)
        edges += block.second(softmax_curvature(p, mass[block.rows]))
    hessian = softmax_hessian(symmetric(edges, table.p), classes, penalty)
    return value, gradient.ravel(), hessian


def _poisson_local(table: Standard, targets: Array, mass: Array, b: Array, penalty: Array) -> Local:
    value, gradient, curvature = 0.5 * float((penalty * b**2).sum()), penalty * b, table.no_second(1)
    for block in table.blocks():
        w, goal, log_rate = mass[block.rows], targets[block.rows], b @ block.z
        with np.errstate(over="ignore"):
            rate = np.exp(log_rate)
        if not np.isfinite(rate.sum()):
            return np.inf, gradient, np.eye(table.p)
        value += float(w @ (rate - goal * log_rate))
        gradient = gradient + block.first((w * (rate - goal))[None])[0]
        curvature += block.second((w * rate)[None])
    return value, gradient, symmetric(curvature, table.p)[0] + np.diag(penalty)


def _table(x: NDArray[Any], targets: Array, weights: Array | None, total: bool = True) -> tuple[Standard, Array]:
    """The rows in standard units, and each row's mass."""
    w = np.ones(len(x)) if weights is None else weights
    if targets.shape[0] != len(x) or w.shape != (len(x),):
        raise InvalidOption(
            "targets and weights",
            why=f"they have {targets.shape[0]} and {w.shape} rows, and x has {len(x)}",
            mend="Give one of each for every row of x.",
        )
    mass = w * targets.sum(axis=1) if total else w
    if not mass.sum() > 0:
        raise InvalidOption("weights", why="they sum to nothing", mend="Give at least one row a positive weight.")
    return Standard.of(x, w), mass


def _penalty(ridge: float, table: Standard) -> Array:
    """The ridge on standard slopes that equals ``ridge`` on raw ones: float64 ``[p]``, nothing on the intercept."""
    return np.concatenate([[0.0], ridge / table.scale**2])


def _centred(b: Array) -> Array:
    return np.asarray(b - b.mean(axis=0), dtype=np.float64)
