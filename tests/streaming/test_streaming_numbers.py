"""Bytes to numbers and back, against torch: every pattern of 16 bits, and random ones of 32 and 64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.streaming.layout import ITEM_BYTES, Dtype
from quiltwork.streaming.numbers import all_finite, decode, encode

TORCH = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PATTERNS = np.arange(2**16, dtype="<u2")


def as_torch(data: bytes | np.ndarray, dtype: Dtype) -> torch.Tensor:
    return torch.frombuffer(bytearray(bytes(data)), dtype=TORCH[dtype])


def random_bits(dtype: Dtype, count: int, seed: int = 0) -> bytes:
    """Random bit patterns: every exponent, and NaNs and infinities among them."""
    return np.random.default_rng(seed).integers(0, 256, count * ITEM_BYTES[dtype], dtype=np.uint8).tobytes()


def same(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    """Equal values; NaN where NaN."""
    with np.errstate(invalid="ignore"):
        return np.array_equal(ours.astype(np.float64), theirs.double().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_pattern_is_read_as_torch_reads_it(dtype: Dtype) -> None:
    assert same(decode(PATTERNS.tobytes(), dtype), as_torch(PATTERNS.tobytes(), dtype))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_pattern_is_written_as_it_was_read(dtype: Dtype) -> None:
    values = decode(PATTERNS.tobytes(), dtype)
    back = encode(values, dtype).view("<u2")
    nan = np.isnan(values)
    assert np.array_equal(back[~nan], PATTERNS[~nan])
    # a NaN stays one, of its sign
    assert np.isnan(decode(back.tobytes(), dtype)[nan]).all()
    assert np.array_equal(back[nan] >> 15, PATTERNS[nan] >> 15)


@pytest.mark.parametrize("source", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["F64", "F32", "F16", "BF16"])
def test_rounding_is_that_of_torch(source: Dtype, target: Dtype) -> None:
    data = random_bits(source, 200_000)
    theirs = as_torch(data, source).to(TORCH[target])
    ours = encode(decode(data, source), target)
    finite = ~torch.isnan(theirs).numpy()
    width = f"<u{ITEM_BYTES[target]}"
    assert np.array_equal(ours.view(width)[finite], theirs.view(torch.uint8).numpy().view(width)[finite])
    assert same(decode(ours, target), theirs)


def middles() -> np.ndarray:
    """float32 halfway between neighbouring bfloat16, and one step to either side, of both signs."""
    halves = (PATTERNS.astype("<u4") << 16 | 0x8000).astype("<u4")
    bits = np.concatenate([halves - 1, halves, halves + 1])
    values = bits.view("<f4")
    return values[np.isfinite(values)]


def test_ties_go_to_even() -> None:
    values = middles()
    theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy()
    assert np.array_equal(encode(values, "BF16").view("<i2"), theirs)


def test_cutting_off_instead_of_rounding_would_be_noticed() -> None:
    values = middles()
    theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy()
    assert not np.array_equal((values.view("<u4") >> 16).astype("<u2").view("<i2"), theirs)


def test_what_is_too_large_becomes_an_infinity() -> None:
    for dtype, large in (("F32", 1e39), ("F16", 65520.0), ("BF16", 3.4e38)):
        values = decode(encode(np.array([large, -large]), dtype), dtype)  # type: ignore[arg-type]
        assert values.tolist() == [np.inf, -np.inf]


def test_encoded_bytes_are_no_view_of_the_numbers() -> None:
    for dtype, native in (("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("BF16", "<f4")):
        values = np.ones(4, native)
        encoded = encode(values, dtype)  # type: ignore[arg-type]
        values[:] = 0
        assert decode(encoded, dtype).tolist() == [1, 1, 1, 1]  # type: ignore[arg-type]


@given(st.sampled_from(["F64", "F32", "BF16", "F16"]), st.integers(0, 40), st.integers(0, 2**32))
def test_finite_is_what_numpy_calls_finite(dtype: Dtype, count: int, seed: int) -> None:
    data = random_bits(dtype, count, seed)
    assert all_finite(data, dtype) == bool(np.isfinite(decode(data, dtype)).all())
