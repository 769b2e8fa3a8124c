"""Safetensors files read and written beside the safetensors library; headers that mislead are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quiltwork.errors import BrokenPromise, CheckpointError
from quiltwork.files import new_directory
from quiltwork.models.sources import Source, open_file, total
from quiltwork.streaming import header
from quiltwork.streaming.header import read_header
from quiltwork.streaming.place import Place
from quiltwork.streaming.writing import write_tensors

TORCH = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "wide": torch.randn(600, 700, generator=generator).bfloat16(),
        "row": torch.randn(5, generator=generator),
        "half": torch.randn(2, 3, 4, generator=generator).half(),
        "scalar": torch.tensor(1.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }


# Writing and reading.


def test_a_file_is_byte_for_byte_the_library_s(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    record = write_tensors(tmp_path / "ours", {name: Source.of(tensor) for name, tensor in tensors.items()})
    data = (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").read_bytes() == data
    assert (record.bytes, record.digest) == (len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def test_a_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    save_file(some_tensors(), tmp_path / "theirs", metadata={"format": "pt"})
    write_tensors(tmp_path / "ours", open_file(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@given(
    shapes=st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=5),
    dtypes=st.lists(st.sampled_from(TORCH), min_size=5, max_size=5),
    elements=st.integers(1, 50),
)
def test_what_is_written_is_what_the_library_reads(
    shapes: list[list[int]], dtypes: list[torch.dtype], elements: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    generator = torch.Generator().manual_seed(elements)
    table = {
        f"t{n}": torch.randn(shape, generator=generator).to(dtype)
        for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quiltwork.models.sources.ELEMENTS", elements)
        write_tensors(path, {name: Source.of(tensor) for name, tensor in table.items()})
    theirs, ours = load_file(path), open_file(path)
    for name, tensor in table.items():
        assert torch.equal(theirs[name], tensor)
        assert torch.equal(ours[name].load(), tensor)
        whole = b"".join(ours[name].place.pieces(tensor.element_size(), elements))  # type: ignore[union-attr]
        assert whole == tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_tensor_of_another_size_than_it_says_is_noticed(tmp_path: Path) -> None:
    short = Source.streamed("F32", (3,), lambda: iter([bytes(8)]))
    with pytest.raises(BrokenPromise, match="tensor 'a'"):
        write_tensors(tmp_path / "x", {"a": short})


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "x", {"a": Source.zeros("F32", (3,))})
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_whatever_stops_a_writer_leaves_nothing(error: Any, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(400)
        raise error

    with pytest.raises(BaseException), new_directory(tmp_path / "out") as partial:  # noqa: B017, PT011
        write_tensors(partial / "x", {"a": Source.zeros("F32", (9,)), "b": Source.streamed("F32", (200,), pieces)})
    assert list(tmp_path.iterdir()) == []


# Headers.


def crafted(path: Path, fields: Any, data: bytes = bytes(8), length: int | None = None) -> Path:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


UNSOUND: dict[str, tuple[Any, str]] = {
    "not JSON": (b"{", "not sound JSON"),
    "not an object": (b"[]", "not a JSON object"),
    "a name twice": (b'{"a": {}, "a": {}}', "a name stands twice"),
    "deeply nested": (b"[" * 100_000, "not sound JSON"),
    "not text": (b"\xff\xfe", "not sound JSON"),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "tensor 'a'"),
    "an unknown dtype": ({"a": entry("I8", (8,))}, "tensor 'a'.*I8 is not a floating-point type"),
    "a negative size": ({"a": entry(shape=(-2,))}, "tensor 'a'"),
    "a size that is a truth value": ({"a": entry(shape=(True, 2))}, "tensor 'a'"),
    "sizes whose product is huge": ({"a": entry(shape=(2**62, 2**62))}, "do not fit"),
    "too many dimensions": ({"a": entry(shape=(1,) * 9)}, "tensor 'a'"),
    "one offset": ({"a": entry(offsets=(8,))}, "tensor 'a'"),
    "offsets turned round": ({"a": entry(offsets=(8, 0))}, "do not fit"),
    "offsets of another size": ({"a": entry(offsets=(0, 4))}, "do not fit"),
    "a gap": ({"a": entry(shape=(1,), offsets=(4, 8))}, "leaves a gap"),
    "an overlap": ({"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))}, "overlaps"),
    "data beyond the file": ({"a": entry(shape=(4,), offsets=(0, 16))}, "cover 16 bytes, and 8 follow"),
    "data that nothing covers": ({"a": entry(shape=(1,), offsets=(0, 4))}, "cover 4 bytes, and 8 follow"),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_header_is_refused(case: str, tmp_path: Path) -> None:
    fields, words = UNSOUND[case]
    with pytest.raises(CheckpointError, match=words):
        read_header(crafted(tmp_path / "x", fields))


def test_a_sound_header_is_read_in_any_order_and_with_any_metadata(tmp_path: Path) -> None:
    fields = {
        "__metadata__": {"by": "me"},
        "b": entry(shape=(1,), offsets=(4, 8)),
        "a": entry(shape=(1,), offsets=(0, 4)),
    }
    spans, data = read_header(crafted(tmp_path / "x", fields))
    assert {name: (span.begin, span.end) for name, span in spans.items()} == {"a": (0, 4), "b": (4, 8)}
    assert data == (tmp_path / "x").stat().st_size - 8


@pytest.mark.parametrize("claimed", [0, 2**20, 2**63, 2**64 - 1])
def test_a_claimed_length_is_checked_before_it_is_read(claimed: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_header(crafted(tmp_path / "x", {"a": entry()}, length=claimed))


def test_a_header_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = crafted(tmp_path / "x", {"a": entry()})
    read_header(path)
    monkeypatch.setattr(header, "MAX_BYTES", 10)
    with pytest.raises(CheckpointError, match="its header claims"):
        read_header(path)


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_a_file_that_is_cut_short_is_refused(size: int, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_header(tmp_path / "x")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_header(tmp_path / "nowhere")


# Places.


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(bytes(20))])
def test_a_file_that_changes_under_its_reader_is_refused(spoil: Callable[[Path], Any], tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3000)}, tmp_path / "x")
    source = open_file(tmp_path / "x")["a"]
    spoil(tmp_path / "x")
    with pytest.raises(CheckpointError, match="cannot be read any more"):
        source.load()
    with pytest.raises(CheckpointError, match="cannot be read any more"):
        list(total([(1.0, source)], "F32").pieces())


def test_a_row_of_a_tensor_in_a_file_is_a_place(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 2, 2)
    save_file({"a": tensor}, tmp_path / "x")
    row = open_file(tmp_path / "x")["a"].row(1)
    assert row.place is not None
    assert row.place.nbytes == 16
    assert torch.equal(row.load(), tensor[1])


def test_a_place_is_read_in_pieces(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1000)
    (tmp_path / "x").write_bytes(data)
    pieces = list(Place(tmp_path / "x", 10, 900).pieces(4, elements=64))
    assert [len(piece) for piece in pieces] == [256, 256, 256, 132]
    assert b"".join(pieces) == data[10:910]
