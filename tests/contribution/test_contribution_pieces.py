"""A tensor in pieces: the bytes that ``tensor`` gives, refused after the last one where they are not those declared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from quiltwork.compose.method import compose
from quiltwork.compose.soup import Soup
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import AlteredContribution, MissingPart
from quiltwork.models.base import Base


@pytest.fixture
def ash(contributions: Callable[[str], Sequence[Contribution]], tmp_path: Path) -> Contribution:
    """A contribution that may be spoiled."""
    (one,) = (c for c in contributions("llama") if c.party == "ash")
    return read(shutil.copytree(one.path, tmp_path / "ash"))


def spoiled(contribution: Contribution) -> str:
    """Change the last byte of the file of the full expert; the tensor that it belongs to."""
    places = {name: contribution._places[name] for name in contribution.tensor_names("full.")}
    last = max(places, key=lambda name: places[name][1])
    file = contribution.path / places[last][0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return last


@pytest.mark.parametrize("size", [4, 100, 2**20])
def test_the_pieces_are_the_tensor(size: int, ash: Contribution) -> None:
    for name in ash.tensor_names("ffn."):
        tensor = ash.tensor(name)
        pieces = [bytes(memoryview(piece)) for piece in ash.pieces(name, size)]
        assert all(len(piece) == size for piece in pieces[:-1])
        assert b"".join(pieces) == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_changed_byte_is_noticed_at_the_end(ash: Contribution) -> None:
    name = spoiled(ash)
    stream = ash.pieces(name, 64)
    for _ in range(-(-_bytes(ash, name) // 64)):
        next(stream)
    with pytest.raises(AlteredContribution, match=name):
        next(stream)


def _bytes(contribution: Contribution, name: str) -> int:
    entry = next(f.tensors[name] for f in contribution.manifest.payload.values() if name in f.tensors)
    return int(torch.Size(entry.shape).numel()) * {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}[entry.dtype]


def test_a_soup_of_a_contribution_that_changed_is_not_written(
    ash: Contribution, tiny_base: Callable[[str], Base], tmp_path: Path
) -> None:
    composite = compose([ash], Soup(), tiny_base("llama"))
    spoiled(ash)
    with pytest.raises(AlteredContribution):
        composite.save(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["ash"]


def test_a_tensor_that_is_not_there_is_refused(ash: Contribution) -> None:
    with pytest.raises(MissingPart, match="nowhere"):
        list(ash.pieces("nowhere", 64))


def test_a_file_that_became_shorter_is_refused(ash: Contribution) -> None:
    name = spoiled(ash)
    file = ash.path / ash._places[name][0]
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(AlteredContribution, match="ends inside it"):
        list(ash.pieces(name, 64))
