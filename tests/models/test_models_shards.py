"""Shards written two at a time: the bytes of one after another, and the first error ends them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from quiltwork.errors import AlteredContribution
from quiltwork.models.checkpoint import Checkpoint, TokenizerFiles
from quiltwork.models.sources import Source

FILES = [f"expert-{name}.safetensors" for name in ("ash", "birch", "cedar", "elm")]


def source(array: np.ndarray[Any, Any], told: Callable[[], None] = lambda: None, count: int = 4) -> Source:
    """A float32 tensor in ``count`` pieces; ``told`` is called before each."""

    def pieces() -> Iterator[bytes]:
        for piece in np.array_split(array, count):
            told()
            yield piece.tobytes()

    return Source.streamed("F32", array.shape, pieces)


def write(shards: dict[str, dict[str, Source]], place: Path) -> dict[str, Any]:
    place.mkdir(parents=True)
    return Checkpoint({}, shards).write(place, TokenizerFiles({}))


@pytest.fixture
def arrays() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {file: rng.standard_normal(1000).astype("f4") for file in FILES}


def test_every_shard_holds_its_tensors(arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path) -> None:
    needs_torch = Source.of(torch.arange(3.0))
    shards = {file: {f"{file}.x": source(array)} for file, array in arrays.items()}
    shards["shared.safetensors"] = {"here": source(arrays[FILES[0]]), "loaded": needs_torch}
    records = write(shards, tmp_path / "both")
    for file, array in arrays.items():
        assert np.array_equal(load_file(tmp_path / "both" / file)[f"{file}.x"], array)
        assert records[file].bytes == (tmp_path / "both" / file).stat().st_size
    assert load_file(tmp_path / "both" / "shared.safetensors")["loaded"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", FILES)
def test_the_first_error_is_told_and_the_others_stop(
    bad: str, arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    begun: list[str] = []

    def told(file: str) -> Callable[[], None]:
        def raising() -> None:
            begun.append(file)
            if file == bad:
                raise AlteredContribution(file, why="it was changed", mend="Fetch it again.")

        return raising

    with pytest.raises(AlteredContribution, match=bad):
        write({file: {"x": source(array, told(file))} for file, array in arrays.items()}, tmp_path / "out")
    assert begun.count(bad) == 1


def test_an_error_in_a_later_shard_does_not_wait_for_an_earlier_one(
    arrays: dict[str, np.ndarray[Any, Any]], tmp_path: Path
) -> None:
    long, bad, *others = FILES
    given: list[str] = []

    def slowly() -> None:
        given.append(long)
        time.sleep(0.01)

    def raising() -> None:
        raise AlteredContribution(bad, why="it was changed", mend="Fetch it again.")

    shards = {long: {"x": source(arrays[long], slowly, 500)}, bad: {"x": source(arrays[bad], raising)}}
    shards |= {file: {"x": source(arrays[file], lambda file=file: given.append(file))} for file in others}  # type: ignore[misc]
    with pytest.raises(AlteredContribution, match=bad):
        write(shards, tmp_path / "out")
    assert given.count(long) < 500
