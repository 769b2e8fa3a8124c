"""The demo of images: its options, who sees what, and a small one from end to end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_runner import Outcome, done, refused

from quiltwork.cli import image_story
from quiltwork.cli.image_story import OWNERS, ImageStory
from quiltwork.cli.stage import same_bytes
from quiltwork.compose.reopen import open_network_composite
from quiltwork.evaluate.scores import load_scores


@pytest.mark.parametrize("option", ["--steps", "--stitch-steps"])
def test_no_training_is_no_story(option: str, tmp_path: Path) -> None:
    refused("demo", "images", "--out", tmp_path / "out", option, 0, names="=0")
    assert list(tmp_path.iterdir()) == []


def test_an_owner_sees_its_own_images_and_what_was_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, Sequence[str]]] = []

    def owner_process(command: Sequence[str], owner: str, threads: int) -> None:
        commands.append((owner, command))
        Path(command[command.index("--out") + 1]).mkdir(parents=True)

    monkeypatch.setattr(image_story, "run_owner", owner_process)
    story = ImageStory(tmp_path / "demo", 1, 1, 0)
    story.out.mkdir()
    for owner in OWNERS:
        story._train(owner)
        story._publish(owner)
    story._release_sums()
    kinds = [command[1] for _, command in commands]
    assert kinds == ["module"] * 3 + ["statistics"] * 2 + ["stitches"] + ["outputs"] * 3
    for owner, command in commands:
        assert command[0] == "contribute"
        assert "--confine" in command
        private = [word for word in command if str(story.out / "owners") in word]
        assert private
        assert all(str(story.out / "owners" / owner) in word for word in private)
    assert not (story.out / "outbox").exists()


def test_directories_are_compared_however_deep(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"same")
    assert same_bytes(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other" / "deep" / "file").write_bytes(b"else")
    assert not same_bytes(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other" / "deep" / "file").rename(tmp_path / "other" / "file")
    assert not same_bytes(tmp_path / "one", tmp_path / "other")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A demo of short training."""
    out = tmp_path_factory.mktemp("demo") / "demo-images"
    return out, done("demo", "images", "--out", out, "--steps", 150, "--stitch-steps", 20)


@pytest.mark.slow
def test_the_demo_leaves_all_it_promises(demo: tuple[Path, Outcome]) -> None:
    out, outcome = demo
    scores = load_scores(out / "scores.json")
    assert scores.parties == tuple(OWNERS)
    assert {"ensemble", "evidence", "stitched", "pooled"} <= set(scores.methods)
    assert scores.opt_out_identical is True
    assert set(scores.contributions) == set(scores.alone) == set(OWNERS)
    assert open_network_composite(out / "composed").parties == tuple(OWNERS)
    assert "<html" in (out / "report.html").read_text()
    assert "byte for byte what it would have been" in outcome.out
    assert [f"{n}/6" in outcome.err for n in range(1, 7)] == [True] * 6
    assert not list(out.glob("scratch-*"))
    assert json.loads((out / "report.json").read_text())["metric"] == "share wrong"


@pytest.mark.slow
def test_evidence_keeps_each_owner_whole_where_the_plain_ensemble_does_not(demo: tuple[Path, Outcome]) -> None:
    scores = load_scores(demo[0] / "scores.json")
    for owner in OWNERS:
        own = scores.alone[owner].domains[owner].value
        assert scores.methods["evidence"].domains[owner].value <= own + 0.02
    means = {name: scores.mean(name, scores.parties) for name in ("evidence", "ensemble")}
    assert means["evidence"] < means["ensemble"]
