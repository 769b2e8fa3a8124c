"""``quiltwork report`` of run directories of split learning: scores, losses and certificates on one page."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_runner import done, refused
from cli_split import additive, plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    for mode in ("isolated", "joint"):
        (place / mode).mkdir()
        words = plan(place / mode, additive(), mode=mode, epochs=2)
        done("split", "train", words, "--out", place / f"run-{mode}")
    return place


def test_runs_have_one_page_with_scores_and_certificates(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    outcome = done("report", runs / "run-isolated", f"other={runs / 'run-joint'}", "--out", out, "--json")
    html = out.read_text()
    for words in ("isolated mode", "joint mode", "bank alone", ">run-isolated</h2>", ">other</h2>", "Full non-interf"):
        assert words in html
    names = {Path(path).name for path in outcome.json}
    assert {"report.html", "report-scores.png", "report-other.png", "report-run-isolated.json"} <= names
    original = (runs / "run-joint" / "certificate.json").read_text()
    assert (tmp_path / "report-other.json").read_text() == original


def test_what_is_no_run_or_was_edited_is_refused(runs: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "report.html")
    (tmp_path / "scores.json").write_text("{}")
    refused("report", runs / "run-joint", tmp_path / "scores.json", *out, names=("run-joint", "others are files"))
    refused("report", tmp_path, *out, names="plan.toml")
    refused("report", runs / "run-joint", "--party", "a=b.csv", *out, names="--party")
    refused("report", runs / "run-joint", runs / "run-joint", *out, names="run-joint", mend="NAME=DIRECTORY")
    shutil.copytree(runs / "run-joint", tmp_path / "edited")
    text = tmp_path / "edited" / "certificate.json"
    text.write_text(text.read_text().replace('"held": false', '"held": true', 1))
    refused("report", tmp_path / "edited", *out, names="does not follow from its own facts")
    assert not (tmp_path / "report.html").exists()
