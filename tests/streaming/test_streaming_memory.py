"""Memory does not grow with the tensors: the peak of a process that merges small files, and large ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
SMALL, LARGE = 2**20, 2**23


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
    assert not grows(peak("in pieces", 2, SMALL, tmp_path / "a"), peak("in pieces", 48, SMALL, tmp_path / "b"))


def test_the_check_notices_who_loads_all(tmp_path: Path) -> None:
    assert grows(peak("at once", 3, SMALL, tmp_path / "a"), peak("at once", 3, LARGE, tmp_path / "b"))


@pytest.mark.parametrize("how", ["in pieces", "at once"])
def test_both_write_the_same(how: str, tmp_path: Path) -> None:
    peak(how, 2, 2**10, tmp_path / "a")
    assert (tmp_path / "a" / "out").read_bytes() == (tmp_path / "a" / "0").read_bytes()
