"""Statistics of pairs under noise: the sensitivity holds for the computed numbers, the price is that of one event."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stitching_networks import captured, cnn, images, mlp, published

from quiltwork.contribution.pair_layout import PairLayout, PairPoint
from quiltwork.errors import InvalidOption
from quiltwork.models.network import capture as capturing
from quiltwork.models.network.pair_moments import PairStatistics
from quiltwork.models.network.pair_sums import PairSums
from quiltwork.models.network.regression import fit
from quiltwork.party.pair_noise import MOST_IN_BATCH, ClippedPairSums, PairNoise, released
from quiltwork.party.pair_statistics import StatisticsOrder, contribute_pair_statistics, lengths_of, pair_statistics
from quiltwork.privacy.accountant import price

LAYOUT = PairLayout(
    (PairPoint(name="a0", channels=3, height=2, width=2), PairPoint(name="a1", channels=4, height=1, width=1)),
    (PairPoint(name="b0", channels=2, height=2, width=2), PairPoint(name="b1", channels=3, height=1, width=1)),
)


def cells(rows, seed=0, size=1.0):
    rng = np.random.default_rng(seed)
    return [
        [
            torch.from_numpy(rng.normal(0.5, size, (rows, p.channels, p.height, p.width)).astype(np.float32))
            for p in side
        ]
        for side in (LAYOUT.a, LAYOUT.b)
    ]


def exact(a, b, clip, batches=1):
    sums = ClippedPairSums(LAYOUT, clip)
    for part in np.array_split(np.arange(len(a[0])), batches):
        sums.add([x[part] for x in a], [x[part] for x in b])
    return sums.exact("train")


def distance(one, other):
    """L2 norm with each distinct number once, times the root of how often it occurs."""
    total = 0.0
    for name in one:
        change = one[name] - other[name]
        # full Grams hold their numbers off the diagonal twice already
        total += (change**2).sum() * (1 if ".gram_" in name or name.endswith("count") else 2)
    return math.sqrt(total)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), size=st.floats(0.01, 100), clip=st.floats(0.1, 50))
def test_one_image_changes_no_more_than_the_sensitivity(seed, size, clip):
    a, b = cells(20, seed, size)
    more = exact(a, b, clip)
    less = exact([x[1:] for x in a], [x[1:] for x in b], clip)
    assert distance(more, less) <= 1.0


def test_the_bound_is_nearly_met_and_an_unclipped_image_breaks_it():
    """Negative control: without the clip one large image moves the sums by far more."""
    a, b = cells(20, 0, 100.0)
    first = [x[:1] for x in a], [x[:1] for x in b]
    none = [x[:0] for x in a], [x[:0] for x in b]
    assert distance(exact(*first, 1.0), exact(*none, 1.0)) > 0.3
    plain = PairSums(LAYOUT)
    plain.add(*first)
    unclipped = plain.tensors("train")
    assert distance(unclipped, {name: np.zeros_like(value) for name, value in unclipped.items()}) > 100


def test_sums_are_exact_in_any_order_and_any_batches():
    a, b = cells(60, 1, 2.0)
    turn = np.random.default_rng(0).permutation(60)
    whole, parts = exact(a, b, 3.0), exact(a, b, 3.0, batches=7)
    turned = exact([x[turn] for x in a], [x[turn] for x in b], 3.0, batches=4)
    for name in whole:
        assert (whole[name] == parts[name]).all()
        assert (whole[name] == turned[name]).all()


def test_images_within_the_clip_count_as_they_are():
    a, b = cells(50, 2, 0.1)
    clip = 20.0
    plain = PairSums(LAYOUT)
    plain.add(a, b)
    clipped = exact(a, b, clip)
    for name, value in plain.tensors("train").items():
        np.testing.assert_allclose(clipped[name] * clip**2, value, atol=2e-2)


def test_an_image_that_overflows_counts_as_none():
    a, b = cells(20)
    before = exact([x[1:] for x in a], [x[1:] for x in b], 2.0)
    a[0][0] = math.inf
    b[1][0] = math.nan
    after = exact(a, b, 2.0)
    assert all((after[name] == before[name]).all() for name in before)


def test_noise_has_the_declared_size_for_each_kind_of_number():
    noise = PairNoise(epsilon=2.0, delta=1e-5, clip=3.0)
    zero = {name: np.zeros(need.shape) for name, need in LAYOUT.required().items()}
    rng = np.random.default_rng(0)
    draws = [released(zero, noise, rng) for _ in range(400)]
    unit = noise.sigma * 9.0

    def deviation(name, pick=lambda x: x):
        return np.std([pick(draw[name]) for draw in draws]) / unit

    assert deviation("pair.train.count") == pytest.approx(1, rel=0.1)
    assert deviation("pair.train.g0.gram_a.0", np.diag) == pytest.approx(1, rel=0.1)
    upper = np.triu_indices(3, 1)
    assert deviation("pair.held_out.g0.gram_a.0", lambda x: x[upper]) == pytest.approx(0.5**0.5, rel=0.1)
    assert deviation("pair.train.g1.sum_a") == pytest.approx(0.5**0.5, rel=0.1)
    assert deviation("pair.train.g0.cross_near") == pytest.approx(0.5**0.5, rel=0.1)
    gram = draws[0]["pair.train.g0.gram_a.0"]
    assert (gram == gram.T).all()


def test_the_price_is_that_of_one_gaussian_release():
    noise = PairNoise(epsilon=1.5, delta=1e-6, clip=5.0)
    event = noise.event()
    assert (event.mechanism, event.unit, event.sensitivity, event.released) == ("gaussian", "row", 1.0, "pair")
    assert price([event], delta=1e-6) == pytest.approx(1.5, rel=1e-3)


@pytest.fixture(scope="module")
def networks():
    return captured(cnn()), captured(mlp())


def test_a_noisy_contribution_tells_no_count_and_one_price(networks, tmp_path):
    order = StatisticsOrder(
        party="cedar", points_a=["4"], points_b=["4"], held_out=0.3, noise=PairNoise(epsilon=8, delta=1e-6, clip=4.0)
    )
    given_ = [published(n, p, tmp_path) for n, p in zip(networks, ("ash", "birch"), strict=True)]
    made = contribute_pair_statistics(*given_, images(4000), tmp_path / "noisy", order)
    assert made.manifest.method.rows is None
    assert [event.mechanism for event in made.manifest.privacy] == ["gaussian"]


def test_with_many_images_and_a_fair_clip_noise_leaves_the_regression_standing():
    layout = PairLayout(*((PairPoint(name=n, channels=3, height=1, width=1),) for n in "xy"))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    y = x @ rng.normal(size=(3, 3)) + 0.3 * rng.normal(size=(4000, 3))
    parts = [[torch.from_numpy(v).float()[..., None, None]] for v in (x, y)]
    noise = PairNoise(epsilon=4, delta=1e-6, clip=6.0)
    sums = {fold: ClippedPairSums(layout, noise.clip) for fold in ("train", "held_out")}
    for fold, rows in (("train", slice(0, 3000)), ("held_out", slice(3000, None))):
        sums[fold].add(*([value[rows] for value in side] for side in parts))
    noisy = released(sums["train"].exact("train") | sums["held_out"].exact("held_out"), noise, rng)
    found = fit(PairStatistics(layout, noisy), "x", "y", into="b")
    direct = np.linalg.lstsq(x[:3000], y[:3000], rcond=None)[0].T
    assert np.linalg.norm(found.weight - direct) < 0.2 * np.linalg.norm(direct)
    assert found.r2_held_out > 0.6


def test_lengths_say_where_a_clip_begins_to_cut(networks):
    order = StatisticsOrder(party="cedar", points_a=["1"], points_b=["2"], batch=64)
    lengths = lengths_of(*networks, images(100), order)
    assert lengths.shape == (100,)
    x = torch.from_numpy(images(100).inputs(0, 1))
    # on their common grid of one cell
    first, second = networks[0].run(x, ["1"])["1"].mean((2, 3)), networks[1].run(x, ["2"])["2"]
    assert lengths[0] == pytest.approx(math.sqrt(1 + float((first**2).sum() + (second**2).sum())), rel=1e-5)


def test_few_images_are_not_refused_under_noise(networks):
    order = StatisticsOrder(party="cedar", noise=PairNoise(epsilon=1, delta=1e-5, clip=3.0))
    assert pair_statistics(*networks, images(3), order).rows is None


def test_rules_and_batches_out_of_their_domain_are_refused():
    for wrong in ({"clip": 0.0}, {"clip": math.inf}, {"epsilon": 0.0}, {"delta": 2.0}):
        with pytest.raises((InvalidOption, ValueError)):
            PairNoise(**{"epsilon": 1.0, "delta": 1e-5, "clip": 1.0} | wrong)
    with pytest.raises(InvalidOption, match="in a batch"):
        ClippedPairSums(LAYOUT, 1.0).add([torch.empty(MOST_IN_BATCH + 1, 1)], [])


class Gossip(torch.nn.Module):
    """A hostile network: whatever one image of a batch has, all of them show."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(64, 4), torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x.flatten(1) * 0 + 10 * x.flatten(1).amax(dim=0, keepdim=True)))


