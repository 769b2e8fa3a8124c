"""A small run of what benchmarks/hostile_composed.py does at length; openers that check less must fail it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_composed import FAMILIES
from hostile_composites import CompositeRange, must_refuse, write_composites
from hostile_specimens import sizes_of, write_specimens

from quiltwork.composite import language, listed, written
from quiltwork.evaluate import matrix
from quiltwork.models import base as bases
from quiltwork.models import disassembly
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer

TRIALS = 300
SEED = 1


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("composites")
    tokenizer = train_tokenizer(["a page about nothing in particular"] * 4, 264)
    size = TinySize(vocabulary=len(tokenizer), hidden=8, intermediate=12, layers=1, heads=2, positions=32)
    tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    base = bases.open_base(place / "base")
    parts = write_specimens(place / "parts", sizes_of(base, hidden=8, intermediate=12, layers=1))
    return write_composites(place, parts, base)


@pytest.fixture
def target(specimens: dict[str, Path], tmp_path: Path) -> Iterator[CompositeRange]:
    return CompositeRange(specimens, tmp_path, SEED)


def test_sound_composites_pass_the_oracle(specimens: dict[str, Path]) -> None:
    assert {must_refuse(path) for path in specimens.values()} == {None}


def test_nothing_spoiled_is_verified_or_answers_and_nothing_crashes(target: CompositeRange) -> None:
    outcomes = [target.trial(number) for number in range(TRIALS)]
    assert [one for one in outcomes if one.failure] == []
    # the range must reach deep: some directories are other sound models, and every family was drawn
    assert {"AlteredCheckpoint", "CheckpointError", ""} <= {one.error for one in outcomes}
    assert {one.specimen for one in outcomes if one.accepted} == set(target.folders)
    assert {family for one in outcomes for family in one.families.split("+")} == set(FAMILIES)


def nothing(*_: Any, **__: Any) -> None:
    """A check that checks nothing."""


CONTROLS: dict[str, tuple[str, list[tuple[Any, str]], Callable[..., Any], str]] = {
    "octets": ("octets", [(listed.Listed, "check"), (listed.Listed, "verify")], nothing, "wrongly accepted"),
    "record": ("record", [(written, "require_own_digest")], nothing, "wrongly accepted"),
    "sizes": ("settings", [(disassembly, "require_sizes"), (bases, "require_sizes")], nothing, "memory"),
    "fields": ("settings", [(language, "plain_config"), (bases, "plain_config")], dict, ""),
    "answers": ("values", [(language, "require_answer"), (bases, "require_answer")], nothing, "finite"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_an_opener_with_one_check_removed_is_caught(
    control: str, specimens: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, places, broken, words = CONTROLS[control]
    target = CompositeRange(specimens, tmp_path, SEED, among=(family,))
    for where, name in (*places, *([(matrix.math, "isfinite")] if control == "answers" else [])):
        monkeypatch.setattr(where, name, (lambda _: True) if name == "isfinite" else broken)
    found = next((one.failure for number in range(TRIALS) if (one := target.trial(number)).failure), None)
    assert found is not None
    assert words in found
