"""Rows in standard units: moments against numpy, sums against direct products, memory maps against arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.models.mixture import standard
from quiltwork.models.mixture.standard import Standard, symmetric, weighted_moments


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 7))
def test_moments_are_numpys_in_blocks_of_any_size(seed: int, n: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((n, 3)) * [1, 1e3, 1e-3] + [0, 1e5, 1], rng.uniform(0.1, 2, n)
    mean, deviation = weighted_moments(x, w, size)
    np.testing.assert_allclose(mean, np.average(x, axis=0, weights=w), rtol=1e-10, atol=1e-12)
    expected = np.sqrt(np.average((x - np.average(x, axis=0, weights=w)) ** 2, axis=0, weights=w))
    np.testing.assert_allclose(deviation, np.where(expected > 1e-9, expected, 1.0), rtol=1e-6)


def test_rows_without_weight_count_nothing() -> None:
    x = np.array([[1.0], [3.0], [1e300]])
    mean, deviation = weighted_moments(x, np.array([1.0, 1.0, 0.0]))
    assert (mean[0], deviation[0]) == (2.0, 1.0)


def test_a_constant_column_becomes_zeros() -> None:
    x = np.column_stack([np.full(9, 0.1), np.arange(9.0)])
    rows = Standard.of(x, np.full(9, 0.3))
    (block,) = rows.blocks()
    np.testing.assert_array_equal(block.z[1], 0.0)
    np.testing.assert_allclose(block.z[2].std(), 1.0)


@pytest.mark.parametrize("widest", [0, 64])
@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_sums_equal_direct_products(widest: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "WIDEST_PACKED", widest)
    monkeypatch.setattr(standard, "KEPT_PRODUCTS", kept)
    monkeypatch.setattr(standard, "FEWEST_ROWS", 5)
    monkeypatch.setattr(standard, "PRODUCTS_AT_ONCE", 1)
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((23, 3)), rng.uniform(0, 1, (4, 23))
    rows = Standard.of(x, np.ones(23))
    first, second = np.zeros((4, 4)), rows.no_second(4)
    for block in rows.blocks():
        first += block.first(weights[:, block.rows])
        second += block.second(weights[:, block.rows])
    z = np.column_stack([np.ones(23), (x - x.mean(axis=0)) / x.std(axis=0)])
    np.testing.assert_allclose(first, weights @ z)
    np.testing.assert_allclose(symmetric(second, 4), np.einsum("an,np,nq->apq", weights, z, z), atol=1e-12)


def test_a_memory_map_of_single_precision_reads_as_its_array(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    there = Standard.of(np.load(tmp_path / "x.npy", mmap_mode="r"), np.ones(50))
    here = Standard.of(x.astype(np.float64), np.ones(50))
    for a, b in zip(there.blocks(), here.blocks(), strict=True):
        assert a.z.dtype == np.float64
        np.testing.assert_array_equal(a.z, b.z)
