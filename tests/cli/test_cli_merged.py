"""What ``quiltwork merge`` wrote is held against merge.json, as a user types it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runner import done, files, misused, refused

from quiltwork.composite import listed
from quiltwork.composite.provenance import digest_over


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("merged")
    shutil.copytree(base, place / "poems")
    done("merge", base, place / "poems", "--weight", "poems=2", "--out", place / "out")
    return place / "out"


@pytest.fixture
def merged(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "merged")
    for path in (tmp_path / "merged").iterdir():
        path.chmod(0o644)
    return tmp_path / "merged"


def rewritten(directory: Path, change: Callable[[dict[str, Any]], object], *, mended: bool = True) -> None:
    """merge.json changed, by someone who also mends its digest."""
    value = json.loads((directory / "merge.json").read_text())
    change(value)
    value |= {"digest": digest_over(value)} if mended else {}
    (directory / "merge.json").write_text(json.dumps(value))


def test_a_merged_model_is_as_it_was_written(merged: Path, base: Path) -> None:
    (merged / "notes.md").write_text("ours")
    [told] = done("verify", merged, "--json").json
    there = {name: content for name, content in files(merged).items() if name not in ("merge.json", "notes.md")}
    assert told == {
        "path": str(merged),
        "models": sorted([base.name, "poems"]),
        "files": len(there),
        "bytes": sum(map(len, there.values())),
        "foreign": ["notes.md"],
    }
    assert f"merged of {', '.join(told['models'])}" in done("verify", merged).out
    # the record by another reader
    record = json.loads((merged / "merge.json").read_text())
    assert {n: one["digest"] for n, one in record["files"].items()} == {
        name: "sha256:" + hashlib.sha256(content).hexdigest() for name, content in there.items()
    }


INDEX = "model.safetensors.index.json"
NAMES = ["README.md", "config.json", "model.safetensors", INDEX, "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_is_refused_by_the_file_s_name(name: str, merged: Path) -> None:
    path = merged / name
    content = path.read_bytes()
    for edit in (content[:-1] + bytes([content[-1] ^ 1]), content + b" ", b""):
        path.write_bytes(edit)
        refused("verify", merged, names=str(path), mend="again")
    path.unlink()
    refused("verify", merged, names=(str(path), "it is not there"))


def test_every_file_was_tried(merged: Path) -> None:
    assert {*NAMES, "merge.json"} >= files(merged).keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["models"][0].update(weight=3.0),
        lambda value: value.update(scale=2.0),
        lambda value: value["files"]["README.md"].update(bytes=1),
        lambda value: value.pop("digest"),
    ],
)
def test_an_edited_record_is_refused(change: Callable[[dict[str, Any]], object], merged: Path) -> None:
    rewritten(merged, change, mended=False)
    refused("verify", merged, names=(str(merged / "merge.json"), "one of them was changed"))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda value: value.update(version=2), "version"),
        (lambda value: value.update(method="slerp"), "method"),
        (lambda value: value.update(strange=1), "strange"),
        (lambda value: value["models"][0].update(digest="md5"), "models.0.digest"),
        (lambda value: value.update(models=[]), "models"),
        (lambda value: value["files"].update({"../x": value["files"]["README.md"]}), "which files"),
        (lambda value: value["files"].update({"x.bin": value["files"]["README.md"]}), "x.bin"),
    ],
)
def test_a_record_that_nobody_wrote_is_refused(change: Callable[..., object], names: str, merged: Path) -> None:
    rewritten(merged, change)
    refused("verify", merged, names=(names, str(merged)), mend="again")


def test_what_a_library_might_read_is_refused(merged: Path) -> None:
    (merged / "pytorch_model.bin").write_bytes(b"")
    refused("verify", merged, names=("pytorch_model.bin", "merge.json does not list it"), mend="elsewhere")


def test_a_verification_that_reads_nothing_would_be_noticed(merged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = merged / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused("verify", merged, names=str(path))
    monkeypatch.setattr(listed.Listed, "verify", lambda _: None)
    done("verify", merged)


def test_merged_and_composed_models_and_contributions_together(
    merged: Path, composed: Callable[[str], Path], tmp_path: Path
) -> None:
    told = done("verify", merged, composed("learned_rows"), "--json").json
    assert ["parties" in one for one in told] == [True, False]
    (tmp_path / "trust.toml").write_text("")
    for model in (merged, composed("learned_rows")):
        refused("verify", model, "--revocations", tmp_path, names="no keys are given", mend="--trust")
    refused("verify", merged, "--trust", tmp_path / "trust.toml", names=("--trust", "no party"), mend="without")
    misused("verify", merged, tmp_path, names="which is neither a composed nor a merged model")
