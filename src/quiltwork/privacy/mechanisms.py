"""Noise for private release: ``released = round(values + noise)`` on a grid of powers of two.

    Laplace    noise density exp(-|x| / scale) / 2 scale        Gaussian    noise density N(0, sigma^2)

The mechanisms only add noise. What it is worth depends on the sensitivity of ``values``, which the caller
bounds (`quiltwork.evidence.release` clips each document for it) and states in an event that the accountant
prices.

**Where the randomness comes from.** Without an ``rng``, a new generator is seeded from the operating system's
entropy. Noise is never seeded from a number that is declared, logged or guessed: whoever knows the seed draws
the same noise again and subtracts it, and the release is exact. Pass an ``rng`` in tests only. NumPy's PCG64
is a statistical generator and no cipher; it is not proven against an adversary who predicts it from its
outputs.

**Floating point.** Floating-point noise does not have the density of the textbook: the low-order bits of a
noisy double can reveal the value beneath (Mironov 2012, "On significance of the least significant bits for
differential privacy"). Rounding the result to multiples of a power of two discards those bits. Here the grid
is the largest power of two not above a quarter of the scale, which adds under 1 % to the noise's variance.
That blunts the known attack; it is a mitigation and no proof. Mironov's snapping mechanism, which has one,
also needs an exactly rounded logarithm and clamping.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption

_SMALLEST, _LARGEST = 2.0**-200, 2.0**200


def laplace(values: ArrayLike, scale: float, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """``values`` with independent Laplace noise, rounded to the grid.

    Args:
        values: any shape, finite.
        scale: the noise's scale (its standard deviation is ``sqrt(2)`` times that).
        rng: None for a generator seeded from the operating system's entropy, as every release must; tests
            pass one.

    Returns:
        float64, the shape of ``values``.

    Raises:
        InvalidOption: the scale lies outside its domain, or a value is not finite.
    """
    exact, grid = _finite(values), noise_grid("scale", scale)
    return _rounded(exact + _generator(rng).laplace(0.0, scale, exact.shape), grid)


def gaussian(values: ArrayLike, sigma: float, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
    """``values`` with independent Gaussian noise, rounded to the grid.

    Args:
        values: any shape, finite.
        sigma: the noise's standard deviation.
        rng: None for a generator seeded from the operating system's entropy, as every release must; tests
            pass one.

    Returns:
        float64, the shape of ``values``.

    Raises:
        InvalidOption: sigma lies outside its domain, or a value is not finite.
    """
    exact, grid = _finite(values), noise_grid("sigma", sigma)
    return _rounded(exact + _generator(rng).normal(0.0, sigma, exact.shape), grid)


def noise_grid(name: str, amount: float) -> float:
    """The spacing of released values: the largest power of two not above a quarter of ``amount``.

    Raises:
        InvalidOption: ``amount`` is no positive number of usual size; ``name`` says which option it is.

    >>> noise_grid("scale", 12.5)
    2.0
    """
    if not _SMALLEST <= amount <= _LARGEST:
        raise InvalidOption(
            f"{name}={amount}",
            why="noise needs a positive, finite amount of usual size",
            mend=f"Choose another {name}, or another epsilon if it follows from one.",
        )
    _, exponent = math.frexp(amount)
    return math.ldexp(1.0, exponent - 3)


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng() if rng is None else rng


def _rounded(values: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    return np.asarray(np.rint(values / grid) * grid, dtype=np.float64)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    exact = np.asarray(values, dtype=np.float64)
    if not np.isfinite(exact).all():
        raise InvalidOption("values", why="some are not finite, and noise cannot hide them", mend="Clip them first.")
    return exact
