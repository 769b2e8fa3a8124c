"""The demo: its parts in small, and (slow) a reduced one from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Outcome, done, files, refused, start

from quiltwork.cli import story
from quiltwork.cli.stage import MARK, clear, same_bytes
from quiltwork.cli.story import Story
from quiltwork.contribution.store import read
from quiltwork.datasets.installed import CORPORA, Split
from quiltwork.errors import InvalidOption, QuiltworkError, StorageError
from quiltwork.evaluate.scores import load_scores
from quiltwork.evidence.histogram import TokenHistogram

OWNERS = sorted(name for name, corpus in CORPORA.items() if corpus.role == "private")
PUBLIC = sorted(name for name, corpus in CORPORA.items() if corpus.role == "public")
ROWS = {"base", "soup", "uniform_ensemble", "btm", "learned_rows", "evidence_ffn", "evidence_full", "pooled"}
SMALL: dict[str, Any] = {
    "base_steps": 1,
    "steps": 1,
    "budget": 1000,
    "test_bytes": 100,
    "jobs": 1,
    "pooled": False,
    "seed": 0,
}


def small(out: Path, **changes: Any) -> Story:
    return Story(out, **SMALL | changes)


# The directory ----------------------------------------------------------------


def test_a_former_demo_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "demo-out"
    clear(place)
    (place / "old").mkdir()
    (place / "old" / "scores.json").write_text("{}")
    clear(place)
    assert [p.name for p in place.iterdir()] == [MARK]


def test_a_directory_that_is_no_former_demo_is_never_cleared(tmp_path: Path) -> None:
    place = tmp_path / "thesis"
    place.mkdir()
    (place / "chapter.tex").write_text("years of work")
    with pytest.raises(StorageError, match="no former demo's"):
        clear(place)
    refused("demo", "--out", place, names=str(place), mend="another --out")
    assert files(place) == {"chapter.tex": b"years of work"}


def test_a_mark_that_is_a_directory_or_a_file_in_the_way_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "a" / MARK).mkdir(parents=True)
    (tmp_path / "b").write_text("a file")
    for name in ("a", "b"):
        refused("demo", "--out", tmp_path / name, names=str(tmp_path / name))
    assert (tmp_path / "a" / MARK).is_dir()
    assert (tmp_path / "b").read_text() == "a file"


@pytest.mark.parametrize("option", ["base_steps", "steps", "budget", "test_bytes", "jobs"])
def test_sizes_are_positive(option: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=f"{option}=0"):
        small(tmp_path, **{option: 0})
    refused("demo", "--out", tmp_path / "out", f"--{option.replace('_', '-')}", 0, names=f"{option}=0")
    assert list(tmp_path.iterdir()) == []


# Text -------------------------------------------------------------------------


@pytest.fixture
def told(tmp_path: Path) -> Story:
    """A story whose corpora hold three documents each."""
    it = small(tmp_path / "demo", test_bytes=10)
    it.__dict__["splits"] = {
        name: Split(train=[f"{name} one", f"{name} two"], test=["ten bytes!", "more", "x" * 9000]) for name in CORPORA
    }
    return it


def test_text_is_written_apart_by_role_and_owner(told: Story) -> None:
    told._write_text()
    assert (sorted(told.parties), sorted(told.public)) == (OWNERS, PUBLIC)
    assert len(OWNERS) == 4
    for role, names in (("private", OWNERS), ("public", PUBLIC)):
        assert sorted(p.name for p in (told.out / "text" / role).iterdir()) == names
        for name in names:
            place = told.out / "text" / role / name
            assert (place / "train.txt").read_text().split("\f") == [f"{name} one", f"{name} two"]
            assert len((place / "test.txt").read_text().split("\f")) == 3


def test_held_out_text_ends_with_the_document_that_fills_the_budget(told: Story) -> None:
    assert told._held_out() == {name: ["ten bytes!"] for name in (*told.public, *told.parties)}
    told.test_bytes = 15
    assert [len(text) for text in told._held_out()[OWNERS[0]]] == [10, 4, 4000]


# Owners -----------------------------------------------------------------------


def hand_over(command: list[str]) -> None:
    """What the process of an owner leaves, in a directory that no other owner writes to."""
    out = Path(command[command.index("--out") + 1])
    assert not out.parent.exists()
    out.mkdir(parents=True)
    (out / "contribution.json").write_text("{}")


def test_an_owner_is_a_confined_process_with_its_own_text_only(told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: dict[str, list[str]] = {}

    def process(command: list[str], name: str) -> None:
        commands[name] = command
        hand_over(command)

    monkeypatch.setattr(told, "_process", process)
    told._contribute()
    assert sorted(commands) == OWNERS
    assert sorted(p.name for p in told.out.iterdir()) == ["contributions"]
    assert files(told.out / "contributions") == {f"{name}/contribution.json": b"{}" for name in OWNERS}
    for name, command in commands.items():
        assert command[0] == "contribute"
        assert "--confine" in command
        assert [command[i + 1] for i, word in enumerate(command) if word == "--data"] == [
            str(told.out / "text" / "private" / name / "train.txt")
        ]
        assert not any(other in word for other in OWNERS if other != name for word in command)


def test_a_failing_owner_ends_the_demo_with_its_own_words(told: Story, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(QuiltworkError) as caught:
        told._process(["inspect", str(told.out / "nowhere")], "acme")
    assert caught.value.what == "owner 'acme'"
    assert "its own words stand above" in caught.value.why
    shown = capfd.readouterr().err
    assert "acme: refused: contribution" in shown
    assert "nowhere" in shown


def test_a_failing_owner_is_not_hidden_by_the_others(told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    told.jobs = 2

    def process(command: list[str], name: str) -> None:
        if name == OWNERS[2]:
            raise QuiltworkError(f"owner '{name}'", why="it failed", mend="Mend it.")
        hand_over(command)

    monkeypatch.setattr(told, "_process", process)
    with pytest.raises(QuiltworkError, match=f"owner '{OWNERS[2]}'"):
        told._contribute()


# Opting out -------------------------------------------------------------------


def test_directories_are_compared_by_every_name_and_byte(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"\0" * 100)
        (tmp_path / name / "b").write_bytes(b"")
    one, other = tmp_path / "one", tmp_path / "other"
    assert same_bytes(one, other)
    (other / "a").write_bytes(b"\0" * 99 + b"\1")
    assert not same_bytes(one, other)
    (other / "a").write_bytes(b"\0" * 100)
    (other / "c").write_bytes(b"")
    assert not same_bytes(one, other)
    assert not same_bytes(other, one)
    (other / "c").unlink()
    (other / "b").rename(other / "d")
    assert not same_bytes(one, other)


@pytest.fixture
def composed_story(
    tiny_base, contributions, public_text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Story]:
    """A story that has composed three owners, one of whom will leave."""
    monkeypatch.setattr(story, "LEAVER", "birch")
    it = small(tmp_path / "demo")
    parts = {"base": tiny_base("olmo2"), "contributions": contributions("olmo2"), "public_text": public_text("olmo2")}
    it.__dict__.update(parts)
    it._compose()
    return it


def test_opting_out_is_found_identical_and_leaves_no_scratch(composed_story: Story) -> None:
    assert composed_story._opt_out() is True
    assert sorted(p.name for p in composed_story.out.iterdir()) == ["composed", "composed-native"]


def test_a_difference_is_found_and_said(composed_story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    composed_story.__dict__["public_text"] = {
        name: TokenHistogram(described.counts + 1)
        for name, described in composed_story.public_text.items()
        if isinstance(described, TokenHistogram)
    }
    assert composed_story._opt_out() is False
    shown = capsys.readouterr().err
    assert "composed: identical" in shown
    assert "composed-native: DIFFERENT" in shown


# The whole --------------------------------------------------------------------

LOAD = """
import sys
if sys.argv[2] == "native":
    import quiltwork
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
print(type(model).__name__, info["missing_keys"] or "", "quiltwork" in sys.modules)
"""


def load(path: Path, how: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), how],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return " ".join(process.stdout.split())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A demo of a few steps."""
    out = tmp_path_factory.mktemp("demo") / "demo-out"
    sizes = ("--base-steps", 3, "--steps", 2, "--budget", 150_000, "--test-bytes", 1500, "--jobs", 1)
    process = start("demo", "--out", out, *sizes)
    printed, notes = process.communicate(timeout=3000)
    assert process.returncode == 0, notes
    return out, Outcome(0, printed, notes)


