"""Prompts belong to their party: who leaves takes them along, who joins brings them, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runner import done, files, refused

from quiltwork.composite.provenance import kept_options
from quiltwork.contribution.canonical import encode

SHARED = ["a public page about nothing"]
OWN = {
    "ash": {"positive": ["the river runs over grey stones"]},
    "birch": {"positive": ["def return yield import"], "negative": ["the ferry"]},
    "cedar": {"positive": ["plaintiff court appeal", "verdict"]},
}
METHODS = {"prompt_rows": (), "evidence_rows": ("--rows", "prompt_rows")}
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def compose(base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path) -> Callable[..., Path]:
    """``compose(name, method, parties, prompts)``: the directory that the command writes."""

    def build(name: str, method: str, parties: str, prompts: Mapping[str, Any]) -> Path:
        file = written(tmp_path / f"{name}.json", prompts)
        words = ("--base", base, "--method", method, *METHODS[method], "--prompts", file, "--public", public)
        done("compose", *(given[party] for party in parties.split()), *words, "--out", tmp_path / name)
        return tmp_path / name

    return build


def written(path: Path, prompts: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps({"negative": SHARED, **prompts}))
    return path


def only(*names: str) -> dict[str, Any]:
    return {name: OWN[name] for name in names}


@each_method
def test_who_leaves_takes_its_prompts_along(method: str, compose: Callable[..., Path], tmp_path: Path) -> None:
    whole = compose("whole", method, "ash birch cedar", OWN)
    done("remove", whole, "--party", "cedar", "--out", tmp_path / "left")
    fresh = compose("fresh", method, "ash birch", only("ash", "birch"))
    assert files(tmp_path / "left") == files(fresh)
    assert files(compose("knowing", method, "ash birch", OWN)) == files(fresh)
    assert b"plaintiff court" in (whole / "quiltwork.json").read_bytes()
    for content in files(tmp_path / "left").values():
        assert b"plaintiff court" not in content
        assert b"cedar" not in content


@each_method
def test_who_joins_brings_prompts(
    method: str, compose: Callable[..., Path], base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    two, whole = (
        compose("two", method, "ash cedar", only("ash", "cedar")),
        compose("all", method, "ash birch cedar", OWN),
    )
    words = ("add", two, given["birch"], "--base", base, "--out", tmp_path / "three")
    refused(*words, names=("party 'birch'", "no prompts for it"), mend="--prompts")
    done(*words, "--prompts", written(tmp_path / "late.json", only("birch")))
    assert files(tmp_path / "three") == files(whole)
    done(*words, "--prompts", written(tmp_path / "late.json", OWN), "--overwrite")
    assert files(tmp_path / "three") == files(whole)


def test_prompts_that_would_change_what_is_there_are_refused(
    compose: Callable[..., Path], composed: Callable[[str], Path], base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    two, late = compose("two", "prompt_rows", "ash cedar", OWN), tmp_path / "late.json"
    words = ("add", two, given["birch"], "--base", base, "--prompts", late, "--out", tmp_path / "three")
    late.write_text(json.dumps({"negative": ["another page"], **OWN}))
    refused(*words, names=("the prompts that are negative for all", "remembers others"), mend="at once")
    done("remove", composed("learned_rows"), "--party", "ash", "--out", tmp_path / "rows")
    others = ("add", tmp_path / "rows", given["ash"], "--prompts", written(late, OWN), "--out", tmp_path / "three")
    refused(*others, names=("prompts", "method learned_rows"), mend="Leave")
    assert not (tmp_path / "three").exists()


def remembered(*parties: str) -> dict[str, Any]:
    prompts = {"acme": "owner", "acme.code": "code", "oak": "oak"}
    router = {"rows": {"prompts": prompts, "scale": 1.0}, "share": 1.0}
    options = {"router": router, "weights": {"base": 2.0, "oak": 3.0}, "include": ["oak"], "scope": "ffn"}
    return kept_options(options, parties)


def test_an_owner_s_prompts_stay_as_long_as_a_share_is_read_by_them() -> None:
    found = remembered("acme.code", "acme.text")
    assert found["router"]["rows"]["prompts"] == {"acme": "owner", "acme.code": "code"}
    assert found["weights"] == {"base": 2.0}
    assert remembered("acme.code")["router"]["rows"]["prompts"] == {"acme.code": "code"}
    assert remembered("acme.text")["router"]["rows"]["prompts"] == {"acme": "owner"}
    assert b"oak" not in encode(remembered("acme.text"))
    assert remembered("oak")["weights"] == {"base": 2.0, "oak": 3.0}
    assert kept_options(remembered("acme.code", "acme.text"), ["acme.code"]) == remembered("acme.code")
