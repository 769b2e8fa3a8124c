"""A contribution that has been checked: the noun that composing works on.

It holds the manifest, not the tensors: those stay on disk until asked for. Between the check and the use
the file may change, so every tensor is hashed again on the bytes that are handed out; what is used is what
was declared.

Whoever reads every tensor anyway may leave the check of the tensors to that use, and reads each byte once::

    read(path, tensors="as used")  ->  use some  ->  settle(), which checks the others

What was made in between must not be let go of before `settle` has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.contribution import header, payload
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.declared import needs_of, parts_of
from quiltwork.contribution.directory import open_directory
from quiltwork.contribution.kinds import Requirement, provided
from quiltwork.contribution.manifest import Manifest, canonical_bytes
from quiltwork.contribution.manifest_fields import TensorEntry
from quiltwork.errors import MissingPart

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer


@dataclass(frozen=True)
class Contribution:
    """One contribution. Two are equal when their manifests are, wherever they lie.

    Attributes:
        path: its directory.
        manifest: everything it declares.
        unchecked: names of the tensors that nobody has checked yet.
    """

    path: Path = field(compare=False)
    manifest: Manifest
    unchecked: set[str] = field(default_factory=set, compare=False, repr=False)

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
        """What it holds: ``ffn``, ``lowrank``, ``full``, ``lora``, ``tokens``, ``bigrams``, ``trigrams``, ``moments``,
        ``proxies``; over a table ``mixture``, ``covariates``, ``precision``, ``likelihoods``; of networks ``module``,
        ``inputs``, ``classes``, ``outputs``, ``pair``, ``stitches``."""
        return frozenset(part.name for part in parts_of(self.manifest))

    @property
    def provides(self) -> frozenset[str]:
        """What methods may ask of it: its parts, and what they can be turned into (`kinds.provided`)."""
        return provided(self.parts)

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
        file, offset, entry = self._entry(name)
        with open_directory(self.path) as directory, directory.open(file) as (handle, _):
            tensor = payload.load(handle, offset, entry, self._called(name, file), self._check(name, entry))
        self.unchecked.discard(name)
        return tensor

    def pieces(self, name: str, size: int) -> Iterator[Buffer]:
        """One tensor's little-endian bytes, ``size`` bytes at a time, hashed again on the way.

        The errors of `tensor`; a digest that is not the declared one shows only after the last piece.
        """
        file, offset, entry = self._entry(name)
        with open_directory(self.path) as directory, directory.open(file) as (handle, _):
            yield from payload.pieces(handle, offset, entry, self._called(name, file), size, self._check(name, entry))
        self.unchecked.discard(name)

    def settle(self) -> None:
        """Check every tensor that nobody has checked yet; the errors of `tensor`."""
        for name in sorted(self.unchecked):
            for _ in self.pieces(name, payload.CHUNK):
                pass

    @cached_property
    def _needs(self) -> Mapping[str, Requirement | None]:
        return needs_of(self.manifest)

    def _check(self, name: str, entry: TensorEntry) -> payload.Check | None:
        if name not in self.unchecked:
            return None
        return lambda values: payload.check_values(values, self._needs.get(name), entry.dtype)

    def _called(self, name: str, file: str) -> str:
        return f"tensor '{name}' in {file} of party '{self.party}'"

    def _entry(self, name: str) -> tuple[str, int, TensorEntry]:
        """A tensor's file, where it starts there, and its declaration."""
        if name not in self._places:
            raise MissingPart(
                f"tensor {shown(name)}",
                why=f"the contribution of party '{self.party}' does not hold it",
                mend=f"It holds {', '.join(sorted(self.parts))}; choose among its tensor_names().",
            )
        file, offset = self._places[name]
        return file, offset, self.manifest.payload[file].tensors[name]
