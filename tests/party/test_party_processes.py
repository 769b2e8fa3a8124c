"""Several processes that train together give the contribution that one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quiltwork.contribution.store import read


def _contribute(launcher: list[str], base: Path, data: Path, out: Path) -> None:
    command = [*launcher, "-m", "quiltwork", "contribute", "--base", str(base), "--data", str(data)]
    command += ["--party", "ash", "--out", str(out), "--scope", "full", "--steps", "4", "--batch-size", "4"]
    command += ["--sequence-length", "32", "--cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one(tiny_base, fragments, tmp_path):
    base, data = tiny_base("olmo2").path, fragments["ash"]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    _contribute(two, base, data, tmp_path / "two")
    _contribute([sys.executable], base, data, tmp_path / "one")
    one, other = read(tmp_path / "one"), read(tmp_path / "two")
    assert one.tensor_names() == other.tensor_names()
    for name in one.tensor_names():
        assert (one.tensor(name) - other.tensor(name)).abs().max() < 1e-5
    moved = max(float(one.tensor(name).abs().max()) for name in one.tensor_names("full."))
    assert moved > 1e-3, "the comparison needs weights that moved"
