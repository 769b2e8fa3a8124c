"""The accountant: what a list of privacy events costs, as one epsilon at a stated delta.

A release is (epsilon, delta)-differentially private when, for any two data sets D and D' that differ by the
addition or removal of one unit (a document or a row, as the events state) and any set of outcomes A,
``P(M(D) in A) <= exp(epsilon) P(M(D') in A) + delta``.

A noisy event is characterised by its noise multiplier alone,

    m = scale / sensitivity (Laplace, sensitivity in L1)      m = sigma / sensitivity (Gaussian, sensitivity
    in L2)

a sampled one by its rate and number of steps besides (Poisson sampling, arXiv 1908.10530), randomised response by
``epsilon = log(P(true class) / P(one other class))``, exactly and at delta 0,

and independent events compose by convolving their privacy loss distributions (Koskela et al. 2020, arXiv
1906.03049), which the package dp-accounting does with pessimistic rounding: the price is an upper bound. An
event that no theorem covers costs infinity, and so does one that this installation does not know: silence
about a cost is not a low cost.

>>> from quiltwork.privacy.events import ExactEvent
>>> price([], delta=1e-6)
0.0
>>> price([ExactEvent(released="tokens")], delta=1e-6)
inf
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.privacy.events import (
    Event,
    GaussianEvent,
    LaplaceEvent,
    RandomisedResponseEvent,
    SampledGaussianEvent,
)

_FINEST_GRID = 1e-4
"""Spacing, in nats, of the grid on which privacy losses are rounded up."""

_LARGEST_LOSS = 1e4
"""Losses past this many nats are priced at infinity: they protect nobody and are slow to add up."""


_MOST_STEPS = 10**7
"""Compositions of more steps are priced at infinity."""


class _Noise(NamedTuple):
    gaussian: bool
    multiplier: float
    rate: float = 1.0
    steps: int = 1

    def loss(self) -> float:
        """A privacy loss that is exceeded with probability under 1e-15: fixes the grid, never the price."""
        if not self.gaussian:
            return 1 / self.multiplier
        once, whole = _gaussian_loss(1 / self.multiplier), _gaussian_loss(math.sqrt(self.steps) / self.multiplier)
        if self.rate == 1 or self.multiplier < 0.05:
            return whole
        # many sampled steps tend to one Gaussian release of this mean (Dong et al. 2019, arXiv 1905.02383, corollary 4)
        mean = self.rate * math.sqrt(self.steps * math.expm1(self.multiplier**-2))
        return min(whole, max(once, _gaussian_loss(mean)))


def _gaussian_loss(mean: float) -> float:
    return 0.5 * mean**2 + 8 * mean


def _noise(event: object) -> _Noise | None:
    """The noise of an event, or None where nothing bounds the loss."""
    rate, steps = 1.0, 1
    if isinstance(event, LaplaceEvent):
        amount, gaussian = event.scale, False
    elif isinstance(event, GaussianEvent):
        amount, gaussian = event.sigma, True
    elif isinstance(event, SampledGaussianEvent):
        amount, gaussian, rate, steps = event.sigma, True, event.sampling_rate, event.steps
    else:
        return None
    # a record made without validation may hold anything
    sound = 0 < amount < math.inf and 0 < event.sensitivity < math.inf and 0 < rate <= 1 and 1 <= steps <= 10**6
    if not sound:
        return None
    multiplier = amount / event.sensitivity
    return _Noise(gaussian, min(multiplier, 1e12), rate, steps) if multiplier > 1 / _LARGEST_LOSS else None


def response_epsilon(event: RandomisedResponseEvent) -> float:
    """What randomised response costs, at delta 0: ``log((1 - (k - 1) flip) / flip)``.

    >>> round(response_epsilon(RandomisedResponseEvent(classes=2, flip=0.25)), 6)  # log 3
    1.098612
    """
    # a record made without validation may hold anything
    if not (event.classes >= 2 and event.flip > 0 and event.flip * event.classes < 1):
        return math.inf
    return math.log1p(-(event.classes - 1) * event.flip) - math.log(event.flip)


def price(events: Iterable[Event], *, delta: float) -> float:
    """The most that all ``events`` together cost: epsilon at ``delta``, for one unit more or less.

    No event costs 0. One exact release, one event of an unknown mechanism, or any object that is not an event
    makes the whole list cost ``math.inf``. So do events of different units: noise made for a row bounds nothing for a
    document, and no sum of the two does. Randomised responses add up, at any delta. At ``delta=0`` Laplace events
    add up (``sum of sensitivity / scale``) and a Gaussian event costs infinity, as it does at a delta too small for
    the arithmetic (below about 1e-15). Order does not matter up to rounding.

    The bound presumes that the noise is ideal and independent between events and that the stated
    sensitivities hold; the accountant reads records and cannot check either.

    Args:
        events: what was released.
        delta: the slack of the definition above, in [0, 1).

    Raises:
        InvalidOption: delta lies outside [0, 1).
        PrivacyError: dp-accounting is needed and not installed.
    """
    if not 0 <= delta < 1:
        raise InvalidOption(f"delta={delta}", why="it is a probability below 1", mend="Choose one, such as 1e-6.")
    listed = list(events)
    if not listed:
        return 0.0
    noisy = [event for event in listed if not isinstance(event, RandomisedResponseEvent)]
    known = [noise for event in noisy if (noise := _noise(event)) is not None]
    if len(known) < len(noisy) or len({event.unit for event in listed}) > 1:
        return math.inf
    responses = math.fsum(response_epsilon(event) for event in listed if isinstance(event, RandomisedResponseEvent))
    return responses + _noise_price(known, delta)


def _noise_price(known: list[_Noise], delta: float) -> float:
    if not known:
        return 0.0
    # Laplace losses are bounded, so at any delta they cost no more than their sum
    bounded = not any(noise.gaussian for noise in known)
    pure = math.fsum(noise.loss() for noise in known) if bounded else math.inf
    return pure if delta == 0 else min(pure, _compose(sorted(known), delta))


def _compose(noises: list[_Noise], delta: float) -> float:
    """Epsilon by privacy loss distributions."""
    # the same mechanism over more steps is one event, and cheaper to compose
    counts = Counter[_Noise]()
    for noise in noises:
        counts[noise._replace(steps=1)] += noise.steps
    loss = math.fsum(noise._replace(steps=steps).loss() for noise, steps in counts.items())
    if loss > _LARGEST_LOSS or sum(counts.values()) > _MOST_STEPS:
        return math.inf
    try:
        import dp_accounting
        from dp_accounting import pld
    except ImportError as error:
        raise PrivacyError(
            "the price of a noisy release",
            why="the package dp-accounting, which computes it, is not installed",
            mend="Install quiltwork[privacy].",
        ) from error
    accountant = pld.PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        # a coarser grid is still an upper bound, and keeps the work bounded whatever multipliers a stranger
        # declares
        value_discretization_interval=max(_FINEST_GRID, loss * 1e-5),
    )
    for noise, steps in counts.items():
        accountant.compose(_event(noise), steps)
    return float(accountant.get_epsilon(delta))


def _event(noise: _Noise) -> Any:
    """One step, in dp-accounting's words."""
    import dp_accounting

    if not noise.gaussian:
        return dp_accounting.LaplaceDpEvent(noise.multiplier)
    whole = dp_accounting.GaussianDpEvent(noise.multiplier)
    return whole if noise.rate == 1 else dp_accounting.PoissonSampledDpEvent(noise.rate, whole)


