"""The closed list of operators: the only table from names in a graph to what is computed.

    operator = name, a function of values, whether it makes a tensor out of nothing, its multiply-adds

Every operator is a pure function of ATen: none writes in place, reads files, draws numbers, looks at memory beyond its
argument or calls back. A graph that names another is refused; no name of a stranger is ever looked up on a module. What
ATen spells with a text argument has a name of its own here (``gelu.tanh``, ``div.floor``), so arguments hold no texts.

Three liberties, so that a replaced activation of any memory layout can flow on: ``view`` copies where it must,
``clone`` gives contiguous memory, and no operator takes a device, a layout or a memory format.

>>> OPERATORS["relu.default"](torch.tensor([-1.0, 2.0]))
tensor([0., 2.])
>>> "as_strided.default" in OPERATORS
False
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.nn import functional as F

from quiltwork.models.network.windows import windowed

Value: TypeAlias = Any
"""What a node gives: a tensor, a tuple of tensors, or a whole number."""

aten = torch.ops.aten

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"float32": torch.float32, "int64": torch.int64, "int32": torch.int32, "bool": torch.bool}
)
"""Element types that a graph may hold, by the names that it writes them with."""

DROPPED = ("device", "layout", "pin_memory", "memory_format", "implicit")
"""Keyword arguments of ATen that say where and how memory lies, not what is computed."""

_ELEMENTWISE = (
    aten.abs.default,
    aten.add.Scalar,
    aten.add.Tensor,
    aten.ceil.default,
    aten.clamp.Tensor,
    aten.clamp.default,
    aten.cos.default,
    aten.div.Scalar,
    aten.div.Tensor,
    aten.elu.default,
    aten.eq.Scalar,
    aten.eq.Tensor,
    aten.erf.default,
    aten.exp.default,
    aten.expm1.default,
    aten.floor.default,
    aten.fmod.Scalar,
    aten.ge.Scalar,
    aten.ge.Tensor,
    aten.gelu.default,
    aten.gt.Scalar,
    aten.gt.Tensor,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.le.Scalar,
    aten.le.Tensor,
    aten.leaky_relu.default,
    aten.log.default,
    aten.log1p.default,
    aten.logical_and.default,
    aten.logical_not.default,
    aten.logical_or.default,
    aten.lt.Scalar,
    aten.lt.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.mish.default,
    aten.mul.Scalar,
    aten.mul.Tensor,
    aten.ne.Scalar,
    aten.ne.Tensor,
    aten.neg.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.pow.Tensor_Tensor,
    aten.reciprocal.default,
    aten.relu.default,
    aten.remainder.Scalar,
    aten.round.default,
    aten.rsqrt.default,
    aten.sigmoid.default,
    aten.sign.default,
    aten.silu.default,
    aten.sin.default,
    aten.softplus.default,
    aten.sqrt.default,
    aten.sub.Scalar,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.where.self,
)
_ACROSS = (
    aten._log_softmax.default,
    aten._softmax.default,
    aten.amax.default,
    aten.amin.default,
    aten.any.dim,
    aten.cumsum.default,
    aten.linalg_vector_norm.default,
    aten.mean.default,
    aten.mean.dim,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.var.correction,
)
_ARRANGING = (
    aten.cat.default,
    aten.constant_pad_nd.default,
    aten.copy.default,
    aten.embedding.default,
    aten.expand.default,
    aten.flip.default,
    aten.full_like.default,
    aten.gather.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.permute.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.reflection_pad2d.default,
    aten.repeat.default,
    aten.replication_pad2d.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.slice_scatter.default,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
_LAYERS = (
    aten._native_batch_norm_legit.no_stats,
    aten._native_batch_norm_legit_no_training.default,
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.addmm.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.bmm.default,
    aten.convolution.default,
    aten.group_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.matmul.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.mm.default,
    aten.scaled_dot_product_attention.default,
    aten.upsample_bicubic2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_nearest2d.vec,
)
CREATING: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "arange.start_step": aten.arange.start_step,
        "full.default": aten.full.default,
        "scalar_tensor.default": aten.scalar_tensor.default,
    }
)
"""Operators that make a tensor out of numbers; they run on the device of the input."""

_WINDOWED: Mapping[OpOverload, tuple[int, ...]] = MappingProxyType(
    {
        aten.adaptive_avg_pool1d.default: (1,),
        aten.adaptive_avg_pool2d.default: (1,),
        aten.avg_pool1d.default: (1, 2, 3),
        aten.avg_pool2d.default: (1, 2, 3),
        aten.convolution.default: (3, 4, 5, 7),
        aten.max_pool1d.default: (1, 2, 3, 4),
        aten.max_pool2d.default: (1, 2, 3, 4),
        aten.reflection_pad2d.default: (),
        aten.replication_pad2d.default: (),
        aten.upsample_bicubic2d.vec: (),
        aten.upsample_bilinear2d.vec: (),
        aten.upsample_nearest2d.vec: (),
    }
)
"""Operators on neighbourhoods, and the places of their sizes; see `windows`."""

KEPT = (*_ELEMENTWISE, *_ACROSS, *_ARRANGING, *_LAYERS)
"""Overloads that a capture leaves whole, because they are listed here as they are."""


def _name(overload: OpOverload) -> str:
    return str(overload).removeprefix("aten.")


def _item(values: tuple[Value, ...], place: int) -> Value:
    if type(place) is not int:
        raise ValueError("a place is a whole number")
    return values[place]


def _whole(function: Callable[[Any, Any], Any]) -> Callable[[Value, Value], Value]:
    """``function`` of whole numbers alone: Python's would repeat and join lists as well."""

    def bounded(one: Value, other: Value) -> Value:
        if any(isinstance(each, bool) or not isinstance(each, int | torch.SymInt) for each in (one, other)):
            raise ValueError("it takes whole numbers")
        return function(one, other)

    return bounded


