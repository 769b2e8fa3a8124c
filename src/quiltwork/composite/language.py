"""A composed language model with its provenance.

A composite is a description; ``model()`` builds the model, ``save`` writes the checkpoint, ``without(party)`` is the
composite that would have come of composing without that party, bit for bit:

    compose(S).without(p) == compose(S - {p})

since an assembly keeps every party's share apart. A saved mixture or ensemble keeps them apart on disk too, one shard a
party, so ``open_composite(path).without(p)`` needs no contribution, and ``save`` links the files that it shares with
``path`` (`quiltwork.models.resting`). A saved soup is a sum, and a sum cannot be undone exactly; it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.composite.provenance import HUB_NAME, PROVENANCE, Provenance, read_provenance, saved_kind, unknown_layout
from quiltwork.composite.table_card import plain
from quiltwork.composite.written import Written, read_written
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.fields import is_named
from quiltwork.errors import ExportError, InvalidOption
from quiltwork.files import new_directory
from quiltwork.models.assembly import Assembly, Blend, Layout, require_party
from quiltwork.models.averaged import AveragedExperts
from quiltwork.models.checkpoint import Checkpoint, Take, TokenizerFiles
from quiltwork.models.disassembly import disassemble
from quiltwork.models.joining import joined
from quiltwork.models.json_files import read_json
from quiltwork.models.plain import building, plain_config, require_answer
from quiltwork.models.pool import Pool
from quiltwork.models.resting import Resting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Composite:
    """A composed model.

    Attributes:
        assembly: what it is made of.
        provenance: where that comes from.
        tokenizer: the base's tokenizer.
        origin: the directory that its tensors lie in, if it was opened.
    """

    assembly: Assembly
    provenance: Provenance
    tokenizer: TokenizerFiles
    origin: Written | None = field(default=None, compare=False, repr=False)

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

        Args:
            party: a label, ``OWNER.SHARE`` say; or an owner, who leaves with all its shares.

        Raises:
            InvalidOption: the party is not in it.
            ExportError: nobody would be left, the party is in the base, or the body is an average that was saved.
            NeedsRetraining: the composite was tuned with the party in it.
        """
        leaving = [label for label in self.parties if is_named(label, [party])]
        if not leaving:
            self._refuse_inherited(party)
        require_party(self.assembly, leaving[0] if leaving else party)
        if not isinstance(self.assembly, AveragedExperts):
            self.provenance.require_apart(f"removing party '{party}'")
        if len(leaving) == len(self.parties):
            raise ExportError(f"removing party '{party}'", why="it is the only one left", mend="Use the base itself.")
        assembly = self.assembly
        for label in leaving:
            assembly = assembly.without(label)
        return replace(self, assembly=assembly, provenance=self.provenance.without(party))

    def _refuse_inherited(self, party: str) -> None:
        if any(is_named(entry.party, [party]) for entry in self.provenance.inherited):
            raise ExportError(
                f"removing party '{party}'",
                why="it is in the base, which was composed itself, and nobody can be taken out of a base",
                mend="Take it out of the model that became the base; new experts must be trained on the result.",
            )

    def with_parties(self, late: Composite) -> Composite:
        """The composite of the parties of both; ``late`` was composed on the same base, by the same method.

        Raises:
            ExportError: it is a soup, or its body is an average.
            NeedsRetraining: it was tuned with its parties in it.
        """
        self.provenance.require_apart("adding to it")
        entries = sorted((*self.provenance.contributions, *late.provenance.contributions), key=lambda e: e.party)
        assembly = joined(self.assembly, late.assembly)
        return replace(
            self, assembly=assembly, provenance=self.provenance.with_entries(tuple(entries), late.provenance)
        )

    def with_base_name(self, name: str) -> Composite:
        """The same model, whose card names the base as a model hub does: ``OWNER/NAME``.

        Raises:
            InvalidOption: no model can have that name.
        """
        if HUB_NAME.fullmatch(name) is None:
            mend = "Write OWNER/NAME, as the hub does; letters, digits, '.', '_' and '-'."
            raise InvalidOption(f"base name {name[:200]!a}", why="no model of a hub is called so", mend=mend)
        return replace(self, provenance=replace(self.provenance, base_name=name))

    def default_layout(self) -> Layout:
        """``portable`` if the public format can hold the model, else ``native``."""
        try:
            self.assembly.checkpoint("portable")
        except ExportError:
            return "native"
        return "portable"

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """The checkpoint with its documents but quiltwork.json, which says what all the others hold.

        Raises:
            ExportError: the layout cannot hold the model; the message names the nearest choice.
        """
        return replace(self.assembly.checkpoint(layout), documents={"README.md": self._card(layout).encode()})

    def model(self) -> PreTrainedModel:
        """The model in memory, in evaluation mode, from the same tensors that ``save`` writes (native layout).

        Raises:
            AlteredCheckpoint: it was opened from a directory, and a file there is not what was written.
            CheckpointError: it was, and transformers makes no model of what the directory says, or one whose answers
                are not finite numbers.
        """
        if self.origin is None:
            return _built(self.assembly.checkpoint("native"))
        self.origin.verify()
        with building(self.origin.path):
            model = _built(self.assembly.checkpoint("native"))
            require_answer(model, self.origin.path)
        return model

    def save(
        self,
        target: str | Path,
        *,
        layout: Layout | None = None,
        overwrite: bool = False,
        copy: bool = False,
        pool: Pool | None = None,
        last: Callable[[], None] | None = None,
    ) -> Path:
        """Write the checkpoint; all of it or nothing. Shards are read-only, since directories share them by links.

        Args:
            target: directory to make.
            layout: ``"portable"`` (plain transformers) or ``"native"``; by default portable where possible.
            overwrite: replace an existing directory.
            copy: link no file that the composite was opened from; each is read, checked and copied.
            pool: link shards from there, and keep there what it does not have yet.
            last: called when all is written and nobody can see it yet; if it raises, nothing is left behind.

        Raises:
            ExportError: the layout cannot hold the model.
            AlteredCheckpoint: it was opened from a directory, and a file there that must be read was changed.
            StorageError: the file system refuses.
        """
        layout = layout or self.default_layout()
        checkpoint = self.checkpoint(layout)
        with new_directory(target, overwrite=overwrite, read_only="*.safetensors") as partial:
            files = checkpoint.write(partial, self.tokenizer, take=self._taking(copy, pool))
            (partial / PROVENANCE).write_bytes(encode(self.provenance.to_json(layout, files)))
            if last is not None:
                last()
        return Path(target)

    def _taking(self, copy: bool, pool: Pool | None) -> Take:
        resting = Resting(self.origin.records() if self.origin is not None else {}, copy)
        if pool is None:
            return resting
        return lambda target, table: resting(target, table) or pool(target, table)

    def _card(self, layout: Layout) -> str:
        """README.md: what the model is made of, as the model hubs read it."""
        licences = sorted({plain(e.licence) for e in (*self.provenance.contributions, *self.provenance.inherited)})
        use = (
            "It loads in plain `transformers`."
            if layout == "portable"
            else "Load it with `import quiltwork` before `transformers.AutoModelForCausalLM.from_pretrained`."
        )
        name = self.provenance.base_name
        base_model = f'base_model:\n- "{name}"\nbase_model_relation: merge\n' if name else ""
        rows = "\n".join(f"| {e.party} | `{e.digest}` | {plain(e.licence)} |" for e in self.provenance.contributions)
        return (
            f"---\nlibrary_name: transformers\n{base_model}tags:\n- quiltwork\n- merge\n---\n"
            f"# Composed model ({self.provenance.method})\n\n"
            f"Composed with quiltwork from {len(self.parties)} contributions on one base. {use}\n\n"
            f"Base: {f'{name}, ' if name else ''}`{self.provenance.base}`\n\n"
            f"| party | contribution | licence |\n|---|---|---|\n{rows}\n\n{self._inherited()}"
            f"The contributions' licences: {', '.join(licences)}. {self._leaving()}\n"
        )

    def _inherited(self) -> str:
        """What the card says of a base that is a composite itself."""
        told = ", ".join(f"{e.party} (`{e.digest}`, {plain(e.licence)})" for e in self.provenance.inherited)
        return f"The base is composed itself, of contributions that stay in it: {told}.\n\n" if told else ""

    def _leaving(self) -> str:
        """What the card says of taking a party out."""
        tuned = self.provenance.tuned
        if tuned is not None:
            return f"Tuned on public text after composing ({tuned.what}): no party can be taken out of it."
        if self.provenance.averaged or isinstance(self.assembly, Blend):
            return "It holds sums over the parties: without one of them it is composed again."
        return "Taking a party out: `quiltwork remove THIS_DIRECTORY --party NAME --out NEW_DIRECTORY`."


