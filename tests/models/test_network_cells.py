"""Activations as cells, and adapters in closed form between two places, either way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_pairs import statistics
from torch.nn.functional import adaptive_avg_pool2d

from quiltwork.contribution.network_graph import PointRecord
from quiltwork.contribution.pair_layout import PairLayout, PairPoint
from quiltwork.errors import InvalidOption
from quiltwork.models.network.cells import averaged, cells, pooled_cells, takes_part
from quiltwork.models.network.splices import Place
from quiltwork.models.network.stitches import fit_between


def record(form, shape, leading=0):
    return PointRecord(name="p", node="p", form=form, shape=shape, cut=True, leading=leading)


@pytest.mark.parametrize(("side", "grid"), [(8, (4, 4)), (8, (8, 8)), (8, (3, 3)), (6, (2, 3)), (5, (1, 1))])
def test_averages_are_those_of_adaptive_pooling(side, grid):
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    torch.testing.assert_close(averaged(x, grid), adaptive_avg_pool2d(x, grid))


def test_every_form_becomes_cells_in_its_place():
    x = torch.arange(2 * 9 * 4.0).reshape(2, 9, 4)
    tokens = cells(record("tokens", (10, 4), leading=1), torch.cat([torch.full((2, 1, 4), -1.0), x], dim=1))
    grid = cells(record("grid", (3, 3, 4)), x.reshape(2, 3, 3, 4))
    assert torch.equal(tokens, grid)
    assert torch.equal(tokens[:, :, 1, 2], x[:, 5])
    assert cells(record("vector", (4,)), x[:, 0]).shape == (2, 4, 1, 1)


def test_a_point_takes_part_on_no_finer_grid_than_asked_for():
    point = record("map", (5, 12, 6))
    assert takes_part(point).grid == (12, 6)
    part = takes_part(point, largest_grid=4)
    assert part.grid == (4, 4)
    assert pooled_cells(point, torch.rand(2, 5, 12, 6), part).shape == (2, 5, 4, 4)


@pytest.mark.parametrize("turned", [False, True])
def test_a_fit_between_places_has_their_direction(turned):
    """Whichever party's name comes first, the map goes from the source to the target."""
    rng = np.random.default_rng(0)
    x, truth = rng.normal(size=(50, 3)), rng.normal(size=(2, 3))
    y = x @ truth.T + 4
    layout = PairLayout(
        *(
            (PairPoint(name=n, channels=c, height=1, width=1),)
            for n, c in ((("t", 2), ("s", 3)) if turned else (("s", 3), ("t", 2)))
        )
    )
    sides = [[torch.from_numpy(v)[..., None, None]] for v in ((y, x) if turned else (x, y))]
    held = {("ash", "birch"): statistics({"train": tuple(sides)}, layout)}
    source, target = (Place("birch", "s"), Place("ash", "t")) if turned else (Place("ash", "s"), Place("birch", "t"))
    found = fit_between(source, target, held, ridge=0.0)
    np.testing.assert_allclose(found.weight, truth, atol=1e-9)
    np.testing.assert_allclose(found.bias, 4, atol=1e-9)
    with pytest.raises(InvalidOption, match="none to fit"):
        fit_between(source, Place("elm", "t"), held)