def _same(value: Tensor) -> Tensor:
    return value


def _contiguous(value: Tensor) -> Tensor:
    return value.clone(memory_format=torch.contiguous_format)


def _cast(value: Tensor, *, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout != 0:
        raise ValueError("attention drops nothing in evaluation mode")
    if key.shape[-2] != value.shape[-2]:
        raise ValueError("attention has as many values as keys")
    return F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=enable_gqa)


def _normed(value: Tensor, *given: Any) -> Any:
    _require_channels(value, given[:4])
    return aten._native_batch_norm_legit_no_training.default(value, *given)


def _normed_by_itself(value: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, *rest: float) -> Any:
    _require_channels(value, (weight, bias))
    if training is not True:
        raise ValueError("without statistics of others, a batch is normed by its own")
    return aten._native_batch_norm_legit.no_stats(value, weight, bias, training, *rest)


def _require_channels(value: Tensor, given: tuple[Tensor | None, ...]) -> None:
    """One number a channel: ATen's kernel takes that on trust, and reads beyond the memory of fewer."""
    for one in given:
        if one is not None and (one.ndim != 1 or one.shape[0] != value.shape[1] or one.dtype != torch.float32):
            raise ValueError("weights and statistics of a norm are one float32 a channel")


def _gelu_tanh(value: Tensor) -> Tensor:
    return F.gelu(value, approximate="tanh")


def _div_floor(value: Tensor, other: Tensor) -> Tensor:
    return torch.div(value, other, rounding_mode="floor")


OPERATORS: Mapping[str, Callable[..., Value]] = MappingProxyType(
    {
        **{_name(overload): overload for overload in KEPT},
        **CREATING,
        **{_name(overload): windowed(overload, sizes) for overload, sizes in _WINDOWED.items()},
        "_native_batch_norm_legit.no_stats": _normed_by_itself,
        "_native_batch_norm_legit_no_training.default": _normed,
        "_to_copy.default": _cast,
        "alias.default": _same,
        "clone.default": _contiguous,
        "div.floor": _div_floor,
        "gelu.tanh": _gelu_tanh,
        "scaled_dot_product_attention.default": _attention,
        "int.add": _whole(operator.add),
        "int.floordiv": _whole(operator.floordiv),
        "int.mul": _whole(operator.mul),
        "int.sub": _whole(operator.sub),
        "item": _item,
        "size.int": aten.sym_size.int,
        "view.default": torch.reshape,
    }
)
"""Name to function, for every operator that a graph may name."""
