"""Second-order statistics of a mixture on rows: what precision-weighted compositions ask of a local fit.

With responsibilities tau and x~ = (1, x), in raw units:

    G_k = sum_i w_i tau_ik x~_i x~_i'                                            experts' Gram matrices
    H   = sum_i w_i (diag(pi_i) - pi_i pi_i')_{1..K-1} (x) x~_i x~_i'            gate's Hessian, last row anchored

H is the Hessian of the expected complete negative log-likelihood, positive semi-definite everywhere; the merged
parameters  (sum_m G_m)^-1 sum_m G_m b_m  are then the pooled M-step of one shared E-step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Response
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.regression import softmax_curvature
from quiltwork.models.mixture.standard import Standard, symmetric


def precision(mixture: Mixture[Any], x: NDArray[Any], y: Response, weights: Array | None = None) -> tuple[Array, Array]:
    """Gram matrices and the gate's Hessian, block by block.

    Args:
        mixture: K experts.
        x: ``[n, d]``, raw units.
        y: as the family has it; float64 ``[n, q]`` for Gaussian experts.
        weights: float64 ``[n]``; ones if None.

    Returns:
        float64 ``[K, p, p]`` and ``[(K - 1) p, (K - 1) p]``, p = d + 1; class by class in the latter.
    """
    rows = Standard.of(x, np.ones(len(x)) if weights is None else weights, standardise=False)
    k, p = mixture.n_experts, rows.p
    grams, edges = rows.no_second(k), rows.no_second(k * (k - 1) // 2)
    for block in rows.blocks():
        w, part = rows.weights[block.rows], np.asarray(x[block.rows], dtype=np.float64)
        grams += block.second(mixture.responsibilities(part, y[block.rows]).T * w)
        edges += block.second(softmax_curvature(np.exp(mixture.log_gate(part)).T, w))
    return symmetric(grams, p), _anchored(symmetric(edges, p), k)


def _anchored(edges: Array, k: int) -> Array:
    """The Laplacian of the edges without its last class."""
    p = edges.shape[-1]
    hessian = np.zeros((k, k, p, p))
    for edge, low, high in zip(edges, *np.triu_indices(k, 1), strict=True):
        hessian[low, high] = hessian[high, low] = -edge
        hessian[low, low] += edge
        hessian[high, high] += edge
    size = (k - 1) * p
    return np.asarray(hessian[: k - 1, : k - 1].transpose(0, 2, 1, 3).reshape(size, size))
