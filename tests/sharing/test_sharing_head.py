"""A shared head against Python's integers: exact logits from any t, nothing from fewer, false answers found."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from quiltwork.errors import ForgedShare, InvalidOption, TooFewShares
from quiltwork.sharing.head_share import Grid, HeadShare
from quiltwork.sharing.prime_field import (
    PRIME,
    Residues,
    centred,
    lagrange,
    matmul,
    plus,
    reduced,
    residues,
    times,
    uniform,
)
from quiltwork.sharing.threshold_head import combine_fixed, combine_logits, deal_head

EDGES = [0, 1, 2, 2**30, 2**31 - 1, 2**31, 2**32 + 5, 2**60, PRIME // 2, PRIME - 2, PRIME - 1]
RESIDUE = st.one_of(st.integers(0, PRIME - 1), st.sampled_from(EDGES))


def u64(*numbers: int) -> Residues:
    return np.array(numbers, dtype=np.uint64)


# The field


@settings(max_examples=400, deadline=None)
@given(RESIDUE, RESIDUE)
def test_sums_and_products_are_python_s(a: int, b: int) -> None:
    assert int(times(u64(a), u64(b))[0]) == a * b % PRIME
    assert int(plus(u64(a), u64(b))[0]) == (a + b) % PRIME


def test_products_at_the_edges() -> None:
    for a, b in itertools.product(EDGES, EDGES):
        assert int(times(u64(a), u64(b))[0]) == a * b % PRIME


@given(st.integers(0, 2**64 - 1))
def test_any_word_is_reduced(value: int) -> None:
    assert int(reduced(u64(value))[0]) == value % PRIME


@given(st.integers(-(PRIME // 2), PRIME // 2))
def test_signed_integers_come_back(value: int) -> None:
    array = np.array([value])
    assert centred(residues(array))[0] == value
    assert int(residues(array)[0]) == value % PRIME


def test_matrix_products_are_python_s() -> None:
    draw = np.random.default_rng(5).bytes
    a, b = uniform((3, 7), draw), uniform((7, 2), draw)
    expected = [[sum(int(a[i, j]) * int(b[j, k]) for j in range(7)) % PRIME for k in range(2)] for i in range(3)]
    assert matmul(a, b).tolist() == expected


def test_the_one_word_that_is_no_residue_is_drawn_again() -> None:
    words = iter([PRIME.to_bytes(8, "little") + (2**64 - 1).to_bytes(8, "little") + bytes(8), b"\x01" + bytes(15)])
    assert uniform((3,), lambda n: next(words)).tolist() == [1, 0, 0]


@given(st.lists(st.integers(1, 255), min_size=1, max_size=6, unique=True), st.integers(0, 300), st.randoms())
def test_weights_give_the_value_of_a_polynomial(points: list[int], at: int, random: object) -> None:
    coefficients = [31**i * 977 % PRIME for i in range(len(points))]

    def value(x: int) -> int:
        return sum(c * x**i for i, c in enumerate(coefficients)) % PRIME

    weights = lagrange(points, at)
    assert sum(w * value(x) for w, x in zip(weights, points, strict=True)) % PRIME == value(at)


# The head


def head(classes: int = 3, width: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(classes, width)), draw.normal(size=classes), draw.normal(size=(11, width)) * 3


def by_hand(weight: np.ndarray, bias: np.ndarray, inputs: np.ndarray, grid: Grid) -> list[list[int]]:
    """The logits on the grid in integers without bounds."""
    w = [[round(float(v) * 2**grid.weight_bits) for v in row] for row in weight]
    b = [round(float(v) * 2 ** (grid.weight_bits + grid.input_bits)) for v in bias]
    h = [[round(float(v) * 2**grid.input_bits) for v in row] for row in inputs]
    return [[sum(x * y for x, y in zip(r, c, strict=True)) + o for c, o in zip(w, b, strict=True)] for r in h]


def test_every_three_of_five_give_the_exact_logits() -> None:
    weight, bias, inputs = head()
    shares = deal_head(weight, bias, threshold=3, holders=5)
    exact = by_hand(weight, bias, inputs, shares[0].grid)
    answers = {share.holder: share.answer(inputs) for share in shares}
    for chosen in itertools.combinations(answers, 3):
        assert combine_fixed({x: answers[x] for x in chosen}, threshold=3).tolist() == exact
    assert combine_fixed(answers, threshold=3).tolist() == exact


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 20), st.sampled_from([0.5, 4.0, 100.0]))
def test_logits_are_within_the_bound_of_real_ones(seed: int, bits: int, width: int, most: float) -> None:
    draw = np.random.default_rng(seed)
    weight, bias = draw.normal(size=(2, width)), draw.normal(size=2)
    inputs = draw.uniform(-most, most, size=(4, width))
    grid = Grid(min(bits, 22), max(3, bits - 8), most)
    shares = deal_head(weight, bias, threshold=2, holders=2, grid=grid)
    found = combine_logits({s.holder: s.answer(inputs) for s in shares}, threshold=2, grid=grid)
    error = np.abs(found - (inputs @ weight.T + bias))
    assert (error <= grid.error_bound(weight) * (1 + 1e-9) + 1e-11).all()


def test_the_bound_is_no_idle_one() -> None:
    weight, inputs = np.full((1, 8), 0.5 / 2**4), np.full((1, 8), 4.0)
    grid = Grid(4, 4, 4.0)
    shares = deal_head(weight, [0.0], threshold=2, holders=2, grid=grid)
    found = combine_logits({s.holder: s.answer(inputs) for s in shares}, threshold=2, grid=grid)
    error = abs(float((found - inputs @ weight.T)[0, 0]))
    assert 0.4 * grid.error_bound(weight)[0] < error <= grid.error_bound(weight)[0]


def recorded(*tables: Residues) -> bytes:
    return b"".join(table.astype("<u8").tobytes() for table in tables)


def test_two_shares_of_three_fit_every_other_head_as_well() -> None:
    # secrecy by witness: for any other head there are coefficients that give the same two holders the same shares
    weight, bias, _ = head()
    other = weight[::-1] * 2 - 1
    rng = np.random.default_rng(3)
    r1, r2 = uniform((3, 6), rng.bytes), uniform((3, 6), rng.bytes)

    def dealt(table: np.ndarray, *coefficients: Residues) -> tuple[HeadShare, ...]:
        words = iter([recorded(c) for c in coefficients])
        return deal_head(table, bias, threshold=3, holders=3, draw=lambda n: next(words))

    step = 2**20
    change = [
        [round(float(o) * step) - round(float(w) * step) for o, w in zip(a, b, strict=True)] + [0]
        for a, b in zip(other, weight, strict=True)
    ]
    # c1 + 2 c2 undoes the change at point 1 as at point 2:  change + d1 x + d2 x^2 = 0 for x = 1, 2
    half = pow(2, -1, PRIME)
    d2 = [[v * half % PRIME for v in row] for row in change]
    d1 = [[-3 * v * half % PRIME for v in row] for row in change]
    moved = dealt(other, plus(r1, np.array(d1, dtype=np.uint64)), plus(r2, np.array(d2, dtype=np.uint64)))
    same = dealt(weight, r1, r2)
    for x in (0, 1):
        np.testing.assert_array_equal(moved[x].weight, same[x].weight)
        np.testing.assert_array_equal(moved[x].bias, same[x].bias)
    assert (moved[2].weight != same[2].weight).any()


def test_one_share_is_spread_over_the_whole_field() -> None:
    from scipy import stats

    share = deal_head(np.zeros((50, 80)), np.zeros(50), threshold=2, holders=2)[0]
    assert stats.kstest(share.weight.ravel() / PRIME, "uniform").pvalue > 1e-6
    # the control: a head that is not shared would not pass
    assert stats.kstest(residues(np.arange(4000)) / PRIME, "uniform").pvalue < 1e-6


def test_fewer_answers_are_refused_and_say_something_else() -> None:
    weight, bias, inputs = head()
    shares = deal_head(weight, bias, threshold=3, holders=4)
    two = {s.holder: s.answer(inputs) for s in shares[:2]}
    with pytest.raises(TooFewShares, match="3 are needed"):
        combine_fixed(two, threshold=3)
    assert combine_fixed(two, threshold=2).tolist() != by_hand(weight, bias, inputs, shares[0].grid)


@pytest.fixture
def answers() -> dict[int, Residues]:
    weight, bias, inputs = head()
    return {s.holder: s.answer(inputs) for s in deal_head(weight, bias, threshold=3, holders=5)}


@pytest.mark.parametrize("liar", [1, 3, 5])
def test_one_false_answer_among_t_plus_two_is_named(answers: dict[int, Residues], liar: int) -> None:
    answers[liar][2, 1] = (int(answers[liar][2, 1]) + 1) % PRIME
    with pytest.raises(ForgedShare, match=f"the answer of holder {liar}:.*Ask again without"):
        combine_fixed(answers, threshold=3)


def test_one_false_answer_among_t_plus_one_is_found_and_not_named(answers: dict[int, Residues]) -> None:
    answers[2][0, 0] ^= np.uint64(1)
    del answers[5]
    with pytest.raises(ForgedShare, match=r"holders \[1, 2, 3, 4\].*cannot be told"):
        combine_fixed(answers, threshold=3)


def lie(answers: dict[int, Residues], by: dict[int, int]) -> None:
    for holder, amount in by.items():
        answers[holder][0, 0] = (int(answers[holder][0, 0]) + amount) % PRIME


def test_two_false_answers_among_t_plus_two_are_always_found(answers: dict[int, Residues]) -> None:
    lie(answers, {1: 9, 4: 10})
    with pytest.raises(ForgedShare, match="cannot be told"):
        combine_fixed(answers, threshold=3)


def test_two_in_collusion_can_cast_the_blame_on_a_third_as_stated(answers: dict[int, Residues]) -> None:
    # 9 (x - 2)(x - 3) / 2 is 9, 0, 0, 9 at 1, 2, 3, 4
    lie(answers, {1: 9, 4: 9})
    with pytest.raises(ForgedShare, match=r"holder 5: .*if a single one is false, it is this"):
        combine_fixed(answers, threshold=3)


def test_among_t_plus_three_two_can_blame_nobody() -> None:
    weight, bias, inputs = head()
    six = {s.holder: s.answer(inputs) for s in deal_head(weight, bias, threshold=3, holders=6)}
    lie(six, {1: 9, 4: 9})
    with pytest.raises(ForgedShare, match="cannot be told"):
        combine_fixed(six, threshold=3)


def test_with_t_answers_a_false_one_goes_unseen_as_stated(answers: dict[int, Residues]) -> None:
    true = combine_fixed(answers, threshold=3)
    answers[2][0, 0] ^= np.uint64(1)
    assert (combine_fixed({x: answers[x] for x in (1, 2, 3)}, threshold=3) != true).any()


def test_a_head_that_could_overflow_is_refused_by_class() -> None:
    weight = [[1.0, 1.0], [2.0**9, 2.0**9]]
    fits = Grid(20, 20, 2.0**10 - 1)
    deal_head(weight, [0.0, 0.0], threshold=2, holders=2, grid=fits)
    with pytest.raises(InvalidOption, match=r"class 1 of the head.*2\^60"):
        deal_head(weight, [0.0, 0.0], threshold=2, holders=2, grid=Grid(20, 20, 2.0**10 + 1))
    with pytest.raises(InvalidOption, match="class 0"):
        deal_head([[1.0]], [2.0**21], threshold=2, holders=2)


def test_the_largest_head_that_fits_is_still_exact() -> None:
    grid = Grid(20, 20, 2.0**10 - 1)
    weight, inputs = np.array([[-(2.0**9), 2.0**9]]), np.array([[1023.0, -1023.0]])
    shares = deal_head(weight, [0.0], threshold=2, holders=2, grid=grid)
    found = combine_fixed({s.holder: s.answer(inputs) for s in shares}, threshold=2)
    assert found.tolist() == by_hand(weight, np.zeros(1), inputs, grid) == [[-1023 * 2**50]]


@pytest.mark.parametrize("bad", [[[np.nan, 0.0]], [[np.inf, 0.0]], [[65.0, 0.0]], [[1.0]], [1.0, 2.0]])
def test_inputs_that_do_not_fit_are_refused(bad: list[object]) -> None:
    share = deal_head([[1.0, 2.0]], [0.0], threshold=2, holders=2)[0]
    with pytest.raises(InvalidOption, match="inputs"):
        share.answer(bad)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [([[np.nan]], [0.0]), ([[1.0]], [0.0, 1.0]), ([1.0], [0.0]), ([[1.0]], [np.inf]), (np.zeros((0, 2)), [])],
)
def test_heads_that_are_none_are_refused(weight: object, bias: object) -> None:
    with pytest.raises(InvalidOption, match="weights"):
        deal_head(weight, bias, threshold=2, holders=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [(-1, 20, 1.0), (20, 41, 1.0), (20, 40, 1e9), (20, 20, np.nan), (20, 20, 0.0)])
def test_grids_that_are_none_are_refused(grid: tuple[int, int, float]) -> None:
    with pytest.raises(InvalidOption, match="a grid"):
        Grid(*grid)


@pytest.mark.parametrize("bad", [u64(1, 2), u64(PRIME), np.array([1.0])])
def test_answers_that_are_none_are_refused(bad: Residues) -> None:
    with pytest.raises(InvalidOption, match="the answers"):
        combine_fixed({1: u64(1), 2: bad}, threshold=2)


# Files


def test_a_share_comes_back_from_its_file(tmp_path: Path) -> None:
    weight, bias, inputs = head()
    share = deal_head(weight, bias, threshold=2, holders=3)[1]
    share.save(tmp_path / "share")
    back = HeadShare.load(tmp_path / "share")
    assert (back.holder, back.threshold, back.grid) == (2, 2, share.grid)
    np.testing.assert_array_equal(back.answer(inputs), share.answer(inputs))
    assert (tmp_path / "share").stat().st_mode & 0o077 == 0
    assert str(share.weight[0, 0]) not in repr(share)


@pytest.mark.parametrize(
    "change",
    [
        {"scheme": u64(2, 1, 2, 20, 20)},
        {"scheme": u64(1, 0, 2, 20, 20)},
        {"scheme": u64(1, 1, 2, 20)},
        {"scheme": u64(1, 1, 2, 99, 20)},
        {"weight": np.full((1, 2), PRIME, dtype=np.uint64)},
        {"bias": u64(1, 2)},
        {"most": np.array([np.nan])},
        {"more": u64(1)},
        {"weight": np.zeros((1, 2))},
    ],
)
def test_files_that_are_no_share_are_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    deal_head([[1.0, 2.0]], [0.0], threshold=2, holders=2)[0].save(tmp_path / "share")
    save_file(load_file(tmp_path / "share") | change, tmp_path / "changed")
    with pytest.raises(ForgedShare, match="changed"):
        HeadShare.load(tmp_path / "changed")
    (tmp_path / "cut").write_bytes((tmp_path / "share").read_bytes()[:-1])
    with pytest.raises(ForgedShare, match="cut"):
        HeadShare.load(tmp_path / "cut")
