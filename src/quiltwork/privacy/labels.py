"""Labels randomised once, before the first step, so that all that is learned from them later is post-processing.

    P(released = c | label = a) = T[a, c] = 1 - (k - 1) q  for c = a,  q  otherwise,     q = 1 / (e^epsilon + k - 1)

Change one label and no released table becomes more than e^epsilon times likelier, whatever is trained on it, for how
long, and whoever sees the cotangents (label differential privacy, k-ary randomised response; Kairouz et al. 2016, arXiv
1602.07387). Noise on cotangents gives no such thing: what one label did to the composer's weights is in every later
cotangent.

**Epsilon says little by itself.** An observer who knows nothing of the row but the prior p believes after the release

    P(label = a | released = c) = p_a T[a, c] / sum_b p_b T[b, c]

which for a uniform prior is e^epsilon / (e^epsilon + k - 1) at a = c: at epsilon 4 and ten classes still 0.86. It is
returned and printed beside epsilon. And it concerns what the *label's* release tells; what the row's own columns tell
of the label no mechanism on labels can hide.

**Training.** Given T, the likelihood of what was released is ``log (p T)[c]`` (forward correction, arXiv 1609.03683):
`quiltwork.models.split.released.released_target` makes that loss. **Evaluating.** The true labels are gone: use rows
held out from the start, or `ReleasedLabels.accuracy`, which corrects for the known mechanism.

**Exactness.** The draw is one 64-bit integer from the operating system's generator, compared with whole numbers; q is
rounded up to a multiple of 2^-64, so epsilon is never exceeded and no floating-point noise is involved.

>>> response = RandomisedResponse(classes=10, epsilon=3.0)
>>> print(response.describe())
each label is kept with probability 0.69 and becomes each of 9 others with probability 0.034 (epsilon 3);
of a released label an observer believes it with probability 0.6906 where all classes are alike likely before
>>> released = response.release(np.array([3, 1, 4, -1]))
>>> released.labels.shape, released.event.mechanism, int(released.labels[3])
((4,), 'randomised_response', -1)
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.privacy.events import RandomisedResponseEvent

_WHOLE = 2**64
"""The number of equally likely draws."""

_LARGEST_EPSILON = 32.0
"""Beyond it q is so near 2^-64 that rounding up would not be the epsilon asked for."""


class Estimate(NamedTuple):
    """An estimate and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class ReleasedLabels:
    """What randomised response gave out; the true labels are not in it.

    Keep it, and resume with it: to randomise the same labels again is another release, with an event of its own, and
    the mean of many releases is the label.

    Attributes:
        labels: int64 ``[n]``, the released classes; -1 where a row has no label.
        event: the record that the accountant prices.
    """

    labels: NDArray[np.int64]
    event: RandomisedResponseEvent

    @property
    def transition(self) -> NDArray[np.float64]:
        """``[k, k]``, row a the distribution of the released label where the class is a."""
        return _transition(self.event)

    def accuracy(self, predicted: ArrayLike) -> Estimate:
        """The share of *true* labels that ``predicted`` meets, estimated from the released ones alone.

        With keep = 1 - (k - 1) q, a share m of agreement with released labels comes of a true share (m - q) / (keep -
        q). It is unbiased for predictions that do not depend on the released labels of the same rows; those of rows
        that were trained on do, and the estimate is then too high. May fall outside [0, 1].

        Args:
            predicted: int ``[n]``, a class a row.

        Raises:
            InvalidOption: another number of rows, or no row has a label.
        """
        given, known = np.asarray(predicted), self.labels >= 0
        if given.shape != self.labels.shape or not known.any():
            raise InvalidOption(
                "predicted classes",
                why=f"their shape is {given.shape}, and the labels are {self.labels.shape}, {known.sum()} known",
                mend="Give one class a row, of rows with labels.",
            )
        share = float((given[known] == self.labels[known]).mean())
        gap = 1 - self.event.classes * self.event.flip
        error = math.sqrt(share * (1 - share) / int(known.sum())) / gap
        return Estimate((share - self.event.flip) / gap, error)


