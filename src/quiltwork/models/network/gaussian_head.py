"""A classifier in closed form from class moments: no training, no model exchanged (the one-shot family, 2602.01186).

With e the declared embedding, and n_c, m_c and S_c the merged moments of class c (`evidence.class_moments`),

    log p(c | x) = log pi_c + log N(e(x); m_c, C_c) - logsumexp over classes          pi_c = n_c / n,  n = sum n_c

    lda            C_c = shrunk S                 S = sum_c n_c S_c / n, within classes
    qda            C_c = shrunk S_c
    naive_bayes    C_c = diag of shrunk S_c       of S, where only pooled moments were released
    shrunk A = (1 - a) A + a diag(S)

The moments are additive, so the head is the one of pooled rows, and at shrinkage 0 that of textbooks (Hastie et al.
2009, section 4.3): scikit-learn's LDA (solver lsqr), QDA (from 1.8; before, it divided by n_c - 1) and GaussianNB on
pooled rows. A class that nobody holds has
probability zero. Shrinkage goes towards the diagonal, so units of columns do not matter.

Computed in float64 and log space, around the mean of all rows.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.class_moments import ClassMoments

Array = NDArray[np.float64]
HeadForm: TypeAlias = Literal["naive_bayes", "lda", "qda"]

_NEVER = -1e9
"""Log-probability of a class that nobody holds: zero in every floating format, and no infinity to propagate."""


class GaussianHeadModule(nn.Module):
    """Raw inputs to log-probabilities of k classes. Buffers only.

    Args:
        embedder: raw inputs ``[n, *shape]`` to ``[n, d]``, the space of the moments.
        moments: of all owners, merged.
        form: which covariances; ``qda`` needs moments per class.
        shrinkage: a, in [0, 1].

    Raises:
        InvalidOption: the form is unknown or needs moments per class, the shrinkage is out of its domain, or a
            covariance is singular.
    """

    centre: Tensor
    squares: Tensor
    slopes: Tensor
    constants: Tensor

    def __init__(
        self, embedder: nn.Module, moments: ClassMoments, form: HeadForm = "lda", shrinkage: float = 1e-3
    ) -> None:
        super().__init__()
        _check(moments, form, shrinkage)
        self.embedder = embedder
        self.form = form
        buffers = _linear(moments, shrinkage) if form == "lda" else _curved(moments, form, shrinkage)
        for name, array in buffers.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities float32 ``[n, k]``."""
        z = self.embedder(x) - self.centre
        joint = z @ self.slopes.transpose(0, 1) + self.constants
        if self.form == "naive_bayes":
            joint = joint - 0.5 * (z * z) @ self.squares.transpose(0, 1)
        elif self.form == "qda":
            whitened = torch.matmul(z.unsqueeze(0) - self.squares[:, :1], self.squares[:, 1:])
            joint = joint - 0.5 * (whitened * whitened).sum(dim=2).transpose(0, 1)
        return torch.log_softmax(joint, dim=1).float()


def _linear(moments: ClassMoments, shrinkage: float) -> dict[str, Array]:
    """LDA: the quadratic term is common to all classes and drops out."""
    within = moments.pooled().covariances
    centre, means = _centred(moments)
    factor = _factor(_shrunk(within, within.diagonal(), shrinkage), "the covariance within classes", shrinkage)
    whitened = np.linalg.solve(factor, means.T).T
    slopes = np.linalg.solve(factor.T, whitened.T).T
    constants = _log_prior(moments) - 0.5 * (whitened**2).sum(axis=1)
    return {"centre": centre, "squares": np.zeros(1), "slopes": slopes, "constants": constants}


def _curved(moments: ClassMoments, form: HeadForm, shrinkage: float) -> dict[str, Array]:
    """QDA and naive Bayes: a quadratic of its own for each class."""
    centre, means = _centred(moments)
    diagonal = moments.pooled().covariances.diagonal()
    spreads = np.broadcast_to(moments.covariances, (moments.classes, *moments.covariances.shape[-2:]))
    whole = math.log(2 * math.pi) * moments.n_features
    log_prior, held = _log_prior(moments), moments.counts > 0
    if form == "naive_bayes":
        variances = (1 - shrinkage) * spreads.diagonal(axis1=1, axis2=2) + shrinkage * diagonal
        variances = np.where(held[:, None], variances, 1.0)
        _require_positive(variances, shrinkage)
        constants = log_prior - 0.5 * (np.log(variances).sum(axis=1) + whole + (means**2 / variances).sum(axis=1))
        return {"centre": centre, "squares": 1 / variances, "slopes": means / variances, "constants": constants}
    squares = np.zeros((moments.classes, 1 + moments.n_features, moments.n_features))
    constants = log_prior
    for number in np.flatnonzero(held):
        spread = _shrunk(spreads[number], diagonal, shrinkage)
        factor = _factor(spread, f"the covariance of class {number}", shrinkage)
        squares[number, 0], squares[number, 1:] = means[number], np.linalg.inv(factor).T
        constants[number] -= np.log(factor.diagonal()).sum() + 0.5 * whole
    return {"centre": centre, "squares": squares, "slopes": np.zeros_like(means), "constants": constants}


def _centred(moments: ClassMoments) -> tuple[Array, Array]:
    """The mean of all rows, and the class means around it (zero for classes that nobody holds)."""
    centre = moments.counts @ moments.means / moments.counts.sum()
    return centre, np.where((moments.counts > 0)[:, None], moments.means - centre, 0.0)


def _log_prior(moments: ClassMoments) -> Array:
    shares = moments.counts / moments.counts.sum()
    return np.where(shares > 0, np.log(np.maximum(shares, np.finfo(np.float64).tiny)), _NEVER)


def _shrunk(covariance: Array, diagonal: Array, shrinkage: float) -> Array:
    return np.asarray((1 - shrinkage) * covariance + shrinkage * np.diag(diagonal), dtype=np.float64)


def _factor(covariance: Array, name: str, shrinkage: float) -> Array:
    """Cholesky factor in units of the deviations, where a matrix close to singular shows."""
    deviations = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    if (deviations > 0).all():
        correlations = covariance / deviations[:, None] / deviations
        if np.linalg.eigvalsh(correlations).min() > 1e-12:
            return np.asarray(np.linalg.cholesky(correlations) * deviations[:, None], dtype=np.float64)
    raise _singular(name, shrinkage)


def _require_positive(variances: Array, shrinkage: float) -> None:
    if not (variances > 0).all():
        number = int(np.flatnonzero((variances <= 0).any(axis=1))[0])
        raise _singular(f"the variances of class {number}", shrinkage)


def _singular(name: str, shrinkage: float) -> InvalidOption:
    return InvalidOption(
        f"{name} with shrinkage={shrinkage}",
        why="it is singular, so it has no density",
        mend="Choose a larger shrinkage, or an embedding without constant dimensions.",
    )


def _check(moments: ClassMoments, form: str, shrinkage: float) -> None:
    if form not in get_args(HeadForm):
        raise InvalidOption(
            f"form {form!r}", why="there is no such head", mend=f"Choose {', '.join(get_args(HeadForm))}."
        )
    if form == "qda" and moments.form == "pooled":
        why = "it needs a covariance of each class, and the owners released one for all classes"
        raise InvalidOption("form 'qda'", why=why, mend="Choose 'lda', or ask the owners for moments per class.")
    if not 0 <= shrinkage <= 1:
        raise InvalidOption(f"shrinkage={shrinkage}", why="it is a share", mend="Choose one between 0 and 1.")
