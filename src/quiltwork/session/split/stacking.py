"""Weights for outputs, fitted on held-out rows (stacking, Wolpert 1992).

    classes    log p = log_softmax(sum_i l_i W_i + c)     minimise  sum_j loss_j + ridge / 2 * sum_i |W_i - I|^2
    numbers    f     = sum_i w_i f_i + c                  minimise  sum_j (f_j - y_j)^2 / 2 + ridge / 2 * sum_i w_i^2

l_i are log-probabilities ``[n, k]``, W_i ``[k, k]``. Where held-out rows are few, weights of classes stay near the
identity, which is the product of experts; pulled towards zero instead, 130 rows of ten classes are too few for them.
Both problems are strictly convex for ridge > 0 (but for a constant added to c), and solved in float64. The held-out
outputs are kept: for any subset of the parties the weights are those fitted to that subset's outputs alone, so
leaving, and a quorum, are exact here too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from quiltwork.errors import InvalidOption

_FLOOR = -50.0


class Stacked:
    """Weights fitted to the held-out outputs of whichever parties are present.

    Args:
        outputs: of held-out rows, by party: log-probabilities float64 ``[n, k]``, or numbers ``[n, 1]``.
        labels: of those rows, int64 ``[n]``, or numbers ``[n]``.
        classes: whether outputs are log-probabilities.
        ridge: strength of the penalty, positive.

    Attributes:
        outputs: as given, sorted by party.
        labels: as given.

    Raises:
        InvalidOption: shapes that do not fit, no rows, or a ridge that is not positive.
    """

    def __init__(
        self, outputs: Mapping[str, Tensor], labels: Tensor, *, classes: bool = True, ridge: float = 1.0
    ) -> None:
        if ridge <= 0 or not outputs or any(len(o) != len(labels) or len(o) == 0 for o in outputs.values()):
            raise InvalidOption(
                "stacking",
                why="it needs held-out outputs of each party, a label for each of their rows, and a positive ridge",
                mend="Hold some labelled rows out of training.",
            )
        self.outputs, self.labels = dict(sorted(outputs.items())), labels
        self._classes, self._ridge = classes, ridge
        self._weights: dict[tuple[str, ...], Tensor] = {}

    def compose(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities, or numbers, by the weights of the parties that are present.

        Raises:
            InvalidOption: a party whose outputs were not held out.
        """
        present = tuple(sorted(outputs))
        weights = self.weights(present)
        found = _design(outputs, present, self._classes) @ weights
        return torch.log_softmax(found, 1) if self._classes else found

    def weights(self, parties: tuple[str, ...]) -> Tensor:
        """float64 ``[n d + 1, k]``: one block of rows a party, in the order of names, and the constant last."""
        strange = sorted(set(parties) - set(self.outputs))
        if strange or not parties:
            raise InvalidOption(
                f"outputs of {', '.join(strange) or 'nobody'}",
                why="none were held out to fit weights to",
                mend=f"Compose outputs of {', '.join(self.outputs)}.",
            )
        if parties not in self._weights:
            design = _design(self.outputs, parties, self._classes)
            self._weights[parties] = (
                _logistic(design, self.labels, self._ridge, len(parties))
                if self._classes
                else _least_squares(design, self.labels, self._ridge)
            )
        return self._weights[parties]

    def without(self, party: str) -> Stacked:
        """As if the party's outputs had never been seen."""
        rest = {name: output for name, output in self.outputs.items() if name != party}
        return Stacked(rest, self.labels, classes=self._classes, ridge=self._ridge)


def _design(outputs: Mapping[str, Tensor], parties: tuple[str, ...], classes: bool) -> Tensor:
    columns = [outputs[party].double().clamp_min(_FLOOR) if classes else outputs[party].double() for party in parties]
    return torch.cat([*columns, torch.ones(len(columns[0]), 1, dtype=torch.float64)], 1)


def _logistic(design: Tensor, labels: Tensor, ridge: float, parties: int) -> Tensor:
    """The minimiser for classes, by L-BFGS from the product of experts."""
    classes = (design.shape[1] - 1) // parties
    product = torch.cat([torch.eye(classes).repeat(parties, 1), torch.zeros(1, classes)]).double()
    weights = product.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(design @ weights, labels, reduction="sum")
        loss = loss + ridge / 2 * ((weights - product)[:-1] ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weights.detach()


def _least_squares(design: Tensor, labels: Tensor, ridge: float) -> Tensor:
    """The minimiser for numbers, by the normal equations."""
    penalty = torch.eye(design.shape[1], dtype=torch.float64) * ridge
    penalty[-1, -1] = 0
    found: Tensor = torch.linalg.solve(design.T @ design + penalty, design.T @ labels.double()[:, None])
    return found
