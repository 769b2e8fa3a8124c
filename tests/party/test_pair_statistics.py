"""One pass of an owner over two networks: what leaves is exact, enough, priced, and of the published networks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stitching_networks import captured, cnn, images, mlp, published
from torch import nn

from quiltwork.contribution.store import read
from quiltwork.errors import (
    AlteredContribution,
    FragmentError,
    InvalidOption,
    MissingPart,
    StorageError,
    TaskMismatch,
)
from quiltwork.models.network.pair_moments import PairStatistics, merge
from quiltwork.models.network.placement import rank
from quiltwork.models.network.regression import fit
from quiltwork.party.examples import Examples
from quiltwork.party.pair_statistics import (
    StatisticsOrder,
    contribute_pair_statistics,
    held_rows,
    layout_of,
    pair_statistics,
)

ORDER = StatisticsOrder(party="cedar", batch=128)


@pytest.fixture(scope="module")
def networks():
    return captured(cnn()), captured(mlp())


def rows_at(module, point, inputs, side):
    """Cells of a submodule by a hook, pooled to ``side``: ``[images x cells, channels]``."""
    seen = []
    handle = module.get_submodule(point).register_forward_hook(lambda *taken: seen.append(taken[2]))
    with torch.no_grad():
        module((torch.from_numpy(inputs) - 0.5) / 0.25)
    handle.remove()
    value = seen[0] if seen[0].ndim == 4 else seen[0][:, :, None, None]
    pooled = nn.functional.adaptive_avg_pool2d(value.double(), min(side, value.shape[2]))
    return pooled.permute(0, 2, 3, 1).reshape(-1, pooled.shape[1]).numpy()


@pytest.mark.parametrize("largest", [1, 4, None])
def test_the_pass_gives_least_squares_on_hooked_activations(networks, largest):
    examples = images(500)
    order = replace(ORDER, largest_grid=largest, held_out=0.0, points_a=["0", "1", "2"], points_b=["1", "4"])
    summed = pair_statistics(*networks, examples, order)
    statistics = PairStatistics(summed.layout, summed.tensors)
    inputs, side = examples.inputs(0, 500), largest or 8
    for a, b in (("1", "1"), ("0", "4"), ("2", "4")):
        # B's points are vectors, so A's are pooled to one cell
        x, y = rows_at(cnn(), a, inputs, 1), rows_at(mlp(), b, inputs, 1)
        wide = np.concatenate((x, np.ones((len(x), 1))), axis=1)
        solution = np.linalg.lstsq(wide, y, rcond=None)[0]
        found = fit(statistics, a, b, into="b", ridge=0.0)
        np.testing.assert_allclose(wide @ solution, x @ found.weight.T + found.bias, atol=1e-5)
    assert {(p.name, p.height) for p in summed.layout.a} == {
        ("0", min(side, 8)),
        ("1", min(side, 4)),
        ("2", min(side, 4)),
    }


def test_owners_add_up_to_one_owner_of_all_rows(networks):
    whole, parts = images(700), [images(700).take(np.arange(s, s + 350)) for s in (0, 350)]
    together = pair_statistics(*networks, whole, ORDER)
    apart = [pair_statistics(*networks, part, replace(ORDER, held_out=0.4)) for part in parts]
    whole_again = pair_statistics(*networks, whole, replace(ORDER, held_out=0.4))
    merged = merge([PairStatistics(each.layout, each.tensors) for each in apart])
    for name, value in merged.tensors.items():
        np.testing.assert_allclose(value, whole_again.tensors[name], rtol=1e-9, atol=1e-9)
    assert together.rows == 700


def test_the_batch_size_changes_nothing_but_the_last_bits(networks):
    one, other = (pair_statistics(*networks, images(620), replace(ORDER, batch=size)) for size in (500, 77))
    for name in one.tensors:
        np.testing.assert_allclose(one.tensors[name], other.tensors[name], rtol=1e-5, atol=1e-4)


def test_equal_images_give_equal_bytes(networks):
    one, other = (pair_statistics(*networks, images(620), ORDER) for _ in range(2))
    assert all((one.tensors[name] == other.tensors[name]).all() for name in one.tensors)


def test_a_fold_follows_from_a_rows_own_bytes():
    inputs = images(400).inputs(0, 400)
    held = held_rows(inputs, 0.3, seed=5)
    order = np.random.default_rng(0).permutation(400)
    assert (held_rows(inputs[order], 0.3, seed=5) == held[order]).all()
    assert 0.2 < held.mean() < 0.4
    assert not (held_rows(inputs, 0.3, seed=6) == held).all()
    assert not held_rows(inputs, 0.0, seed=5).any()


def test_a_planted_relation_is_found_at_its_layers():
    """B is A but for rotated channels after A's second block; every other pair of blocks fits worse."""
    first = cnn(3, (6, 8, 8))
    turned = cnn(3, (6, 8, 8))
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]).float()
    planted = nn.Sequential(turned[0], nn.Sequential(turned[1], Turn(turn)), cnn(8, (8, 8, 8))[2], *turned[3:]).eval()
    a, b = captured(first), captured(planted)
    order = replace(ORDER, points_a=["0", "1", "2"], points_b=["1", "2"])
    summed = pair_statistics(a, b, images(900), order)
    found = rank(PairStatistics(summed.layout, summed.tensors))
    assert (found[0].a, found[0].b) == ("1", "1")
    assert found[0].score > 1 - 1e-5 > 0.99 > found[1].score


