"""Split learning in the manner of scikit-learn, over tables by party: `SplitClassifier` and `SplitRegressor`.

All parties live in this process, and every message between them and the composer still crosses as a frame that is
checked and counted; what is learned is what separate processes would learn. The modes are `Isolated` (the default) and
`Joint`, with the guarantees that their own pages state.

Parameters, shared by both:

    mode           "isolated" or "joint"
    width          of a component's activation; a narrow cut tells less
    hidden         hidden sizes of the default components and composers
    component      columns -> module [b, columns] -> [b, width]; None for a standardising multilayer perceptron
    composer       (widths, outputs) -> module: joint, of the list of activations; isolated, a head of one; None for
                   a multilayer perceptron, in isolated mode one for each party
    outputs        isolated: "product" (of classes), "mean", "median" or "stacked"
    floor          least log-probability of one party in a product
    epochs, batch_size, optimiser, seed
    absence        share of rounds that a party misses at random; makes joint composers serve quorums
    precision      "float32", or "int8" messages
    stale          cotangents one step late
    held_out       share of rows to judge fragments alone with, and to fit stacking to; 0 for none

>>> draw = np.random.default_rng(0)
>>> one, two = draw.normal(size=(200, 2)), draw.normal(size=(200, 2))
>>> fit = SplitClassifier(epochs=10, held_out=0).fit({"bank": one, "shop": two}, one[:, 0] + two[:, 0] > 0)
>>> fit.score({"bank": one, "shop": two}, one[:, 0] + two[:, 0] > 0) > 0.9
True
>>> sorted(fit.run_.records().dependencies["bank"])
['activation:bank', 'head of bank', 'labels']
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from torch import Tensor, nn

from quiltwork.errors import InvalidOption, TableMismatch
from quiltwork.models.split.component import Component, OptimiserPlan
from quiltwork.models.split.composers import Concatenated, Standardised, mlp
from quiltwork.models.split.released import released_target
from quiltwork.models.split.seeds import seed_of
from quiltwork.models.split.targets import ClassTarget, NumberTarget
from quiltwork.privacy.labels import ReleasedLabels
from quiltwork.session.channel import LocalChannel
from quiltwork.session.split.comparison import alone
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.outputs import Composition, Mean, Median, Product
from quiltwork.session.split.records import Events
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.stacking import Stacked
from quiltwork.session.split.tables import tables, tensor
from quiltwork.session.split.words import Precision, component_terms


class FragmentsTellNothing(UserWarning):
    """No fragment alone tells of the label, so isolated mode learned nothing."""


class SplitEstimator(BaseEstimator):
    """What both estimators share; parameters as the module states them."""

    def __init__(
        self,
        mode: Literal["isolated", "joint"] = "isolated",
        *,
        width: int = 16,
        hidden: Sequence[int] = (32,),
        component: Callable[[int], nn.Module] | None = None,
        composer: Callable[[Sequence[int], int], nn.Module] | None = None,
        outputs: str | None = None,
        floor: float | None = None,
        epochs: int = 30,
        batch_size: int = 64,
        optimiser: OptimiserPlan | None = None,
        absence: float = 0.0,
        precision: Precision = "float32",
        stale: bool = False,
        held_out: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.mode = mode
        self.width = width
        self.hidden = hidden
        self.component = component
        self.composer = composer
        self.outputs = outputs
        self.floor = floor
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimiser = optimiser
        self.absence = absence
        self.precision = precision
        self.stale = stale
        self.held_out = held_out
        self.seed = seed

    def leave(self, party: str) -> Self:
        """Let a party go; isolated mode only, and then as if it had never been there.

        Raises:
            NeedsRetraining: the mode is joint.
        """
        self._fitted().leave(party)
        del self.columns_in_[party]
        return self

    def _fit(
        self,
        given: Mapping[str, NDArray[np.float64]],
        target: ClassTarget | NumberTarget,
        y: Tensor,
        events: Sequence[Events] = (),
    ) -> None:
        self._require_options()
        train, held = self._parted(len(y))
        data = {party: tensor(table) for party, table in given.items()}
        self.nodes_ = {party: self._node(party, rows, train) for party, rows in data.items()}
        channel = LocalChannel(self.nodes_, dict.fromkeys(data, component_terms(self.width, self.precision)))
        mode = self._mode(list(data), target, isinstance(target, ClassTarget))
        schedule = Schedule(train, self.batch_size, self.epochs, self.seed, self.absence)
        widths = dict.fromkeys(data, self.width)
        self.run_ = SplitRun(
            channel,
            mode,
            OwnLabels(target),
            schedule,
            widths,
            precision=self.precision,
            stale=self.stale,
            events=events,
        )
        self.columns_in_ = {party: table.shape[1] for party, table in given.items()}
        self.run_.train()
        if isinstance(mode, Isolated) and len(held):
            self._judge(mode, held, y)

    def _judge(self, mode: Isolated, held: NDArray[np.int64], y: Tensor) -> None:
        """Say whether no fragment tells of the label; fit stacking where it is asked for."""
        found = alone(self.run_, held, y[held])
        if found.nobody:
            warnings.warn(FragmentsTellNothing(str(found)), stacklevel=4)
        if self.outputs == "stacked":
            own = mode.outputs(self.run_.activations(held))
            mode.composition = Stacked(own, y[held], classes=mode.classes)

    def _parted(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        held = round(rows * self.held_out) if self.mode == "isolated" else 0
        order = np.random.default_rng(seed_of(self.seed, "held out")).permutation(rows).astype(np.int64)
        return np.sort(order[held:]), np.sort(order[:held])

    def _node(self, party: str, rows: Tensor, train: NDArray[np.int64]) -> ComponentNode:
        def build() -> nn.Module:
            if self.component is not None:
                return self.component(rows.shape[1])
            return nn.Sequential(Standardised(rows[train]), *mlp(rows.shape[1], self.width, self.hidden))

        learner = Component.built(build, self._plan(), name=party, seed=self.seed, stash=self.stale)
        return ComponentNode(learner, rows, precision=self.precision)

    def _mode(self, parties: list[str], target: ClassTarget | NumberTarget, classes: bool) -> Mode:
        k = target.outputs
        if self.mode == "joint":
            widths = [self.width] * len(parties)
            build = self.composer or (lambda d, k: Concatenated(mlp(sum(d), k, self.hidden)))
            composer = Component.built(lambda: build(widths, k), self._plan(), name="composer", seed=self.seed)
            return Joint(composer, dict.fromkeys(parties, self.width), classes=classes)
        head = self.composer or (lambda d, k: mlp(d[0], k, self.hidden))
        heads = {
            p: Component.built(lambda: head([self.width], k), self._plan(), name=f"head of {p}", seed=self.seed)
            for p in parties
        }
        return Isolated(heads, self._composition(target, classes), classes=classes)

    def _composition(self, target: ClassTarget | NumberTarget, classes: bool) -> Composition:
        if self.outputs == "median":
            return Median(classes)
        # stacking replaces the mean when the held-out outputs are there to fit it to
        if self.outputs in ("mean", "stacked") or not classes:
            return Mean(classes)
        return Product(target.prior(), self.floor)

    def _plan(self) -> OptimiserPlan:
        return self.optimiser or OptimiserPlan()

    def _require_options(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, ("isolated", "joint")),
            ("outputs", self.outputs, self._compositions()),
        ):
            if value not in allowed:
                choices = ", ".join(repr(a) for a in allowed if a)
                raise InvalidOption(f"{name}={value!r}", why="there is no such thing", mend=f"Choose one of {choices}.")
        if self.width < 1:
            raise InvalidOption(f"width={self.width}", why="nothing would cross", mend="Choose 1 or more.")
        if not 0 <= self.held_out < 1 or (self.outputs == "stacked" and not self.held_out):
            raise InvalidOption(
                f"held_out={self.held_out}", why="it lies in [0, 1), and stacking needs some", mend="Choose 0.2."
            )

    def _compositions(self) -> tuple[str | None, ...]:
        return None, "mean", "median", "stacked"

    def _fitted(self) -> SplitRun:
        if not hasattr(self, "run_"):
            raise NotFittedError(f"{type(self).__name__} has not been fitted")
        return self.run_

    def _infer(self, X: Mapping[str, Any]) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """Composed outputs for new rows, from those of the parties that are given."""
        run, given = self._fitted(), tables(X)
        for party, table in given.items():
            due = self.columns_in_.get(party, "no such party")
            if table.shape[1] != due:
                raise TableMismatch(
                    f"the table of party '{party}'",
                    why=f"it has {table.shape[1]} columns, and the fit had {due}",
                    mend=f"Give the columns of the fit, of {', '.join(self.columns_in_)} or some of them.",
                )
            self.nodes_[party].rows = tensor(table)
        if len(given) < len(self.columns_in_) and self.mode == "joint" and not self.absence:
            raise InvalidOption(
                f"tables of {', '.join(given)} alone",
                why="a joint composer that never missed a party does not know what to do without one",
                mend="Give all tables, fit with absence=0.4, or use isolated mode.",
            )
        rows = np.arange(len(next(iter(given.values()))), dtype=np.int64)
        return run.predict(rows, parties=list(given))


class SplitClassifier(SplitEstimator):
    """Classes from tables of several parties; parameters as the module states them.

    Attributes:
        classes_: the labels, sorted.
        run_: the `SplitRun`, with its records.
        columns_in_: number of columns, by party.
    """

    def fit(self, X: Mapping[str, Any], y: ArrayLike | ReleasedLabels) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn from tables ``{party: [n, p]}`` and labels ``[n]``.

        Labels may be randomised ones (`quiltwork.privacy.labels`): the true classes are then learned from them, the
        run's records hold the event, and ``classes_`` are 0 ... k - 1.

        Raises:
            InvalidOption: tables, labels or parameters that cannot be used (a ValueError).
            TableMismatch: unequal numbers of rows.
        """
        given = tables(X)
        if isinstance(y, ReleasedLabels):
            return self._fit_released(given, y)
        labels = _labels(y, X)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidOption("labels", why="they are of one class", mend="Give rows of two classes at least.")
        numbers = torch.from_numpy(codes.astype(np.int64))
        self._fit(given, ClassTarget(numbers, len(self.classes_)), numbers)
        return self

    def _fit_released(self, given: Mapping[str, NDArray[np.float64]], released: ReleasedLabels) -> Self:
        numbers = torch.from_numpy(_labels(released.labels, given).copy())
        if bool((numbers < 0).any()) or self.outputs == "stacked":
            raise InvalidOption(
                "randomised labels",
                why="some rows have none, or stacking would take them for the true ones",
                mend="Leave those rows out, and choose another composition.",
            )
        self.classes_ = np.arange(released.event.classes)
        self._fit(given, released_target(released), numbers, [Events("composer", (released.event,))])
        return self

    def predict_log_proba(self, X: Mapping[str, Any]) -> NDArray[np.float64]:  # noqa: N803
        """Log-probabilities ``[n, k]``, from whichever of the fit's parties are given."""
        return self._infer(X)

    def predict_proba(self, X: Mapping[str, Any]) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities ``[n, k]``."""
        return np.exp(self._infer(X))

    def predict(self, X: Mapping[str, Any]) -> NDArray[Any]:  # noqa: N803
        """The likeliest label of each row ``[n]``."""
        likeliest = self._infer(X).argmax(1)
        return np.asarray(self.classes_[likeliest])

    def score(self, X: Mapping[str, Any], y: ArrayLike) -> float:  # noqa: N803
        """Share of rows that are predicted right."""
        return float(accuracy_score(y, self.predict(X)))

    def _compositions(self) -> tuple[str | None, ...]:
        return None, "product", "mean", "median", "stacked"


class SplitRegressor(SplitEstimator):
    """Numbers from tables of several parties; parameters as the module states them.

    Labels are standardised by whoever holds them. Isolated outputs are averaged unless stated; ``"stacked"`` is far
    better where the label is a sum over fragments.

    Attributes:
        run_: the `SplitRun`, with its records.
        columns_in_: number of columns, by party.
    """

    def fit(self, X: Mapping[str, Any], y: ArrayLike) -> Self:  # noqa: N803
        """Learn from tables ``{party: [n, p]}`` and numbers ``[n]``.

        Raises:
            InvalidOption: tables, labels or parameters that cannot be used (a ValueError).
            TableMismatch: unequal numbers of rows.
        """
        given, labels = tables(X), _labels(y, X).astype(np.float64)
        if not np.isfinite(labels).all():
            raise InvalidOption("labels", why="they are not all finite", mend="Give one number a row.")
        self._centre, self._scale = float(labels.mean()), float(labels.std()) or 1.0
        numbers = torch.from_numpy(((labels - self._centre) / self._scale).astype(np.float32))
        self._fit(given, NumberTarget(numbers), numbers)
        return self

    def predict(self, X: Mapping[str, Any]) -> NDArray[np.float64]:  # noqa: N803
        """A number for each row ``[n]``, from whichever of the fit's parties are given."""
        return self._infer(X)[:, 0] * self._scale + self._centre

    def score(self, X: Mapping[str, Any], y: ArrayLike) -> float:  # noqa: N803
        """Coefficient of determination."""
        return float(r2_score(y, self.predict(X)))


def _labels(y: ArrayLike, given: Mapping[str, Any]) -> NDArray[Any]:
    labels = np.asarray(y)
    rows = len(next(iter(given.values())))
    if labels.ndim != 1 or len(labels) != rows:
        raise InvalidOption(
            "labels", why=f"their shape is {labels.shape}, and there are {rows} rows", mend="Give one label a row."
        )
    return labels
