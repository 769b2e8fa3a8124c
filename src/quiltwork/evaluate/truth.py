"""How near a mixture is to one that is known: the truth of a simulation, or the fit on all data.

Labels of experts mean nothing, so experts are matched before parameters are subtracted; a softmax gate is fixed up to
one vector, so its last row is subtracted first, after matching. Both are done here and not by sorting intercepts, which
pairs wrongly where intercepts cross.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.alignment import match
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import PooledGate, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.transport import transport_divergence

# rows for the divergence: its standard error is far below the differences between methods
DIVERGENCE_ROWS = 512
# beyond so many pairs of experts the linear programmes take minutes
MOST_PAIRS = 256


def parameter_error(estimated: Mixture[Experts], truth: Mixture[Experts], x: Array) -> float:
    """Mean squared error of the free parameters in raw units, after matching experts.

    ``sum (theta - theta*)^2 / number of free parameters``: the gate's coefficients less its last row, the experts'
    (less those of the last class for multinomial ones), the variances.

    Args:
        estimated: K experts and a softmax gate.
        truth: the same family, K and features.
        x: float64 ``[n, d]``, where experts are compared for matching.

    Raises:
        InvalidOption: the numbers of experts differ, x is empty, or a gate is not softmax.
    """
    order = match(truth, estimated, x)
    return float(np.mean((_free(estimated, order) - _free(truth, np.arange(truth.n_experts))) ** 2))


def _free(mixture: Mixture[Experts], order: NDArray[np.intp]) -> Array:
    gate = mixture.gate
    if not isinstance(gate, SoftmaxGate):
        raise InvalidOption(
            "parameter error",
            why="the gate of the mixture is not softmax, so it has no coefficients to compare",
            mend="Reduce the mixture first, or compare by transport_divergence.",
        )
    experts = mixture.experts.select(order.tolist()).parameters()
    if mixture.experts.family == "multinomial":
        classes = experts["coefficients"]
        experts = {"coefficients": (classes - classes[:, -1:])[:, :-1]}
    gates = gate.select(order.tolist()).anchored().coefficients[:-1]
    return np.concatenate([gates.ravel(), *(array.ravel() for array in experts.values())])


def n_free_parameters(mixture: Mixture[Experts]) -> int:
    """The number of free parameters: all machines' together for the pooled large mixture."""
    p, outputs = mixture.n_features + 1, mixture.experts.coefficients.shape[1]
    free = outputs - 1 if mixture.experts.family == "multinomial" else outputs
    arrays = mixture.experts.parameters()
    others = sum(array.size for name, array in arrays.items() if name != "coefficients")
    gates = mixture.gate.gates if isinstance(mixture.gate, PooledGate) else (mixture.gate,)
    return int(mixture.n_experts * free * p + others + sum((gate.n_experts - 1) * p for gate in gates))


def gate_ari(mixture: Mixture[Experts], x: Array, labels: NDArray[Any]) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) between the gate's likeliest expert and known labels.

    Args:
        mixture: any.
        x: float64 ``[n, d]``.
        labels: ``[n]``, the expert that gave each row.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels, mixture.log_gate(x).argmax(axis=1)))


def distances(estimated: Mixture[Experts], truth: Mixture[Experts], x: Array) -> dict[str, float]:
    """All that applies of ``parameter_error``, ``transport_divergence`` and its lower bound ``relaxed_divergence``.

    The divergences go from the estimate to the truth, in nats, over the rows ``x``, of which `DIVERGENCE_ROWS` are
    plenty. With more than `MOST_PAIRS` pairs of experts only the bound is computed.
    """
    found = {"relaxed_divergence": transport_divergence(estimated, truth, x, "relaxed")}
    if estimated.n_experts * truth.n_experts <= MOST_PAIRS:
        found["transport_divergence"] = transport_divergence(estimated, truth, x, "both")
    if isinstance(estimated.gate, SoftmaxGate) and estimated.n_experts == truth.n_experts:
        found["parameter_error"] = parameter_error(estimated, truth, x)
    return found
