"""Sites of digits: dealt without loss, each with its look, held-out rows apart."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from quiltwork.datasets.looks import LOOKS, sites
from quiltwork.errors import InvalidOption


def test_sites_part_the_digits_between_them() -> None:
    found = sites({"ash": "plain", "birch": "plain"}, seed=3)
    images = np.concatenate([part for site in found.values() for part in (site.train, site.test)])
    labels = np.concatenate([part for site in found.values() for part in (site.train_labels, site.test_labels)])
    flat, truth = load_digits(return_X_y=True)
    rows = sorted((*row, label) for row, label in zip((images.reshape(-1, 64) * 16).tolist(), labels, strict=True))
    assert rows == sorted((*row, label) for row, label in zip(flat.tolist(), truth, strict=True))


def test_a_look_changes_pixels_and_not_who_gets_what() -> None:
    plain, other = (sites({"ash": "plain", "birch": look}, seed=1)["birch"] for look in ("plain", "negative"))
    assert np.allclose(other.train, 1 - plain.train)
    turned = sites({"ash": "plain", "birch": "turned"}, seed=1)["birch"]
    # turned left: what was the right column from the top is now the top row from the left
    assert np.array_equal(turned.test[:, 0, 0, :], plain.test[:, 0, :, -1])
    assert np.array_equal(turned.test_labels, plain.test_labels)


def test_another_seed_deals_otherwise_and_unknown_looks_are_refused() -> None:
    looks = dict(zip("abc", LOOKS, strict=True))
    one, same, other = sites(looks, 0), sites(looks, 0), sites(looks, 1)
    assert np.array_equal(one["a"].train, same["a"].train)
    assert not np.array_equal(one["a"].train_labels, other["a"].train_labels)
    with pytest.raises(InvalidOption, match="look 'blurred' of 'ash'"):
        sites({"ash": "blurred"})
