"""Memory does not grow with the tensors: the peak of a process that merges small files, and large ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quiltwork.models.families import FAMILIES
from quiltwork.models.sources import Source
from quiltwork.streaming.writing import write_tensors

_MERGE = """
import sys
from pathlib import Path
from quiltwork.models.sources import Source, open_file, total
from quiltwork.streaming.writing import write_tensors
how, out, *paths = sys.argv[1:]
files = [open_file(Path(path)) for path in paths]
parts = [(1.0, file["a"]) for file in files]
merged = total(parts, "BF16", divisor=len(files), sum_in="F32")
if how == "at once":
    held = list(map(bytes, merged.pieces()))
    merged = Source.streamed("BF16", merged.shape, lambda: iter(held))
write_tensors(Path(out), {"a": merged})
# ru_maxrss would count what the parent held when it forked
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
FEW = 2**20
# the smaller of the two already fills every queue of pieces
SMALL, LARGE = 2**22, 2**24


def peak(how: str, count: int, elements: int, place: Path) -> int:
    """Peak resident bytes of a process that merges ``count`` files of ``elements`` bfloat16 each."""
    place.mkdir()
    for number in range(count):
        write_tensors(place / str(number), {"a": Source.zeros("BF16", (elements // 4, 4))})
    paths = [str(place / str(number)) for number in range(count)]
    done = subprocess.run(
        [sys.executable, "-c", _MERGE, how, str(place / "out"), *paths], capture_output=True, text=True, check=True
    )
    return int(done.stdout) * 1024


def grows(small: int, large: int) -> bool:
    """More by a quarter of what one file grew by."""
    return large - small > (LARGE - SMALL) * 2 / 4


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    assert not grows(peak("in pieces", 3, SMALL, tmp_path / "a"), peak("in pieces", 3, LARGE, tmp_path / "b"))


def test_memory_does_not_grow_with_their_number(tmp_path: Path) -> None:
    assert not grows(peak("in pieces", 2, FEW, tmp_path / "a"), peak("in pieces", 48, FEW, tmp_path / "b"))


def test_the_check_notices_who_loads_all(tmp_path: Path) -> None:
    assert grows(peak("at once", 3, SMALL, tmp_path / "a"), peak("at once", 3, LARGE, tmp_path / "b"))


@pytest.mark.parametrize("how", ["in pieces", "at once"])
def test_both_write_the_same(how: str, tmp_path: Path) -> None:
    peak(how, 2, 2**10, tmp_path / "a")
    assert (tmp_path / "a" / "out").read_bytes() == (tmp_path / "a" / "0").read_bytes()


_MANY = """
import sys
from dataclasses import replace
from pathlib import Path
import quiltwork.compose.checkpoints as checkpoints
from quiltwork.models.base import open_base

how, place, count = sys.argv[1:]
if how == "holding":
    inner = checkpoints._Watched.source
    def source(self, name):
        found = inner(self, name)
        def pieces():
            for piece in found.pieces():
                yield piece
        return replace(found, stream=pieces)
    checkpoints._Watched.source = source
models = {f"m{n}": open_base(Path(place) / "model") for n in range(int(count))}
checkpoints.Merge(models).save(Path(place) / f"{how}{count}")
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def checkpoint(place: Path) -> None:
    """A checkpoint whose embedding is one whole piece of 0.5 MiB."""
    sizes = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1}
    config = {"model_type": "llama", **sizes, "num_attention_heads": 2, "tie_word_embeddings": True}
    family = FAMILIES["llama"]
    names = family.tensor_names(family.complete(config))
    table = {name: Source.zeros("BF16", shape(name)) for name in names}
    place.mkdir()
    write_tensors(place / "model.safetensors", table)
    (place / "config.json").write_text(json.dumps(config))
    (place / "tokenizer.json").write_text("{}")


def shape(name: str) -> tuple[int, ...]:
    shapes = {"embed": (4096, 64), "gate": (8, 64), "up": (8, 64), "down": (64, 8), "norm": (64,)}
    return next((found for word, found in shapes.items() if word in name), (64, 64))


def peak_of_models(how: str, place: Path, count: int) -> int:
    command = [sys.executable, "-c", _MANY, how, str(place), str(count)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024


def test_merging_more_models_takes_no_more_memory(tmp_path: Path) -> None:
    checkpoint(tmp_path / "model")
    extra = 60 * 2**19
    few = peak_of_models("lean", tmp_path, 4)
    assert peak_of_models("lean", tmp_path, 64) - few < extra / 2
    # and who holds a piece of every model is noticed
    assert peak_of_models("holding", tmp_path, 64) - few > extra / 2
