"""Statistics of two networks against least squares on all rows, however they are split over owners."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from network_pairs import LAYOUT, activations, direct, point, pooled_rows, statistics

from quiltwork.contribution.pair_layout import MOST_CHANNELS, PairLayout
from quiltwork.errors import InvalidOption, TensorMismatch
from quiltwork.models.network.pair_moments import PairStatistics, View, merge
from quiltwork.models.network.placement import rank
from quiltwork.models.network.regression import USUAL_RIDGE, Decomposed, RankDeficient, fit

PAIRS = [(a.name, b.name) for a in LAYOUT.a for b in LAYOUT.b]


def rows_of(pair, images, seed=0):
    a, b = activations(images, seed)
    i, j = [p.name for p in LAYOUT.a].index(pair[0]), [p.name for p in LAYOUT.b].index(pair[1])
    grid = LAYOUT.grids[LAYOUT.pairs[i, j]]
    return pooled_rows(a[i], grid.height, grid.width), pooled_rows(b[j], grid.height, grid.width)


def halves(images, at, seed=0):
    a, b = activations(images, seed)
    return ([x[:at] for x in a], [x[:at] for x in b]), ([x[at:] for x in a], [x[at:] for x in b])


def test_every_pair_has_one_grid_and_it_is_the_coarser_one():
    assert set(LAYOUT.pairs) == {(i, j) for i in range(3) for j in range(3)}
    for (i, j), g in LAYOUT.pairs.items():
        assert LAYOUT.grids[g].height == min(LAYOUT.a[i].height, LAYOUT.b[j].height)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("into", ["a", "b"])
def test_fit_is_least_squares_on_the_rows(pair, ridge, into):
    x, y = rows_of(pair, 60)
    x, y = (x, y) if into == "b" else (y, x)
    weight, bias = direct(x, y, ridge)
    found = fit(statistics({"train": activations(60)}), *pair, into=into, ridge=ridge)
    np.testing.assert_allclose(found.weight, weight, atol=1e-9)
    np.testing.assert_allclose(found.bias, bias, atol=1e-9)
    rest = y - x @ weight.T - bias
    assert found.r2_train == pytest.approx(1 - (rest**2).sum() / ((y - y.mean(0)) ** 2).sum(), abs=1e-9)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 80), max_size=4), seed=st.integers(0, 5), pair=st.sampled_from(PAIRS))
def test_owners_sums_give_the_pooled_solution_whatever_the_split(cuts, seed, pair):
    a, b = activations(80, seed)
    edges = [0, *sorted(cuts), 80]
    owners = [statistics({"train": ([x[s:e] for x in a], [x[s:e] for x in b])}) for s, e in pairwise(edges) if e > s]
    weight, bias = direct(*rows_of(pair, 80, seed), 1e-4)
    found = fit(merge(owners), *pair, into="b", ridge=1e-4)
    np.testing.assert_allclose(found.weight, weight, atol=1e-8)
    np.testing.assert_allclose(found.bias, bias, atol=1e-8)


def test_a_lost_owner_is_noticed():
    """Negative control: the comparison above fails when one owner's sums are left out."""
    first, second = halves(80, 40)
    weight, _ = direct(*rows_of(PAIRS[0], 80), 1e-4)
    assert statistics({"train": second}).count() == 40
    found = fit(statistics({"train": first}), *PAIRS[0], into="b", ridge=1e-4)
    assert np.abs(found.weight - weight).max() > 1e-3


@pytest.mark.parametrize("pair", PAIRS)
def test_held_out_rows_are_judged_by_the_fit_of_the_others(pair):
    first, second = halves(90, 60)
    found = fit(statistics({"train": first, "held_out": second}), *pair, into="b", ridge=1e-2)
    x, y = rows_of(pair, 90)
    cut = len(x) * 60 // 90
    weight, bias = direct(x[:cut], y[:cut], 1e-2)
    rest = y[cut:] - x[cut:] @ weight.T - bias
    wanted = 1 - (rest**2).sum() / ((y[cut:] - y[cut:].mean(0)) ** 2).sum()
    assert found.r2_held_out == pytest.approx(wanted, abs=1e-9)


