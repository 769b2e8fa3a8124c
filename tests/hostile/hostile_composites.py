"""Composed directories, spoiled (``hostile_composed``), then used as the verbs use them, in this order:

    list, add  the record, the layout, the method and its options, the parts
    verify     every byte
    generate   the model, the directory's tokenizer, some tokens
    evaluate   bits per byte of a text, and who answered
    remove     a party taken out

A directory fails a trial where something was made of it that the oracle says must be refused; where any error comes out
that is not of quiltwork's tree; where what was accepted answers with something else than finite numbers, one for each
token of the vocabulary; where reading writes, connects or unpickles, takes longer than the limit, or more memory.

The oracle reads the record (quiltwork.json, or merge.json of a merged checkpoint) with ``json`` and hashes files. It
shares no code with the reader.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hostile_composed import FAMILIES, INDEX, MERGED, RECORD, record_name, spoil
from hostile_folder import Folder, load, put, split
from hostile_oracle import sha, spelling
from hostile_specimens import expert, sizes_of
from hostile_trial import MOST_GROWTH, MOST_SECONDS, WATCH, Memory, Outcome, TooSlow, bounded, limited_memory

from quiltwork.cli.generate import answering, continued
from quiltwork.compose.merged import read_merged
from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
from quiltwork.compose.reopen import LANGUAGE_METHODS, make_language_method
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.composite.language import open_composite, saved_layout
from quiltwork.composite.listed import Listed
from quiltwork.composite.written import Written, read_written
from quiltwork.errors import ExportError, QuiltworkError
from quiltwork.evaluate.matrix import HeldOut, run
from quiltwork.models.base import Base, open_base
from quiltwork.models.tokenizer_files import load_tokenizer, separator_id

_READABLE = (".safetensors", ".json", ".bin", ".pt", ".pth", ".py", ".jinja", ".model", ".txt", ".gguf", ".pkl")
_TEXT = "a page about nothing in particular"


def must_refuse(path: Path) -> str | None:
    """Why no model may be made of a directory, or None."""
    try:
        own = record_name({entry.name for entry in path.iterdir()})
        record = json.loads((path / own).read_bytes())
        listed = record["files"]
        if record["digest"] != sha(spelling({name: value for name, value in record.items() if name != "digest"})):
            return "digest of the record"
        for name, entry in listed.items():
            data = (path / name).read_bytes() if (path / name).is_file() else None
            if "/" in name or data is None or len(data) != entry["bytes"] or sha(data) != entry["digest"]:
                return f"{name} is not what was written"
        names = {entry.name for entry in path.iterdir()} - {own, *listed}
        strange = [name for name in names if name.lower().endswith(_READABLE) and not name.startswith(".")]
        return f"undeclared {strange[0]!r}" if strange else None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        return f"no record: {type(error).__name__}"


def vocabulary(path: Path) -> int:
    """Rows of the token embeddings, as the header of their shard has it."""
    table = json.loads((path / INDEX).read_bytes())["weight_map"] if (path / INDEX).is_file() else {}
    name = min((one for one in table if one.endswith("embed_tokens.weight")), default="model.embed_tokens.weight")
    found = split((path / table.get(name, "model.safetensors")).read_bytes())
    assert found is not None
    return int(found[0][name]["shape"][0])


class CompositeRange:
    """Saved composites in memory, and a place to lay spoiled ones out; ``among`` are the families of mutations."""

    def __init__(
        self, specimens: Mapping[str, Path], place: Path, seed: int, among: Collection[str] = FAMILIES
    ) -> None:
        self.folders: dict[str, Folder] = {name: load(path) for name, path in specimens.items()}
        self.place, self.seed, self.among = place, seed, among
        self.outside = place / "outside.json"
        shutil.copy(next(iter(specimens.values())) / "config.json", self.outside)
        for path in specimens.values():  # libraries import and keep on first use what is no trial's
            Use(path).all()

    def spoiled(self, number: int) -> tuple[str, str, Folder]:
        """Specimen, families and folder of a trial."""
        rng = random.Random(f"{self.seed}-composite-{number}")
        name = rng.choice(sorted(self.folders))
        families, folder = spoil(rng, self.folders[name], list(self.folders.values()), self.among)
        return name, families, folder

    def trial(self, number: int) -> Outcome:
        name, families, folder = self.spoiled(number)
        path = self.place / "x"
        shutil.rmtree(path, ignore_errors=True)
        put(folder, path, self.outside)
        memory, began = Memory(), time.process_time()
        use = Use(path)
        failure = use.through()
        seconds, growth = time.process_time() - began, memory.growth()
        failure = failure or self._judge(path, folder, use)
        if failure is None and growth > MOST_GROWTH:
            failure = f"took {growth} bytes of memory"
        return Outcome(number, name, families, use.through_all, use.error, seconds, growth, failure)

    def _judge(self, path: Path, folder: Folder, use: Use) -> str | None:
        reason = must_refuse(path) if use.verified or use.used else None
        if reason is not None:
            return f"wrongly accepted: {reason}"
        if not use.through_all and folder in self.folders.values():
            return f"refused an untouched specimen: {use.error}"
        return None


class Use:
    """What the verbs do with a directory, and how far they came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verified = self.used = self.through_all = False
        self.error = ""

    def through(self) -> str | None:
        """Do it all; what went wrong, or None."""
        try:
            with bounded(MOST_SECONDS), limited_memory(2 * MOST_GROWTH), WATCH.on():
                self.all()
        except QuiltworkError as error:
            self.error = type(error).__name__
            plain = all(isinstance(part, str) and part for part in (error.what, error.why, error.mend))
            # a process without this limit would have taken the memory
            if "allocate" in error.why or isinstance(error.__cause__, MemoryError):
                return "asked for memory without end"
            if isinstance(error.__cause__, ImportError):
                return f"asked for a package: {error.__cause__!r:.200}"
            return None if plain else "an error without words"
        except (Exception, TooSlow) as error:
            self.error = type(error).__name__
            return f"raised {error!r:.200} at {_where(error)}"
        except BaseException as error:  # what a library in Rust throws where it panics
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return f"raised {error!r:.200} at {_where(error)}"
        return f"did more than read: {WATCH.acts[0]}" if WATCH.acts else self._unsound()

    def all(self) -> None:
        """Do it all.

        Raises:
            QuiltworkError: something was refused; what else comes out is a failure.
        """
        if (self.path / RECORD).is_file() or not (self.path / MERGED).is_file():
            self._list()
            self._verify(read_written(self.path))
            self._answer()
            self._remove()
        else:
            self._verify(read_merged(self.path).listed)
            self._answer()
        self.through_all = True

    def _list(self) -> None:
        provenance = read_written(self.path).provenance
        saved_layout(self.path)
        if provenance.options is not None and provenance.method in LANGUAGE_METHODS:
            make_language_method(provenance.method, {"include": None, **provenance.options}, self.path / RECORD)
        with suppress(ExportError):  # a sum, in which nobody has a slot
            open_composite(self.path)

    def _verify(self, listed: Written | Listed) -> None:
        listed.verify()
        self.verified = True

    def _answer(self) -> None:
        model, slots = answering(self.path)
        self.used = True
        tokenizer: Any = load_tokenizer(self.path)
        continued(model, tokenizer, _TEXT, max_new_tokens=2, temperature=1.0, seed=0)
        held_out = HeldOut({"text": [_TEXT]}, (), max_length=16, batch_size=2)
        self.bits = run(model, tokenizer, held_out, prefix=separator_id(tokenizer), slots=slots).row.domains["text"]
        ids = tokenizer(_TEXT, add_special_tokens=False)["input_ids"][:8]
        with torch.no_grad():
            self.logits = model(input_ids=torch.tensor([ids])).logits

    def _remove(self) -> None:
        try:
            composite = open_composite(self.path)
        except ExportError:
            return
        composite.without(composite.parties[0]).checkpoint(saved_layout(self.path))

    def _unsound(self) -> str | None:
        """Why what was accepted is no sound model."""
        if self.logits.dim() != 3 or self.logits.shape[-1] != vocabulary(self.path):
            return f"answers of shape {list(self.logits.shape)}"
        finite = bool(self.logits.isfinite().all()) and math.isfinite(self.bits.value)
        return None if finite else "answers that are not finite"


