"""A local fit as named arrays, the form in which it leaves its owner and lies on disk.

    mixture.gate [K, p]   mixture.coefficients [K, q, p]   mixture.variances [K, q] of Gaussian experts
    covariates.counts [J]   covariates.means [J, d]   covariates.covariances [J, d, d], if declared
    precision.expert_grams [K, p, p]   precision.gate_hessian [(K-1) p, (K-1) p] where K > 1, if declared

``named`` and ``from_named`` are inverse to each other, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quiltwork.errors import TensorMismatch
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local, Precision, Table
from quiltwork.models.mixture.mixture import Mixture

_MEND = "Ask its owner for a contribution fitted to this table."


class Parts(NamedTuple):
    """What the arrays of one machine hold."""

    mixture: Mixture[Experts]
    covariates: CovariateSummary | None
    precision: Precision | None


def named(local: Local) -> dict[str, Array]:
    """Every array of a local fit by name; see the module's docstring."""
    found = named_mixture(local.mixture)
    if local.covariates is not None:
        found |= {f"covariates.{name}": array for name, array in local.covariates.arrays().items()}
    if local.precision is not None:
        found["precision.expert_grams"] = local.precision.expert_grams
        if local.mixture.n_experts > 1:
            found["precision.gate_hessian"] = local.precision.gate_hessian
    return found


def named_mixture(mixture: Mixture[Experts]) -> dict[str, Array]:
    """The arrays of a mixture with a softmax gate.

    Raises:
        AssertionError: its gate is another, a defect of the caller.
    """
    if not isinstance(mixture.gate, SoftmaxGate):
        raise AssertionError(f"a {type(mixture.gate).__name__} is more than one array")
    arrays = mixture.experts.parameters()
    return {"mixture.gate": mixture.gate.coefficients} | {f"mixture.{name}": array for name, array in arrays.items()}


def from_named(tensors: Mapping[str, Array], table: Table, party: str) -> Parts:
    """The parts of a local fit from their arrays, checked against the table.

    Args:
        tensors: float64 arrays by name; other parts' arrays are ignored.
        table: what the machines agree on; it determines every shape but K and J.
        party: whose they are, for messages.

    Raises:
        TensorMismatch: an array is missing, has another shape, or holds a value that no fit has.
        InvalidOption: the covariate summary is none.
    """
    p, owner = 1 + table.n_features, f"party '{party}'"
    mixture = mixture_from(tensors, table, owner)
    k = mixture.n_experts
    precision = None
    if any(name.startswith("precision.") for name in tensors):
        hessian = np.zeros((0, 0))
        if k > 1:
            hessian = _array(tensors, "precision.gate_hessian", ((k - 1) * p, (k - 1) * p), owner)
        precision = Precision(_array(tensors, "precision.expert_grams", (k, p, p), owner), hessian)
    return Parts(mixture, _covariates(tensors, table, owner), precision)


def mixture_from(tensors: Mapping[str, Array], table: Table, owner: str) -> Mixture[Experts]:
    """The mixture alone; ``owner`` says in messages whose it is.

    Raises:
        TensorMismatch: an array is missing, has another shape, or holds a value that no fit has.
    """
    p = 1 + table.n_features
    gate = _array(tensors, "mixture.gate", (None, p), owner)
    coefficients = _array(tensors, "mixture.coefficients", (len(gate), table.n_outputs, p), owner)
    experts: Experts
    match table.family:
        case "gaussian":
            variances = _array(tensors, "mixture.variances", (len(gate), table.n_outputs), owner)
            if not (variances > 0).all():
                raise _refused("mixture.variances", owner, "a variance in it is not positive")
            experts = GaussianExperts(coefficients, variances)
        case "multinomial":
            experts = MultinomialExperts(coefficients)
        case "poisson":
            experts = PoissonExperts(coefficients)
    return Mixture(SoftmaxGate(gate), experts)


def _covariates(tensors: Mapping[str, Array], table: Table, owner: str) -> CovariateSummary | None:
    if not any(name.startswith("covariates.") for name in tensors):
        return None
    d = table.n_features
    counts = _array(tensors, "covariates.counts", (None,), owner)
    means = _array(tensors, "covariates.means", (len(counts), d), owner)
    covariances = _array(tensors, "covariates.covariances", (len(counts), d, d), owner)
    return CovariateSummary.from_arrays(counts, means, covariances)


def _array(tensors: Mapping[str, Array], name: str, shape: Sequence[int | None], owner: str) -> Array:
    """One array of finite numbers; None in ``shape`` is any length from one on."""
    if name not in tensors:
        raise _refused(name, owner, "it is missing")
    array = np.asarray(tensors[name], dtype=np.float64)
    fits = array.ndim == len(shape) and all(
        n == m if m is not None else n > 0 for n, m in zip(array.shape, shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise _refused(name, owner, f"its shape is {list(array.shape)}, and the table makes it [{wanted}]")
    if not np.isfinite(array).all():
        raise _refused(name, owner, "a number in it is not finite")
    return array


def _refused(name: str, owner: str, why: str) -> TensorMismatch:
    return TensorMismatch(f"tensor '{name}' of {owner}", why=why, mend=_MEND)
