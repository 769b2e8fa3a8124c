"""``quiltwork split``: train, predict with a quorum, audit; against the estimators, which share none of its code."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runner import done, files, misused, refused
from cli_runner import run as outcome_of
from cli_split import additive, plan, table_csv, write_csv, xor

from quiltwork.audit.certificate import read_certificate
from quiltwork.audit.facts import Facts, read_facts
from quiltwork.models.split.component import OptimiserPlan
from quiltwork.models.split.composers import mlp
from quiltwork.session.split.estimators import SplitClassifier


def replace(path: Path, *pairs: tuple[str, str]) -> Path:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("isolated")
    words = plan(place, additive())
    done("split", "train", words, "--out", place / "run")
    return words, place / "run"


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("joint")
    words = plan(place, xor(), "joint", epochs=12)
    done("split", "train", words, "--out", place / "run")
    return words, place / "run"


@pytest.mark.parametrize("kind", ["train", "predict", "audit"])
def test_each_kind_has_a_help_with_examples(kind: str) -> None:
    shown = done("split", kind, "--help").out
    assert f"quiltwork split {kind}" in shown
    assert "--json" in shown


def test_the_verb_alone_shows_what_there_is() -> None:
    assert "audit" in misused("split", names="").out


def test_components_are_those_of_the_estimator(isolated: tuple[Path, Path]) -> None:
    """Rows reordered by id, files read, plan parsed: in the end the same bytes as arrays in memory give."""
    tables, labels = additive()
    rounded = {p: t.astype(np.float32).astype(np.float64) for p, t in tables.items()}
    estimator = SplitClassifier(
        width=4, hidden=[8], composer=lambda widths, outputs: mlp(widths[0], outputs, [16]), epochs=8, batch_size=32,
        seed=3, held_out=0.2, optimiser=OptimiserPlan("adam", 1e-2),
    ).fit(rounded, labels)  # fmt: skip
    digests = facts(isolated[1]).digests
    assert {p: digests[p] for p in tables} == {p: estimator.run_.digests()[p] for p in tables}


def test_the_run_directory_is_whole_and_private(isolated: tuple[Path, Path]) -> None:
    names = set(files(isolated[1]))
    assert {"plan.toml", "run.json", "records.json", "certificate.json"} <= names
    assert {"components/bank.safetensors", "components/shop.safetensors", "learners/0.safetensors"} <= names
    assert isolated[1].stat().st_mode & 0o077 == 0
    assert [p.name for p in isolated[1].parent.iterdir() if "partial" in p.name or "states" in p.name] == []


def test_isolated_mode_says_where_no_fragment_tells_the_label(tmp_path: Path) -> None:
    words = plan(tmp_path, xor(), epochs=4)
    outcome = done("split", "train", words, "--out", tmp_path / "run", "--json")
    assert "no fragment alone tells the label" in outcome.json["warnings"][0]
    assert outcome.json["scores"]["composed"] < 0.75
    done("split", "audit", words, "--run", tmp_path / "run")
    assert '<p class="open">no fragment alone tells' in (tmp_path / "run" / "certificate.html").read_text()


def test_joint_mode_learns_it(joint: tuple[Path, Path]) -> None:
    scores = json.loads((joint[1] / "run.json").read_text())["scores"]
    assert scores == {"composed": 1.0}
    assert facts(joint[1]).warnings == ()


def facts(run: Path) -> Facts:
    return read_facts((run / "records.json").read_text())


def predictions(words: Path, run: Path, place: Path, *more: object) -> dict[str, dict[str, str]]:
    done("split", "predict", words, "--run", run, "--out", place / "p.csv", *more)
    with (place / "p.csv").open() as text:
        return {row["id"]: row for row in csv.DictReader(text)}


def data(words: Path, *parties: str) -> list[object]:
    return [word for p in parties for word in ("--data", f"{p}={words.parent / f'{p}.csv'}")]


def test_all_parties_predict(joint: tuple[Path, Path], tmp_path: Path) -> None:
    found = predictions(*joint, tmp_path, *data(joint[0], "bank", "shop"))
    labels = {f"c{i:04d}": str(y) for i, y in enumerate(xor()[1])}
    assert {case: row["likeliest"] for case, row in found.items()} == labels
    sums = [float(row["p(0)"]) + float(row["p(1)"]) for row in found.values()]
    np.testing.assert_allclose(sums, 1)


def test_a_quorum_predicts_and_fewer_are_refused(isolated: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = isolated
    found = predictions(words, run, tmp_path, *data(words, "bank"), "--quorum", 1)
    labels = {f"c{i:04d}": str(y) for i, y in enumerate(additive()[1])}
    right = np.mean([row["likeliest"] == labels[case] for case, row in found.items()])
    assert 0.65 < right < 0.95  # half of what decides is at the other party
    fewer = ("split", "predict", words, "--run", run, *data(words, "bank"), "--out", tmp_path / "no.csv")
    refused(*fewer, names=("quorum of 2", "shop"))
    assert not (tmp_path / "no.csv").exists()


def test_joint_mode_refuses_a_quorum_that_it_was_not_trained_for(joint: tuple[Path, Path], tmp_path: Path) -> None:
    refused(
        "split", "predict", joint[0], "--run", joint[1], *data(joint[0], "bank"), "--quorum", 1,
        "--out", tmp_path / "no.csv", names="never missed a party", mend="training.absence",
    )  # fmt: skip


def test_a_party_of_another_plan_or_other_columns_is_refused(isolated: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = isolated
    predict = ("split", "predict", words, "--run", run, "--out", tmp_path / "no.csv", "--quorum", 1)
    refused(*predict, "--data", f"mill={words.parent / 'bank.csv'}", names="mill")
    write_csv(tmp_path / "other.csv", ["a", "b"], {"x0": [1, 2]})
    refused(*predict, "--data", f"bank={tmp_path / 'other.csv'}", names=("other.csv", "x1"))


def standings(words: Path, run: Path, *more: object) -> dict[str, tuple[bool, str]]:
    found = done("split", "audit", words, "--run", run, "--json", *more).json["certificate"]["standings"]
    return {one["number"]: (one["held"], one["why"]) for one in found}


def test_audit_from_records_alone(isolated: tuple[Path, Path]) -> None:
    found = standings(*isolated)
    assert found["G10"][0]
    assert not found["G1"][0]
    assert not found["G2"][0]
    assert "swap" in found["G2"][1]


def test_audit_by_training_again(isolated: tuple[Path, Path], joint: tuple[Path, Path], tmp_path: Path) -> None:
    found = standings(*isolated, "--retrain", "--out", tmp_path)
    assert found["G2"][0], found["G2"]
    certificate = read_certificate((tmp_path / "certificate.json").read_text())
    assert {c.subject for c in certificate.checks if c.name == "swap" and c.holds} == {"bank", "shop"}
    assert "Full non-interference" in (tmp_path / "certificate.html").read_text()
    found = standings(*joint, "--retrain", "--out", tmp_path)
    assert found["G0"][0], found["G0"]
    assert not found["G2"][0]


def test_audit_refuses_states_and_records_that_were_changed(isolated: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = isolated
    audit = ("split", "audit", words, "--run", tmp_path / "run")
    shutil.copytree(run, tmp_path / "run")
    first, second = (tmp_path / "run" / "components" / f"{p}.safetensors" for p in ("bank", "shop"))
    first.write_bytes(second.read_bytes())
    refused(*audit, names=("component 'bank'", "another digest"))
    replace(tmp_path / "run" / "records.json", ('"rounds":48', '"rounds":49'))
    refused(*audit, names="fingerprint")


def test_audit_by_training_again_notices_other_files(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(40), epochs=1)
    done("split", "train", words, "--out", tmp_path / "run")
    plan(tmp_path, xor(40), epochs=1)
    refused("split", "audit", words, "--run", tmp_path / "run", "--retrain", names="training again gives another")


def test_the_label_party_may_be_another(tmp_path: Path) -> None:
    words = replace(plan(tmp_path, additive()), ('column = "y"', 'column = "y"\nparty = "registry"'))
    outcome = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert standings(words, tmp_path / "run")["G10"][0]
    assert facts(tmp_path / "run").label_party == "registry"
    other = plan(tmp_path, additive())
    assert done("split", "train", other, "--out", tmp_path / "two", "--json").json["digests"] == outcome["digests"]


def test_labels_are_randomised_once_and_kept(tmp_path: Path) -> None:
    words = replace(plan(tmp_path, additive()), ('column = "y"', 'column = "y"\nepsilon = 2.0'))
    outcome = done("split", "train", words, "--out", tmp_path / "run", "--json")
    # e^2 / (e^2 + 1)
    assert "probability 0.88" in outcome.err
    labels = json.loads((tmp_path / "run" / "released.json").read_text())["labels"]
    held = [row for row, label in enumerate(labels) if label == -1]
    assert len(held) == 48
    truth = additive()[1]
    flipped = np.mean([label != truth[row] for row, label in enumerate(labels) if label >= 0])
    assert 0.02 < flipped < 0.25
    found = standings(words, tmp_path / "run", "--retrain")
    assert found["G7a"][0], found["G7a"]
    assert found["G2"][0], found["G2"]
    (tmp_path / "run" / "released.json").unlink()
    audit = ("split", "audit", words, "--run", tmp_path / "run", "--retrain")
    refused(*audit, names="released.json", mend="tells more of them")


def test_labels_are_not_randomised_again_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quiltwork.session.split.isolated import Isolated

    def stopping(*_: object) -> None:
        raise KeyboardInterrupt

    words = replace(plan(tmp_path, additive(80), epochs=1), ('column = "y"', 'column = "y"\nepsilon = 1.0'))
    train = ("split", "train", words, "--out", tmp_path / "run")
    learn = Isolated.learn
    monkeypatch.setattr(Isolated, "learn", stopping)
    assert outcome_of(*train).code == 1
    released = (tmp_path / "run.states" / "released.json").read_text()
    assert (tmp_path / "run.states").stat().st_mode & 0o077 == 0
    monkeypatch.setattr(Isolated, "learn", learn)
    refused(*train, names="did not end")
    done(*train, "--resume")
    assert (tmp_path / "run" / "released.json").read_text() == released


def test_processes_give_the_same_bits_and_are_sealed(isolated: tuple[Path, Path], tmp_path: Path) -> None:
    words = plan(tmp_path, additive(), more="processes = true\ntimeout = 120.0")
    outcome = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert outcome["digests"] == facts(isolated[1]).digests
    found, local = facts(tmp_path / "run"), facts(isolated[1])
    assert found.transcripts == local.transcripts
    assert set(found.sealing.values()) <= {"landlock", "audit-hook"}
    assert not (tmp_path / "run.states").exists()
    assert standings(words, tmp_path / "run")["G10"][0]


def test_labels_that_are_not_randomised_have_no_bound(isolated: tuple[Path, Path]) -> None:
    assert not standings(*isolated)["G7a"][0]


def test_numbers_are_learned_too(tmp_path: Path) -> None:
    tables, _ = additive()
    y = tables["bank"][:, 0] + tables["shop"][:, 0]
    words = plan(tmp_path, (tables, np.zeros(len(y), dtype=np.int64)), "joint", epochs=12)
    write_csv(tmp_path / "labels.csv", [f"c{i:04d}" for i in range(len(y))], {"y": [repr(float(v)) for v in y]})
    replace(words, ('column = "y"', 'column = "y"\ntask = "regression"'))
    assert done("split", "train", words, "--out", tmp_path / "run", "--json").json["scores"]["composed"] > 0.8
    found = predictions(words, tmp_path / "run", tmp_path, *data(words, "bank", "shop"))
    guessed = [float(found[f"c{i:04d}"]["predicted"]) for i in range(len(y))]
    assert np.corrcoef(guessed, y)[0, 1] > 0.9


def test_training_that_was_interrupted_goes_on_bit_for_bit(
    isolated: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quiltwork.session.split.isolated import Isolated

    words = plan(tmp_path, additive())
    learn = Isolated.learn

    def stopping(self: Isolated, activations: Any, labels: Any, round_: int) -> Any:
        if round_ == 17:
            raise KeyboardInterrupt
        return learn(self, activations, labels, round_)

    train = ("split", "train", words, "--out", tmp_path / "run", "--save-every", 5)
    monkeypatch.setattr(Isolated, "learn", stopping)
    stopped = outcome_of(*train)
    assert (stopped.code, "interrupted" in stopped.err) == (1, True)
    assert not (tmp_path / "run").exists()
    saved = [path for path in (tmp_path / "run.states").rglob("*") if path.is_file()]
    assert {path.suffix for path in saved} >= {".safetensors", ".json"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "run.states", *saved))
    monkeypatch.setattr(Isolated, "learn", learn)
    refused(*train, names="did not end", mend="--resume")
    outcome = done(*train, "--resume", "--json").json
    assert outcome["digests"] == facts(isolated[1]).digests
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed"] == 15
    assert standings(words, tmp_path / "run", "--retrain")["G2"][0]


def test_states_of_another_plan_are_refused(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(), epochs=1)
    (tmp_path / "run.states").mkdir()
    (tmp_path / "run.states" / "plan.sha256").write_text("another")
    refused("split", "train", words, "--out", tmp_path / "run", "--resume", names="another plan")


def test_rounds_between_states_are_not_negative(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(80), epochs=1)
    misused("split", "train", words, "--out", tmp_path / "run", "--save-every", -1, names="save-every")
    assert not (tmp_path / "run.states").exists()


def test_nothing_is_overwritten(isolated: tuple[Path, Path]) -> None:
    refused("split", "train", isolated[0], "--out", isolated[1], names="already there")


CODE = """
from torch import nn
class Encoder(nn.Module):
    def __init__(self, columns, width):
        super().__init__()
        self.body = nn.Linear(columns, width)
    def forward(self, rows):
        return self.body(rows)