def _where(error: BaseException) -> str:
    """The place in the package, not in a library that it calls."""
    frames = traceback.extract_tb(error.__traceback__)
    last = next((one for one in reversed(frames) if "/quiltwork/" in one.filename), frames[-1])
    return f"{Path(last.filename).name}:{last.lineno}"


def write_composites(folder: Path, parts: Mapping[str, Path], base: Base) -> dict[str, Path]:
    """Saved models of each layout and kind, of the same two experts; two that extend one of them; and a merge."""
    from quiltwork.compose.checkpoints import Merge
    from quiltwork.compose.method import compose
    from quiltwork.compose.router_lda import ResidualLDA
    from quiltwork.compose.soup import Soup
    from quiltwork.contribution.store import read

    evidence = PrefixEvidence(features="tokens", floor=0.0)
    methods: dict[str, tuple[Any, Any]] = {
        "rows": (MixtureOfExperts(LearnedRows()), "native"),
        "evidence": (MixtureOfExperts(evidence), "native"),
        "both": (MixtureOfExperts(RowsAndEvidence(LearnedRows(), evidence)), "native"),
        "moments": (MixtureOfExperts(ResidualLDA()), "native"),
        "whole": (MixtureOfExperts(evidence, scope="full"), "native"),
        "portable": (MixtureOfExperts(LearnedRows()), "portable"),
        "sum": (Soup(), "portable"),
    }
    experts = [read(parts["expert"]), read(parts["expert-share"])]
    public = {"moments": read(parts["statistics"])}
    found = {
        name: compose(experts, method, base, public=public.get(name)).save(folder / name, layout=layout)
        for name, (method, layout) in methods.items()
    }
    both = {"one": base, "other": open_base(_plain_copy(found["sum"], folder / "other"))}
    found["merged"] = Merge(models=both).save(folder / "merged")
    return found | _extended(folder, open_base(found["portable"]))


def _extended(folder: Path, base: Base) -> dict[str, Path]:
    """Models on a base that is a mixture itself."""
    from quiltwork.compose.method import compose
    from quiltwork.contribution.store import read, write

    sizes = sizes_of(base, hidden=base.hidden_size, intermediate=base.intermediate_size, layers=base.layers)
    late = [read(write(folder / f"late-{name}", expert(sizes, name, 5)).path) for name in ("dale", "elm")]
    evidence = PrefixEvidence(features="tokens", floor=0.0)
    return {
        "extended": compose(late, MixtureOfExperts(LearnedRows()), base).save(folder / "extended", layout="portable"),
        "within": compose(late, MixtureOfExperts(evidence), base).save(folder / "within", layout="native"),
    }


def _plain_copy(path: Path, target: Path) -> Path:
    """A composed dense model without its record, which makes it anybody's checkpoint."""
    shutil.copytree(path, target)
    (target / RECORD).unlink()
    return target
