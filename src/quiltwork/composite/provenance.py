"""Where a composite comes from: quiltwork.json, the one file that every saved composite has.

It lists what went in (party, digest, licence), sorted by party, and names the method and the layout. Nothing in it
names code. Only to a composed network may a party have handed over several contributions; to a language model an owner
may hand over several experts, each under a label of its own, ``OWNER.SHARE``.

Of a language model it also holds the method's options, so that others can join, and the size and digest of every other
file (`quiltwork.composite.written` holds the directory against them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quiltwork.composite.tuned import Tuned
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.fields import LABEL, is_named, owner_of
from quiltwork.contribution.manifest import FILE as CONTRIBUTION
from quiltwork.errors import CheckpointError, ExportError, NeedsRetraining
from quiltwork.files import FileRecord
from quiltwork.models.assembly import Layout
from quiltwork.models.json_files import read_json
from quiltwork.privacy.events import printable

if TYPE_CHECKING:
    from quiltwork.contribution.trust import Trust

PROVENANCE = "quiltwork.json"
FORMAT = "quiltwork-composite"
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
"""A model's name on a hub: ``NAME`` or ``OWNER/NAME``. It ends up in YAML, where these characters mean nothing else."""

_MEND = "Compose the model again."
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One contribution in a composite: its label, its digest, its licence."""

    party: str
    digest: str
    licence: str

    @property
    def owner(self) -> str:
        """Whose it is: the label up to the dot."""
        return owner_of(self.party)


@dataclass(frozen=True)
class Provenance:
    """Where a composite comes from.

    Attributes:
        base: digest of the base; None where the parties started from none.
        method: name of the method.
        contributions: what went in, sorted by party.
        base_name: what the base is called on a model hub, where someone said so.
        options: the fields of a language method as JSON, without who takes part; None where they cannot be written.
        tuned: what was tuned on public text after composing, if anything was.
        averaged: the body is a mean over the parties, of which a saved model has the sum only.
        public: digest of the public text that a language model was composed with (`quiltwork.compose.public_digest`).
        inherited: what is in the base, where that is a composite itself, sorted; no party of these can be taken out.
    """

    base: str | None
    method: str
    contributions: tuple[Entry, ...]
    base_name: str | None = None
    options: Mapping[str, Any] | None = None
    tuned: Tuned | None = None
    averaged: bool = False
    public: str | None = None
    inherited: tuple[Entry, ...] = ()

    @property
    def parties(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(entry.party for entry in self.contributions)

    def without(self, party: str) -> Provenance:
        """The provenance of the composite without ``party``: an owner with all its shares, or one of them."""
        rest = tuple(e for e in self.contributions if not is_named(e.party, [party]))
        options = None if self.options is None else kept_options(self.options, [e.party for e in rest])
        return replace(self, contributions=rest, options=options)

    def with_entries(self, entries: tuple[Entry, ...], late: Provenance) -> Provenance:
        """The provenance of the composite of ``entries``, of which ``late`` remembers the options of those who join."""
        if self.options is None or late.options is None:
            return replace(self, contributions=entries, options=None)
        options = _both(self.options, late.options)
        return replace(self, contributions=entries, options=kept_options(options, [e.party for e in entries]))

    def require_apart(self, doing: str) -> None:
        """Refuse to divide among the parties what holds them together.

        Args:
            doing: what is asked for, ``"removing party 'acme'"`` say.

        Raises:
            NeedsRetraining: the model was tuned with all parties in it.
            ExportError: its body is an average.
        """
        if self.tuned is not None:
            raise NeedsRetraining(
                doing,
                why=f"the model was tuned on public text with all its parties in it ({self.tuned.what})",
                mend="Do it to the composite from before tuning, then tune again: quiltwork tune.",
            )
        if self.averaged:
            raise ExportError(
                doing,
                why="the body of the model is an average, in which no party can be told from another",
                mend="Run `quiltwork compose` with the contributions of the parties that you want.",
            )

    def refuse_revoked(self, trust: Trust) -> None:
        """Refuse a composite of which a party took its contribution back.

        Raises:
            RevokedContribution: one did; by whom, when and why is said.
        """
        for entry in self.contributions:
            mend = f"Take it out: quiltwork remove DIRECTORY --party {entry.party} --out NEW, or compose without it."
            trust.refuse_revoked(entry.party, entry.digest, mend)
        refuse_inherited(self.inherited, trust)

    def to_json(self, layout: Layout, files: Mapping[str, FileRecord]) -> dict[str, Any]:
        """The content of quiltwork.json of a language model.

        Args:
            layout: how its tensors are written.
            files: every other file of the directory.
        """
        stated: dict[str, Any] = {} if self.base_name is None else {"base_name": self.base_name}
        stated |= {"averaged": True} if self.averaged else {}
        stated |= {} if self.tuned is None else {"tuned": self.tuned.model_dump(mode="json")}
        stated |= {"inherited": [vars(e) for e in self.inherited]} if self.inherited else {}
        value = stated | {
            "format": FORMAT,
            "version": 1,
            "layout": layout,
            "base": self.base,
            "method": self.method,
            "options": self.options,
            "public": self.public,
            "contributions": [vars(e) for e in self.contributions],
            "files": {name: vars(files[name]) for name in sorted(files)},
        }
        return value | {"digest": digest_over(value)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: Path) -> Provenance:
        """Read quiltwork.json.

        Raises:
            CheckpointError: it does not have the fields, or is of another version.
        """
        try:
            if value["format"] != FORMAT or value["version"] != 1:
                raise KeyError(f"version {value.get('version')!r}")
            entries, inherited = _entries(value["contributions"]), _entries(value.get("inherited", []))
            parties = [e.party for e in entries]
            due = sorted(parties if value["layout"] == "network" else set(parties))
            if parties != due or len(set(entries)) < len(entries):
                raise KeyError("parties are not sorted, or one is there twice")
            base, name = value["base"], value.get("base_name")
            text = value["layout"] in ("portable", "native")
            options, public = (value["options"], value["public"]) if text else (None, None)
            if not (options is None or isinstance(options, dict)) or not (public is None or isinstance(public, str)):
                raise KeyError("the method's options are no object, or the public text's digest is no text")
            if name is not None and not (isinstance(name, str) and HUB_NAME.fullmatch(name)):
                raise KeyError("the base's name is none of a model hub")
            tuned = None if value.get("tuned") is None else Tuned.model_validate(value["tuned"])
            averaged = value.get("averaged", False)
            if not isinstance(averaged, bool):
                raise KeyError("'averaged' is neither true nor false")
            if not ((base is None or _DIGEST.fullmatch(base)) and _shows(value["method"])):
                raise KeyError("the base's digest or the method's name is none")
            return cls(base, value["method"], entries, name, options, tuned, averaged, public, inherited)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"'{where}'",
                why=f"it is not provenance that this version of quiltwork wrote ({error})",
                mend=_MEND,
            ) from error


def _shows(text: Any) -> bool:
    """Whether a text is one that a contribution could have stated, and that a terminal can show."""
    return isinstance(text, str) and 0 < len(text) <= 100 and printable(text) == text


def _entries(value: Any) -> tuple[Entry, ...]:
    """Entries as quiltwork.json lists them.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    entries = tuple(Entry(e["party"], e["digest"], e["licence"]) for e in value)
    for entry in entries:
        if not (re.fullmatch(LABEL, entry.party) and _DIGEST.fullmatch(entry.digest) and _shows(entry.licence)):
            raise KeyError("a contribution's party, digest or licence is none")
    return entries