class Hat: ...
"""


def test_a_partys_own_code_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(), epochs=1)
    (tmp_path / "own.py").write_text(CODE + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    mlp = '{ kind = "mlp", hidden = [8], width = 4 }\n[parties.shop]'
    replace(words, (mlp, '{ kind = "code", file = "own.py", name = "Encoder", width = 4 }\n[parties.shop]'))
    train = ("split", "train", words, "--out", tmp_path / "run")
    refused(*train, names="party 'bank'", mend="--trust-code bank")
    refused(*train, "--trust-code", "shop", names="party 'bank'")
    assert not (tmp_path / "ran").exists()
    done(*train, "--trust-code", "bank")
    assert (tmp_path / "ran").exists()
    replace(words, ('"Encoder"', '"Hat"'))
    refused("split", "train", words, "--out", tmp_path / "two", "--trust-code", "bank", names="no PyTorch module")


def test_linear_and_convolutional_components(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(), epochs=1)
    replace(words, ('{ kind = "mlp", hidden = [8], width = 4 }\n[parties.shop]', '{ kind = "linear" }\n[parties.shop]'))
    replace(words, ('{ kind = "mlp", hidden = [8], width = 4 }', '{ kind = "small_cnn", shape = [1, 2] }'))
    done("split", "train", words, "--out", tmp_path / "run")
    replace(words, ("[1, 2]", "[3, 2]"))
    refused("split", "train", words, "--out", tmp_path / "two", names=("parties.shop.component.shape", "6 pixels"))


REFUSED = {
    "labels.hats": ('column = "y"', 'column = "y"\nhats = 3'),
    "training.epochs": ("epochs = 8", 'epochs = "8"'),
    "training.mode": ('mode = "isolated"', 'mode = "secret"'),
    "parties.bank.component.mlp.width": ("width = 4 }\n[parties.shop]", "width = 0 }\n[parties.shop]"),
    "parties.bank.component": (
        '"mlp", hidden = [8], width = 4 }\n[parties.shop]',
        '"torch.nn.Linear" }\n[parties.shop]',
    ),
    "parties.shop.files": ('files = ["shop.csv"]', "files = []"),
    "Bank": ("[parties.bank]", '[parties."../Bank"]'),
    "labels.party": ('column = "y"', 'column = "y"\nparty = "bank"'),
    "not TOML": ("[composer]", "[composer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_that_breaks_the_schema_is_refused_by_key(name: str, tmp_path: Path) -> None:
    words = replace(plan(tmp_path, additive(40)), REFUSED[name])
    refused("split", "train", words, "--out", tmp_path / "run", names=name)
    assert not (tmp_path / "run").exists()


def test_rows_that_do_not_match_are_refused_by_party_and_row(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(40), epochs=1)
    train = ("split", "train", words, "--out", tmp_path / "run")
    table = np.zeros((3, 2))
    table_csv(tmp_path / "shop.csv", ["c0000", "c0001", "c0000"], table)
    refused(*train, names=("row 3 of party 'shop'", "row 1"))
    table_csv(tmp_path / "shop.csv", ["c0000", "stranger", "c0001"], table)
    said = refused(*train, names=("row 2 of party 'shop'", "'bank'")).err
    assert "stranger" not in said


def test_common_cases_are_kept_where_the_plan_asks_for_them(tmp_path: Path) -> None:
    words = replace(plan(tmp_path, additive(80), epochs=1), ('id = "case"', 'id = "case"\nalign = "common"'))
    shop = (tmp_path / "shop.csv").read_text().splitlines()
    (tmp_path / "shop.csv").write_text("\n".join(shop[:61]) + "\n")
    train = ("split", "train", words, "--out", tmp_path / "run")
    try:
        importlib.import_module("private_set_intersection.python")
    except ImportError:
        refused(*train, names="private set intersection", mend="quiltwork[align]")
    else:
        done(*train)
        assert json.loads((tmp_path / "run" / "run.json").read_text())["cases"] == [60, 12]
    replace(words, ('id = "case"\n', ""))
    refused("split", "train", words, "--out", tmp_path / "two", names="needs id")


def test_without_ids_unequal_counts_are_refused(tmp_path: Path) -> None:
    words = replace(plan(tmp_path, additive(40), epochs=1), ('id = "case"', ""))
    tables, labels = additive(40)
    for party, table in tables.items():
        table_csv(tmp_path / f"{party}.csv", None, table)
    write_csv(tmp_path / "labels.csv", None, {"y": list(labels)})
    done("split", "train", words, "--out", tmp_path / "run")
    table_csv(tmp_path / "shop.csv", None, tables["shop"][:-1])
    refused("split", "train", words, "--out", tmp_path / "two", names=("rows of party 'shop'", "39", "40"))


def test_a_label_among_the_columns_or_outside_the_set_is_refused(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(40), epochs=1)
    train = ("split", "train", words, "--out", tmp_path / "run")
    replace(words, ('column = "y"', 'column = "y"\nclasses = ["0", "2"]'))
    refused(*train, names=("label of case", "2 classes declared"))
    tables, labels = additive(40)
    ids = [f"c{i:04d}" for i in range(40)]
    write_csv(tmp_path / "bank.csv", ids, {"x0": list(tables["bank"][:, 0]), "y": list(labels)})
    replace(words, ('files = ["labels.csv"]', 'files = ["bank.csv"]'), ('classes = ["0", "2"]', ""))
    refused(*train, names=("column 'y' of party 'bank'", "the label"), mend="parties.bank.columns")
