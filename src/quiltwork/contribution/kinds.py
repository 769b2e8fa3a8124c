"""The closed set of what a contribution to a language model can hold, and the tensors of each part.

A contribution is made of *parts*: what its method releases (``ffn``, ``lowrank``, ``full``, ``lora``) and its
statistics (``tokens``, ``bigrams``, ``trigrams``, ``moments``, ``proxies``). A part names its file and its tensors; a
tensor's name starts with its part. So the manifest's small parameters determine every name and shape of the payload,
and anything else is refused by name::

    part  -> file                     ffn.safetensors, full.safetensors, ..., else statistics.safetensors
    part  -> {tensor: Requirement}    shape, allowed dtypes, domain of the values
    full  -> any names ``full.*``     only the composer, who has the base, can check them; ``lora`` likewise

A method asks for what a part is good for, not for how it is stored: low-rank factors make feed-forward weights when the
composer adds the base, and factors of a whole model make its difference (`provided`).

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
from collections.abc import Collection, Mapping
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


class RoutedExpert(Record):
    """What every expert of a mixture declares, however its weights are stored.

    Attributes:
        layers: number of layers, each with one expert.
        hidden_size: H, the width of the residual stream.
        intermediate_size: I, the width of the expert's feed-forward layer.
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

    def shapes(self) -> dict[str, tuple[int, int]]:
        """[out, in] of each projection: gate and up [I, H], down [H, I]."""
        wide = (self.intermediate_size, self.hidden_size)
        return {"gate_proj": wide, "up_proj": wide, "down_proj": (self.hidden_size, self.intermediate_size)}

    def in_layers(self, part: str, weights: Mapping[str, Requirement]) -> dict[str, Requirement]:
        """The tensors of a part: those of each layer, and the router's where it is released."""
        row = {"router.weight": Requirement((self.hidden_size,))} if self.router else {}
        bias = {"router.bias": Requirement((1,))} if self.bias else {}
        due = {**weights, **row, **bias}
        return {f"{part}.layers.{i}.{name}": need for i in range(self.layers) for name, need in due.items()}


class FFNExpert(RoutedExpert):
    """Feed-forward weights trained as one expert of a mixture, and its router rows where they are released.

    ``intermediate_size`` may be smaller than the base's: a narrow expert.
    """

    def required_tensors(self) -> dict[str, Requirement]:
        """Names and shapes, layer by layer: gate and up [I, H], down [H, I], router row [H], bias [1]."""
        weights = {f"{role}.weight": Requirement(shape) for role, shape in self.shapes().items()}
        return self.in_layers("ffn", weights)


Share = Annotated[float, Field(ge=0, le=1)]


class RetainedShares(Record):
    """Share of the squared Frobenius norm of each projection's change that the factors keep, in one layer."""

    gate_proj: Share
    up_proj: Share
    down_proj: Share


