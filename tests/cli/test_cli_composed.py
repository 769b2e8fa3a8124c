"""Composed language models as directories: parties join, are listed, and whatever was changed is found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runner import done, files, misused, refused
from cli_tables import NAMES

from composed_files import mend_records
from quiltwork.composite.provenance import digest_over
from quiltwork.contribution.canonical import encode

Composed = Callable[[str], Path]


@pytest.fixture(scope="module")
def table(composed_tables: Composed) -> Path:
    return composed_tables("middle")


@pytest.mark.parametrize("method", ["learned_rows", "evidence_ffn", "btm"])
def test_adding_equals_having_composed_all(
    method: str, composed: Composed, base: Path, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    options = ("--base", base, "--method", method, "--public", public)
    done("compose", given["ash"], given["cedar"], *options, "--out", tmp_path / "two")
    told = done("add", tmp_path / "two", given["birch"], "--out", tmp_path / "three")
    assert "ash, birch, cedar" in told.err
    assert files(tmp_path / "three") == files(composed(method))


def test_what_is_given_again_must_be_the_same(
    composed: Composed, base: Path, tiny_base, given: Mapping[str, Path], public: Path, tmp_path: Path
) -> None:
    done("remove", composed("evidence_ffn"), "--party", "cedar", "--out", tmp_path / "two")
    words = ("add", tmp_path / "two", given["cedar"], "--out", tmp_path / "three")
    refused(*words, "--base", tiny_base("llama").path, names=("it is sha256:", "was composed on"), mend="leave it out")
    other = tmp_path / "other.txt"
    other.write_text("another public text")
    refused(*words, "--base", base, "--public", other, names="the public text", mend="Give the same")
    refused(*words, "--public", public, names="--public", mend="--base")
    done(*words, "--base", base, "--public", public)
    assert files(tmp_path / "three") == files(composed("evidence_ffn"))


RED = "\x1b[31mred"


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["contributions"][0].update(licence=RED),
        lambda value: value["contributions"][0].update(digest=RED),
        lambda value: value.update(inherited=[{**value["contributions"][0], "party": RED}]),
        lambda value: value.update(method=RED),
        lambda value: value.update(base=RED),
        lambda value: value.update(options={"top_k": float("nan")}),
    ],
)
def test_a_record_that_nobody_wrote_is_refused_and_drives_no_terminal(
    change: Callable[[dict[str, Any]], None], composed: Composed, tmp_path: Path
) -> None:
    record = shutil.copytree(composed("learned_rows"), tmp_path / "forged") / "quiltwork.json"
    value = json.loads(record.read_text())
    change(value)
    text = json.dumps(value)
    record.write_text(text if "NaN" in text else json.dumps(value | {"digest": digest_over(value)}))
    for verb in ("list", "verify"):
        assert "\x1b" not in refused(verb, record.parent, names="quiltwork.json").err


def test_tensors_in_a_file_that_is_not_listed_are_refused(composed: Composed, tmp_path: Path) -> None:
    place = shutil.copytree(composed("learned_rows"), tmp_path / "forged")
    index = place / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("expert-ash", ".hidden"))
    shutil.copyfile(place / "expert-ash.safetensors", place / ".hidden.safetensors")
    mend_records(place)
    record = place / "quiltwork.json"
    value = json.loads(record.read_text())
    del value["files"][".hidden.safetensors"]
    record.write_bytes(encode(value | {"digest": digest_over(value)}))
    for verb in ("list", "verify"):
        refused(verb, place, names=("'.hidden.safetensors'", "does not list"))


def test_names_of_files_drive_no_terminal(composed: Composed, tmp_path: Path) -> None:
    place = shutil.copytree(composed("learned_rows"), tmp_path / "copied")
    (place / RED).touch()
    told = done("verify", place)
    assert "\x1b" not in told.out
    assert "\\x1b[31mred" in told.out
    (place / f"{RED}.json").touch()
    assert "\x1b" not in refused("verify", place, names="might read it").err


def test_who_cannot_join(
    composed: Composed, contributions, given: Mapping[str, Path], tmp_path: Path, base: Path
) -> None:
    rows, out = composed("learned_rows"), ("--out", tmp_path / "out")
    refused("add", rows, given["ash"], *out, names=("party 'ash'", "in the composed model already"), mend="remove")
    refused("add", rows, composed("btm"), *out, names=("contribution", "it is a composed model"), mend="contributions")
    refused("add", given["ash"], given["birch"], *out, names=str(given["ash"]), mend="quiltwork compose")
    done("remove", rows, "--party", "ash", "--out", tmp_path / "two")
    stranger = contributions("llama")[0].path
    refused("add", tmp_path / "two", stranger, *out, names=("party 'ash'", "it was made from base"), mend="this one")
    refused("add", tmp_path / "two", given["ash"], "--weight", "oak=2", *out, names="party 'oak'")
    done("compose", *given.values(), "--base", base, "--method", "soup", "--out", tmp_path / "soup")
    refused("add", tmp_path / "soup", given["ash"], *out, names="one dense model", mend="quiltwork compose")
    assert not (tmp_path / "out").exists()


def test_options_of_language_models_are_refused_elsewhere(table: Path, machines, tmp_path: Path) -> None:
    words = ("add", table, machines["ash"], "--out", tmp_path / "out")
    refused(*words, "--copy", names=("--copy", "language models"), mend="Leave it out")


def test_links_and_copies(composed: Composed, tmp_path: Path) -> None:
    whole = composed("evidence_ffn")
    done("remove", whole, "--party", "ash", "--out", tmp_path / "linked")
    done("remove", whole, "--party", "ash", "--copy", "--out", tmp_path / "copied")
    assert files(tmp_path / "linked") == files(tmp_path / "copied")
    shard = "expert-cedar.safetensors"
    assert not os.path.samefile(whole / shard, tmp_path / "copied" / shard)
    assert {oct((tmp_path / name / shard).stat().st_mode)[-3:] for name in ("linked", "copied")} == {"444"}


# List and verify.


def test_list_says_who_is_in_it(composed: Composed, given: Mapping[str, Path], base: Path, tmp_path: Path) -> None:
    rows = composed("learned_rows")
    told = done("list", rows, "--json").json
    assert (told["method"], told["layout"], told["tuned"], told["averaged"]) == (
        "learned_rows",
        "portable",
        None,
        False,
    )
    declared = [json.loads((given[p] / "contribution.json").read_text()) for p in ("ash", "birch", "cedar")]
    assert told["parties"] == [
        {
            "party": one["party"],
            "owner": one["party"],
            "share": None,
            "digest": one["digest"],
            "licence": one["licence"],
            "slot": slot,
            "bytes": (rows / f"expert-{one['party']}.safetensors").stat().st_size,
        }
        for slot, one in enumerate(declared, start=1)
    ]
    assert told["bytes"] == sum(p.stat().st_size for p in rows.iterdir() if p.name != "quiltwork.json")
    shown = done("list", rows).out
    assert all(word in shown for word in ("learned_rows (portable)", "ash", "birch", "LicenseRef-cedar"))
    done("compose", *given.values(), "--base", base, "--method", "soup", "--out", tmp_path / "soup")
    assert [p["bytes"] for p in done("list", tmp_path / "soup", "--json").json["parties"]] == [None] * 3


def test_list_of_a_table(table: Path) -> None:
    assert [p["party"] for p in done("list", table, "--json").json["parties"]] == list(NAMES)
    assert "(table)" in done("list", table).out


def test_verify_reads_every_byte(composed: Composed, table: Path, tmp_path: Path) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("learned_rows"), place)
    (place / "notes.md").write_text("ours")
    [told] = done("verify", place, "--json").json
    assert (told["parties"], told["files"], told["foreign"]) == (["ash", "birch", "cedar"], 10, ["notes.md"])
    assert "are as they were written" in done("verify", place, table).out
    misused("verify", place, "--public-key", tmp_path / "key.pem", "--trust", tmp_path / "trust.toml", names="give one")
    misused("verify", place, tmp_path, names="which is neither a composed")
    flip(place / "expert-birch.safetensors")
    refused("verify", place, names=("expert-birch.safetensors", "not those that were written"), mend="again")


def flip(path: Path) -> None:
    """Change the last byte of a file; it may be read-only."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


