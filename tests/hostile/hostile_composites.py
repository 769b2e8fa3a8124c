"""Composed directories, spoiled likewise: opened, hashed, made into a model, and a party taken out.

A directory that was spoiled and not sealed anew must be refused before its model is used; one whose record was made
true again may be anything, and then only the error counts. The oracle reads quiltwork.json with ``json`` and hashes
files.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hostile_folder import Folder, Special, load, put
from hostile_mutations import edit_json, entries, header, octets, values
from hostile_oracle import sha, spelling
from hostile_trial import MOST_SECONDS, WATCH, Memory, Outcome, TooSlow, bounded

from quiltwork.composite.language import open_composite
from quiltwork.errors import QuiltworkError

RECORD = "quiltwork.json"
_READABLE = (".safetensors", ".json", ".bin", ".pt", ".pth", ".py", ".jinja", ".model", ".txt", ".gguf", ".pkl")


def must_refuse(path: Path) -> str | None:
    """Why no model may be made of a directory, or None."""
    try:
        record = json.loads((path / RECORD).read_bytes())
        listed = record["files"]
        if record["digest"] != sha(spelling({name: value for name, value in record.items() if name != "digest"})):
            return "digest of the record"
        for name, entry in listed.items():
            data = (path / name).read_bytes() if (path / name).is_file() else None
            if data is None or len(data) != entry["bytes"] or sha(data) != entry["digest"]:
                return f"{name} is not what was written"
        names = {entry.name for entry in path.iterdir()} - {RECORD, *listed}
        strange = [name for name in names if name.lower().endswith(_READABLE) and not name.startswith(".")]
        return f"undeclared {strange[0]!r}" if strange else None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        return f"no record: {type(error).__name__}"


def _reseal(folder: Folder) -> Folder:
    """Make the record true again: of the files that are there and files."""
    try:
        record = json.loads(folder[RECORD])  # type: ignore[arg-type]
        for name, entry in record["files"].items():
            data = folder.get(name)
            if isinstance(data, bytes):
                entry["bytes"], entry["digest"] = len(data), sha(data)
        record.pop("digest", None)
        record["digest"] = sha(spelling(record))
        return {**folder, RECORD: spelling(record)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return folder


def _fields(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """Fields of one of the JSON files."""
    name = rng.choice(sorted(name for name, data in folder.items() if name.endswith(".json") and data))
    other = rng.choice(others)
    data, donor = folder[name], other.get(name, b"{}")
    try:
        value = json.loads(data)  # type: ignore[arg-type]
        edit_json(rng, value, [json.loads(donor)])  # type: ignore[arg-type]
        return {**folder, name: json.dumps(value, indent=2, sort_keys=True).encode("utf-8", "surrogatepass") + b"\n"}
    except (ValueError, TypeError, RecursionError):
        return folder


def _swap(rng: random.Random, folder: Folder, others: Sequence[Folder]) -> Folder:
    """A file of another directory, or of this one under another name."""
    name, other = rng.choice(sorted(folder)), rng.choice([*others, folder])
    return {**folder, name: other[rng.choice(sorted(other))]}


_FAMILIES = {"fields": (_fields, 5), "header": (header, 3), "values": (values, 1), "octets": (octets, 3)}
_ALL = {**_FAMILIES, "entries": (entries, 2), "swaps": (_swap, 2)}


class CompositeRange:
    """Saved composites in memory, and a place to lay spoiled ones out."""

    def __init__(self, specimens: Mapping[str, Path], place: Path, seed: int) -> None:
        self.folders: dict[str, Folder] = {name: load(path) for name, path in specimens.items()}
        self.place, self.seed = place, seed
        self.outside = place / "outside.json"
        shutil.copy(next(iter(specimens.values())) / RECORD, self.outside)

    def trial(self, number: int) -> Outcome:
        rng = random.Random(f"{self.seed}-composite-{number}")
        name = rng.choice(sorted(self.folders))
        (family,) = rng.choices(list(_ALL), [weight for _, weight in _ALL.values()])
        folder = _ALL[family][0](rng, self.folders[name], list(self.folders.values()))
        if rng.random() < 0.5 and not any(isinstance(entry, Special) for entry in folder.values()):
            folder = _reseal(folder)
        path = self.place / "x"
        shutil.rmtree(path, ignore_errors=True)
        put(folder, path, self.outside)
        memory, began = Memory(), time.process_time()
        used, error, failure = _use(path)
        seconds, growth = time.process_time() - began, memory.growth()
        if used and failure is None and (reason := must_refuse(path)) is not None:
            failure = f"wrongly accepted: {reason}"
        if failure is None and not used and folder in self.folders.values():
            failure = f"refused an untouched specimen: {error}"
        return Outcome(number, name, family, used, error, seconds, growth, failure)


def _use(path: Path) -> tuple[bool, str, str | None]:
    """Open, hash, build and take a party out; whether a model came of it, the error's name, and what went wrong."""
    used = False
    try:
        with bounded(MOST_SECONDS), WATCH.on():
            composite = open_composite(path)
            composite.model()
            used = True
            composite.without(composite.assembly.parties[0]).checkpoint("native")
    except QuiltworkError as error:
        return used, type(error).__name__, None
    except (Exception, TooSlow) as error:
        frames = traceback.extract_tb(error.__traceback__)
        # the place in the package, not in a library that it calls
        last = next((one for one in reversed(frames) if "/quiltwork/" in one.filename), frames[-1])
        return used, type(error).__name__, f"raised {error!r:.200} at {Path(last.filename).name}:{last.lineno}"
    return used, "", f"did more than read: {WATCH.acts[0]}" if WATCH.acts else None


def write_composites(folder: Path, experts: Sequence[Path], base: Any) -> dict[str, Path]:
    """One saved composite of each layout and kind, of the same experts."""
    from quiltwork.compose.method import compose
    from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
    from quiltwork.contribution.store import read

    evidence = PrefixEvidence(features="tokens", floor=0.0)
    methods = {
        "native": (MixtureOfExperts(evidence), "native"),
        "whole": (MixtureOfExperts(evidence, scope="full"), "native"),
        "portable": (MixtureOfExperts(LearnedRows()), "portable"),
    }
    parts = [read(path) for path in experts]
    return {
        name: compose(parts, method, base).save(folder / name, layout=layout)  # type: ignore[arg-type]
        for name, (method, layout) in methods.items()
    }