def _require_budget(epsilon: float, sensitivity: float) -> None:
    for name, value in (("epsilon", epsilon), ("sensitivity", sensitivity)):
        if not 0 < value < math.inf:
            raise InvalidOption(f"{name}={value}", why="it must be positive and finite", mend=f"Choose another {name}.")


def calibrate_laplace(epsilon: float, sensitivity: float) -> float:
    """The least scale of Laplace noise for (epsilon, 0): ``sensitivity / epsilon`` (Dwork et al. 2006).

    Args:
        epsilon: privacy loss in nats.
        sensitivity: the most that one unit changes the value, in the L1 norm.

    Raises:
        InvalidOption: an argument is not positive and finite.

    >>> calibrate_laplace(0.5, 100.0)
    200.0
    """
    _require_budget(epsilon, sensitivity)
    return sensitivity / epsilon


def gaussian_delta(sigma: float, epsilon: float, sensitivity: float) -> float:
    """The least delta for which Gaussian noise gives (epsilon, delta) (Balle and Wang 2018, theorem 8).

    With ``a = sensitivity / 2 sigma`` and ``b = epsilon sigma / sensitivity``,
    ``delta = Phi(a - b) - exp(epsilon) Phi(-a - b)``, Phi the standard normal distribution function.

    Args:
        sigma: standard deviation of the noise.
        epsilon: privacy loss in nats.
        sensitivity: the most that one unit changes the value, in the L2 norm.
    """
    a, b = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    tail = _normal_below(-a - b)
    # a tail that underflows to zero is left out: delta is then too large, never too small
    return _normal_below(a - b) - (math.exp(epsilon + math.log(tail)) if tail > 0 else 0.0)


