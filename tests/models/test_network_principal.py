"""Principal components of public rows: numpy's own, on any inputs, and as a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.contribution.network_graph import Signature
from quiltwork.errors import InvalidOption
from quiltwork.models.network.capture import capture
from quiltwork.models.network.embedder import PointFeatures
from quiltwork.models.network.principal import POINT, Principal, principal_directions


@given(st.integers(0, 10**6), st.integers(5, 30), st.integers(1, 9), st.data())
@settings(max_examples=40, deadline=None)
def test_directions_are_the_leading_eigenvectors_of_the_covariance(
    seed: int, n: int, inputs: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, inputs)) * rng.uniform(0.5, 3, inputs) + 7
    d = data.draw(st.integers(1, min(n - 1, inputs)))
    mean, directions = principal_directions(rows, d)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True).reshape(inputs, inputs))
    assert np.allclose(mean, rows.mean(axis=0))
    assert np.allclose(directions.T @ directions, np.eye(d))
    assert np.allclose(np.var((rows - mean) @ directions, axis=0), values[::-1][:d])
    due = vectors[:, ::-1][:, :d] @ vectors[:, ::-1][:, :d].T
    gap = d == inputs or values[::-1][d - 1] - values[::-1][d] > 1e-3
    assert not gap or np.allclose(directions @ directions.T, due, atol=1e-6)


def test_the_sign_is_settled_and_the_order_of_rows_does_not_matter() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    directions = principal_directions(rows, 4)[1]
    assert (directions.max(axis=0) == np.abs(directions).max(axis=0)).all()
    assert np.allclose(principal_directions(rows[::-1], 4)[1], directions)
    assert np.allclose(principal_directions(-rows, 4)[1], directions)


def test_the_network_gives_the_components_of_raw_images() -> None:
    rng = np.random.default_rng(1)
    rows = rng.uniform(size=(50, 2, 3, 4)).astype(np.float32)
    signature = Signature(shape=(2, 3, 4), units="0..1", mean=(0.0,), std=(1.0,), classes=None, outputs=5)
    network = capture(Principal.of(rows, 5), torch.from_numpy(rows), signature=signature, points=(POINT,))
    new = rng.uniform(size=(9, 2, 3, 4)).astype(np.float32)
    flat = rows.reshape(50, 24).astype(np.float64)
    _, _, right = np.linalg.svd(flat - flat.mean(axis=0))
    due = (new.reshape(9, 24) - flat.mean(axis=0)) @ right[:5].T
    found = PointFeatures(network, POINT)(torch.from_numpy(new)).numpy()
    assert found.shape == (9, 5)
    signs = np.sign((found * due).sum(axis=0))
    assert np.allclose(found, due * signs, atol=1e-5)
    assert not np.allclose(found, (due + rows.mean()) * signs, atol=1e-5)


def test_what_has_no_such_components_is_refused() -> None:
    line = np.outer(np.arange(8.0), np.ones(3))
    with pytest.raises(InvalidOption, match="vary in 1 directions"):
        principal_directions(line, 2)
    with pytest.raises(InvalidOption, match="vary in 0 directions"):
        principal_directions(np.ones((4, 3)), 1)
    with pytest.raises(InvalidOption, match="vary in 3 directions"):
        principal_directions(np.random.default_rng(0).normal(size=(4, 9)), 4)
    with pytest.raises(InvalidOption, match="0 principal components"):
        principal_directions(np.eye(3), 0)
    with pytest.raises(InvalidOption):
        principal_directions(np.full((4, 3), np.nan), 1)
