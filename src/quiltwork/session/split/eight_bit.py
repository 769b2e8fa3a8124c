"""Activations and cotangents in eight bits, each row with an exponent of its own (block floating point).

    e_j = least integer with max_k |v_jk| <= 127 * 2^e_j      code_jk = round(v_jk / 2^e_j)      v~_jk = code_jk * 2^e_j

A row of d numbers becomes d + 1 bytes, the last one its exponent, so the frame needs no second array and

    bytes(frame) = 54 + b (d + 1)

The scale is a power of two: dividing and multiplying by it is exact, so both ends hold the same float32 on every
machine. The result is as deterministic as float32 messages, and not equal to them: |v~ - v| <= 2^(e_j - 1).

>>> packed = pack(torch.tensor([[127.0, -1.0], [0.5, 0.25]]))
>>> packed.tolist(), unpack(packed).tolist()
([[127, -1, 0], [64, 32, -7]], [[127.0, -1.0], [0.5, 0.25]])
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST, _MOST = -126, 120


def pack(values: Tensor) -> Tensor:
    """int8 ``[b, d + 1]`` of finite float32 ``[b, d]``."""
    largest = values.abs().amax(1) if values.shape[1] else values.new_zeros(len(values))
    exponent = torch.ceil(torch.log2(largest.double() / 127)).clamp(_LEAST, _MOST)
    codes = torch.ldexp(values.double(), -exponent[:, None]).round().clamp(-127, 127)
    return torch.cat([codes, exponent[:, None]], 1).to(torch.int8)


def unpack(packed: Tensor) -> Tensor:
    """float32 ``[b, d]`` of int8 ``[b, d + 1]``."""
    return torch.ldexp(packed[:, :-1].double(), packed[:, -1:].double()).float()
