"""Images of one task with an owner's own look: the handwritten digits of scikit-learn, dealt to sites.

Hospitals have scanners of their own, offices forms of their own. Here each site sees the same kind of digits in another
way, so that a model trained at one site is lost at the next:

    plain      as they are
    negative   dark and light exchanged
    turned     lying on their left side

1797 images of 8 x 8 pixels from 0 to 1, dealt at random by the seed; one in four of a site's is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption

CLASSES = tuple("0123456789")
_LOOKS: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "plain": lambda images: images,
    "negative": lambda images: 1 - images,
    "turned": lambda images: np.rot90(images, axes=(2, 3)),
}
LOOKS = tuple(_LOOKS)
_HELD_OUT = 4


@dataclass(frozen=True, eq=False)
class Site:
    """One owner's images.

    Attributes:
        train: float32 ``[n, 1, 8, 8]``, from 0 to 1.
        train_labels: int64 ``[n]``.
        test: held out, likewise.
        test_labels: likewise.
    """

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def sites(looks: Mapping[str, str], seed: int = 0) -> dict[str, Site]:
    """Images by owner, as many for each.

    Args:
        looks: owner to one of ``LOOKS``.
        seed: of the deal.

    Raises:
        InvalidOption: there is no such look, or scikit-learn is missing.

    >>> found = sites({"ash": "plain", "birch": "negative"})
    >>> found["ash"].train.shape, round(float(found["birch"].train.mean()), 1)
    ((675, 1, 8, 8), 0.7)
    """
    for owner, look in looks.items():
        if look not in _LOOKS:
            raise InvalidOption(f"look '{look}' of '{owner}'", why="there is none", mend=f"Choose {', '.join(LOOKS)}.")
    images, labels = _digits()
    deal = np.array_split(np.random.default_rng(seed).permutation(len(labels)), len(looks))
    return {
        owner: _site(np.ascontiguousarray(_LOOKS[look](images[rows])), labels[rows])
        for (owner, look), rows in zip(looks.items(), deal, strict=True)
    }


def _site(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Site:
    held = np.arange(len(labels)) % _HELD_OUT == _HELD_OUT - 1
    return Site(images[~held], labels[~held], images[held], labels[held])


def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InvalidOption(
            "scikit-learn", why="it brings the digits, and is not installed", mend="pip install 'quiltwork[tables]'"
        ) from None
    flat, labels = load_digits(return_X_y=True)
    return (flat.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)
