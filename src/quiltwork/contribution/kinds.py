"""The closed set of what a contribution to a language model can hold, and the tensors of each part.

A contribution is made of *parts*: what its method releases (``ffn``, ``full``) and its statistics
(``tokens``, ``bigrams``, ``moments``). A part names its file and its tensors; a tensor's name starts with its part. So
the manifest's small parameters determine every name and shape of the payload, and anything else is refused
by name::

    part  -> file                     ffn.safetensors, full.safetensors, else statistics.safetensors
    part  -> {tensor: Requirement}    shape, allowed dtypes, domain of the values
    full  -> any names ``full.*``     only the composer, who has the base, can check them

A new kind is a new method class with ``kind`` and ``parts()``, here or in a room of its own like ``tables``, a manifest
class, and a row in ``manifest.MANIFESTS``; a new statistic likewise joins a union. Nothing is looked up by a name from
outside.

>>> ffn = FFNExpert(layers=1, hidden_size=4, intermediate_size=8, anchor_share=1.0, router=True, bias=False)
>>> for name, requirement in ffn.required_tensors().items():
...     print(name, requirement.shape)
ffn.layers.0.gate_proj.weight (8, 4)
ffn.layers.0.up_proj.weight (8, 4)
ffn.layers.0.down_proj.weight (4, 8)
ffn.layers.0.router.weight (4,)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import Field, field_validator, model_validator

from quiltwork.privacy.events import Record

Dtype: TypeAlias = Literal["F64", "F32", "BF16", "F16"]
"""Element types in the words of safetensors. All that leaves is floating point, so the set is small."""

WEIGHTS: tuple[Dtype, ...] = ("F64", "F32", "BF16", "F16")
_MOMENTS: tuple[Dtype, ...] = ("F64", "F32")

Layers = Annotated[int, Field(ge=1, le=1024)]
Width = Annotated[int, Field(ge=1, le=2**24)]


class Requirement(NamedTuple):
    """What one tensor must be: its shape, the dtypes it may have, the closed interval of its values."""

    shape: tuple[int, ...]
    dtypes: tuple[Dtype, ...] = WEIGHTS
    least: float = -math.inf
    most: float = math.inf


class Part(NamedTuple):
    """One thing that leaves: its name, its file, its tensors (``None``: any that start with its name)."""

    name: str
    file: str
    required: Mapping[str, Requirement] | None


class FFNExpert(Record):
    """Feed-forward weights trained as one expert of a mixture, and its router rows where they are released.

    Attributes:
        layers: number of layers, each with one expert.
        hidden_size: H, the width of the residual stream.
        intermediate_size: I, the width of the feed-forward layer.
        top_k: experts active per token that the owner recommends for composition; None recommends all.
        anchor_share: share of the training sequences answered together with the base's frozen feed-forward.
        router: one router row [H] a layer is released.
        bias: one router bias [1] a layer is released.
    """

    layers: Layers
    hidden_size: Width
    intermediate_size: Width
    top_k: Annotated[int, Field(ge=1, le=1024)] | None = None
    anchor_share: Annotated[float, Field(ge=0, le=1)]
    router: bool
    bias: bool

    def required_tensors(self) -> dict[str, Requirement]:
        """Names and shapes, layer by layer: gate and up [I, H], down [H, I], router row [H], bias [1]."""
        wide = Requirement((self.intermediate_size, self.hidden_size))
        rows = {
            "gate_proj.weight": wide,
            "up_proj.weight": wide,
            "down_proj.weight": Requirement((self.hidden_size, self.intermediate_size)),
        }
        if self.router:
            rows["router.weight"] = Requirement((self.hidden_size,))
        if self.bias:
            rows["router.bias"] = Requirement((1,))
        return {f"ffn.layers.{i}.{name}": row for i in range(self.layers) for name, row in rows.items()}


class FullExpert(Record):
    """All weights of a model trained from the base, as differences: ``full.<name in the base>``.

    Attributes:
        form: ``"delta"``: trained minus base.
    """

    form: Literal["delta"] = "delta"


class ExpertMethod(Record):
    """Weights of a language model: a feed-forward expert, a whole model, or both."""

    kind: ClassVar[Literal["expert"]] = "expert"
    ffn: FFNExpert | None = None
    full: FullExpert | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> ExpertMethod:
        if self.ffn is None and self.full is None:
            raise ValueError("an expert releases at least one of ffn and full")
        return self

    def parts(self) -> tuple[Part, ...]:
        """``ffn`` and ``full``, whichever are present."""
        found = []
        if self.ffn is not None:
            found.append(Part("ffn", "ffn.safetensors", self.ffn.required_tensors()))
        if self.full is not None:
            found.append(Part("full", "full.safetensors", None))
        return tuple(found)


class StatisticsMethod(Record):
    """No weights: the contribution holds its statistics and nothing else."""

    kind: ClassVar[Literal["statistics"]] = "statistics"

    def parts(self) -> tuple[Part, ...]:
        """None of its own."""
        return ()


class TokenHistogramStatistic(Record):
    """How often each token of the base's vocabulary occurs: ``tokens.counts`` F64 [vocabulary_size].

    Counts lie in [0, 2^53]: noise may make them fractional, and their sum stays finite.
    """

    name: Literal["tokens"] = "tokens"

    def part(self, vocabulary_size: int) -> Part:
        """The one tensor, as long as the vocabulary."""
        counts = Requirement((vocabulary_size,), ("F64",), least=0.0, most=float(2**53))
        return Part(self.name, "statistics.safetensors", {"tokens.counts": counts})


class BigramHistogramStatistic(Record):
    """How often each hashed pair of neighbouring tokens occurs: ``bigrams.counts`` F64 [cells], in [0, 2^53].

    Attributes:
        cells: number of hash cells, a power of two; the hash is `quiltwork.evidence.bigrams.cell`.
    """

    name: Literal["bigrams"] = "bigrams"
    cells: Annotated[int, Field(ge=2, le=2**24)]

    @field_validator("cells")
    @classmethod
    def _power_of_two(cls, cells: int) -> int:
        if cells & (cells - 1):
            raise ValueError("cells is not a power of two")
        return cells

    def part(self, vocabulary_size: int) -> Part:  # noqa: ARG002
        """The one tensor, as long as there are cells."""
        counts = Requirement((self.cells,), ("F64",), least=0.0, most=float(2**53))
        return Part(self.name, "statistics.safetensors", {"bigrams.counts": counts})


class ResidualMomentsStatistic(Record):
    """First two moments of what enters each feed-forward: ``moments.layers.{l}.mean`` and ``.second``.

    Attributes:
        layers: number of layers.
        hidden_size: H.
        second: ``"full"``: covariances [H, H]; ``"diagonal"``: variances [H].
        rows: number of token positions that the moments average over.
    """

    name: Literal["moments"] = "moments"
    layers: Layers
    hidden_size: Width
    second: Literal["full", "diagonal"]
    rows: Annotated[int, Field(ge=1)]

    def part(self, vocabulary_size: int) -> Part:  # noqa: ARG002
        """Two tensors a layer; the vocabulary does not matter to them."""
        width = self.hidden_size
        mean = Requirement((width,), _MOMENTS)
        second = Requirement((width, width), _MOMENTS)
        if self.second == "diagonal":
            second = Requirement((width,), _MOMENTS, least=0.0)
        rows = {"mean": mean, "second": second}
        tensors = {f"moments.layers.{i}.{name}": row for i in range(self.layers) for name, row in rows.items()}
        return Part(self.name, "statistics.safetensors", tensors)


Statistic: TypeAlias = Annotated[
    TokenHistogramStatistic | BigramHistogramStatistic | ResidualMomentsStatistic,
    Field(discriminator="name"),
]
"""Any declared statistic, told apart by its ``name``."""
