"""``quiltwork remove``: what is left is byte for byte what composing without the party writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import done, files, refused


@pytest.mark.parametrize("method", ["learned_rows", "evidence_ffn", "evidence_full", "btm"])
@pytest.mark.parametrize("leaver", ["ash", "cedar"])
def test_removing_equals_never_having_composed(
    method: str,
    leaver: str,
    composed: Callable[[str], Path],
    base: Path,
    given: Mapping[str, Path],
    public: Path,
    tmp_path: Path,
) -> None:
    done("remove", composed(method), "--party", leaver, "--out", tmp_path / "left")
    others = [path for party, path in given.items() if party != leaver]
    done("compose", *others, "--base", base, "--method", method, "--public", public, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never")
    assert not any(leaver in name for name in files(tmp_path / "left"))
    everybody = files(composed(method))
    assert everybody != files(tmp_path / "left")


def test_a_native_copy_of_learned_rows_stays_native(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--base", base, "--method", "learned_rows", "--layout", "native")
    done("compose", *given.values(), *options, "--out", tmp_path / "all")
    done("remove", tmp_path / "all", "--party", "birch", "--out", tmp_path / "left")
    done("compose", given["ash"], given["cedar"], *options, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never")


def test_json_and_note_say_who_is_left(composed: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("remove", composed("learned_rows"), "--party", "birch", "--out")
    result = done(*arguments, tmp_path / "a", "--json").json
    assert result["removed"] == ["birch"]
    assert [entry["party"] for entry in result["contributions"]] == ["ash", "cedar"]
    assert (result["layout"], result["path"]) == ("portable", str(tmp_path / "a"))
    assert "ash, cedar remain" in done(*arguments, tmp_path / "b").err
    assert "cedar remains" in done(*arguments, tmp_path / "c", "--party", "ash").err


def test_a_second_party_can_leave_and_the_last_cannot(composed: Callable[[str], Path], tmp_path: Path) -> None:
    done("remove", composed("evidence_ffn"), "--party", "ash", "--out", tmp_path / "two")
    done("remove", tmp_path / "two", "--party", "birch", "--out", tmp_path / "one")
    arguments = ("remove", tmp_path / "one", "--party", "cedar", "--out", tmp_path / "none")
    refused(*arguments, names=("cedar", "only one left"), mend="base")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


def test_several_leave_at_once_and_none_if_one_is_unknown(
    composed: Callable[[str], Path], base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    leaving = ("--party", "ash", "--party", "cedar")
    result = done("remove", composed("learned_rows"), *leaving, "--out", tmp_path / "left", "--json").json
    assert result["removed"] == ["ash", "cedar"]
    done("compose", given["birch"], "--base", base, "--method", "learned_rows", "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never")
    arguments = ("remove", composed("learned_rows"), "--party", "ash", "--party", "oak", "--out", tmp_path / "none")
    refused(*arguments, names="party 'oak'", mend="birch, cedar")
    assert not (tmp_path / "none").exists()


def test_an_unknown_party_is_refused(composed: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("remove", composed("learned_rows"), "--party", "oak", "--out", tmp_path / "out")
    refused(*arguments, names="party 'oak'", mend="ash, birch, cedar")
    assert list(tmp_path.iterdir()) == []


def test_a_soup_cannot_be_taken_apart(composed: Callable[[str], Path], tmp_path: Path) -> None:
    arguments = ("remove", composed("soup"), "--party", "ash", "--out", tmp_path / "out")
    refused(*arguments, names=("sum", "soup"), mend="quiltwork compose")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [("--weight", "ash=2", "--weight", "base=0.5"), ("--bias",), ("--top-k", "2")])
def test_a_router_with_weights_biases_or_top_k_comes_apart_too(
    option: tuple[str, ...], base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    options = ("--base", base, "--method", "learned_rows", *option)
    done("compose", *given.values(), *options, "--out", tmp_path / "all")
    done("remove", tmp_path / "all", "--party", "birch", "--out", tmp_path / "left")
    done("compose", given["ash"], given["cedar"], *options, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never")


def test_what_is_no_composite_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for place, why in ((base, "quiltwork.json"), (given["ash"], "quiltwork.json"), (nowhere, "no such directory")):
        refused("remove", place, "--party", "ash", "--out", tmp_path / "out", names=(str(place), why))


def test_a_composite_without_a_shard_is_refused(composed: Callable[[str], Path], tmp_path: Path) -> None:
    broken = Path(shutil.copytree(composed("learned_rows"), tmp_path / "broken"))
    (broken / "expert-birch.safetensors").unlink()
    refused("remove", broken, "--party", "ash", "--out", tmp_path / "out", names="expert-birch.safetensors")
    assert not (tmp_path / "out").exists()


def test_an_existing_target_is_kept_unless_asked(composed: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    arguments = ("remove", composed("learned_rows"), "--party", "ash", "--out", tmp_path / "out")
    refused(*arguments, names="out", mend="overwrit")
    assert files(tmp_path / "out") == {"mine": b"kept"}
    done(*arguments, "--overwrite")
    assert "mine" not in files(tmp_path / "out")