def test_the_strength_is_the_best_on_held_out_rows():
    first, second = halves(26, 8)
    both = statistics({"train": first, "held_out": second})
    for pair in PAIRS:
        chosen = fit(both, *pair, into="b")
        others = [fit(both, *pair, into="b", ridge=r).r2_held_out for r in (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
        assert chosen.r2_held_out >= max(others) - 1e-12
    assert fit(statistics({"train": first}), *PAIRS[0], into="b").ridge == USUAL_RIDGE


def test_dependent_channels_are_told_and_the_shortest_solution_is_given():
    layout = PairLayout((point("x", 3, 1),), (point("y", 2, 1),))
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(50, 2)).astype(np.float32)
    x = np.concatenate((plane, plane[:, :1] * 2), axis=1)
    y = plane @ rng.normal(size=(2, 2)).astype(np.float32)
    cells = [torch.from_numpy(v)[..., None, None] for v in (x, y)]
    held = statistics({"train": ([cells[0]], [cells[1]])}, layout)
    with pytest.warns(RankDeficient, match="2 of 3 channels"):
        found = fit(held, "x", "y", into="b", ridge=0.0)
    centred = x.astype(float) - x.mean(0, dtype=float)
    shortest = np.linalg.pinv(centred, rcond=1e-9) @ (y - y.mean(0, dtype=float))
    np.testing.assert_allclose(found.weight, shortest.T, atol=1e-6)
    assert np.isfinite(fit(held, "x", "y", into="b", ridge=1e-6).weight).all()


def test_fewer_rows_than_channels_and_constant_channels_stay_finite():
    layout = PairLayout((point("x", 6, 1),), (point("y", 2, 1),))
    x, y = torch.randn(3, 6, 1, 1), torch.ones(3, 2, 1, 1)
    held = statistics({"train": ([x], [y])}, layout)
    assert np.isfinite(fit(held, "x", "y", into="b", ridge=1e-4).weight).all()
    flat = fit(held, "x", "y", into="a", ridge=1e-4)
    assert not flat.weight.any()
    np.testing.assert_allclose(flat.bias, x.double().mean(0).flatten(), atol=1e-12)


def test_linear_cka_is_that_of_gram_matrices_of_images():
    layout = PairLayout((point("x", 3, 1),), (point("y", 4, 1), point("z", 2, 1)))
    a, b = activations(30, 3, layout)
    found = Decomposed(View(statistics({"train": (a, b)}, layout), "a", 0, 0)).alignment()
    centring = np.eye(30) - 1 / 30

    def hsic(u, v):
        k, m = (w @ w.T for w in (u, v))
        return np.trace(k @ centring @ m @ centring)

    x = pooled_rows(a[0], 1, 1)
    for value, other in zip(found, b, strict=True):
        y = pooled_rows(other, 1, 1)
        assert value == pytest.approx(hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y)), abs=1e-10)


def test_products_in_float32_err_in_the_seventh_digit():
    exact, quick = (
        fit(statistics({"train": activations(400)}, precision=p), "a1", "b0", into="b", ridge=1e-3)
        for p in ("float64", "float32")
    )
    error = np.abs(exact.weight - quick.weight).max()
    assert 0 < error < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_sums_that_are_not_finite_are_refused_by_name(value):
    held = dict(statistics({"train": activations(10)}).tensors)
    held["pair.train.g0.gram_a.0"] = held["pair.train.g0.gram_a.0"] * value
    with pytest.raises(InvalidOption, match=r"g0.gram_a.0.*not finite"):
        PairStatistics(LAYOUT, held)