@pytest.mark.slow
def test_the_demo_leaves_all_it_promises(demo: tuple[Path, Outcome]) -> None:
    out, outcome = demo
    scores: Mapping[str, Any] = json.loads((out / "scores.json").read_text(), parse_constant=lambda name: int(name))
    assert set(scores["methods"]) == ROWS
    for row in scores["methods"].values():
        assert set(row["domains"]) == {*OWNERS, *PUBLIC}
        assert all(cell["value"] > 0 for cell in row["domains"].values())
        assert row["active_params"] <= row["total_params"]
    assert scores["opt_out_identical"] is True
    assert scores["seconds"] > 0
    assert load_scores(out / "scores.json").parties
    assert sorted(p.name for p in (out / "contributions").iterdir()) == OWNERS
    assert {read(out / "contributions" / name).party for name in OWNERS} == set(OWNERS)
    assert set(scores["alone"]) == set(scores["contributions"]) == set(OWNERS)
    assert set(scores["leave_one_out"]["evidence_ffn"]) == set(OWNERS)
    assert "<html" in (out / "report.html").read_text()
    assert not (out / "outbox").exists()
    assert not list(out.glob("scratch-*"))
    assert "bits per byte" in outcome.out
    assert "byte for byte what it would have been" in outcome.out
    assert [f"{n}/6" in outcome.err for n in range(1, 7)] == [True] * 6


@pytest.mark.slow
def test_the_models_of_the_demo_load(demo: tuple[Path, Outcome]) -> None:
    out, _ = demo
    assert load(out / "composed", "plain") == "FlexOlmoForCausalLM False"
    assert load(out / "composed-native", "native") == "QuiltworkMoEForCausalLM True"
    text = done("generate", out / "composed-native", "--prompt", "def ", "--max-new-tokens", 3).out
    assert text.startswith("def ")
