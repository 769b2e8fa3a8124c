"""The demo of tables: its options, and a small one from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Outcome, done, refused

from quiltwork.cli.catalog import TABLES
from quiltwork.cli.table_story import TableStory
from quiltwork.compose.reopen import open_table_composite
from quiltwork.contribution.store import read
from quiltwork.evaluate.scores import load_scores


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--machines", 5), "machines=5"),
        (("--rows", 100), "rows=100"),
        (("--jobs", 0), "jobs=0"),
        (("--regime", "odd"), "regime 'odd'"),
    ],
)
def test_sizes_that_tell_no_story_are_refused(options: tuple[object, ...], names: str, tmp_path: Path) -> None:
    refused("demo", "tables", "--out", tmp_path / "out", *options, names=names)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_sees_its_own_rows_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = TableStory(tmp_path / "demo", 6, 600, "even", 1, 0)
    commands: dict[str, list[str]] = {}

    def process(command: list[str], party: str) -> None:
        commands[party] = command
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        (out / "contribution.json").write_text("{}")

    monkeypatch.setattr(story, "_process", process)
    story._write_tables()
    story._contribute()
    assert sorted(commands) == story.parties
    for party, command in commands.items():
        assert command[:2] == ["contribute", "mixture"]
        assert "--confine" in command
        assert not any(other in Path(word).parts for other in story.parties if other != party for word in command)
        assert (story.out / "contributions" / party / "contribution.json").exists()
    assert not (story.out / "outbox").exists()


def test_the_bad_machine_learns_from_responses_of_other_rows(tmp_path: Path) -> None:
    story = TableStory(tmp_path / "demo", 6, 600, "even", 1, 0)
    drawn = dict(zip(story.parties, story.drawn.pieces, strict=True))
    for party, (train, test) in story.pieces.items():
        assert len(train) + len(test) == len(drawn[party])
        honest = {(*x, y) for x, y in zip(drawn[party].x.tolist(), drawn[party].y.tolist(), strict=True)}
        kept = [(*x, y) in honest for x, y in zip(train.x.tolist(), train.y.tolist(), strict=True)]
        assert all(kept) == (party != story.bad)
        assert all((*x, y) in honest for x, y in zip(test.x.tolist(), test.y.tolist(), strict=True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A demo of six machines."""
    out = tmp_path_factory.mktemp("demo") / "demo-tables"
    return out, done("demo", "tables", "--out", out, "--machines", 6, "--rows", 6000, "--jobs", 1)


@pytest.mark.slow
def test_the_demo_leaves_all_it_promises(demo: tuple[Path, Outcome]) -> None:
    out, outcome = demo
    scores = load_scores(out / "scores.json")
    parties = ("m1", "m2", "m3", "m4", "m5", "m6")
    assert scores.parties == parties
    assert set(scores.methods) == {*TABLES, "pooled"}
    assert set(scores.methods["reduction"].excluded) == {"m5"}
    assert scores.opt_out_identical is True
    assert set(scores.contributions) == set(scores.alone) == set(scores.leave_one_out["reduction"]) == set(parties)
    assert {read(out / "contributions" / party).party for party in parties} == set(parties)
    assert open_table_composite(out / "composed").parties == parties
    assert "<html" in (out / "report.html").read_text()
    assert "Excluded 'm5'" in outcome.out
    assert "byte for byte what it would have been" in outcome.out
    assert [f"{n}/5" in outcome.err for n in range(1, 6)] == [True] * 5
    assert not (out / "outbox").exists()
    assert not list(out.glob("scratch-*"))
    assert json.loads((out / "report.json").read_text())["metric"] == "nats per row"


@pytest.mark.slow
def test_the_reduction_comes_near_the_fit_on_all_rows_and_past_every_machine(demo: tuple[Path, Outcome]) -> None:
    scores = load_scores(demo[0] / "scores.json")
    reduction, pooled = scores.mean("reduction", scores.parties), scores.mean("pooled", scores.parties)
    alone = [
        sum(row.domains[party].value for party in scores.parties) / len(scores.parties) for row in scores.alone.values()
    ]
    assert reduction < min(alone)
    assert reduction - pooled < 0.02
