"""A chain of residual fits: each owner in turn corrects what came before, on its own rows.

    F_0 = start        owner t:  f_t = fit( X_t, -gradient of the loss at F_{t-1}(X_t) )        F_t = F_{t-1} + eta f_t

with gradient y - F for numbers (squared loss) and onehot(y) - softmax(F) for classes (log loss): gradient boosting
(Friedman 2001) whose stages belong to different owners. Only the fitted component leaves its owner; rows and residuals
stay. Owners may take several turns.

The price is order. A component is fitted to what came before it, so the chain differs with the order of owners, and an
owner cannot be taken out of its middle: everything after it was fitted to its presence. `without` refuses that, and
`before` gives the chain to start again from.

>>> from sklearn.linear_model import LinearRegression
>>> x = np.array([[0.0], [1.0], [2.0]])
>>> chain = ResidualChain().step("ash", LinearRegression(), x, x[:, 0]).step("oak", LinearRegression(), x, x[:, 0] + 1)
>>> chain.predict(x).round(6).tolist(), chain.parties
([1.0, 2.0, 3.0], ('ash', 'oak'))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from quiltwork.errors import InvalidOption, NeedsRetraining

Array = NDArray[np.float64]


class Component(NamedTuple):
    """One turn: whose, and the fitted regressor of residuals that left."""

    party: str
    estimator: Any


@dataclass(frozen=True, eq=False)
class ResidualChain:
    """An additive model that owners built in turns.

    Attributes:
        rate: eta in (0, 1], how much of each correction counts.
        classes: in the order of columns, for classification; None for numbers.
        start: F_0, a number or one for each output.
        components: the turns so far.

    Raises:
        InvalidOption: the rate is out of its domain, or there are fewer than two classes.
    """

    rate: float = 1.0
    classes: tuple[Any, ...] | None = None
    start: float | tuple[float, ...] = 0.0
    components: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InvalidOption(f"rate={self.rate}", why="it is a share of a correction", mend="Choose one in (0, 1].")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise InvalidOption("classes", why="they are fewer than two, or repeat", mend="Name each class once.")

    @property
    def parties(self) -> tuple[str, ...]:
        """Who took a turn, in order."""
        return tuple(component.party for component in self.components)

    def step(self, party: str, estimator: Any, rows: ArrayLike, targets: ArrayLike) -> ResidualChain:
        """The owner's turn: fit what the chain so far leaves over on these rows, and append the fitted component.

        Args:
            party: who fits.
            estimator: a regressor, cloned before it is fitted; for classes one that predicts several numbers.
            rows: ``[n, d]``.
            targets: ``[n]`` or ``[n, q]`` numbers, or classes.

        Raises:
            InvalidOption: a class is not one of the chain's, or numbers are not finite.
        """
        fitted = clone(estimator).fit(rows, self.residual(rows, targets))
        return replace(self, components=(*self.components, Component(party, fitted)))

    def residual(self, rows: ArrayLike, targets: ArrayLike) -> Array:
        """What the chain leaves over on an owner's rows: float64, in the shape of the outputs."""
        return self._wanted(targets) - (self.predict(rows) if self.classes is None else self.predict_proba(rows))

    def scores(self, rows: ArrayLike) -> Array:
        """F, float64 ``[n]`` or ``[n, q]``: numbers, or the logits of classes."""
        found = np.zeros(1) + np.asarray(self.start, dtype=np.float64)
        for component in self.components:
            found = found + self.rate * np.asarray(component.estimator.predict(rows), dtype=np.float64)
        width = () if self.classes is None else (len(self.classes),)
        shape = np.broadcast_shapes(found.shape, (np.shape(rows)[0], *width))
        return np.asarray(np.broadcast_to(found, shape), dtype=np.float64)

    def predict_proba(self, rows: ArrayLike) -> Array:
        """Probability of each class, float64 ``[n, k]``.

        Raises:
            InvalidOption: the chain predicts numbers.
        """
        if self.classes is None:
            raise InvalidOption(
                "probabilities", why="the chain predicts numbers", mend="Give it classes from the start."
            )
        logits = self.scores(rows)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float64)

    def predict(self, rows: ArrayLike) -> NDArray[Any]:
        """Numbers, or the likeliest class of each row."""
        found = self.scores(rows)
        return found if self.classes is None else np.asarray(self.classes)[found.argmax(axis=1)]

    def without(self, party: str) -> ResidualChain:
        """The chain of the others, where nobody built on the party: it took the last turns only.

        Raises:
            InvalidOption: the party took no turn.
            NeedsRetraining: others fitted what it left over.
        """
        if party not in self.parties:
            raise InvalidOption(f"party '{party}'", why="it took no turn", mend=f"They are: {', '.join(self.parties)}.")
        first = self.parties.index(party)
        if later := sorted(set(self.parties[first:]) - {party}):
            raise NeedsRetraining(
                f"party '{party}'",
                why=f"the components of {', '.join(later)} were fitted to what it left over",
                mend="Take the turns from there on again (chain.before), or use an ensemble, which opts out exactly.",
            )
        return self.before(party)

    def before(self, party: str) -> ResidualChain:
        """The chain as it stood before the party's first turn; turns from there on are dropped, whoever took them."""
        return replace(self, components=self.components[: self.parties.index(party)])

    def _wanted(self, targets: ArrayLike) -> Array:
        given = np.asarray(targets)
        if self.classes is not None:
            table = given[:, None] == np.asarray(self.classes)
            if not table.any(axis=1).all():
                stranger = given[~table.any(axis=1)][0]
                raise InvalidOption(
                    f"class '{stranger}'", why="the chain does not know it", mend="Name it from the start."
                )
            return np.asarray(table, dtype=np.float64)
        numbers = given.astype(np.float64)
        if not np.isfinite(numbers).all():
            raise InvalidOption("targets", why="they are not all finite", mend="Leave such rows out.")
        return np.asarray(numbers, dtype=np.float64)