def refuse_inherited(entries: Iterable[Entry], trust: Trust) -> None:
    """Refuse a base of which a party took its contribution back.

    Raises:
        RevokedContribution: one did; by whom, when and why is said.
    """
    for entry in entries:
        mend = "It is in the base: take it out of the composite that the base is, and start from what is left."
        trust.refuse_revoked(entry.party, entry.digest, mend)


def digest_over(value: Mapping[str, Any]) -> str:
    """The digest of what quiltwork.json says: over all its fields but ``digest``."""
    return FileRecord.of(encode({name: item for name, item in value.items() if name != "digest"})).digest


def kept_options(options: Mapping[str, Any], parties: Iterable[str]) -> dict[str, Any]:
    """A method's options as they are remembered of a composite of ``parties``.

    Who takes part is said by its contributions, so ``include`` is dropped, and with a party go its weight and the
    prompts that were written for it, whichever part of the method has them.
    """
    present = tuple(parties)
    kept = {name: _kept(name, value, present) for name, value in options.items() if name != "include"}
    if isinstance(weights := kept.get("weights"), Mapping):
        kept["weights"] = {name: weights[name] for name in sorted({"base", *present} & weights.keys())}
    return kept


def _kept(name: str, value: Any, parties: tuple[str, ...]) -> Any:
    if not isinstance(value, Mapping) or name == "weights":
        return value
    if name == "prompts":
        return {key: value[key] for key in sorted(prompted(value, parties))}
    return {inner: _kept(inner, item, parties) for inner, item in value.items()}


def prompted(prompts: Mapping[str, Any], parties: Iterable[str]) -> set[str]:
    """The names under which prompts of some parties stand: a label's own, else those of its owner."""
    return {party if party in prompts else owner_of(party) for party in parties} & prompts.keys()


def _both(early: Mapping[str, Any], late: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one method of two composites, of which only what is said of single parties may differ."""
    found = dict(early)
    for name, value in early.items():
        if isinstance(value, Mapping) and isinstance(other := late.get(name), Mapping):
            found[name] = {**value, **other} if name in ("weights", "prompts") else _both(value, other)
    return found


def read_provenance(path: Path) -> Provenance:
    """The provenance of a saved composite, with parties whose names may stand in a file's name.

    Raises:
        CheckpointError: there is none, or it does not have the fields.
    """
    where = _require_provenance(path)
    return Provenance.from_json(read_json(where), where)


def _require_provenance(path: Path) -> Path:
    where = path / PROVENANCE
    if not where.is_file():
        raise CheckpointError(f"'{path}'", why=_instead(path), mend="Give a directory that `quiltwork compose` wrote.")
    return where


def _instead(path: Path) -> str:
    """What is there in place of a composed model."""
    if not path.is_dir():
        return "it is a file, and a composed model is a directory" if path.exists() else "there is no such directory"
    if (path / CONTRIBUTION).is_file():
        return f"it is a contribution and no composed model: it holds no {PROVENANCE}"
    if (path / "merge.json").is_file():
        return f"it is a merged checkpoint, in which nobody can be told apart: it holds no {PROVENANCE}"
    return f"it holds no {PROVENANCE}"


def saved_kind(path: str | Path) -> Literal["language", "table", "network"]:
    """What a saved composite is: a language model, a mixture on tables or a composed network.

    Raises:
        CheckpointError: there is no provenance, it cannot be read or names no layout.
    """
    where = _require_provenance(Path(path))
    match read_json(where).get("layout"):
        case "portable" | "native":
            return "language"
        case "table":
            return "table"
        case "network":
            return "network"
        case other:
            raise unknown_layout(where, other)


def unknown_layout(where: Path, layout: object) -> CheckpointError:
    """The refusal of a layout that is none, or none of the kind that is asked for."""
    return CheckpointError(f"'{where}'", why=f"it names no known layout ({layout!r})", mend=_MEND)
