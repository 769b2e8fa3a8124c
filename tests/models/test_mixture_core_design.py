"""Affine maps against explicit sums and NumPy's own product with a column of ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.models.mixture.design import affine, augmented, blocks, in_raw_units, in_standard_units

seeds = st.integers(0, 2**32 - 1)


def test_affine_is_the_sum_written_out() -> None:
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=(5, 3)), rng.normal(size=(2, 4, 4))
    values = affine(x, b)
    assert values.shape == (5, 2, 4)
    for i, k, q in np.ndindex(values.shape):
        by_hand = b[k, q, 0] + sum(x[i, j] * b[k, q, 1 + j] for j in range(3))
        assert values[i, k, q] == pytest.approx(by_hand, rel=1e-12)


@settings(deadline=None)
@given(seeds, st.integers(0, 20), st.integers(0, 4), st.lists(st.integers(0, 3), max_size=2))
def test_affine_equals_a_product_with_the_augmented_rows(seed: int, n: int, d: int, lead: list[int]) -> None:
    rng = np.random.default_rng(seed)
    x, b = rng.normal(size=(n, d)), rng.normal(size=(*lead, 1 + d))
    expected = np.column_stack([np.ones(n), x]) @ b.reshape(-1, 1 + d).T
    np.testing.assert_allclose(affine(x, b), expected.reshape(n, *lead), atol=1e-12)


def test_single_precision_covariates_are_mapped_in_double() -> None:
    x = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    b = np.array([0.1, 0.2, 0.3])
    values = affine(x, b)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, affine(x.astype(np.float64), b), rtol=1e-15)


def test_affine_changes_neither_argument() -> None:
    x, b = np.ones((2, 1)), np.ones((3, 2))
    affine(x, b)
    assert (x == 1).all()
    assert (b == 1).all()


def test_augmented_puts_the_ones_first() -> None:
    np.testing.assert_array_equal(augmented(np.array([[2.0, 3.0]])), [[1.0, 2.0, 3.0]])


@given(st.integers(0, 50), st.integers(1, 20))
def test_blocks_cover_each_row_once_in_order(rows: int, size: int) -> None:
    parts = list(blocks(rows, size))
    assert [i for part in parts for i in range(rows)[part]] == list(range(rows))
    assert all(part.start < part.stop <= min(part.start + size, rows) for part in parts)


@settings(deadline=None)
@given(seeds, st.integers(1, 4))
def test_units_change_the_numbers_and_not_the_map(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    centre, scale = rng.normal(size=d) * 10, rng.uniform(0.1, 10, size=d)
    x, b = rng.normal(size=(7, d)) * scale + centre, rng.normal(size=(2, 3, 1 + d))
    z = (x - centre) / scale
    np.testing.assert_allclose(affine(x, in_raw_units(b, centre, scale)), affine(z, b), atol=1e-8)
    np.testing.assert_allclose(affine(z, in_standard_units(b, centre, scale)), affine(x, b), atol=1e-8)


def test_forgetting_the_centre_is_seen() -> None:
    b, centre, scale = np.array([1.0, 2.0]), np.array([3.0]), np.array([2.0])
    x = np.array([[5.0]])
    assert affine(x, in_raw_units(b, np.zeros(1), scale)) != pytest.approx(affine((x - centre) / scale, b))
