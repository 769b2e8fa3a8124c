"""The examples over tables run as their docstrings say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from quiltwork.compose.reopen import open_table_composite
from quiltwork.contribution.store import read

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, str(out)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_machines_reduce_and_one_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("reduce_machines.py", tmp_path, monkeypatch)
    parties = [f"m{number}" for number in range(8)]
    sent = sum(read(tmp_path / "machines" / party).bytes for party in parties)
    printed = capsys.readouterr().out
    assert printed.startswith(f"8 machines sent {sent} bytes and no row\n")
    alone, together = (float(value) for value in re.findall(r"-\d+\.\d{3}", printed))
    assert together > alone
    assert open_table_composite(tmp_path / "composed").parties == tuple(parties)
    assert "m3" not in open_table_composite(tmp_path / "without-m3").parties


def test_partitions_fit_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    run("reduce_on_dask.py", tmp_path, monkeypatch)
    parties = [f"part-{number}" for number in range(6)]
    assert capsys.readouterr().out == f"reduced {', '.join(parties)}\n"
    assert open_table_composite(tmp_path / "composed").parties == tuple(parties)