@dataclass(frozen=True)
class RandomisedResponse:
    """The mechanism.

    Attributes:
        classes: their number k, at least 2.
        epsilon: of one release, in (0, 32].

    Raises:
        InvalidOption: a value outside its domain.
    """

    classes: int
    epsilon: float

    def __post_init__(self) -> None:
        if self.classes < 2 or not 0 < self.epsilon <= _LARGEST_EPSILON:
            raise InvalidOption(
                f"classes={self.classes}, epsilon={self.epsilon}",
                why=f"there are two classes or more, and epsilon lies in (0, {_LARGEST_EPSILON:g}]",
                mend="Choose values within; without a bound on labels, release them as they are and say so.",
            )
        if self._slice * self.classes >= _WHOLE:
            raise InvalidOption(
                f"epsilon={self.epsilon}", why="released labels would tell nothing", mend="Choose a larger one."
            )

    @property
    def _slice(self) -> int:
        """How many of 2^64 draws give each single false label; rounded up, and past the error of ``exp``."""
        exact = _WHOLE / (math.exp(self.epsilon) + self.classes - 1)
        return math.ceil(exact * (1 + 2**-50)) + 1

    @property
    def event(self) -> RandomisedResponseEvent:
        """The record of one release."""
        return RandomisedResponseEvent(classes=self.classes, flip=self._slice / _WHOLE)

    @property
    def transition(self) -> NDArray[np.float64]:
        """``[k, k]``, row a the distribution of the released label where the class is a."""
        return _transition(self.event)

    @property
    def keep(self) -> float:
        """Probability that a label is released as it is: the posterior of a released label under a uniform prior."""
        return float(self.transition[0, 0])

    def posteriors(self, prior: ArrayLike | None = None) -> NDArray[np.float64]:
        """``[k, k]``, row c what an observer believes of the label once c was released.

        Args:
            prior: class probabilities ``[k]`` that the observer held before; None for all alike.

        Raises:
            InvalidOption: the prior is no distribution over the classes.
        """
        before = np.full(self.classes, 1 / self.classes) if prior is None else np.asarray(prior, dtype=np.float64)
        if before.shape != (self.classes,) or (before < 0).any() or not math.isclose(before.sum(), 1, abs_tol=1e-6):
            raise InvalidOption("prior", why=f"it is no distribution over {self.classes}", mend="Give frequencies.")
        joint = (before[:, None] * self.transition).T
        return np.asarray(joint / joint.sum(1, keepdims=True))

    def describe(self, prior: ArrayLike | None = None) -> str:
        """Epsilon and what it means for an observer, in words; arguments as `posteriors`."""
        believed = np.diag(self.posteriors(prior))
        what = "where all classes are alike likely before" if prior is None else "under the prior, at most"
        return (
            f"each label is kept with probability {self.keep:.2g} and becomes each of {self.classes - 1} others with "
            f"probability {self.event.flip:.2g} (epsilon {self.epsilon:g});\n"
            f"of a released label an observer believes it with probability {believed.max():.4g} {what}"
        )

    def release(
        self, labels: NDArray[np.int64], *, overwrite: bool = False, rng: np.random.Generator | None = None
    ) -> ReleasedLabels:
        """Randomise labels, once.

        Args:
            labels: int64 ``[n]``, in 0 ... k - 1; -1 for a row without one, which stays so and is no secret.
            overwrite: put the released labels over the true ones in the caller's array, so that nothing later can use
                them by mistake.
            rng: None for the operating system's generator, as every release must; tests pass one.

        Raises:
            InvalidOption: not labels of these classes, or an array that cannot be overwritten.
        """
        given = np.asarray(labels)
        if given.ndim != 1 or given.dtype != np.int64 or (given < -1).any() or (given >= self.classes).any():
            raise InvalidOption(
                "labels", why=f"they are not int64 [n] in 0 ... {self.classes - 1}", mend="Number the classes from 0."
            )
        if overwrite and (given is not labels or not given.flags.writeable):
            raise InvalidOption("labels", why="they cannot be overwritten", mend="Give a writable array.")
        released = np.where(given >= 0, self._respond(given, _draws(len(given), rng)), -1)
        if overwrite:
            given[:] = released
        return ReleasedLabels(released, self.event)

    def _respond(self, labels: NDArray[np.int64], draws: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The first (k - 1) slices of draws are the false labels, in order; the rest is the truth."""
        number = (draws // np.uint64(self._slice)).clip(max=np.uint64(self.classes - 1)).astype(np.int64)
        # number j < k - 1 is the j-th class that is not the label
        return np.where(number < self.classes - 1, number + (number >= labels), labels)


def _draws(count: int, rng: np.random.Generator | None) -> NDArray[np.uint64]:
    if rng is not None:
        return rng.integers(0, _WHOLE, count, dtype=np.uint64)
    return np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64)


def _transition(event: RandomisedResponseEvent) -> NDArray[np.float64]:
    k, q = event.classes, event.flip
    return np.full((k, k), q) + np.eye(k) * (1 - k * q)
