"""A small run of what benchmarks/hostile.py does at length; readers with one check removed must fail it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_mutations import FAMILIES
from hostile_oracle import must_refuse
from hostile_specimens import unreal_base, write_specimens
from hostile_trial import MAX_BYTES, Range

from quiltwork.contribution import header, manifest, payload, sealed, store

TRIALS = 1000
SEED = 20_260


@pytest.fixture(scope="module")
def specimens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_specimens(tmp_path_factory.mktemp("specimens"), unreal_base())


@pytest.fixture
def target(specimens: dict[str, Path], tmp_path: Path) -> Iterator[Range]:
    return Range(specimens, tmp_path, SEED)


def test_sound_specimens_pass_the_oracle(specimens: dict[str, Path]) -> None:
    assert {must_refuse(path, max_bytes=MAX_BYTES) for path in specimens.values()} == {None}


def test_nothing_is_wrongly_accepted_and_nothing_crashes(target: Range) -> None:
    outcomes = [target.trial(number) for number in range(TRIALS)]
    assert [one for one in outcomes if one.failure] == []
    # the range must reach deep: some directories are other sound contributions, and every family was drawn
    accepted = {one.families for one in outcomes if one.accepted}
    assert {"honest", "values", "retype", "fields"} <= accepted
    assert {family for one in outcomes for family in one.families.split("+")} == set(FAMILIES)
    assert {one.error for one in outcomes} == {
        "",
        "MalformedContribution",
        "AlteredContribution",
        "UnsupportedContribution",
    }


def raises(*args: Any) -> Any:
    raise KeyError("shape")


def writes(*args: Any) -> Any:
    (args[0].path / "seen").touch()


CONTROLS: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "values": (payload, "check_values", lambda *args: None, "wrongly accepted"),
    "digest": (manifest, "digest_of", lambda found: found.digest, "wrongly accepted"),
    "spelling": (manifest, "canonical_bytes", lambda found: b"", "refused an untouched"),
    "names": (store, "_check_names", lambda *args: None, "wrongly accepted"),
    "declared": (store, "check_declared", lambda found: None, "wrongly accepted"),
    "payload": (store, "_verify_payload", lambda *args, **kwargs: None, "wrongly accepted"),
    "late": (sealed.Contribution, "_check", lambda *args: None, "wrongly accepted as used"),
    "crash": (header, "parse", raises, "raised"),
    "write": (store, "_check_limit", writes, "did more than read"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_reader_with_one_check_removed_is_caught(
    control: str, target: Range, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, broken, words = CONTROLS[control]
    monkeypatch.setattr(where, name, broken)
    found = next((one.failure for number in range(TRIALS) if (one := target.trial(number)).failure), None)
    assert found is not None
    assert words in found
