"""``quiltwork report``: score files of several owners become one page, its figures and its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli_runner import done, files, refused

from quiltwork.evaluate.scores import load_scores

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def test_scores_of_several_owners_make_one_report(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    outcome = done("report", *score_files.values(), "--out", tmp_path / "report.html", "--json")
    written = [Path(path) for path in outcome.json]
    assert written[0] == tmp_path / "report.html"
    assert written[1] == tmp_path / "report.json"
    assert all(path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG") for path in written[2:])
    assert len(written) > 4
    assert sorted(str(p.relative_to(tmp_path)) for p in written) == sorted(files(tmp_path))
    page = written[0].read_text()
    for words in ("ash", "birch", "cedar", "evidence_ffn", "learned_rows"):
        assert words in page
    assert "<script" not in page


def test_the_merged_numbers_are_the_parts(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    done("report", *score_files.values(), "--out", tmp_path / "report.html")
    merged = load_scores(tmp_path / "report.json")
    parts = [load_scores(path) for path in score_files.values()]
    assert merged.domains == ("ash", "birch")
    assert set(merged.parties) == {"ash", "birch", "cedar"}
    for part in parts:
        (domain,) = part.domains
        for name, row in part.methods.items():
            assert merged.methods[name].domains[domain] == row.domains[domain]
            assert merged.methods[name].total_params == row.total_params
            assert merged.methods[name].active_params >= row.active_params
    assert set(merged.alone) == {"ash", "birch"}


def test_order_of_the_parts_does_not_change_a_number(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    done("report", *score_files.values(), "--out", tmp_path / "a.html")
    done("report", *reversed(score_files.values()), "--out", tmp_path / "b.html")
    one, other = load_scores(tmp_path / "a.json"), load_scores(tmp_path / "b.json")
    assert (one.methods, one.alone, one.routing) == (other.methods, other.alone, other.routing)


def test_the_note_says_where_the_report_is(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    outcome = done("report", score_files["ash"], "--out", tmp_path / "new" / "report.html")
    assert f"wrote {tmp_path / 'new' / 'report.html'} and " in outcome.err


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not strict JSON"),
        ("{}", "not a score file"),
        ('{"format": "quiltwork-scores", "seconds": NaN}', "NaN"),
        ('{"format": "quiltwork-scores", "surprise": 1}', "surprise"),
        ('{"format": "quiltwork-scores", "version": 3}', "version"),
    ],
)
def test_what_is_no_score_file_is_refused(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(content)
    refused("report", tmp_path / "scores.json", "--out", tmp_path / "report.html", names=("scores.json", why))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.json"]


def test_a_missing_file_and_a_wrong_ending_are_refused(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    refused("report", tmp_path / "nowhere.json", "--out", tmp_path / "r.html", names="nowhere.json")
    refused("report", score_files["ash"], "--out", tmp_path / "r.pdf", names=("r.pdf", ".html"))


def test_a_part_is_not_overwritten_by_the_merged_numbers(score_files: Mapping[str, Path]) -> None:
    before = files(score_files["ash"].parent)
    arguments = ("report", *score_files.values(), "--out", score_files["ash"].with_suffix(".html"))
    refused(*arguments, names="one of the files to merge", mend="another --out")
    assert files(score_files["ash"].parent) == before


def test_parts_that_contradict_each_other_are_refused(score_files: Mapping[str, Path], tmp_path: Path) -> None:
    scores = json.loads(score_files["ash"].read_text())
    scores["methods"]["base"]["domains"]["ash"]["value"] += 0.1
    (tmp_path / "other.json").write_text(json.dumps(scores))
    arguments = ("report", score_files["ash"], tmp_path / "other.json", "--out", tmp_path / "r.html")
    refused(*arguments, names=("cell method base / ash", "two parts disagree"), mend="leave one of the parts out")
    assert not (tmp_path / "r.html").exists()