def _built(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model of a native checkpoint, in evaluation mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from quiltwork.models.register import register

    register()
    tensors = checkpoint.tensors()
    stated = checkpoint.config
    native = "text_config" in stated
    plain = {**stated, "text_config": plain_config(stated["text_config"])} if native else plain_config(stated)
    config = AutoConfig.for_model(**plain)
    # built in its dtype, not converted to it: conversion would round rotary frequencies and evidence too
    model = AutoModelForCausalLM.from_config(config, dtype=next(iter(tensors.values())).torch_dtype)
    loaded = {name: source.load() for name, source in tensors.items()}
    missing, unexpected = model.load_state_dict(loaded, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    if unexpected or set(missing) - tied:
        raise AssertionError(f"assembly and model disagree: {sorted(set(missing) - tied)}, {sorted(unexpected)}")
    return model.eval()  # type: ignore[no-any-return]


def open_composite(path: str | Path) -> Composite:
    """A saved mixture or ensemble as a composite again, without base or contributions.

    Raises:
        CheckpointError: the directory is not a composite that quiltwork saved.
        AlteredCheckpoint: it is not as it was saved, as far as a look at what is small can tell.
        ExportError: it is a soup, which holds a sum only.
        InvalidOption: it is a mixture on tables or a composed network.
    """
    path = Path(path)
    provenance = read_provenance(path)
    if saved_kind(path) != "language":
        raise InvalidOption(
            f"'{path}'",
            why="it holds a mixture on tables or a composed network, and this opens language models",
            mend="Use `quiltwork predict`, or in Python quiltwork.compose.reopen.open_any.",
        )
    written = read_written(path)
    assembly = disassemble(path, provenance.parties)
    return Composite(assembly, provenance, TokenizerFiles.read(path), written)


def saved_layout(path: str | Path) -> Layout:
    """The layout in which a language model was saved, as its provenance says.

    Raises:
        CheckpointError: the provenance cannot be read or names no layout of a language model.
    """
    where = Path(path) / PROVENANCE
    layout = read_json(where).get("layout")
    if layout == "portable":
        return "portable"
    if layout == "native":
        return "native"
    raise unknown_layout(where, layout)
