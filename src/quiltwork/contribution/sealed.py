"""A contribution that has been checked in full: the noun that composing works on.

It holds the manifest, not the tensors: those stay on disk until asked for. Between the check and the use
the file may change, so every tensor is hashed again on the bytes that are handed out; what is used is what
was declared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.contribution import header, payload
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.declared import parts_of
from quiltwork.contribution.directory import open_directory
from quiltwork.contribution.manifest import Manifest, canonical_bytes
from quiltwork.errors import MissingPart

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Contribution:
    """One contribution. Two are equal when their manifests are, wherever they lie.

    Attributes:
        path: its directory.
        manifest: everything it declares.
    """

    path: Path = field(compare=False)
    manifest: Manifest

    def __hash__(self) -> int:
        return hash(self.manifest.digest)

    @property
    def digest(self) -> str:
        """The contribution's name, ``"sha256:..."``: a digest over manifest and payload."""
        return self.manifest.digest

    @property
    def party(self) -> str:
        """The name of the data owner."""
        return self.manifest.party

    @property
    def kind(self) -> str:
        """One of the kinds of docs/format.md, such as ``"expert"``, ``"mixture"`` or ``"module"``."""
        return self.manifest.kind

    @property
    def parts(self) -> frozenset[str]:
        """What it holds: ``ffn``, ``full``, ``tokens``, ``bigrams``, ``moments``; over a table ``mixture``,
        ``covariates``, ``precision``, ``likelihoods``; about networks ``module``, ``inputs``, ``classes``, ``outputs``,
        ``pair``, ``stitches``."""
        return frozenset(part.name for part in parts_of(self.manifest))

    @cached_property
    def bytes(self) -> int:
        """Size of everything that left the party: manifest and payload."""
        return len(canonical_bytes(self.manifest)) + sum(file.bytes for file in self.manifest.payload.values())

    @cached_property
    def _places(self) -> dict[str, tuple[str, int]]:
        """Tensor name -> its file, and the byte at which it starts there."""
        found: dict[str, tuple[str, int]] = {}
        for file, declared in self.manifest.payload.items():
            types = declared.types()
            start = len(header.build(types))
            found |= {name: (file, start + span.begin) for name, span in header.layout(types).items()}
        return found

    def tensor_names(self, prefix: str = "") -> tuple[str, ...]:
        """Sorted names of the tensors that start with ``prefix``."""
        return tuple(sorted(name for name in self._places if name.startswith(prefix)))

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, read now and hashed again.

        Args:
            name: as in `tensor_names`.

        Returns:
            a CPU tensor of the declared dtype and shape; the caller owns it.

        Raises:
            MissingPart: there is no such tensor.
            AlteredContribution: its bytes are not those that were checked.
            MalformedContribution: the file cannot be opened any more.
        """
        if name not in self._places:
            raise MissingPart(
                f"tensor {shown(name)}",
                why=f"the contribution of party '{self.party}' does not hold it",
                mend=f"It holds {', '.join(sorted(self.parts))}; choose among its tensor_names().",
            )
        file, offset = self._places[name]
        entry = self.manifest.payload[file].tensors[name]
        with open_directory(self.path) as directory, directory.open(file) as (handle, _):
            return payload.load(handle, offset, entry, f"tensor '{name}' of party '{self.party}'")