def test_an_image_changes_nothing_that_others_add_in_a_network_that_mixes_rows(networks, monkeypatch):
    from quiltwork.party import pair_statistics as module

    # its maker's quiltwork does not refuse it
    monkeypatch.setattr(capturing, "_require_apart", lambda *_: None)
    torch.manual_seed(0)
    gossip = captured(Gossip().eval(), mean=(0.0,), std=(1.0,))
    quiet = images(60)
    quiet.values[:] *= 0.1
    loud = images(60)
    loud.values[:] = quiet.values
    loud.values[0] = 1.0
    noise = PairNoise(epsilon=1, delta=1e-5, clip=2.0)
    order = StatisticsOrder(party="cedar", points_a=["1"], points_b=["body"], held_out=0.0, noise=noise)
    monkeypatch.setattr(module, "released", lambda exact, _noise: exact)

    def change():
        more, less = (module.pair_statistics(networks[0], gossip, one, order).tensors for one in (loud, quiet))
        return distance(more, less)

    # an image is replaced, which is one less and one more
    assert change() <= 2.0
    alone = module._cells
    monkeypatch.setattr(module, "_cells", lambda *given: alone(*given[:3], StatisticsOrder(party="cedar")))
    # negative control: in one batch the neighbours hear of it
    assert change() > 2.0
