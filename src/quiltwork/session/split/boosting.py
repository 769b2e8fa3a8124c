"""Backfitting and boosting across owners: the classical relatives of split learning.

Each owner fits any scikit-learn regressor to what the others leave over, on its own columns. For the prediction
f = c + sum_i f_i and the labels y,

    backfitting   f_i <- S_i(y - c - sum_{j != i} f_j),  centred       (Hastie and Tibshirani 1986)
    boosting      f   <- f + rate * S_i(y - f)                         (Friedman 2001; across owners: GAL, 2106.01425)

in turn over the owners, sweep by sweep. Additive in the fragments: what needs two of them at once (a product, XOR) is
out of reach. And not confined: a residual is the label less the others' fit, so each owner learns from it about both,
and the first one to be asked in the first sweep sees the centred labels themselves.

Words, n training rows (54 bytes a frame beside): ROWS int64 ``[n]`` -> DONE once; then, for each owner and sweep,
COTANGENT float64 ``[n, 1]`` (the residual) -> OUTPUT float64 ``[n, 1]`` (its fit); for new rows OUTPUT int64 ``[b]``
-> OUTPUT float64 ``[b, 1]``.

>>> from sklearn.linear_model import LinearRegression
>>> draw = np.random.default_rng(0)
>>> X = {"bank": draw.normal(size=(50, 1)), "shop": draw.normal(size=(50, 1))}
>>> fit = BackfittingRegressor(LinearRegression()).fit(X, 1 + 2 * X["bank"][:, 0] - X["shop"][:, 0])
>>> round(float(fit.predict({"bank": [[1.0]], "shop": [[1.0]]})[0]), 6)
2.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score
from sklearn.tree import DecisionTreeRegressor

from quiltwork.errors import InvalidOption, TableMismatch
from quiltwork.models.split.seeds import seed_of
from quiltwork.session.channel import LocalChannel, RefusedRequest, Terms
from quiltwork.session.frames import Kind, Message, Refusal, Spec
from quiltwork.session.split.tables import tables

Style = Literal["backfitting", "boosting"]

_VALUES, _ROWS = Spec("float64", (None, 1)), Spec("int64", (None,))
TERMS = Terms(
    down={Kind.ROWS: _ROWS, Kind.COTANGENT: _VALUES, Kind.OUTPUT: _ROWS},
    up={Kind.DONE: Spec(), Kind.OUTPUT: _VALUES},
)
"""What the composer and an owner may say."""


class OwnerNode:
    """An owner's end: fits its regressor to residuals on its own columns.

    Args:
        estimator: any scikit-learn regressor; cloned for each fit.
        rows: float64 ``[n, p]``, the owner's columns.
        style: backfitting keeps the last fit, boosting all of them.
        rate: what a boosting fit counts.
        seed: of the estimator's random numbers, where it draws any.
    """

    def __init__(self, estimator: Any, rows: NDArray[np.float64], style: Style, rate: float, seed: int) -> None:
        self.rows = rows
        self._estimator, self._style, self._rate, self._seed = estimator, style, rate, seed
        self._train = np.empty(0, dtype=np.int64)
        self._fits: list[Any] = []

    def handle(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            RefusedRequest: with the byte that says why.
        """
        match message.kind, message.array:
            case Kind.ROWS, np.ndarray() as positions:
                self._train = self._known(positions)
                return Message(Kind.DONE, message.round)
            case Kind.COTANGENT, np.ndarray() as residual:
                return Message(Kind.OUTPUT, message.round, self._fit(residual, message.round))
            case Kind.OUTPUT, np.ndarray() as positions:
                return Message(Kind.OUTPUT, message.round, self._predict(self.rows[self._known(positions)]))
        raise RefusedRequest(Refusal.UNEXPECTED)

    def _fit(self, residual: NDArray[np.float64], round_: int) -> NDArray[np.float64]:
        if len(residual) != len(self._train):
            raise RefusedRequest(Refusal.MISFIT)
        if not np.isfinite(residual).all():
            raise RefusedRequest(Refusal.NOT_FINITE)
        fit = clone(self._estimator)
        if "random_state" in fit.get_params():
            fit.set_params(random_state=seed_of(self._seed, str(round_)) % 2**32)
        rows = self.rows[self._train]
        fit.fit(rows, residual[:, 0])
        if self._style == "backfitting":
            self._fits.clear()
        self._fits.append(fit)
        return self._rate * _column(fit.predict(rows))

    def _predict(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros((len(rows), 1))
        for fit in self._fits:
            total += self._rate * _column(fit.predict(rows))
        return total

    def _known(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        if ((positions < 0) | (positions >= len(self.rows))).any():
            raise RefusedRequest(Refusal.UNKNOWN_ROWS)
        return positions


class BackfittingRegressor(BaseEstimator):
    """An additive model over owners of columns.

    Args:
        estimator: any scikit-learn regressor; None for a regression tree of depth 3.
        style: ``"backfitting"`` or ``"boosting"``.
        sweeps: times that each owner is asked.
        rate: what a boosting fit counts, in (0, 1]; backfitting counts it in full.
        seed: of random numbers, keyed by owner and sweep.

    Attributes:
        nodes_: the owners' ends.
        channel_: with its log.
        errors_: mean squared error on the training rows after each sweep.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        style: Style = "backfitting",
        sweeps: int = 20,
        rate: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.estimator = estimator
        self.style = style
        self.sweeps = sweeps
        self.rate = rate
        self.seed = seed

    def fit(self, X: Mapping[str, Any], y: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn from tables ``{party: [n, p]}`` and numbers ``[n]``.

        Raises:
            InvalidOption: tables, labels or parameters that cannot be used (a ValueError).
            TableMismatch: unequal numbers of rows.
        """
        self._require_options()
        given, labels = tables(X), np.asarray(y, dtype=np.float64)
        rows = len(next(iter(given.values())))
        if labels.shape != (rows,) or not np.isfinite(labels).all():
            raise InvalidOption("labels", why=f"they are not {rows} finite numbers", mend="Give one a row.")
        rate = self.rate if self.style == "boosting" else 1.0
        regressor = DecisionTreeRegressor(max_depth=3) if self.estimator is None else self.estimator
        self.nodes_ = {
            p: OwnerNode(regressor, table, self.style, rate, seed_of(self.seed, p)) for p, table in given.items()
        }
        self.channel_ = LocalChannel(self.nodes_, dict.fromkeys(given, TERMS))
        self._sweep_all(labels[:, None])
        return self

    def _sweep_all(self, labels: NDArray[np.float64]) -> None:
        self._constant = float(labels.mean())
        fitted = {party: np.zeros_like(labels) for party in self.nodes_}
        self._offsets, self.errors_ = dict.fromkeys(fitted, 0.0), []
        for party in fitted:
            self.channel_.call(party, Message(Kind.ROWS, 0, np.arange(len(labels))))
        for sweep in range(self.sweeps):
            for party in fitted:
                self._turn(party, sweep, labels, fitted)
            self.errors_.append(float(((labels - self._constant - sum(fitted.values())) ** 2).mean()))

    def _turn(
        self, party: str, sweep: int, labels: NDArray[np.float64], fitted: dict[str, NDArray[np.float64]]
    ) -> None:
        """One owner's fit to what is left over."""
        backfitting = self.style == "backfitting"
        others = sum(f for name, f in fitted.items() if name != party or not backfitting)
        residual = labels - self._constant - others
        answer = self.channel_.call(party, Message(Kind.COTANGENT, sweep, residual)).array
        assert answer is not None
        if backfitting:
            self._offsets[party] = float(answer.mean())
            fitted[party] = answer - self._offsets[party]
        else:
            fitted[party] = fitted[party] + answer

    def predict(self, X: Mapping[str, Any]) -> NDArray[np.float64]:  # noqa: N803
        """A number for each row ``[n]``; every owner's table is needed.

        Raises:
            TableMismatch: an owner is missing, or has another number of columns.
        """
        if not hasattr(self, "nodes_"):
            raise NotFittedError("BackfittingRegressor has not been fitted")
        given = tables(X)
        expected = {party: node.rows.shape[1] for party, node in self.nodes_.items()}
        if {party: table.shape[1] for party, table in given.items()} != expected:
            raise TableMismatch(
                "the tables",
                why=f"their columns are { {p: t.shape[1] for p, t in given.items()} }, and the fit had {expected}",
                mend="Give every owner's table, with the columns of the fit.",
            )
        positions = np.arange(len(next(iter(given.values()))), dtype=np.int64)
        total = np.full(len(positions), self._constant)
        for party, table in given.items():
            self.nodes_[party].rows = table
            answer = self.channel_.call(party, Message(Kind.OUTPUT, self.sweeps, positions)).array
            assert answer is not None
            total += answer[:, 0] - self._offsets[party]
        return total

    def score(self, X: Mapping[str, Any], y: ArrayLike) -> float:  # noqa: N803
        """Coefficient of determination."""
        return float(r2_score(y, self.predict(X)))

    def _require_options(self) -> None:
        if self.style not in ("backfitting", "boosting") or self.sweeps < 1 or not 0 < self.rate <= 1:
            raise InvalidOption(
                f"style={self.style!r}, sweeps={self.sweeps}, rate={self.rate}",
                why="style is 'backfitting' or 'boosting', sweeps at least 1, rate in (0, 1]",
                mend="Choose values within.",
            )


def _column(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)
