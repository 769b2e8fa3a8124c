"""The space in which parties summarise their inputs: one declared map, the same for all of them.

    identity    e(x) = x
    random      e(x) = x P / sqrt(D)          P: [D, d], entries of mean 0 and variance 1, from a seed
    module      e(x) = the activation of a public module at a point; whoever holds the module computes it

where x is a raw input, flattened to D numbers. Random projections keep distances on average (Johnson and
Lindenstrauss 1984), which holds for any entries with light tails and not for normal ones alone (Achlioptas 2003).
An entry of P is a sum of eight bytes, centred and scaled: nearly normal, and computed in whole numbers from the
PCG64 stream, so that parties who never meet hold the same P on any machine and under any version of NumPy, whose
normal draws promise neither. The product x P is summed in whatever order the machine's BLAS likes; parties agree up to
rounding there, and nothing rests on more.

>>> spec = RandomEmbedding(dimension=2, seed=7)
>>> embed(spec, np.eye(3)).shape
(3, 2)
>>> bool((embed(IdentityEmbedding(), np.eye(3)) == np.eye(3)).all())
True
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Discriminator, Field, StringConstraints

from quiltwork.errors import InvalidOption
from quiltwork.evidence.gaussian import finite_table
from quiltwork.privacy.events import Record

Array = NDArray[np.float64]

MOST_DIMENSIONS = 4096
"""Widest embedding: a covariance of it has 2^24 numbers."""

MOST_ENTRIES = 2**26
"""Most entries of a projection, 512 MiB."""

_BYTES = 8
_CENTRE = _BYTES * 255 // 2
_SPREAD = math.sqrt(_BYTES * (256**2 - 1) / 12)


class IdentityEmbedding(Record):
    """The flattened input itself."""

    kind: Literal["identity"] = "identity"


class RandomEmbedding(Record):
    """Random projections of the flattened input.

    Attributes:
        dimension: d, how many.
        seed: of the entries; all parties name the same.
    """

    kind: Literal["random"] = "random"
    dimension: Annotated[int, Field(ge=1, le=MOST_DIMENSIONS)] = 40
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class ModuleEmbedding(Record):
    """Features of a public module.

    Attributes:
        party: whose module it is.
        digest: of the module.
        point: the name of the place whose activation it is; a map or tokens are averaged over their grid.
        dimension: d, the channels of that place.
    """

    kind: Literal["module"] = "module"
    party: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    point: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,240}$")]
    dimension: Annotated[int, Field(ge=1, le=MOST_DIMENSIONS)]


Embedding: TypeAlias = Annotated[IdentityEmbedding | RandomEmbedding | ModuleEmbedding, Discriminator("kind")]
"""Any embedding, told apart by its ``kind``."""


def embed(spec: Embedding, rows: ArrayLike) -> Array:
    """Rows in the embedding, float64 ``[n, d]``.

    Args:
        spec: the identity or random projections.
        rows: ``[n, D]``, raw inputs, each flattened in C order (channels, rows, columns).

    Raises:
        InvalidOption: the rows are no finite table, a projection of them would be too large, or the embedding is a
            module's: its features come from whoever holds the module.
    """
    table = finite_table(rows)
    if isinstance(spec, IdentityEmbedding):
        return table
    if isinstance(spec, RandomEmbedding):
        return np.asarray(table @ projection(spec, table.shape[1]), dtype=np.float64)
    raise InvalidOption(
        f"embedding by the module of party '{spec.party}'",
        why="its features are not computed from rows alone",
        mend=f"Run that module and hand over its activation at {spec.point!r}.",
    )


def width(spec: Embedding, inputs: int) -> int:
    """d for raw inputs of ``inputs`` numbers."""
    return inputs if isinstance(spec, IdentityEmbedding) else spec.dimension


def projection(spec: RandomEmbedding, inputs: int) -> Array:
    """``P / sqrt(D)``, float64 ``[D, d]``, read-only; the same bytes everywhere.

    Args:
        spec: dimension and seed.
        inputs: D.

    Raises:
        InvalidOption: it would have more than `MOST_ENTRIES`.
    """
    if inputs * spec.dimension > MOST_ENTRIES:
        raise InvalidOption(
            f"random projections of {inputs} numbers to {spec.dimension}",
            why=f"that matrix would have more than {MOST_ENTRIES} entries",
            mend="Choose fewer dimensions, or a public module's features.",
        )
    return _projection(spec.seed, inputs, spec.dimension)


@lru_cache(maxsize=4)
def _projection(seed: int, inputs: int, dimension: int) -> Array:
    words = np.random.PCG64(seed).random_raw(inputs * dimension).astype("<u8")
    entries = words.view(np.uint8).reshape(inputs, dimension, _BYTES).sum(axis=2, dtype=np.int64)
    matrix = (entries - _CENTRE) / (_SPREAD * math.sqrt(inputs))
    matrix.setflags(write=False)
    return np.asarray(matrix, dtype=np.float64)