class Turn(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.register_buffer("turn", turn)

    def forward(self, x):
        return torch.einsum("oc,nchw->nohw", self.turn, x)


def test_what_leaves_is_a_contribution_with_the_bytes_of_the_layout(networks, tmp_path):
    a, b = published(networks[1], "birch", tmp_path), published(networks[0], "ash", tmp_path)
    made = contribute_pair_statistics(a, b, images(900), tmp_path / "statistics", ORDER)
    again = read(tmp_path / "statistics")
    method = again.manifest.method
    assert (method.a.party, method.b.party) == ("ash", "birch")
    assert method.a.digest == networks[0].digest
    assert again == made
    assert again.parts == {"pair"}
    layout = layout_of(*networks, ORDER)
    assert (
        sum(np.prod(t.shape) for t in again.manifest.payload["pair.safetensors"].tensors.values()) == layout.numbers()
    )
    assert again.manifest.method.rows == 900
    assert [event.mechanism for event in again.manifest.privacy] == ["exact"]
    text = json.dumps(again.manifest.model_dump(mode="json"))
    assert "images in memory" not in text


def test_too_few_images_are_refused_with_the_reason(networks):
    with pytest.raises(FragmentError, match=r"fold 'train' has 90 images, and 100 are needed.*Gram"):
        pair_statistics(*networks, images(90), replace(ORDER, held_out=0.0))
    with pytest.raises(FragmentError, match="held_out"):
        pair_statistics(*networks, images(300), replace(ORDER, held_out=0.1))
    wide = captured(cnn(0, (6, 80, 8)))
    with pytest.raises(
        FragmentError, match=r"160 are needed.*narrower points.*: 0, 3 of the first network, 2, 4 of the second"
    ):
        pair_statistics(wide, networks[1], images(150), replace(ORDER, held_out=0.0))
    with pytest.raises(FragmentError, match="400 are needed"):
        pair_statistics(*networks, images(300), replace(ORDER, held_out=0.0, minimum_rows=400))


def test_a_network_that_is_not_the_published_one_is_refused(networks, tmp_path):
    a, b = published(networks[0], "ash", tmp_path), published(networks[1], "birch", tmp_path)
    other = networks[1].with_tensors({name: tensor + 1 for name, tensor in networks[1].tensors().items()})
    forged = published_as(other, networks[1].digest, tmp_path)
    with pytest.raises(AlteredContribution, match="calls itself"):
        contribute_pair_statistics(a, forged, images(600), tmp_path / "out", ORDER)
    statistics = contribute_pair_statistics(a, b, images(600), tmp_path / "out", ORDER)
    with pytest.raises(MissingPart, match="module"):
        contribute_pair_statistics(a, statistics, images(600), tmp_path / "other", ORDER)
    with pytest.raises(StorageError, match="already there"):
        contribute_pair_statistics(a, b, images(600), tmp_path / "out", ORDER)


def published_as(network, digest, folder):
    """A contribution whose declared name is that of another network."""
    vars(network)["digest"] = digest
    return published(network, "elm", folder)


def test_other_tasks_and_other_images_are_refused(networks):
    other = captured(mlp(), classes=("square", "round", "long"))
    with pytest.raises(TaskMismatch, match="classes"):
        pair_statistics(networks[0], other, images(300), ORDER)
    flat = Examples("vectors", np.zeros((300, 64), np.float32), "0..1")
    with pytest.raises(TaskMismatch, match=r"shape of vectors.*\(64,\)"):
        pair_statistics(*networks, flat, ORDER)
    bytes_ = Examples("bytes", np.zeros((300, 1, 8, 8), np.float32), "0..255")
    with pytest.raises(TaskMismatch, match="units"):
        pair_statistics(*networks, bytes_, ORDER)


def test_points_that_do_not_exist_are_refused_and_named(networks):
    with pytest.raises(InvalidOption, match="nowhere"):
        pair_statistics(*networks, images(300), replace(ORDER, points_a=["nowhere"]))


def test_overflowing_activations_are_refused_by_statistic(networks):
    huge = networks[1].with_tensors({name: tensor * 1e25 for name, tensor in networks[1].tensors().items()})
    with pytest.raises(InvalidOption, match=r"statistic 'pair\..*not finite"):
        pair_statistics(networks[0], huge, images(600), ORDER)


@pytest.mark.parametrize("wrong", [{"held_out": 1.0}, {"batch": 0}, {"largest_grid": -1}, {"minimum_rows": -3}])
def test_options_outside_their_domain_are_refused(wrong):
    with pytest.raises(InvalidOption, match=next(iter(wrong))):
        replace(ORDER, **wrong)
