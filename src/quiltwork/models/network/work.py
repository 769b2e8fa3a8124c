"""Multiply-adds of the operators that have them.

    linear, matrix products    numbers given x length of the sums
    convolution                numbers given x weight of one output channel (transposed: numbers taken x of one input)
    attention                  queries x keys x (width of the keys + width of the values)
    pooling                    none; but a window is as large as its graph says, so its size counts against the limits

Everything else is linear in the numbers that it takes and gives, and counts as nothing, as is the custom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from quiltwork.models.network.execution import Step
from quiltwork.models.network.operators import Value


def _inner(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * int(args[0].shape[-1])


def _addmm(args: tuple[Any, ...], out: Tensor) -> int:
    return out.numel() * int(args[1].shape[-1])


def _convolution(args: tuple[Any, ...], out: Tensor) -> int:
    taken, weight, transposed = args[0], args[1], args[6]
    moved = taken if transposed else out
    return int(moved.numel() * math.prod(weight.shape[1:]))


def _attention(args: tuple[Any, ...], out: Tensor) -> int:
    query, key = args[0], args[1]
    return (int(query.numel()) + out.numel()) * int(key.shape[-2])


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


def held_within(op: str, args: tuple[Any, ...], value: Value) -> int:
    """Numbers that a product holds on its way and does not give: factors repeated over a batch, queries x keys."""
    if op not in ("matmul.default", "scaled_dot_product_attention.default") or not isinstance(value, Tensor):
        return 0
    one, other = args[:2]
    # two axes alone are repeated as a view
    sizes = [math.prod(factor.shape[-2:]) for factor in (one, other) if factor.ndim > 2]
    if op.startswith("scaled"):
        sizes.append(one.shape[-2] * other.shape[-2])
    return int(math.prod(value.shape[:-2]) * sum(sizes))


_POOLS = ("avg_pool1d.default", "avg_pool2d.default", "max_pool1d.default", "max_pool2d.default")


def multiply_adds(op: str, args: tuple[Any, ...], value: Value) -> int:
    """Of one operation, from the shapes of what it took and gave."""
    return _COUNTS[op](args, value) if op in _COUNTS and isinstance(value, Tensor) else 0


def steps_through(op: str, args: tuple[Any, ...], value: Value) -> int:
    """What bounds the time of one operation: its multiply-adds, or what pooling looks at."""
    if op in _POOLS and isinstance(value, Tensor):
        axes = len(args[1])
        seen = min(math.prod(args[1]), math.prod(args[0].shape[-axes:]))
        return value.numel() * int(seen)
    return multiply_adds(op, args, value)


def metered(steps: Iterable[Step], tally: Callable[[Step, tuple[Any, ...], Value], None]) -> list[Step]:
    """The same steps; ``tally(step, arguments, value)`` is called before the next one runs."""
    return [_metered(step, tally) for step in steps]


def _metered(step: Step, tally: Callable[[Step, tuple[Any, ...], Value], None]) -> Step:
    function = step.function

    def run(*args: Value, **kwargs: Value) -> Value:
        value = function(*args, **kwargs)
        tally(step, args, value)
        return value

    return replace(step, function=run)