def test_a_changed_shard_is_found_wherever_it_goes(composed: Composed, given, tmp_path: Path) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("evidence_ffn"), place)
    flip(place / "expert-cedar.safetensors")
    done("list", place)
    # the shard is linked and not read, and its record goes with it
    done("remove", place, "--party", "ash", "--out", tmp_path / "two")
    done("add", tmp_path / "two", given["ash"], "--out", tmp_path / "three")
    for found in ("two", "three"):
        refused("verify", tmp_path / found, names="expert-cedar.safetensors")
        words = ("generate", tmp_path / found, "--prompt", "a")
        refused(*words, names="expert-cedar.safetensors")
    # what is read on the way is checked on the way
    words = ("remove", place, "--party", "ash", "--copy", "--out", tmp_path / "no")
    refused(*words, names="expert-cedar.safetensors")
    assert not (tmp_path / "no").exists()


def test_a_renumbered_shard_is_read_and_so_is_checked(composed: Composed, tmp_path: Path) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("learned_rows"), place)
    flip(place / "expert-cedar.safetensors")
    refused("remove", place, "--party", "ash", "--out", tmp_path / "two", names="expert-cedar.safetensors")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("name", ["config.json", "router.safetensors", "tokenizer.json", "README.md", "quiltwork.json"])
