"""What components, the label party and the composer say to each other, as terms and as bytes.

A component of width d, batches of b rows (every frame has 54 bytes beside its array, `quiltwork.session.frames`):

    down   ROWS        int64 [b]        positions in the agreed order: train on them
           COTANGENT   float32 [b, d]   dL/dh of the round
           OUTPUT      int64 [b]        positions: put them out as in use
           DIGEST, STATE, STOP
    up     ACTIVATION  float32 [b, d]   answers ROWS
           DONE                         answers COTANGENT and STOP
           OUTPUT      float32 [b, d]   answers OUTPUT
           DIGEST      uint8 [32]       answers DIGEST and STATE

The label party, where it is another than the composer, for k outputs:

    down   ROWS        int64 [b]        answered by DONE
           ACTIVATION  float32 [b, k]   logits, answered by COTANGENT float32 [b, k]
           LOSS                         answered by LOSS float64 [1], that of the last logits
           LABELS                       answered by LABELS float64 [k], the prior
           STOP

With eight bits (`quiltwork.session.split.eight_bit`) activations and cotangents of components are int8 ``[b, d + 1]``.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.session.channel import Terms
from quiltwork.session.frames import Kind, Spec, frame_bytes
from quiltwork.session.split.eight_bit import pack, unpack

Precision: TypeAlias = Literal["float32", "int8"]
"""How activations and cotangents of components cross."""

SAVE, RESTORE = 0, 1
"""The two things that a STATE message, int64 ``[1]``, asks for, at the round that it names."""


def component_terms(width: int, precision: Precision = "float32") -> Terms:
    """What a composer and a component of some width may say."""
    rows, values, digest = Spec("int64", (None,)), values_spec(width, precision), Spec("uint8", (32,))
    return Terms(
        down={
            Kind.ROWS: rows,
            Kind.COTANGENT: values,
            Kind.OUTPUT: rows,
            Kind.DIGEST: Spec(),
            Kind.STATE: Spec("int64", (1,)),
            Kind.STOP: Spec(),
        },
        up={
            Kind.ACTIVATION: values,
            Kind.DONE: Spec(),
            Kind.OUTPUT: Spec("float32", (None, width)),
            Kind.DIGEST: digest,
        },
    )


def label_terms(outputs: int) -> Terms:
    """What a composer and the label party may say."""
    values = Spec("float32", (None, outputs))
    return Terms(
        down={
            Kind.ROWS: Spec("int64", (None,)),
            Kind.ACTIVATION: values,
            Kind.LOSS: Spec(),
            Kind.LABELS: Spec(),
            Kind.STOP: Spec(),
        },
        up={
            Kind.DONE: Spec(),
            Kind.COTANGENT: values,
            Kind.LOSS: Spec("float64", (1,)),
            Kind.LABELS: Spec("float64", (outputs,)),
        },
    )


def values_spec(width: int, precision: Precision) -> Spec:
    """The array of an activation or a cotangent."""
    if precision not in ("float32", "int8"):
        raise InvalidOption(f"precision={precision!r}", why="no such precision", mend="Choose 'float32' or 'int8'.")
    return Spec("float32", (None, width)) if precision == "float32" else Spec("int8", (None, width + 1))


def round_bytes(rows: int, width: int, precision: Precision = "float32") -> tuple[int, int]:
    """Bytes of one component's training round, down and up.

        down   bytes(ROWS [b]) + bytes(COTANGENT [b, d])        up   bytes(ACTIVATION [b, d]) + bytes(DONE)

    >>> round_bytes(64, 16), round_bytes(64, 16, "int8")
    ((4716, 4204), (1708, 1196))
    """
    spec = values_spec(width, precision)
    assert spec.shape[1] is not None
    values = frame_bytes(spec.dtype, (rows, spec.shape[1]))
    return frame_bytes("int64", (rows,)) + values, values + frame_bytes(None)


def output_bytes(rows: int, width: int) -> tuple[int, int]:
    """Bytes of one component's answer to a request for outputs, down and up."""
    return frame_bytes("int64", (rows,)), frame_bytes("float32", (rows, width))


def written(values: Tensor, precision: Precision) -> NDArray[np.float32] | NDArray[np.int8]:
    """float32 values as a frame carries them."""
    return (pack(values) if precision == "int8" else values).detach().numpy()


def heard(array: NDArray[np.float32] | NDArray[np.int8]) -> Tensor:
    """Float32 values of what a frame carried."""
    tensor = torch.from_numpy(array)
    return unpack(tensor) if tensor.dtype is torch.int8 else tensor
