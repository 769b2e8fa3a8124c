"""Parties and the label party in sealed processes, tapes of what they said, and their replay by audit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import done, refused, run
from cli_split import additive, plan, write_csv, xor

from quiltwork.audit.certificate import Certificate, read_certificate
from quiltwork.audit.facts import Facts, read_facts

PROCESSES = "processes = true\ntimeout = 120.0"


def facts(run: Path) -> Facts:
    return read_facts((run / "records.json").read_text())


def registry(words: Path) -> Path:
    words.write_text(words.read_text().replace('column = "y"', 'column = "y"\nparty = "registry"'))
    return words


def audited(words: Path, run: Path, place: Path, *more: object) -> Certificate:
    done("split", "audit", words, "--run", run, "--out", place, *more)
    return read_certificate((place / "certificate.json").read_text())


@pytest.fixture(scope="module")
def taped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """All parties in one process, a label party among them."""
    place = tmp_path_factory.mktemp("taped")
    words = registry(plan(place, additive(80), epochs=2))
    done("split", "train", words, "--out", place / "run", "--tape", "--save-every", 3)
    return words, place / "run"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Each in a process of its own."""
    place = tmp_path_factory.mktemp("sealed")
    words = registry(plan(place, additive(80), epochs=2, more=PROCESSES))
    done("split", "train", words, "--out", place / "run", "--tape", "--save-every", 3)
    return words, place / "run"


@pytest.mark.slow
def test_the_label_party_has_a_process_and_the_bits_are_those_of_one(
    taped: tuple[Path, Path], sealed: tuple[Path, Path]
) -> None:
    found, local = facts(sealed[1]), facts(taped[1])
    assert found.label_party == "registry"
    assert set(found.sealing) == {"bank", "shop", "registry"}
    assert set(found.sealing.values()) <= {"landlock", "audit-hook"}
    assert set(local.sealing.values()) == {"not sealed"}
    assert (found.digests, found.transcripts) == (local.digests, local.transcripts)


@pytest.mark.slow
def test_parties_that_were_sealed_and_replay_the_same_are_confined(sealed: tuple[Path, Path], tmp_path: Path) -> None:
    certificate = audited(*sealed, tmp_path)
    assert {c.subject for c in certificate.checks if c.name == "replay" and c.holds} == {"bank", "shop"}
    by_kernel = set(facts(sealed[1]).sealing.values()) == {"landlock"}
    assert certificate.standing("G1").held is by_kernel


def test_replay_gives_every_party_the_same_answers(taped: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = taped
    certificate = audited(words, run, tmp_path)
    replays = {c.subject: c for c in certificate.checks if c.name == "replay"}
    assert set(replays) == {"bank", "shop"}
    assert all(c.holds for c in replays.values())
    assert replays["bank"].found["replayed"] == facts(run).transcripts["bank"].up
    assert "not sealed" in certificate.standing("G1").why


@pytest.mark.slow
def test_replay_notices_another_fragment(taped: tuple[Path, Path], tmp_path: Path) -> None:
    """The negative control: what the party holds now is not what it learned from."""
    words, _ = taped
    for path in words.parent.iterdir():
        shutil.copytree(path, tmp_path / path.name) if path.is_dir() else shutil.copy(path, tmp_path / path.name)
    lines = (tmp_path / "bank.csv").read_text().splitlines()
    case, _, last = lines[1].split(",")
    (tmp_path / "bank.csv").write_text("\n".join([lines[0], f"{case},9.0,{last}", *lines[2:]]) + "\n")
    certificate = audited(tmp_path / "plan.toml", tmp_path / "run", tmp_path)
    found = {c.subject: c.passed for c in certificate.checks if c.name == "replay"}
    assert found == {"bank": False, "shop": True}
    assert not certificate.standing("G1").held


@pytest.mark.parametrize("what", ["missing", "cut", "another", "foreign"])
def test_a_tape_that_is_not_whole_is_refused(what: str, taped: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = taped
    shutil.copytree(run, tmp_path / "run")
    tape = tmp_path / "run" / "tape"
    content = (tape / "bank.down").read_bytes()
    if what == "missing":
        (tape / "bank.down").unlink()
    elif what == "cut":
        (tape / "bank.down").write_bytes(content[:-9])
    elif what == "another":
        (tape / "bank.down").write_bytes(content[: int.from_bytes(content[:8], "little") + 8])
    else:
        (tape / "bank.down").write_bytes((tape / "bank.up").read_bytes())
    refused("split", "audit", words, "--run", tmp_path / "run", names="tape")


def test_without_a_tape_nothing_is_replayed(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(80), epochs=1)
    done("split", "train", words, "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "tape").exists()
    assert "replay was not run" in audited(words, tmp_path / "run", tmp_path).standing("G1").why


@pytest.mark.slow
def test_joint_mode_in_one_process_is_replayed_but_was_not_sealed(tmp_path: Path) -> None:
    words = plan(tmp_path, xor(80), "joint", epochs=2)
    done("split", "train", words, "--out", tmp_path / "run", "--tape")
    certificate = audited(words, tmp_path / "run", tmp_path, "--retrain")
    assert {c.subject for c in certificate.checks if c.name == "replay" and c.holds} == {"bank", "shop"}
    assert certificate.standing("G0").held
    assert "not sealed" in certificate.standing("G1").why


@pytest.mark.slow
def test_a_tape_begins_with_the_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quiltwork.session.split.isolated import Isolated

    learn = Isolated.learn

    def stopping(self: Isolated, activations: Any, labels: Any, round_: int) -> Any:
        if round_ == 3:
            raise KeyboardInterrupt
        return learn(self, activations, labels, round_)

    words = plan(tmp_path, additive(80), epochs=2, more=PROCESSES)
    train = ("split", "train", words, "--out", tmp_path / "run", "--save-every", 2)
    with monkeypatch.context() as patched:
        patched.setattr(Isolated, "learn", stopping)
        assert run(*train, "--tape").code == 1
    refused(*train, "--tape", "--resume", names=("--tape", "round 2"))
    done(*train, "--resume")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed"] == 2
    assert audited(words, tmp_path / "run", tmp_path, "--retrain").standing("G2").held


@pytest.mark.slow
def test_the_label_party_of_released_labels_opens_nothing(tmp_path: Path) -> None:
    words = registry(plan(tmp_path, additive(80), epochs=1, more=PROCESSES))
    words.write_text(words.read_text().replace('party = "registry"', 'party = "registry"\nepsilon = 3.0'))
    outcome = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert {"G7a", "G10"} <= set(outcome["held"])
    assert audited(words, tmp_path / "run", tmp_path, "--retrain").standing("G2").held


@pytest.mark.slow
def test_a_label_party_of_numbers(tmp_path: Path) -> None:
    words = registry(plan(tmp_path, additive(80), epochs=1, more=PROCESSES))
    words.write_text(words.read_text().replace('party = "registry"', 'party = "registry"\ntask = "regression"'))
    ids = [f"c{i:04d}" for i in range(80)]
    write_csv(tmp_path / "labels.csv", ids, {"y": list(np.random.default_rng(0).normal(size=80))})
    done("split", "train", words, "--out", tmp_path / "run")
    local = words.read_text().replace(PROCESSES, "")
    words.write_text(local)
    done("split", "train", words, "--out", tmp_path / "two")
    assert facts(tmp_path / "two").digests == facts(tmp_path / "run").digests