def test_other_shapes_names_points_and_folds_are_refused():
    held = dict(statistics({"train": activations(10)}).tensors)
    with pytest.raises(TensorMismatch, match=r"g1\.sum_b"):
        PairStatistics(LAYOUT, {**held, "pair.train.g1.sum_b": np.zeros(99)})
    with pytest.raises(TensorMismatch, match="surplus"):
        PairStatistics(LAYOUT, {**held, "surplus": np.zeros(1)})
    with pytest.raises(InvalidOption, match="no rows"):
        PairStatistics(LAYOUT, {**held, "pair.train.count": np.zeros(1)})
    one, two = statistics({"train": activations(10)}), statistics({"train": activations(9), "held_out": activations(9)})
    with pytest.raises(TensorMismatch, match="held-out"):
        merge([one, two])
    with pytest.raises(InvalidOption, match="none to merge"):
        merge([])
    with pytest.raises(InvalidOption, match="no such point of network B"):
        fit(one, "a0", "a0", into="b")
    with pytest.raises(InvalidOption, match="ridge"):
        fit(one, "a0", "b0", into="b", ridge=-1.0)


def test_bytes_are_those_of_the_layout():
    held = statistics({"train": activations(10), "held_out": activations(5)})
    assert sum(array.size for array in held.tensors.values()) == LAYOUT.numbers()
    by_hand = 1 + sum(
        sum(LAYOUT.a[i].channels + LAYOUT.a[i].channels ** 2 for i in grid.a)
        + sum(LAYOUT.b[j].channels + LAYOUT.b[j].channels ** 2 for j in grid.b)
        for grid in LAYOUT.grids
    )
    by_hand += sum(LAYOUT.a[i].channels * LAYOUT.b[j].channels for i, j in LAYOUT.pairs)
    assert LAYOUT.numbers(("train",)) == by_hand


def test_grids_that_do_not_cover_each_other_make_no_pair():
    wide = point("x", 3, 4).model_copy(update={"height": 2})
    tall = point("y", 3, 4).model_copy(update={"width": 2})
    with pytest.raises(ValueError, match="no point"):
        PairLayout((wide,), (tall,))
    layout = PairLayout((wide, point("v", 2, 1)), (tall,))
    assert set(layout.pairs) == {(1, 0)}
    a, b = activations(20, 0, layout)
    with pytest.raises(InvalidOption, match="no grid in common"):
        fit(statistics({"train": (a, b)}, layout), "x", "y", into="b")


def test_layouts_beyond_use_are_refused():
    with pytest.raises(ValueError, match="once"):
        PairLayout((point("x", 3, 1), point("x", 3, 1)), (point("y", 3, 1),))
    with pytest.raises(ValueError, match="at least one"):
        PairLayout((), (point("y", 3, 1),))
    with pytest.raises(ValueError, match="channels together"):
        PairLayout((point("x", MOST_CHANNELS, 1), point("z", 1, 1)), (point("y", 3, 1),))
    with pytest.raises(ValueError, match="numbers"):
        PairLayout((point("x", 2**14, 1),), (point("y", 2**14, 1),))


def changed(**fields):
    """Sound statistics of one pair with some numbers replaced, in both folds."""
    layout = PairLayout((point("x", 3, 1),), (point("y", 2, 1),))
    sound = statistics({fold: activations(50, 0, layout) for fold in ("train", "held_out")}, layout)
    tensors = {name: array.copy() for name, array in sound.tensors.items()}
    for name in tensors:
        for ending, value in fields.items():
            if name.rpartition(".")[2] == ending or f"{ending}." in name:
                tensors[name][...] = value
    return PairStatistics(layout, tensors)


@pytest.mark.parametrize("fields", [{"count": 1e-300}, {"sum_a": 1e300}, {"cross_near": 1e308}, {"gram_b": -1e200}])
def test_sums_beyond_any_activation_are_refused_by_name(fields):
    with pytest.raises(InvalidOption, match=r"statistic 'pair\..*a mean of it is beyond"):
        changed(**fields)


def test_made_up_sums_do_not_rank_before_true_ones():
    """Features without variance that explain others: R2 would be far above one."""
    assert rank(changed())[0].score > 0.1
    (candidate,) = rank(changed(gram_a=0.0, cross_near=1e3))
    assert candidate.a_to_b <= 0