class LowRankExpert(RoutedExpert):
    """A feed-forward expert as low-rank changes of the base's projections: W + up @ down.

    Attributes:
        rank: r, columns of each ``up`` and rows of each ``down``.
        retained: by layer, what a truncated singular value decomposition kept; None where factors were trained.
    """

    rank: Width
    retained: Annotated[tuple[RetainedShares, ...], Field(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> LowRankExpert:
        if self.rank > min(self.hidden_size, self.intermediate_size):
            raise ValueError("rank is larger than a projection's smaller side")
        if self.retained is not None and len(self.retained) != self.layers:
            raise ValueError("retained does not have one entry a layer")
        return self

    def required_tensors(self) -> dict[str, Requirement]:
        """Names and shapes, layer by layer: ``down`` [r, in] and ``up`` [out, r] of each projection, row and bias."""
        weights: dict[str, Requirement] = {}
        for role, (out, put_in) in self.shapes().items():
            weights[f"{role}.down"] = Requirement((self.rank, put_in))
            weights[f"{role}.up"] = Requirement((out, self.rank))
        return self.in_layers("lowrank", weights)


class FullExpert(Record):
    """All weights of a model trained from the base, as differences: ``full.<name in the base>``.

    Attributes:
        form: ``"delta"``: trained minus base.
    """

    form: Literal["delta"] = "delta"

    def required_tensors(self) -> None:
        """Any names of the base; only who has it can check them."""


class LoRAExpert(Record):
    """A whole model as low-rank changes of some tensors (LoRA, arXiv 2106.09685): base + scaling * b @ a.

    Tensors ``lora.<name in the base>.a`` [r, in] and ``.b`` [out, r]; what is not named stays as the base has it.

    Attributes:
        rank: r.
        scaling: alpha / r.
    """

    rank: Width
    scaling: Annotated[float, Field(gt=0)]

    def required_tensors(self) -> None:
        """Any names of the base's matrices; only who has it can check them."""


class ExpertMethod(Record):
    """Weights of a language model: a feed-forward expert, a whole model, or both; each in one form."""

    kind: ClassVar[Literal["expert"]] = "expert"
    ffn: FFNExpert | None = None
    lowrank: LowRankExpert | None = None
    full: FullExpert | None = None
    lora: LoRAExpert | None = None

    @model_validator(mode="after")
    def _holds_one_of_each(self) -> ExpertMethod:
        if not self.parts():
            raise ValueError("an expert releases at least one of ffn, lowrank, full and lora")
        if self.ffn is not None and self.lowrank is not None:
            raise ValueError("ffn and lowrank are two forms of one expert; release one of them")
        if self.full is not None and self.lora is not None:
            raise ValueError("full and lora are two forms of one model; release one of them")
        return self

    @property
    def routed(self) -> FFNExpert | LowRankExpert | None:
        """The feed-forward expert, in whichever form; None where there is none."""
        return self.ffn or self.lowrank

    def parts(self) -> tuple[Part, ...]:
        """``ffn`` or ``lowrank``, ``full`` or ``lora``, whichever are present."""
        forms = (("ffn", self.ffn), ("lowrank", self.lowrank), ("full", self.full), ("lora", self.lora))
        return tuple(Part(n, f"{n}.safetensors", one.required_tensors()) for n, one in forms if one is not None)


_STANDS_FOR: Mapping[str, str] = {"lowrank": "ffn", "lora": "full"}


def provided(parts: Collection[str]) -> frozenset[str]:
    """What methods may ask of a contribution that holds some parts.

    >>> sorted(provided({"lowrank", "tokens"}))
    ['ffn', 'lowrank', 'tokens']
    """
    return frozenset(parts) | {_STANDS_FOR[part] for part in parts if part in _STANDS_FOR}


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


class _HashedHistogram(Record):
    """How often each cell of a hash occurs."""

    name: str
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
        return Part(self.name, "statistics.safetensors", {f"{self.name}.counts": counts})


class BigramHistogramStatistic(_HashedHistogram):
    """How often each hashed pair of neighbouring tokens occurs: ``bigrams.counts`` F64 [cells], in [0, 2^53].

    Attributes:
        cells: number of hash cells, a power of two; the hash is `quiltwork.evidence.bigrams.cell`.
    """

    name: Literal["bigrams"] = "bigrams"


class TrigramHistogramStatistic(_HashedHistogram):
    """How often each hashed triple of neighbouring tokens occurs: ``trigrams.counts`` F64 [cells], in [0, 2^53].

    Attributes:
        cells: number of hash cells, a power of two; the hash is `quiltwork.evidence.trigrams.cell`.
    """

    name: Literal["trigrams"] = "trigrams"


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


class PublicProxiesStatistic(Record):
    """Public documents that an owner says resemble its own: ``proxies.documents`` F64 [documents].

    A document is named by the first 53 bits of the SHA-256 of its UTF-8 text, a whole number.

    Attributes:
        documents: how many are named, the most relevant first.
    """

    name: Literal["proxies"] = "proxies"
    documents: Annotated[int, Field(ge=1, le=2**20)]

    def part(self, vocabulary_size: int) -> Part:  # noqa: ARG002
        """The one tensor, a number a document."""
        numbers = Requirement((self.documents,), ("F64",), least=0.0, most=float(2**53 - 1))
        return Part(self.name, "statistics.safetensors", {"proxies.documents": numbers})


Statistic: TypeAlias = Annotated[
    TokenHistogramStatistic
    | BigramHistogramStatistic
    | TrigramHistogramStatistic
    | ResidualMomentsStatistic
    | PublicProxiesStatistic,
    Field(discriminator="name"),
]
"""Any declared statistic, told apart by its ``name``."""
