"""Labels and their loss: what turns logits into cotangents, at whoever holds the labels.

    classes    L = -1/b sum_j log p_j[y_j]                 p = softmax(logits)
    noisy      L = -1/b sum_j log (p_j T)[y_j]             T[a, c] = P(label c was released | the class is a)
    numbers    L =  1/b sum_j (logit_j - y_j)^2

The noisy form is the forward correction (Patrini et al. 2017, arXiv 1609.03683): where labels were randomised by a
known mechanism it is the likelihood of what was released, so the module learns the true classes from false labels.

>>> target = ClassTarget(torch.tensor([0, 1]), classes=2)
>>> cotangent, loss = target.answer(torch.zeros(2, 2), torch.tensor([0, 1]))
>>> cotangent.tolist(), round(loss, 6)
([[-0.25, 0.25], [0.25, -0.25]], 0.693147)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from quiltwork.errors import InvalidOption


class Target(Protocol):
    """Labels by row, and a loss of logits."""

    @property
    def outputs(self) -> int:
        """Number of logits a row."""
        ...

    def answer(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """The loss's cotangents ``[b, k]`` at logits ``[b, k]`` of some rows, and the loss."""
        ...

    def prior(self) -> Tensor:
        """What is known of a label before any row is seen: float64 ``[k]``."""
        ...


class ClassTarget:
    """Labels out of ``classes``, by row of the session.

    Args:
        labels: int64 ``[n]``; -1 where a row has none and is not trained on.
        classes: their number k.
        transition: float ``[k, k]``, row a the distribution of the released label where the class is a; None where
            labels are as they were.

    Raises:
        InvalidOption: a label outside the set, or a transition that is not a stochastic matrix.
    """

    def __init__(self, labels: Tensor, classes: int, transition: Tensor | None = None) -> None:
        strange = ((labels < -1) | (labels >= classes)).nonzero().flatten()
        if labels.ndim != 1 or labels.dtype is not torch.int64 or len(strange):
            at = f" (row {int(strange[0])} has {int(labels[strange[0]])})" if len(strange) else ""
            raise InvalidOption(
                "labels", why=f"they are not int64 [n] in 0 ... {classes - 1}{at}", mend="Number the classes from 0."
            )
        self._labels, self._transition = labels, _stochastic(transition, classes)
        self._classes = classes

    @property
    def outputs(self) -> int:
        """Number of classes."""
        return self._classes

    def answer(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """Cotangents ``[b, k]`` and the mean loss in nats.

        Raises:
            InvalidOption: a row without a label.
        """
        return _differentiated(self._loss, logits, _labelled(self._labels, rows, self._labels >= 0))

    def prior(self) -> Tensor:
        """Class frequencies with one more of each, among the labelled rows; under a transition, those of the classes
        behind the released labels (the released ones times its inverse, none below one count)."""
        counts = torch.bincount(self._labels[self._labels >= 0], minlength=self._classes).double()
        if self._transition is not None:
            counts = torch.linalg.solve(self._transition.double().T, counts).clamp_min(0)
        return (counts + 1) / (counts + 1).sum()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self._transition is None:
            return functional.cross_entropy(logits, labels)
        released = torch.log_softmax(logits, 1)[:, :, None] + self._transition.log()
        return functional.nll_loss(torch.logsumexp(released, 1), labels)


class NumberTarget:
    """Numbers to be met in the mean square, by row of the session.

    Args:
        labels: float32 ``[n]``; NaN where a row has none and is not trained on.

    Raises:
        InvalidOption: they are not a vector of floats.
    """

    def __init__(self, labels: Tensor) -> None:
        if labels.ndim != 1 or labels.dtype is not torch.float32 or labels.isinf().any():
            raise InvalidOption("labels", why="they are not finite float32 [n]", mend="Give one number a row.")
        self._labels = labels

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def answer(self, logits: Tensor, rows: Tensor) -> tuple[Tensor, float]:
        """Cotangents ``[b, 1]`` and the mean squared error.

        Raises:
            InvalidOption: a row without a label.
        """
        return _differentiated(_square, logits, _labelled(self._labels, rows, ~self._labels.isnan()))

    def prior(self) -> Tensor:
        """The mean of the labels, float64 ``[1]``."""
        return self._labels.double().nanmean()[None]


def _square(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.mse_loss(logits[:, 0], labels)


def _differentiated(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf, labels)
    (cotangent,) = torch.autograd.grad(value, leaf)
    return cotangent, float(value.detach())


def _labelled(labels: Tensor, rows: Tensor, known: Tensor) -> Tensor:
    if not bool(known[rows].all()):
        lost = int(rows[~known[rows]][0])
        raise InvalidOption(f"row {lost}", why="it has no label", mend="Train on labelled rows only.")
    return labels[rows]


def _stochastic(transition: Tensor | None, classes: int) -> Tensor | None:
    if transition is None:
        return None
    sound = transition.shape == (classes, classes) and bool((transition >= 0).all())
    if not sound or not torch.allclose(transition.sum(1).double(), torch.ones(classes).double(), atol=1e-6):
        raise InvalidOption(
            "transition", why=f"it is not a stochastic [{classes}, {classes}] matrix", mend="Rows sum to one."
        )
    return transition.float()
