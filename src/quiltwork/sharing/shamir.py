"""A secret in n shares, any t of which give it back, and fewer of which say nothing (Shamir, CACM 22(11), 1979).

For each byte s of the secret a polynomial over the field of 256 elements is drawn,

    f(z) = s + r_1 z + ... + r_{t-1} z^(t-1),        r uniform        share of holder x: f(x),   x = 1..n

and from t points f(0) = sum_x f(x) prod_{y != x} y / (y - x). For any t - 1 holders the map from r to their shares is a
bijection whatever s is, so their shares are uniform and independent of the secret: that holds against any computer.

A share says nothing about whether it is genuine: one false share changes the secret unseen. Who needs to know uses
`quiltwork.sharing.custody`, whose shares are committed to by their dealer.

>>> shares = deal(b"not one alone", threshold=2, holders=3)
>>> combine({1: shares[1], 3: shares[3]}, threshold=2)
b'not one alone'
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import numpy as np

from quiltwork.errors import InvalidOption, TooFewShares
from quiltwork.sharing.byte_field import Bytes, inverse, times

MOST_HOLDERS = 255
"""There are no more points than that besides 0."""

Draw = Callable[[int], bytes]
"""Uniform bytes, so many."""


def deal(secret: bytes, *, threshold: int, holders: int, draw: Draw = secrets.token_bytes) -> dict[int, bytes]:
    """Shares of a secret by holder, 1 to ``holders``, each as long as the secret.

    Args:
        secret: at least one byte. Its length is no secret.
        threshold: how many give it back, at least 2.
        holders: how many there are.
        draw: where the coefficients come from, ``(threshold - 1) * len(secret)`` bytes; the operating system's entropy.

    Raises:
        InvalidOption: the secret is empty, or not 2 <= threshold <= holders <= 255.
    """
    require_scheme(threshold, holders, MOST_HOLDERS)
    if not secret:
        raise InvalidOption("the secret", why="it is empty", mend="Give at least one byte.")
    drawn = np.frombuffer(draw((threshold - 1) * len(secret)), dtype=np.uint8).reshape(threshold - 1, len(secret))
    points = np.arange(1, holders + 1, dtype=np.uint8)
    values = np.zeros((holders, len(secret)), dtype=np.uint8)
    for coefficient in (*reversed(drawn), np.frombuffer(secret, dtype=np.uint8)):
        values = times(values, points[:, None]) ^ coefficient
    return {int(x): share.tobytes() for x, share in zip(points, values, strict=True)}


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The secret of which these are genuine shares; more than ``threshold`` do no harm.

    Raises:
        TooFewShares: fewer than ``threshold``.
        InvalidOption: a holder is not in 1..255, or the shares differ in length.
    """
    if len(shares) < threshold:
        raise too_few(len(shares), threshold)
    if not all(1 <= x <= MOST_HOLDERS for x in shares) or len({len(share) for share in shares.values()}) != 1:
        raise InvalidOption(
            "the shares",
            why="holders are numbered from 1 to 255, and all shares of a secret have one length",
            mend="Give the shares as they were dealt.",
        )
    points = np.array(sorted(shares)[:threshold], dtype=np.uint8)
    values = [np.frombuffer(shares[int(x)], dtype=np.uint8) for x in points]
    terms = [times(value, weight) for value, weight in zip(values, _weights(points), strict=True)]
    return bytes(np.bitwise_xor.reduce(terms).tobytes())


def _weights(points: Bytes) -> Bytes:
    """Lagrange's weights at 0; the diagonal's factors are set to 1."""
    ratios = times(points[None, :], inverse(points[None, :] ^ points[:, None]))
    np.fill_diagonal(ratios, 1)
    weights = np.ones_like(points)
    for column in ratios.T:
        weights = times(weights, column)
    return weights


def require_scheme(threshold: int, holders: int, most: int) -> None:
    """Refuse a scheme that is none.

    Raises:
        InvalidOption: not 2 <= threshold <= holders <= most.
    """
    if not 2 <= threshold <= holders <= most:
        raise InvalidOption(
            f"{threshold} of {holders}",
            why=f"a threshold lies between 2 and the number of holders, and that is at most {most}; "
            "with a threshold of 1 each holder would have the secret",
            mend="Choose, say, 3 of 5.",
        )


def too_few(given: int, threshold: int) -> TooFewShares:
    """The refusal of fewer shares than the threshold."""
    return TooFewShares(
        f"{given} share{'' if given == 1 else 's'}",
        why=f"{threshold} are needed, and fewer say nothing about the secret",
        mend=f"Bring {threshold - given} more.",
    )