def test_small_files_are_checked_by_every_verb(
    name: str, composed: Composed, given, base: Path, tmp_path: Path
) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("learned_rows"), place)
    data = (place / name).read_bytes()
    (place / name).unlink()
    (place / name).write_bytes(data.replace(b"3", b"4", 1) if name != "router.safetensors" else data[:-1] + b"\x7f")
    out = ("--out", tmp_path / "out")
    refused("remove", place, "--party", "ash", *out, names=name)
    refused("add", place, given["ash"], *out, names=name)
    refused("verify", place, names=name)
    refused("list", place, names=name)
    refused("inspect", place, names=name)
    refused("generate", place, "--prompt", "a", names=name)
    refused("evaluate", place, "--base", base, "--party", f"ash={place / 'README.md'}", *out, names=name)
    assert not (tmp_path / "out").exists()


def test_files_that_a_library_might_read_are_refused(composed: Composed, tmp_path: Path) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("learned_rows"), place)
    for name in (".gitattributes", "model.sig"):
        (place / name).write_text("")
    done("list", place)
    (place / "model.safetensors").write_bytes(b"")
    refused("list", place, names=("model.safetensors", "might read it"), mend="elsewhere")


def test_a_record_of_other_files_is_refused(composed: Composed, tmp_path: Path) -> None:
    place = tmp_path / "composed"
    shutil.copytree(composed("learned_rows"), place)
    value = json.loads((place / "quiltwork.json").read_text())
    for files_, why in (
        ({"../x": {"bytes": 1, "digest": "sha256:" + "0" * 64}}, "which files"),
        ({"x": {"bytes": True, "digest": "sha256:" + "0" * 64}}, "which files"),
        ({"x": {"bytes": 1, "digest": "md5"}}, "which files"),
        ({"x": 1}, "which files"),
        ([], "which files"),
        (value["files"] | {"expert-oak.safetensors": value["files"]["config.json"]}, "it is not there"),
    ):
        forged = {**value, "files": files_}
        (place / "quiltwork.json").write_bytes(encode(forged | {"digest": digest_over(forged)}))
        refused("list", place, names=why)


def test_a_pool_changes_no_byte(
    base: Path, given: Mapping[str, Path], composed: Composed, public: Path, tmp_path: Path
) -> None:
    options = ("--base", base, "--method", "evidence_ffn", "--public", public, "--pool", tmp_path / "pool")
    for name in ("cold", "warm"):
        done("compose", *given.values(), *options, "--out", tmp_path / name)
        assert files(tmp_path / name) == files(composed("evidence_ffn"))
    done("verify", tmp_path / "warm")
    done("remove", tmp_path / "warm", "--party", "ash", "--out", tmp_path / "two")
    done("add", tmp_path / "two", given["ash"], "--pool", tmp_path / "pool", "--out", tmp_path / "three")
    assert files(tmp_path / "three") == files(composed("evidence_ffn"))


def test_what_a_pool_knows_is_not_read_but_checked_where_it_is_used(
    base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    options = ("--base", base, "--pool", tmp_path / "pool", "--layout", "native")
    place = tmp_path / "ash"
    shutil.copytree(given["ash"], place)
    compose = ("compose", place, given["birch"], *options, "--method", "learned_rows", "--out")
    done(*compose, tmp_path / "cold")
    flip(place / "full.safetensors")  # no part of this composition
    done(*compose, tmp_path / "warm")
    full = ("compose", place, given["birch"], *options, "--method", "btm", "--out", tmp_path / "btm")
    refused(*full, names=("full.", "of party 'ash'"), mend="Fetch")
    data = bytearray((place / "ffn.safetensors").read_bytes())
    (place / "ffn.safetensors").write_bytes(data[:-8])
    refused(*compose, tmp_path / "short", names=("ffn.safetensors", "are declared"))
    data[9] ^= 1
    (place / "ffn.safetensors").write_bytes(data)
    refused(*compose, tmp_path / "header", names=("ffn.safetensors", "header"))


def test_a_pool_that_others_may_write_to_is_refused(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir(mode=0o700)
    (tmp_path / "pool").chmod(0o770)
    words = ("compose", given["ash"], "--base", base, "--method", "learned_rows", "--pool", tmp_path / "pool")
    refused(*words, "--out", tmp_path / "out", names=(f"pool '{tmp_path / 'pool'}'", "mode 770"), mend="chmod go-w")
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]
    (tmp_path / "pool").chmod(0o700)
    done(*words, "--out", tmp_path / "out")


def test_a_pool_is_for_language_models(machines, tmp_path: Path) -> None:
    words = ("compose", machines["ash"], "--method", "middle", "--out", tmp_path / "out", "--pool", tmp_path / "pool")
    refused(*words, names="--pool", mend="Leave it out")
