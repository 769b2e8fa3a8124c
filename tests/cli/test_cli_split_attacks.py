"""What audit tries on a run: foreign numbers in what was sent, labels read off cotangents, a lying minority."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import done
from cli_split import additive, plan, table_csv

from quiltwork.audit.certificate import Certificate, read_certificate
from quiltwork.cli.split import taping

THIRD = '[parties.mill]\nfiles = ["mill.csv"]\ncomponent = { kind = "mlp", hidden = [8], width = 4 }\n[composer]\n'


def three(place: Path, outputs: str) -> Path:
    tables, labels = additive(160)
    words = plan(place, (tables, labels), epochs=4)
    ids = [f"c{i:04d}" for i in range(160)]
    table_csv(place / "mill.csv", ids, tables["bank"] + tables["shop"])
    words.write_text(words.read_text().replace("[composer]\n", THIRD + f'outputs = "{outputs}"\n'))
    return words


def audited(words: Path, *more: object, place: Path) -> Certificate:
    done("split", "audit", words, "--run", place / "run", "--out", place, *more)
    return read_certificate((place / "certificate.json").read_text())


@pytest.fixture(autouse=True)
def replays_are_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taping, "_replays", lambda *_: [])


@pytest.mark.parametrize("mode", ["isolated", "joint"])
def test_labels_are_read_off_cotangents(mode: str, tmp_path: Path) -> None:
    words = plan(tmp_path, additive(160), mode, epochs=3)
    done("split", "train", words, "--out", tmp_path / "run", "--tape")
    found = audited(words, "--retrain", place=tmp_path)
    attacks = {(a.party, a.when): a for a in found.attacks}
    # 128 rows in four rounds an epoch
    due = ("first round", "rounds 0 to 3", "rounds 4 to 7", "rounds 8 to 11")
    assert set(attacks) == {(party, when) for party in ("bank", "shop") for when in due}
    first = attacks["bank", "first round"]
    assert first.success > 0.9
    assert first.success > first.baseline + 0.1
    assert found.standing("G4").held
    assert not found.standing("G3").held, "labels were not randomised"


def test_randomised_labels_and_the_attack_together_hold_bounded_declassification(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(160), "joint", epochs=3)
    words.write_text(words.read_text().replace('column = "y"', 'column = "y"\nepsilon = 1.0'))
    done("split", "train", words, "--out", tmp_path / "run", "--tape")
    found = audited(words, "--retrain", place=tmp_path)
    assert found.standing("G3").held
    first = next(a for a in found.attacks if (a.party, a.when) == ("bank", "first round"))
    # a released label is the true one with probability e / (e + 1)
    assert first.success < 0.9


def test_without_a_tape_or_in_eight_bits_nothing_is_read_off(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(80), "joint", epochs=1, more='precision = "int8"')
    done("split", "train", words, "--out", tmp_path / "run", "--tape")
    found = audited(words, "--retrain", place=tmp_path)
    assert found.attacks == ()
    assert "canary was not run" in found.standing("G4").why


@pytest.mark.parametrize(("outputs", "held"), [("median", True), ("product", False)])
def test_a_lying_minority_moves_the_product_and_not_the_median(outputs: str, held: bool, tmp_path: Path) -> None:
    words = three(tmp_path, outputs)
    done("split", "train", words, "--out", tmp_path / "run")
    found = audited(words, "--retrain", place=tmp_path)
    (check,) = [c for c in found.checks if c.name == "byzantine"]
    assert (check.passed, check.control) == (held, True)
    assert found.standing("G11").held is held


def test_a_foreign_row_that_was_sent_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a composer that hands one party's activations to the other."""
    from quiltwork.session.split.isolated import Isolated
    from quiltwork.session.split.mode import Lesson

    learn = Isolated.learn

    def leaking(self: Isolated, activations: dict, labels: object, round_: int) -> Lesson:  # type: ignore[type-arg]
        lesson = learn(self, activations, labels, round_)  # type: ignore[arg-type]
        foreign = activations["shop"].clone() if round_ == 2 else lesson.cotangents["bank"]
        return Lesson({**lesson.cotangents, "bank": foreign}, lesson.losses)

    monkeypatch.setattr(Isolated, "learn", leaking)
    words = plan(tmp_path, additive(80), epochs=2)
    done("split", "train", words, "--out", tmp_path / "run", "--tape")
    found = audited(words, place=tmp_path)
    (check,) = [c for c in found.checks if c.name == "canary"]
    assert not check.passed
    assert check.found["hits"]["bank"] >= np.ceil(32 / 2)  # type: ignore[index,call-overload]
    assert check.found["hits"]["shop"] == 0  # type: ignore[index,call-overload]
