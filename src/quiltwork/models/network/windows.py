"""Operators on neighbourhoods, with bounds that ATen does not keep.

Convolutions and pooling run in libraries that trust their sizes: a transposed convolution of stride 16384 writes
beyond its memory (torch 2.13 on a CPU). So these operators take float32 alone, strides, dilations, paddings and
windows of at most 512, and sides of at most 16384, which an image has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOST_WINDOW = 512
MOST_SIDE = 16_384


def windowed(function: Callable[..., Tensor], sizes: tuple[int, ...] = ()) -> Callable[..., Tensor]:
    """``function`` behind its bounds.

    Args:
        function: takes ``[n, c, w]`` or ``[n, c, h, w]`` first.
        sizes: places of the arguments that hold one size for each side.
    """

    @functools.wraps(function)
    def bounded(value: Tensor, *args: Any) -> Tensor:
        given = (value, *args)
        for place in sizes:
            _require_sizes(given[place] if place < len(given) else [])
        if any(isinstance(one, Tensor) and one.dtype != torch.float32 for one in given):
            raise ValueError("it takes float32 alone")
        _require_sides(value)
        found = function(*given)
        _require_sides(found)
        return found

    return bounded


def _require_sizes(found: Any) -> None:
    if not isinstance(found, list) or len(found) > 2:
        raise ValueError("a size is a whole number for each side")
    if not all(type(one) is int and 0 <= one <= MOST_WINDOW for one in found):
        raise ValueError(f"strides, dilations, paddings and windows are whole numbers up to {MOST_WINDOW}")


def _require_sides(value: Tensor) -> None:
    if value.ndim not in (3, 4) or not all(one <= MOST_SIDE for one in value.shape[2:]):
        raise ValueError(f"a map is [n, c, w] or [n, c, h, w] with sides of at most {MOST_SIDE}")
