"""What the manifest of every kind declares: its party, its payload, its privacy events, its name.

A kind adds what it stands on (a base, a table, a task), its method and its statistics: ``manifest`` and
``network_manifests``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from quiltwork.contribution import header
from quiltwork.contribution.fields import Card, Digest, FileName, PartyName, Positive, Short, TensorName
from quiltwork.contribution.kinds import Dtype
from quiltwork.privacy.events import Event, Record, Unit


class TensorEntry(Record):
    """One tensor of the payload; ``digest`` is over its little-endian bytes."""

    dtype: Dtype
    shape: Annotated[tuple[Positive, ...], Field(max_length=header.MAX_RANK)]
    digest: Digest


class PayloadFile(Record):
    """One file of the payload: size in bytes, digest over all of them, and its tensors."""

    bytes: Positive
    digest: Digest
    tensors: Annotated[dict[TensorName, TensorEntry], Field(min_length=1, max_length=10_000)]

    def types(self) -> dict[str, tuple[Dtype, tuple[int, ...]]]:
        """``{name: (dtype, shape)}``, what the safetensors header is made of."""
        return {name: (entry.dtype, entry.shape) for name, entry in self.tensors.items()}


class ManifestFields(Record):
    """What every kind declares. A kind adds what it stands on (a base, a table), its method and its statistics.

    ``protects`` is the unit of its privacy events.
    """

    protects: ClassVar[Unit]

    format: Literal["quiltwork-contribution"] = "quiltwork-contribution"
    version: Literal[1] = 1
    party: PartyName
    payload: Annotated[dict[FileName, PayloadFile], Field(max_length=8)]
    privacy: Annotated[tuple[Event, ...], Field(max_length=256)] = ()
    licence: Short
    card: Card = ""
    digest: Digest
