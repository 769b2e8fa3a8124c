"""Weighted sums against exact arithmetic and float64 numpy, over shapes, dtypes and piece sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quiltwork.streaming.sums as sums_module
from quiltwork.errors import BrokenPromise
from quiltwork.models.sources import Source, clamped, stacked, total
from quiltwork.streaming.layout import Dtype
from quiltwork.streaming.numbers import decode, encode
from quiltwork.streaming.sums import Term, weighted_sum

DTYPES = ("F64", "F32", "BF16", "F16")


def term(weight: float, values: np.ndarray, dtype: Dtype, step: int) -> Term:
    """A term whose pieces hold ``step`` elements."""
    data = encode(values, dtype)

    def pieces() -> Iterator[bytes]:
        width = len(data) // max(len(values), 1)
        return (data[start * width : (start + step) * width].tobytes() for start in range(0, len(values), step))

    return Term(weight, dtype, pieces)


def numbers(terms: list[Term]) -> list[np.ndarray]:
    """The terms' values as they are after rounding to their dtypes."""
    return [
        np.concatenate([decode(p, one.dtype) for p in one.pieces()] or [np.zeros(0)]).astype(float) for one in terms
    ]


def added(terms: list[Term], dtype: Dtype, **options: object) -> np.ndarray:
    pieces = [bytes(memoryview(p)) for p in weighted_sum(terms, dtype, **options)]  # type: ignore[arg-type]
    return decode(b"".join(pieces), dtype)


@given(
    count=st.integers(0, 300),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=1, max_size=5),
    out=st.sampled_from(DTYPES),
    step=st.integers(1, 120),
    seed=st.integers(0, 2**32),
    divisor=st.sampled_from([1.0, 3.0, 0.7]),
)
def test_sums_are_those_of_float64(
    count: int, dtypes: list[Dtype], out: Dtype, step: int, seed: int, divisor: float
) -> None:
    draw = np.random.default_rng(seed)
    terms = [term(float(draw.normal()), draw.normal(size=count), dtype, step) for dtype in dtypes]
    expected = np.zeros(count)
    for one, values in zip(terms, numbers(terms), strict=True):
        expected = expected + one.weight * values
    expected = expected / divisor
    assert np.array_equal(added(terms, out, divisor=divisor), decode(encode(expected, out), out))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_sums_of_16_bits_in_float32_are_the_nearest_but_for_ties(dtype: Dtype) -> None:
    draw = np.random.default_rng(1)
    terms = [term(weight, draw.normal(size=2000), dtype, 700) for weight in (1.0, 2.0, 0.5)]
    rows = zip(*numbers(terms), strict=True)
    exact = [math.fsum(w.weight * float(v) for w, v in zip(terms, row, strict=True)) / 3.5 for row in rows]
    ours = added(terms, dtype, divisor=3.5, sum_in="F32").astype(float)
    nearest = torch.tensor(exact, dtype=torch.float64).to(torch.bfloat16 if dtype == "BF16" else torch.float16)
    spacing = {"BF16": 2.0**-8, "F16": 2.0**-11}[dtype]
    wrong = ours != nearest.double().numpy()
    assert wrong.mean() < 1e-3
    assert np.all(np.abs(ours - np.array(exact)) <= 1.002 * spacing * np.abs(exact) + 1e-30)


def test_float32_is_what_mergekit_computes() -> None:
    # its linear merge: addcmul in float32, one division, one rounding
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(4096, generator=generator).bfloat16() for _ in range(3)]
    weights = (1.0, 2.0, 1.0)
    theirs = torch.zeros(4096)
    for tensor, weight in zip(tensors, weights, strict=True):
        theirs.addcmul_(tensor, torch.tensor(weight))
    theirs = theirs.div_(torch.tensor(weights).sum()).bfloat16()
    parts = [(weight, Source.of(tensor)) for weight, tensor in zip(weights, tensors, strict=True)]
    assert torch.equal(total(parts, "BF16", divisor=4.0, sum_in="F32").load(), theirs)


def test_adding_in_the_dtype_of_the_terms_would_be_noticed() -> None:
    draw = np.random.default_rng(2)
    terms = [term(1.0, draw.normal(size=500), "BF16", 500) for _ in range(8)]
    right = added(terms, "BF16")
    rounded = np.zeros(500)
    for values in numbers(terms):
        rounded = decode(encode(rounded + values, "BF16"), "BF16").astype(float)
    assert not np.array_equal(right, rounded)


def test_a_stream_is_walked_to_its_end() -> None:
    ends = []

    def pieces() -> Iterator[bytes]:
        yield bytes(8)
        ends.append("checked")

    list(weighted_sum([Term(1.0, "F64", pieces), Term(1.0, "F64", pieces)], "F64"))
    assert ends == ["checked", "checked"]


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (3, 0), (0, 3)])
def test_terms_of_different_sizes_are_refused(counts: tuple[int, int]) -> None:
    terms = [term(1.0, np.ones(count), "F32", 2) for count in counts]
    with pytest.raises(BrokenPromise, match="different sizes"):
        list(weighted_sum(terms, "F32"))


# Sources.


def test_rows_and_stacks_are_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiltwork.models.sources.ELEMENTS", 4)
    rows = [torch.arange(3.0) + 10 * n for n in range(5)]
    stack = stacked([Source.of(row) for row in rows])
    assert torch.equal(stack.load(), torch.stack(rows))
    sizes = [len(memoryview(piece).cast("B")) for piece in stack.pieces()]
    assert sizes == [16, 16, 16, 12]
    assert torch.equal(stack.row(2).load(), rows[2])
    assert torch.equal(
        stacked([Source.of(torch.tensor(2.0)), Source.zeros("F32", ())]).load(), torch.tensor([2.0, 0.0])
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamped_keeps_what_is_negative(dtype: torch.dtype) -> None:
    tensor = torch.tensor([-1.5, 0.0, 2.0]).to(dtype)
    assert torch.equal(clamped(Source.of(tensor)).load(), tensor.clamp(max=0))


def test_a_total_is_a_source_like_any_other() -> None:
    parts = [torch.randn(3, 4, generator=torch.Generator().manual_seed(n)).bfloat16() for n in range(2)]
    source = total([(0.25, Source.of(parts[0])), (2.0, Source.of(parts[1]))], "BF16")
    assert (source.dtype, source.shape) == ("BF16", (3, 4))
    expected = (0.25 * parts[0].double() + 2.0 * parts[1].double()).bfloat16()
    assert torch.equal(source.load(), expected)
    again = total([(1.0, source), (-1.0, Source.of(expected))], "F64")
    assert torch.equal(again.load(), torch.zeros(3, 4, dtype=torch.float64))


def test_the_buffers_are_of_the_size_of_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums_module, "ELEMENTS", 7)
    terms = [term(1.0, np.arange(20.0), "F32", 7), term(2.0, np.arange(20.0), "F16", 7)]
    assert np.array_equal(added(terms, "F64"), 3 * np.arange(20.0))
