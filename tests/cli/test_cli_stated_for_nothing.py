"""Options that would be silently ignored, and checkpoints that are not there, are refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cli_runner import FAST, done, refused


@pytest.mark.parametrize("confined", [(), ("--confine",)])
def test_a_checkpoint_that_is_not_there(confined: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    words = ("contribute", "checkpoint", "--base", base, "--party", "ash", "--out", tmp_path / "out", *confined)
    nowhere, file = tmp_path / "nowhere", tmp_path / "model.safetensors"
    file.write_bytes(b"")
    refused(*words, "--checkpoint", nowhere, names=(f"--checkpoint '{nowhere}'", "no such directory"), mend="--base")
    refused(*words, "--checkpoint", file, names=(f"--checkpoint '{file}'", "it is a file"), mend="--base")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_directory_that_is_no_checkpoint(base: Path, tmp_path: Path) -> None:
    words = ("contribute", "checkpoint", "--base", base, "--party", "ash", "--out", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(
        *words, "--checkpoint", empty, names=(f"checkpoint '{empty}'", "no config.json"), mend="Hugging Face checkpoint"
    )


def test_statistics_without_text(base: Path, tmp_path: Path) -> None:
    words = ("contribute", "checkpoint", "--base", base, "--checkpoint", base, "--party", "ash")
    out = ("--out", tmp_path / "out")
    for name, value in (("trigrams", "exact"), ("moments", "full"), ("tokens", "min-count:5")):
        refused(*words, *out, f"--{name}", value, names=f"--{name} {value}", mend="--data")
    done(*words, *out, "--tokens", "none")


def test_checkpoints_to_merge_are_called_checkpoints(base: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    refused("merge", base, nowhere, "--out", tmp_path / "out", names=(f"checkpoint '{nowhere}'", "no such directory"))
    words = ("merge", base, "--base", nowhere, "--out", tmp_path / "out")
    refused(*words, names=(f"base '{nowhere}'", "no such directory"))


@pytest.mark.parametrize("option", [("--proxy-documents", "5"), ("--proxy-documents", "64"), ("--proxy-diversity",)])
def test_options_about_proxies_need_public_text(
    option: tuple[str, ...], base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    words = ("contribute", "expert", "--base", base, "--data", fragments["ash"], "--party", "ash", *FAST)
    refused(*words, *option, "--out", tmp_path / "out", names=(option[0], "no public text"), mend="--proxies")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [("--documents", "64"), ("--features", "tokens")])
def test_options_about_stand_ins_need_a_choice(
    option: tuple[str, str], composed: Callable[[str], Path], public: Path, tmp_path: Path
) -> None:
    words = ("tune", composed("learned_rows"), "--public", public, *FAST, "--out", tmp_path / "out", *option)
    refused(*words, names=(option[0], "--proxies is none"), mend="--proxies evidence")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["evidence_ffn", "btm"])
def test_a_native_composite_as_base_is_told_what_would_do(
    method: str, composed: Callable[[str], Path], given: Mapping[str, Path], fragments, tmp_path: Path
) -> None:
    names, mend = (str(composed(method)), "quiltwork's own layout"), "--layout portable"
    out = ("--base", composed(method), "--out", tmp_path / "out")
    refused("compose", given["ash"], "--method", "learned_rows", *out, names=names, mend=mend)
    refused("contribute", "--data", fragments["ash"], "--party", "ash", *out, names=names, mend=mend)
    assert list(tmp_path.iterdir()) == []


def test_the_mend_for_a_native_composite_is_one(
    base: Path, given: Mapping[str, Path], fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    words = ("--base", base, "--method", "learned_rows", "--layout", "portable", "--out", tmp_path / "portable")
    done("compose", given["ash"], given["birch"], *words)
    own = ("--data", fragments["cedar"], "--party", "cedar", *FAST, "--out", tmp_path / "cedar")
    done("contribute", "--base", tmp_path / "portable", *own, "--cpu")
    on = ("--base", tmp_path / "portable", "--method", "learned_rows")
    done("compose", tmp_path / "cedar", *on, "--out", tmp_path / "longer")
