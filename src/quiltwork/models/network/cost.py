"""What a network costs: multiply-adds of the operators that have them.

    linear, matrix products    numbers given x length of the sums
    convolution                numbers given x weight of one output channel (transposed: numbers taken x of one input)
    attention                  queries x keys x (width of the keys + width of the values)
    pooling over windows       numbers given x size of the window; no multiply-adds, but bounded like them

Everything else is linear in the numbers that it gives, and counts as nothing, as is the custom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from quiltwork.models.network.operators import Value


def _inner(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * args[0].shape[-1]


def _addmm(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * args[1].shape[-1]


def _convolution(args: tuple[Any, ...], out: Tensor) -> int:
    taken, weight, transposed = args[0], args[1], args[6]
    moved = taken if transposed else out
    return moved.numel() * math.prod(weight.shape[1:])


def _attention(args: tuple[Any, ...], out: Tensor) -> int:
    query, key = args[0], args[1]
    return (query.numel() + out.numel()) * key.shape[-2]


_COUNTS: Mapping[str, Callable[[tuple[Any, ...], Tensor], int]] = MappingProxyType(
    {
        "addmm.default": _addmm,
        "bmm.default": _inner,
        "convolution.default": _convolution,
        "linear.default": _inner,
        "matmul.default": _inner,
        "mm.default": _inner,
        "scaled_dot_product_attention.default": _attention,
    }
)


def multiply_adds(op: str, args: tuple[Any, ...], value: Value) -> int:
    """Of one operation, from the shapes of what it took and gave."""
    return _COUNTS[op](args, value) if op in _COUNTS and isinstance(value, Tensor) else 0
