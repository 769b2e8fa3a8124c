"""The common space: the same projection everywhere, distances kept, and refusals."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy.spatial.distance import pdist

from quiltwork.errors import InvalidOption
from quiltwork.evidence.embedding import (
    Embedding,
    IdentityEmbedding,
    ModuleEmbedding,
    RandomEmbedding,
    embed,
    projection,
    width,
)

MODULE = ModuleEmbedding(party="acme", digest="sha256:" + "0" * 64, point="stage.2", dimension=8)


def test_the_projection_is_written_down_in_bytes() -> None:
    """Parties that never meet hold the same matrix; a change of these bytes would part old and new files."""
    matrix = projection(RandomEmbedding(dimension=5, seed=3), 49)
    assert hashlib.sha256(matrix.astype("<f8").tobytes()).hexdigest() == PINNED


PINNED = "8f59fae43ea998d582dffe9fbec3ab6ff9f9c042d69eb7c76b1cdb1f634d3d01"


def test_entries_are_sums_of_eight_bytes_of_the_stream() -> None:
    words = np.random.PCG64(11).random_raw(6)
    wanted = [(sum(int(word).to_bytes(8, "little")) - 1020) / (8 * 65535 / 12) ** 0.5 / 3**0.5 for word in words]
    np.testing.assert_allclose(projection(RandomEmbedding(dimension=2, seed=11), 3).ravel(), wanted, rtol=1e-15)


def test_entries_look_normal_and_are_not_correlated() -> None:
    entries = projection(RandomEmbedding(dimension=64, seed=0), 1024) * 32
    assert abs(entries.mean()) < 0.02
    assert entries.var() == pytest.approx(1, abs=0.02)
    assert np.abs(entries.T @ entries / 1024 - np.eye(64)).max() < 0.2
    assert float(((entries / entries.std()) ** 4).mean()) == pytest.approx(3, abs=0.25)


def test_distances_are_kept_on_average() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 500))
    ratio = pdist(embed(RandomEmbedding(dimension=400, seed=1), rows)) / pdist(rows) * (500 / 400) ** 0.5
    assert ratio.min() > 0.8
    assert ratio.max() < 1.2
    assert ratio.mean() == pytest.approx(1, abs=0.02)


def test_another_seed_or_size_is_another_space() -> None:
    first, other = (projection(RandomEmbedding(dimension=4, seed=seed), 9) for seed in (0, 1))
    assert not np.allclose(first, other)
    assert not np.allclose(projection(RandomEmbedding(dimension=4, seed=0), 10)[:9] * (10 / 9) ** 0.5, other)


def test_identity_is_the_input_and_widths_are_told() -> None:
    rows = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(embed(IdentityEmbedding(), rows), rows)
    assert (width(IdentityEmbedding(), 3), width(RandomEmbedding(dimension=7), 3), width(MODULE, 3)) == (3, 7, 8)


@pytest.mark.parametrize("spec", [IdentityEmbedding(), RandomEmbedding(dimension=3, seed=9), MODULE])
def test_an_embedding_is_told_apart_by_its_kind(spec: Embedding) -> None:
    adapter: TypeAdapter[Embedding] = TypeAdapter(Embedding)
    assert adapter.validate_json(adapter.dump_json(spec)) == spec


@pytest.mark.parametrize(
    ("spec", "rows", "said"),
    [
        (MODULE, np.zeros((1, 2)), "stage.2"),
        (RandomEmbedding(dimension=4096), np.zeros((1, 2**15)), "entries"),
        (IdentityEmbedding(), np.array([[np.nan]]), "finite"),
        (RandomEmbedding(), np.zeros(4), "shape"),
    ],
)
def test_what_cannot_be_embedded_is_refused(spec: Embedding, rows: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        embed(spec, rows)
