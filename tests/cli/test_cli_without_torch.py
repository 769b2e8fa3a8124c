"""What composes and merges files needs no torch: each command runs in a process in which torch cannot be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

_RUN = """
import sys
for name in ("torch", "transformers", "safetensors"):
    if name not in {allowed!r}:
        sys.modules[name] = None  # an import of it fails
from quiltwork.cli.app import main
sys.argv = ["quiltwork", *{arguments!r}]
main()
"""


def run(*arguments: object, allowed: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    code = _RUN.format(arguments=[str(one) for one in arguments], allowed=allowed)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def owners(given: Mapping[str, Path]) -> list[Path]:
    return list(given.values())


@pytest.mark.parametrize("method", ["soup", "learned_rows"])
def test_composing_and_taking_out_need_no_torch(
    method: str, owners: list[Path], base: Path, composed: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run("compose", *owners, "--base", base, "--method", method, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for file in sorted(composed(method).glob("*.safetensors")):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    if method != "soup":
        taken = run("remove", tmp_path / "out", "--party", "ash", "--out", tmp_path / "fewer")
        assert taken.returncode == 0, taken.stderr


def test_the_check_notices_torch(owners: list[Path], base: Path, tmp_path: Path) -> None:
    # prefix evidence from public text does load a tokenizer
    (tmp_path / "public.txt").write_text("some public words")
    public = ("--public", tmp_path / "public.txt")
    done = run("compose", *owners, "--base", base, "--method", "evidence_ffn", *public, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert not (tmp_path / "out").exists()


def test_merging_needs_no_torch(base: Path, composed: Callable[[str], Path], tmp_path: Path) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    shutil.copyfile(composed("soup") / "model.safetensors", other / "model.safetensors")
    done = run("merge", base, other, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "linear"
    parts = [load_file(base / "model.safetensors"), load_file(composed("soup") / "model.safetensors")]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in merged.items():
        assert torch.equal(tensor, ((parts[0][name].double() + parts[1][name].double()) / 2).to(tensor.dtype)), name
