"""What comes out of composing: a model with its provenance.

A composite is a description; ``model()`` builds the model, ``save`` writes the checkpoint, ``without(party)`` is the
composite that would have come of composing without that party, bit for bit:

    compose(S).without(p) == compose(S - {p})

since an assembly keeps every party's share apart. A saved mixture or ensemble keeps them apart on disk too, one shard a
party, so ``open_composite(path).without(p)`` needs no contribution. A saved soup is a sum, and a sum cannot be undone
exactly; it is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import CheckpointError, ExportError
from quiltwork.files import new_directory
from quiltwork.models.assembly import Assembly, Layout, require_party
from quiltwork.models.base import read_json
from quiltwork.models.checkpoint import Checkpoint, TokenizerFiles
from quiltwork.models.disassembly import disassemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROVENANCE = "quiltwork.json"
_FORMAT = "quiltwork-composite"


@dataclass(frozen=True)
class Entry:
    """One contribution in a composite: whose it is, its digest, its licence."""

    party: str
    digest: str
    licence: str


@dataclass(frozen=True)
class Provenance:
    """Where a composite comes from.

    Attributes:
        base: digest of the base.
        method: name of the method.
        contributions: what went in, sorted by party.
    """

    base: str
    method: str
    contributions: tuple[Entry, ...]

    def without(self, party: str) -> Provenance:
        """The provenance of the composite without ``party``."""
        return replace(self, contributions=tuple(e for e in self.contributions if e.party != party))

    def to_json(self, layout: Layout) -> dict[str, Any]:
        """The content of quiltwork.json."""
        return {
            "format": _FORMAT,
            "version": 1,
            "layout": layout,
            "base": self.base,
            "method": self.method,
            "contributions": [vars(e) for e in self.contributions],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: Path) -> Provenance:
        """Read quiltwork.json.

        Raises:
            CheckpointError: it does not have the fields, or is of another version.
        """
        try:
            if value["format"] != _FORMAT or value["version"] != 1:
                raise KeyError(f"version {value.get('version')!r}")
            entries = tuple(Entry(e["party"], e["digest"], e["licence"]) for e in value["contributions"])
            if not all(isinstance(text, str) for entry in entries for text in vars(entry).values()):
                raise KeyError("a contribution's party, digest or licence is not text")
            if [e.party for e in entries] != sorted({e.party for e in entries}):
                raise KeyError("parties are not sorted, or one is there twice")
            return cls(str(value["base"]), str(value["method"]), entries)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"'{where}'",
                why=f"it is not provenance that this version of quiltwork wrote ({error})",
                mend="Compose the model again.",
            ) from error


@dataclass(frozen=True)
class Composite:
    """A composed model.

    Attributes:
        assembly: what it is made of.
        provenance: where that comes from.
        tokenizer: the base's tokenizer.
    """

    assembly: Assembly
    provenance: Provenance
    tokenizer: TokenizerFiles

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties in it, sorted."""
        return self.assembly.parties

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the router's slots: ``base``, then the parties."""
        return ("base", *self.parties)

    def without(self, party: str) -> Composite:
        """The composite of the other contributions; see the module's docstring.

        Raises:
            InvalidOption: the party is not in it.
            ExportError: nobody would be left.
        """
        require_party(self.assembly, party)
        if len(self.parties) == 1:
            raise ExportError(f"removing party '{party}'", why="it is the only one left", mend="Use the base itself.")
        return Composite(self.assembly.without(party), self.provenance.without(party), self.tokenizer)

    def default_layout(self) -> Layout:
        """``portable`` if the public format can hold the model, else ``native``."""
        try:
            self.assembly.checkpoint("portable")
        except ExportError:
            return "native"
        return "portable"

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """The checkpoint with its documents.

        Raises:
            ExportError: the layout cannot hold the model; the message names the nearest choice.
        """
        documents = {
            PROVENANCE: (json.dumps(self.provenance.to_json(layout), indent=2, sort_keys=True) + "\n").encode(),
            "README.md": self._card(layout).encode(),
        }
        return replace(self.assembly.checkpoint(layout), documents=documents)

    def model(self) -> PreTrainedModel:
        """The model in memory, in evaluation mode, from the same tensors that ``save`` writes (native layout)."""
        from transformers import AutoConfig, AutoModelForCausalLM

        from quiltwork.models.register import register

        register()
        checkpoint = self.assembly.checkpoint("native")
        config = AutoConfig.for_model(**dict(checkpoint.config))
        # built in its dtype, not converted to it: conversion would round rotary frequencies and evidence too
        model = AutoModelForCausalLM.from_config(config, dtype=next(iter(checkpoint.tensors().values())).dtype)
        tensors = {name: source.load() for name, source in checkpoint.tensors().items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        if unexpected or set(missing) - tied:
            raise AssertionError(f"assembly and model disagree: {sorted(set(missing) - tied)}, {sorted(unexpected)}")
        return model.eval()  # type: ignore[no-any-return]

    def save(self, target: str | Path, *, layout: Layout | None = None, overwrite: bool = False) -> Path:
        """Write the checkpoint; all of it or nothing.

        Args:
            target: directory to make.
            layout: ``"portable"`` (plain transformers) or ``"native"``; by default portable where possible.
            overwrite: replace an existing directory.

        Raises:
            ExportError: the layout cannot hold the model.
            StorageError: the file system refuses.
        """
        checkpoint = self.checkpoint(layout or self.default_layout())
        with new_directory(target, overwrite=overwrite) as partial:
            checkpoint.write(partial, self.tokenizer)
        return Path(target)

    def _card(self, layout: Layout) -> str:
        """README.md: what the model is made of, as the model hubs read it."""
        licences = sorted({e.licence for e in self.provenance.contributions})
        use = (
            "It loads in plain `transformers`."
            if layout == "portable"
            else "Load it with `import quiltwork` before `transformers.AutoModelForCausalLM.from_pretrained`."
        )
        rows = "\n".join(f"| {e.party} | `{e.digest}` | {e.licence} |" for e in self.provenance.contributions)
        return (
            "---\nlibrary_name: transformers\ntags:\n- quiltwork\n- merge\n---\n"
            f"# Composed model ({self.provenance.method})\n\n"
            f"Composed with quiltwork from {len(self.parties)} contributions on one base. {use}\n\n"
            f"Base: `{self.provenance.base}`\n\n"
            f"| party | contribution | licence |\n|---|---|---|\n{rows}\n\n"
            f"The contributions' licences: {', '.join(licences)}. Taking a party out: "
            "`quiltwork remove THIS_DIRECTORY --party NAME --out NEW_DIRECTORY`.\n"
        )


def open_composite(path: str | Path) -> Composite:
    """A saved mixture or ensemble as a composite again, without base or contributions.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved.
        ExportError: it is a soup, which holds a sum only.
    """
    path = Path(path)
    if not (path / PROVENANCE).is_file():
        raise CheckpointError(
            f"'{path}'",
            why=f"it holds no {PROVENANCE}",
            mend="Give a directory that `quiltwork compose` wrote.",
        )
    value = read_json(path / PROVENANCE)
    provenance = Provenance.from_json(value, path / PROVENANCE)
    for entry in provenance.contributions:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", entry.party):
            raise CheckpointError(
                f"party {entry.party!r} in '{path / PROVENANCE}'",
                why="it is not a party's name",
                mend="Compose the model again.",
            )
    assembly = disassemble(path, tuple(e.party for e in provenance.contributions))
    return Composite(assembly, provenance, TokenizerFiles.read(path))


def saved_layout(path: str | Path) -> Layout:
    """The layout in which a composite was saved, as its provenance says.

    Raises:
        CheckpointError: the provenance cannot be read or names no layout.
    """
    where = Path(path) / PROVENANCE
    layout = read_json(where).get("layout")
    if layout == "portable":
        return "portable"
    if layout == "native":
        return "native"
    raise CheckpointError(f"'{where}'", why=f"it names no known layout ({layout!r})", mend="Compose the model again.")