def _normal_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def calibrate_gaussian(epsilon: float, delta: float, sensitivity: float) -> float:
    """The least sigma of Gaussian noise that gives (epsilon, delta), to 1e-12 and from above.

    Bisection on `gaussian_delta`, which falls as sigma grows (the analytic Gaussian mechanism, Balle and Wang
    2018, arXiv 1805.06530). It holds for every epsilon, unlike the classical ``sqrt(2 ln(1.25/delta)) /
    epsilon``.

    Args:
        epsilon: privacy loss in nats.
        delta: the slack of the definition above, in (0, 1).
        sensitivity: the most that one unit changes the value, in the L2 norm.

    Raises:
        InvalidOption: an argument lies outside its domain.

    >>> round(calibrate_gaussian(1.0, 1e-6, 1.0), 4)
    4.2247
    """
    _require_budget(epsilon, sensitivity)
    if not 0 < delta < 1:
        raise InvalidOption(
            f"delta={delta}", why="Gaussian noise needs one between 0 and 1", mend="Choose one, such as 1e-6."
        )
    high = 1.0
    while gaussian_delta(high, epsilon, 1.0) > delta:
        high *= 2
    low = high / 2
    while gaussian_delta(low, epsilon, 1.0) <= delta:
        low, high = low / 2, low
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if gaussian_delta(middle, epsilon, 1.0) > delta:
            low = middle
        else:
            high = middle
    return high * sensitivity


def calibrate_sampled_gaussian(
    epsilon: float, delta: float, *, sampling_rate: float, steps: int, releases: int = 1
) -> float:
    """The least noise multiplier whose price stays within (epsilon, delta), to 0.3 % and from above.

    Args:
        epsilon: privacy loss in nats, of all releases together.
        delta: the slack of the definition above, in (0, 1).
        sampling_rate: in (0, 1].
        steps: of each release.
        releases: how many releases of this kind touch the same unit: one a party that holds a part of each case.

    Raises:
        InvalidOption: an argument lies outside its domain, or no multiplier up to 10,000 suffices.
        PrivacyError: dp-accounting is needed and not installed.

    >>> calibrate_sampled_gaussian(1.0, 1e-6, sampling_rate=1.0, steps=1) / calibrate_gaussian(1.0, 1e-6, 1.0) < 1.004
    True
    """
    _require_budget(epsilon, 1.0)
    if not (0 < delta < 1 and 0 < sampling_rate <= 1 and 1 <= steps <= 10**6 and releases >= 1):
        raise InvalidOption(
            f"delta={delta}, sampling_rate={sampling_rate}, steps={steps}, releases={releases}",
            why="delta lies in (0, 1), the rate in (0, 1], and the counts are positive",
            mend="Choose values within.",
        )

    def paid(multiplier: float) -> float:
        # as a noise and not as an event: steps of several releases may pass what one event may state
        return _noise_price([_Noise(True, multiplier, sampling_rate, steps)] * releases, delta)

    high = 1.0
    while paid(high) > epsilon:
        high *= 2
        if high > 1e4:
            raise InvalidOption(f"epsilon={epsilon}", why="no noise multiplier reaches it", mend="Take fewer steps.")
    low = high / 2
    while low > 0.05 and paid(low) <= epsilon:
        low, high = low / 2, low
    while high > low * 1.003:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if paid(middle) > epsilon else (low, middle)
    return high
