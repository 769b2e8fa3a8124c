"""Whole checkpoints of one architecture merged into one, in one pass over their bytes and without a base if need be.

    linear             theta = sum_i w_i theta_i / sum_i w_i
    task arithmetic    theta = base + s sum_i w_i (theta_i - base)

The first is model soups (Wortsman et al., arXiv 2203.05482), the second task arithmetic (Ilharco et al., arXiv
2212.04089), summed in float64 as ``(1 - s sum_i w_i) base + s sum_i w_i theta_i``. A linear merge of 16-bit checkpoints
is summed in float32 (`quiltwork.streaming.sums` says why), any other in float64. Models are added in the order of their
names, so the order in which they are given does not matter.

This is for checkpoints that lie about, nobody's contributions: there is no signature, no manifest and no opt-out. What
was merged is still recorded, in merge.json: the digest of every model, taken of the bytes that went into the sums, and
that of every file (`quiltwork.compose.merged` reads it again).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quiltwork.compose.agreeing import require_agreement
from quiltwork.compose.merged import RECORD, MergedModel, MergeRecord
from quiltwork.composite.provenance import PROVENANCE, digest_over
from quiltwork.errors import CheckpointError, CompatibilityError, InvalidOption
from quiltwork.files import new_directory, require_absent
from quiltwork.models.base import Base
from quiltwork.models.checkpoint import Checkpoint, TokenizerFiles, portable_config
from quiltwork.models.sources import Source, total
from quiltwork.progress import Progress
from quiltwork.streaming.hashing import Hashing
from quiltwork.streaming.numbers import all_finite
from quiltwork.streaming.writing import write_tensors

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FILE = "model.safetensors"
_NARROW = ("BF16", "F16")


@dataclass(frozen=True)
class Merge:
    """Checkpoints that belong together, and how they are merged.

    Attributes:
        models: two or more dense checkpoints, by name.
        weights: of a model, one unless stated; above zero for a linear merge.
        base: what the models started from; None merges linearly.
        scale: multiplies the sum of the differences from the base.

    Raises:
        InvalidOption: fewer than two models, or one with a base; a weight or the scale out of its domain.
        CompatibilityError: the models do not belong together; the offending part is named.
    """

    models: Mapping[str, Base]
    weights: Mapping[str, float] = field(default_factory=dict)
    base: Base | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.models) < (1 if self.base else 2):
            mend = "Give two checkpoints or more, or a base beside one."
            raise InvalidOption(f"{len(self.models)} checkpoints", why="there is nothing to merge", mend=mend)
        self._check_numbers()
        models = {**({"the base": self.base} if self.base else {}), **self._ordered}
        require_agreement(models)
        for name, model in models.items():
            _refuse_composed(name, model)

    def _check_numbers(self) -> None:
        for name, weight in self.weights.items():
            if name not in self.models:
                mend = f"The checkpoints are: {', '.join(self._ordered)}."
                raise InvalidOption(f"weight of '{name}'", why="no such checkpoint is merged", mend=mend)
            if not math.isfinite(weight) or (self.base is None and weight <= 0):
                why = "the weight of a linear merge is a number above zero" if self.base is None else "it is no number"
                mend = "Leave the model out, or give a base."
                raise InvalidOption(f"weight {weight} of '{name}'", why=why, mend=mend)
        if not math.isfinite(total := sum(map(self._weight, self.models))):
            raise InvalidOption(f"weights that sum to {total}", why="it is no number", mend="Give smaller ones.")
        if not math.isfinite(self.scale) or (self.base is None and self.scale != 1):
            why = "only differences from a base are scaled" if self.base is None else "it is no number"
            raise InvalidOption(f"scale {self.scale}", why=why, mend="Give a base, or leave the scale out.")

    @property
    def _ordered(self) -> dict[str, Base]:
        return dict(sorted(self.models.items()))

    @property
    def method(self) -> Literal["linear", "task_arithmetic"]:
        """``linear`` or ``task_arithmetic``."""
        return "linear" if self.base is None else "task_arithmetic"

    @property
    def reference(self) -> Base:
        """Whose config and tokenizer the result has: the base, or the first model by name."""
        return self.base or next(iter(self._ordered.values()))

    def _weight(self, name: str) -> float:
        return float(self.weights.get(name, 1.0))

    def _terms(self) -> list[tuple[float, Base]]:
        """What is added up: the base first, if there is one, then the models in the order of their names."""
        models = [(self._weight(name), model) for name, model in self._ordered.items()]
        if self.base is None:
            return models
        rest = 1 - self.scale * math.fsum(weight for weight, _ in models)
        return [(rest, self.base), *((self.scale * weight, model) for weight, model in models)]

    def _sum(self, parts: Sequence[tuple[float, Source]], name: str) -> Source:
        """One tensor of the result."""
        dtype = parts[0][1].dtype
        linear = self.base is None
        divisor = math.fsum(weight for weight, _ in parts) if linear else 1.0
        found = total(parts, dtype, divisor=divisor, sum_in="F32" if linear and dtype in _NARROW else "F64")
        return _finite(found, name)

    def save(self, target: str | Path, *, overwrite: bool = False, progress: bool = False) -> Path:
        """Write the merged checkpoint; all of it or nothing.

        Args:
            target: directory to make.
            overwrite: replace an existing directory.
            progress: show it on standard error.

        Raises:
            CheckpointError: a checkpoint changes while it is read, or a sum is not finite; the tensor is named.
            StorageError: the file system refuses.
        """
        require_absent(Path(target), overwrite)
        with new_directory(target, overwrite=overwrite) as partial:
            record = self._write(partial, progress)
            (partial / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return Path(target)

    def _write(self, directory: Path, progress: bool) -> dict[str, Any]:
        """Write everything but the record, which is returned."""
        reference, terms = self.reference, self._terms()
        with Hashing(2) as hashing, Progress("merging", len(reference.tensors), enabled=progress) as bar:
            watched = [_Watched(model, hashing) for _, model in terms]
            tensors = {}
            for name in reference.tensors:
                parts = [(weight, one.source(name)) for (weight, _), one in zip(terms, watched, strict=True)]
                tensors[name] = _counted(self._sum(parts, name), bar)
            shard = write_tensors(directory / _FILE, tensors, hashing)
            found = [one.digest() for one in watched]
        base_digest = found.pop(0) if self.base else None
        digests = dict(zip(self._ordered, found, strict=True))
        config = portable_config(reference.config, reference.dtype)
        checkpoint = Checkpoint(config, {_FILE: tensors}, {"README.md": self._card(digests, base_digest).encode()})
        files = checkpoint.write(directory, TokenizerFiles.of(reference), take=lambda _path, _table: shard)
        models = [MergedModel(name=n, digest=d, weight=self._weight(n)) for n, d in digests.items()]
        record = MergeRecord(method=self.method, scale=float(self.scale), base=base_digest, models=models)
        value = record.model_dump(mode="json") | {"files": {name: vars(one) for name, one in sorted(files.items())}}
        return value | {"digest": digest_over(value)}

    def _card(self, digests: Mapping[str, str], base: str | None) -> str:
        rows = "\n".join(f"| {name} | {self._weight(name):g} | `{digest}` |" for name, digest in digests.items())
        how = (
            f"Differences from the base `{base}`, times {self.scale:g}, on the base." if base else "The weighted mean."
        )
        return (
            "---\nlibrary_name: transformers\ntags:\n- quiltwork\n- merge\n---\n"
            f"# Merged model ({self.method})\n\nMerged with quiltwork from {len(digests)} checkpoints. {how} "
            "It loads in plain `transformers`.\n\n"
            f"| model | weight | digest |\n|---|---|---|\n{rows}\n"
        )


def _refuse_composed(name: str, model: Base) -> None:
    """Nobody could tell of the result whose contributions are in it, and whether one was taken back."""
    if (model.path / PROVENANCE).is_file():
        why = "it is composed of contributions, and a merged model holds no provenance, licences and revocations"
        mend = "Compose the contributions instead: quiltwork compose --method soup, or task_arithmetic."
        raise CompatibilityError(f"'{name}'", why=why, mend=mend)


class _Watched:
    """A checkpoint whose tensors are hashed as they are read, so that its digest is known afterwards."""

    def __init__(self, model: Base, hashing: Hashing) -> None:
        self._model, self._hashing = model, hashing
        self._digests = {name: hashlib.sha256() for name in model.tensors}

    def source(self, name: str) -> Source:
        inner, digest = self._model.tensors[name], self._digests[name]

        def seen(piece: Buffer) -> Buffer:
            self._hashing.update(digest, piece)
            return piece

        # map, unlike a generator that waits, holds no piece: there are as many of these as models
        return replace(inner, stream=lambda: map(seen, inner.pieces()), place=None)

    def digest(self) -> str:
        """The checkpoint's digest, once each of its tensors was read once."""
        return self._model.identified({name: self._hashing.finish(digest) for name, digest in self._digests.items()})


def _finite(source: Source, name: str) -> Source:
    """The same tensor; a NaN or an infinity in it is refused as it passes."""

    def pieces() -> Iterator[Buffer]:
        for piece in source.pieces():
            if not all_finite(piece, source.dtype):
                mend = "See which model holds such values; of float16 a smaller scale may help."
                why = "it holds a NaN or an infinity"
                raise CheckpointError(f"tensor '{name}' of the merged model", why=why, mend=mend)
            yield piece

    return Source.streamed(source.dtype, source.shape, pieces)


def _counted(source: Source, bar: Progress) -> Source:
    def pieces() -> Iterator[Buffer]:
        yield from source.pieces()
        bar.advance()

    return Source.streamed(source.dtype, source.shape, pieces)
