"""Composed checkpoints on disk: one shard a party, one for what is shared, one for the router, and an index.

Config and tokenizer are written so that transformers 4.57 and 5.x read the same thing: ``rope_theta`` beside
``rope_parameters``, ``torch_dtype`` beside ``dtype``, and a tokenizer class that both know. No file holds a date, a
path or a machine's name, so the same inputs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from quiltwork.errors import CheckpointError
from quiltwork.files import FileRecord
from quiltwork.models.base import Base, rope
from quiltwork.models.json_files import read_json
from quiltwork.models.sources import TORCH_NAMES, Source, Sources
from quiltwork.models.tokenizer_files import TOKENIZER_FILES
from quiltwork.streaming.layout import Dtype
from quiltwork.streaming.numbers import all_finite
from quiltwork.streaming.writing import write_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Buffer

SHARED = "shared.safetensors"
ROUTER = "router.safetensors"


def party_shard(party: str) -> str:
    """File that holds a party's tensors and no one else's."""
    return f"expert-{party}.safetensors"


def portable_config(config: Mapping[str, Any], dtype: Dtype) -> dict[str, Any]:
    """``config`` with every field that changed its name between transformers 4.57 and 5 written both ways."""
    settings = rope(config)
    name = TORCH_NAMES[dtype]
    result = {k: v for k, v in config.items() if k not in {"_name_or_path", "rope_scaling", "transformers_version"}}
    result |= {
        "rope_theta": settings["rope_theta"],
        "rope_parameters": settings,
        "dtype": name,
        "torch_dtype": name,
    }
    if settings["rope_type"] != "default":
        result["rope_scaling"] = {k: v for k, v in settings.items() if k != "rope_theta"}
    return result


def tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json that names a class which every recent transformers has."""
    result = {k: v for k, v in config.items() if k not in {"backend", "name_or_path"}}
    if result.get("tokenizer_class") in {None, "TokenizersBackend"}:
        result["tokenizer_class"] = "PreTrainedTokenizerFast"
    return result


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Checkpoint:
    """What will be written.

    Attributes:
        config: config.json.
        shards: tensors by file.
        documents: further files by name (the model card).
        beside: tensors by file that no model reads, and which the index therefore leaves out.
    """

    config: Mapping[str, Any]
    shards: Mapping[str, Sources]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    beside: Mapping[str, Sources] = field(default_factory=dict)

    def tensors(self) -> dict[str, Any]:
        """All tensors of all shards, as sources by name; see `computed`."""
        return {name: source for shard in self.shards.values() for name, source in computed(shard).items()}

    def write(self, directory: Path, base: TokenizerFiles, *, take: Take | None = None) -> dict[str, FileRecord]:
        """Write every file into ``directory``, two shards at a time.

        Args:
            directory: exists.
            base: the tokenizer.
            take: asked before a shard is written, with its path and tensors; makes the file from one that is there
                already and says what it is, or returns None.

        Returns:
            the record of every file, by name.

        Raises:
            CheckpointError: what was computed of contributions is not finite; the tensor is named.
        """
        weight_map: dict[str, str] = {}
        records = _write_shards(directory, {**self.shards, **self.beside}, take)
        for file, table in sorted(self.shards.items()):
            weight_map |= dict.fromkeys(sorted(table), file)
        total = sum(source.nbytes for table in self.shards.values() for source in table.values())
        documents = {
            "model.safetensors.index.json": _json({"metadata": {"total_size": total}, "weight_map": weight_map}),
            "config.json": _json(dict(self.config)),
            **base.files,
            **self.documents,
        }
        for name, data in documents.items():
            (directory / name).write_bytes(data)
            records[name] = FileRecord.of(data)
        return records


Take = Callable[[Path, Sources], FileRecord | None]
"""What ``Checkpoint.write`` asks before it writes a shard."""


def _write_shards(directory: Path, tables: Mapping[str, Sources], take: Take | None) -> dict[str, FileRecord]:
    """Write the shards; two at a time those that need no torch, since hashing and writing let others run."""
    stop = Event()

    def write(file: str) -> FileRecord:
        taken = take(directory / file, tables[file]) if take is not None else None
        return taken or write_shard(directory / file, _until(stop, computed(tables[file])))

    files = sorted(file for file, table in tables.items() if table)
    streamed = [file for file in files if all(source.stream is not None for source in tables[file].values())]
    with ThreadPoolExecutor(2) as threads:
        writing = {file: threads.submit(write, file) for file in streamed}
        try:
            for written in as_completed(writing.values()):
                written.result()
        except BaseException:
            # the first error is told, and nobody waits for gigabytes that will be thrown away
            stop.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return {file: writing[file].result() if file in writing else write(file) for file in files}


def _until(stop: Event, table: Sources) -> Sources:
    """The same tensors, whose pieces end in an error once ``stop`` is set."""

    def going(piece: Buffer) -> Buffer:
        if stop.is_set():
            raise CheckpointError("writing", why="another shard could not be written", mend="See what was said of it.")
        return piece

    def stopping(source: Source) -> Source:
        # map, unlike a generator that waits, holds no piece
        return replace(source, stream=lambda: map(going, source.pieces()))

    return {name: stopping(source) for name, source in table.items()}


def write_shard(path: Path, table: Sources) -> FileRecord:
    """Write a safetensors file of some tensors, in constant memory but for those that only torch can make."""
    return write_tensors(path, table)


def computed(table: Sources) -> Sources:
    """The same tensors; a NaN or an infinity is refused as it passes in one that is computed when it is read.

    Every number of a contribution is finite, and sums and products of such numbers need not be. What lies in a file as
    it is was looked at when the contribution was read, or is the base's.
    """
    return {
        name: source if source.place is not None or source.identity is not None else _finite(name, source)
        for name, source in table.items()
    }


def _finite(name: str, source: Source) -> Source:
    refusal = CheckpointError(
        f"tensor '{name}' of the composed model",
        why="what is computed for it is not finite: a number among those it is made of is too large",
        mend="Find out whose with `quiltwork screen --weights-only`, and leave that contribution out.",
    )

    def load() -> Tensor:
        tensor = source.load()
        if not bool(tensor.isfinite().all()):
            raise refusal
        return tensor

    def pieces() -> Iterator[Buffer]:
        for piece in source.pieces():
            if not all_finite(piece, source.dtype):
                raise refusal
            yield piece

    return replace(source, load=load, stream=pieces)


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer as it is copied into composed checkpoints: file contents by name."""

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, base: Base) -> TokenizerFiles:
        """The base's tokenizer, with a portable tokenizer_config.json."""
        files = {name: path.read_bytes() for name, path in base.tokenizer_files().items()}
        if "tokenizer_config.json" in files:
            settings = read_json(base.path / "tokenizer_config.json")
            files["tokenizer_config.json"] = _json(tokenizer_config(settings))
        return cls(files)

    @classmethod
    def read(cls, directory: Path) -> TokenizerFiles:
        """The tokenizer of a composed checkpoint, as it is."""
        present = (name for name in TOKENIZER_FILES if (directory / name).is_file())
        return cls({name: (directory / name).read_bytes() for name in present})
