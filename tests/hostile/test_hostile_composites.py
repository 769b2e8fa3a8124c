"""A small run over composed directories, and openers that check less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_composites import CompositeRange, must_refuse, write_composites
from hostile_specimens import sizes_of, write_specimens

from quiltwork.composite import written
from quiltwork.models.base import open_base
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer

TRIALS = 120
SEED = 1


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("composites")
    tokenizer = train_tokenizer(["a page about nothing in particular"] * 4, 264)
    size = TinySize(vocabulary=len(tokenizer), hidden=8, intermediate=12, layers=1, heads=2, positions=32)
    tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    base = open_base(place / "base")
    parts = write_specimens(place / "parts", sizes_of(base, hidden=8, intermediate=12, layers=1))
    return write_composites(place, [parts["expert"], parts["expert-share"]], base)


@pytest.fixture
def target(specimens: dict[str, Path], tmp_path: Path) -> Iterator[CompositeRange]:
    return CompositeRange(specimens, tmp_path, SEED)


def test_sound_composites_pass_the_oracle(specimens: dict[str, Path]) -> None:
    assert {must_refuse(path) for path in specimens.values()} == {None}


def test_no_model_is_made_of_what_was_spoiled_and_nothing_crashes(target: CompositeRange) -> None:
    outcomes = [target.trial(number) for number in range(TRIALS)]
    assert [one for one in outcomes if one.failure] == []
    assert {"AlteredCheckpoint", "CheckpointError", ""} <= {one.error for one in outcomes}


def test_an_opener_that_hashes_nothing_is_caught(target: CompositeRange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_check", lambda found: None)
    monkeypatch.setattr(written.Written, "verify", lambda self: None)
    found = next((one.failure for number in range(TRIALS) if (one := target.trial(number)).failure), None)
    assert found is not None
    assert "wrongly accepted" in found
