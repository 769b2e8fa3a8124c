"""Plans whose composer sees the sum of activations: in the open, and under masks."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import done, refused, run
from cli_split import table_csv, write_csv

from quiltwork.audit.certificate import Certificate, read_certificate
from quiltwork.audit.facts import Facts, read_facts

PARTIES = ("ash", "birch", "cedar")
PLAN = """
id = "case"
[labels]
files = ["labels.csv"]
column = "y"
[composer]
hidden = [8]
sum = "{sum}"
[training]
mode = "joint"
epochs = {epochs}
batch_size = 32
seed = 5
{more}
"""
PARTY = '[parties.{0}]\nfiles = ["{0}.csv"]\ncomponent = {{ kind = "mlp", hidden = [8], width = 4 }}\n'


def labels(rows: int = 160) -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(3)
    tables = {party: draw.normal(size=(rows, 2)) for party in PARTIES}
    return tables, (sum(table[:, 0] for table in tables.values()) > 0).astype(np.int64)


def plan(place: Path, sum_: str = "secure", epochs: int = 12, more: str = "") -> Path:
    tables, y = labels()
    ids = [f"c{i:04d}" for i in range(len(y))]
    for party, table in tables.items():
        table_csv(place / f"{party}.csv", ids, table)
    write_csv(place / "labels.csv", ids, {"y": list(y)})
    parts = "".join(PARTY.format(party) for party in PARTIES)
    (place / "plan.toml").write_text(PLAN.format(sum=sum_, epochs=epochs, more=more) + parts)
    return place / "plan.toml"


def facts(run: Path) -> Facts:
    return read_facts((run / "records.json").read_text())


def certificate(words: Path, run: Path, place: Path, *more: object) -> Certificate:
    done("split", "audit", words, "--run", run, "--out", place, *more)
    return read_certificate((place / "certificate.json").read_text())


def predicted(words: Path, run: Path, place: Path) -> np.ndarray:
    data = [word for p in PARTIES for word in ("--data", f"{p}={words.parent / f'{p}.csv'}")]
    done("split", "predict", words, "--run", run, *data, "--out", place / "p.csv")
    with (place / "p.csv").open() as text:
        return np.array([float(row["p(1)"]) for row in csv.DictReader(text)])


def test_a_sum_in_the_open_is_centralised_training_bit_for_bit(tmp_path: Path) -> None:
    words = plan(tmp_path, "open")
    assert done("split", "train", words, "--out", tmp_path / "run", "--json").json["scores"]["composed"] > 0.8
    found = certificate(words, tmp_path / "run", tmp_path, "--retrain")
    assert found.standing("G0").held
    assert not found.standing("G6").held


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("of joint mode", 'mode = "joint"', 'mode = "isolated"'),
        ("give all one width", "width = 4 }\n[parties.birch]", "width = 5 }\n[parties.birch]"),
        ("needs three parties", PARTY.format("cedar"), ""),
        ("absence, stale and precision", "seed = 5", 'seed = 5\nprecision = "int8"'),
        ("absence, stale and precision", "seed = 5", "seed = 5\nabsence = 0.2"),
        ("composer.sum", 'sum = "secure"', 'sum = "secret"'),
        ("'sum'", "[parties.cedar]", "[parties.sum]"),
    ],
)
def test_what_is_no_sum_is_refused(name: str, old: str, new: str, tmp_path: Path) -> None:
    words = plan(tmp_path)
    assert old in words.read_text()
    words.write_text(words.read_text().replace(old, new))
    refused("split", "train", words, "--out", tmp_path / "run", names=name)


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    refused(
        "split", "train", plan(tmp_path), "--out", tmp_path / "run", names="cryptography", mend="quiltwork[sharing]"
    )


pytest.importorskip("cryptography", reason="needs the extra 'sharing'")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("masked")
    words = plan(place)
    done("split", "train", words, "--out", place / "run", "--tape")
    return words, place / "run"


def test_under_masks_it_learns_the_same_and_nothing_crosses_in_the_open(
    masked: tuple[Path, Path], tmp_path: Path
) -> None:
    words = plan(tmp_path, "open")
    done("split", "train", words, "--out", tmp_path / "run")
    np.testing.assert_allclose(predicted(*masked, tmp_path), predicted(words, tmp_path / "run", tmp_path), atol=0.02)
    found = facts(masked[1])
    assert {c.kind for c in found.crossed if c.direction == "up"} == {"KEY", "MASKED", "DONE", "DIGEST"}
    assert {c.kind for c in facts(tmp_path / "run").crossed if c.direction == "up"} >= {"ACTIVATION"}


def test_the_certificate_judges_the_masks(masked: tuple[Path, Path], tmp_path: Path) -> None:
    found = certificate(*masked, tmp_path, "--retrain")
    assert {"G6", "G10"} <= set(found.held), found.standing("G6").why
    assert [c.name for c in found.checks if c.name in ("replay", "masks")] == ["masks"]
    assert not found.standing("G0").held


def test_a_sum_does_without_nobody(masked: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = masked
    data = [word for p in PARTIES[:2] for word in ("--data", f"{p}={words.parent / f'{p}.csv'}")]
    predict = ("split", "predict", words, "--run", run, *data, "--quorum", 2, "--out", tmp_path / "p.csv")
    refused(*predict, names="never missed a party")


def test_an_interrupted_training_goes_on_bit_for_bit(
    masked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quiltwork.session.split.joint import Joint

    learn = Joint.learn

    def stopping(self: Joint, activations: Any, labels: Any, round_: int) -> Any:
        if round_ == 7:
            raise KeyboardInterrupt
        return learn(self, activations, labels, round_)

    words = plan(tmp_path)
    train = ("split", "train", words, "--out", tmp_path / "run", "--save-every", 3)
    with monkeypatch.context() as patched:
        patched.setattr(Joint, "learn", stopping)
        assert run(*train).code == 1
    result = done(*train, "--resume", "--json").json
    assert result["digests"] == facts(masked[1]).digests
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed"] == 6
    done("split", "audit", words, "--run", tmp_path / "run", "--retrain")


@pytest.mark.slow
def test_each_party_sums_in_a_sealed_process_of_its_own(masked: tuple[Path, Path], tmp_path: Path) -> None:
    words = plan(tmp_path, more="processes = true\ntimeout = 120.0")
    words.write_text(words.read_text().replace('column = "y"', 'column = "y"\nparty = "registry"'))
    result = done("split", "train", words, "--out", tmp_path / "run", "--tape", "--json").json
    assert result["digests"] == facts(masked[1]).digests
    assert set(facts(tmp_path / "run").sealing) == {*PARTIES, "registry"}
    assert certificate(words, tmp_path / "run", tmp_path).standing("G6").held
