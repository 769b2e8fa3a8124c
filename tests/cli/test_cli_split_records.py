"""Plans with a budget for each record: trained at home, priced over all parties, refused where nothing would hold."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import done, refused
from cli_split import additive, plan

from quiltwork.audit.certificate import read_certificate
from quiltwork.audit.facts import Facts, read_facts
from quiltwork.errors import LostParty

KEYS = "bounds = [-4.0, 4.0]\nepsilon = {epsilon}\n"
LABELS = 'column = "y"', 'column = "y"\nepsilon = 6.0'


def private(place: Path, rows: int = 80, epochs: int = 1, epsilon: float = 20.0, more: str = "") -> Path:
    words = plan(place, additive(rows), epochs=epochs, more=more)
    text = words.read_text().replace(*LABELS).replace("batch_size = 32", "batch_size = 64")
    for party in ("bank", "shop"):
        text = text.replace(f'files = ["{party}.csv"]\n', f'files = ["{party}.csv"]\n' + KEYS.format(epsilon=epsilon))
    words.write_text(text)
    return words


def facts(run: Path) -> Facts:
    return read_facts((run / "records.json").read_text())


@pytest.mark.parametrize("name", ["opacus", "dp_accounting"])
def test_what_is_not_installed_is_said_before_labels_are_randomised(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    words = private(tmp_path)
    refused("split", "train", words, "--out", tmp_path / "run", names=name, mend="quiltwork[dp]")
    assert not (tmp_path / "run.states").exists()


REFUSED = {
    "of isolated mode": ('mode = "isolated"', 'mode = "joint"'),
    "parties.bank.epsilon is missing": (KEYS.format(epsilon=20.0) + "component", "component"),
    "needs labels.epsilon": (LABELS[1], LABELS[0]),
    "parties.bank.bounds are missing": ("bounds = [-4.0, 4.0]\n", ""),
    "parties.bank.epsilon": ("epsilon = 20.0", "epsilon = 0.0"),
    "parties.shop.delta": ("seed = 3", "seed = 3"),
    "no range": ("[-4.0, 4.0]", "[4.0, -4.0]"),
    "absence, stale and precision": ("seed = 3", "seed = 3\nstale = true"),
    "delta says how epsilon is spent": ("epsilon = 20.0\n", "delta = 1e-5\n"),
    "columns ['x7'": ("bounds = [-4.0, 4.0]", "bounds = { x0 = [-4.0, 4.0], x7 = [0.0, 1.0] }"),
}


@pytest.mark.parametrize("name", [n for n in REFUSED if n not in ("parties.shop.delta", "columns ['x7'")])
def test_a_budget_that_would_bound_nothing_is_refused(name: str, tmp_path: Path) -> None:
    words = private(tmp_path)
    old, new = REFUSED[name]
    assert old in words.read_text()
    words.write_text(words.read_text().replace(old, new, 1))
    refused("split", "train", words, "--out", tmp_path / "run", names=name)
    assert not (tmp_path / "run.states").exists()


pytest.importorskip("opacus", reason="needs the extra 'dp'")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    place = tmp_path_factory.mktemp("records")
    words = private(place, 640, 20)
    outcome = done("split", "train", words, "--out", place / "run", "--json")
    return words, place / "run", outcome.out


def test_the_price_is_composed_over_all_parties(trained: tuple[Path, Path, str]) -> None:
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    result = json.loads(trained[2])
    assert {"G7a", "G7b", "G12"} <= set(result["held"])
    label, row = result["privacy"]
    assert (label["unit"], label["epsilon"]) == ("label", pytest.approx(6.0))
    assert (row["unit"], row["parties"]) == ("row", ["bank", "shop"])
    # by dp-accounting itself, from the events in the records
    accountant = PLDAccountant()
    for party in ("bank", "shop"):
        (event,) = facts(trained[1]).privacy_events(party)
        step = dp_event.PoissonSampledDpEvent(
            event.sampling_rate,
            dp_event.GaussianDpEvent(event.sigma / event.sensitivity),  # type: ignore[union-attr]
        )
        accountant.compose(step, event.steps)  # type: ignore[union-attr]
    assert row["epsilon"] == pytest.approx(accountant.get_epsilon(1e-5), rel=0.02)
    assert 20.0 < row["epsilon"] < 40.0, "two parties of 20 each cost more than one and no more than both"
    assert any("training rows" in line for line in row["not_covered"])


def test_no_row_that_was_trained_on_crosses(trained: tuple[Path, Path, str]) -> None:
    found = facts(trained[1])
    assert {c.kind for c in found.crossed if c.direction == "up"} <= {"OUTPUT", "DIGEST"}
    assert found.rounds == 0
    # the composer asked for rows that were held out twice, to score them and to judge heads alone
    assert sum(c.frames for c in found.crossed if c.kind == "OUTPUT" and c.direction == "up") == 4


def test_the_partys_end_refuses_rows_that_were_trained_on(tmp_path: Path) -> None:
    from quiltwork.cli.split.build import parted, session
    from quiltwork.cli.split.plan import read_plan
    from quiltwork.cli.split.release import release, response
    from quiltwork.cli.split.rows import read_cases

    words = read_plan(private(tmp_path))
    cases = read_cases(words, tmp_path)
    mechanism = response(words, cases)
    assert mechanism is not None
    run = session(words, cases, tmp_path, released=release(mechanism, words, cases)).run
    train, held = parted(words, 80)
    assert run.predict(held).shape == (16, 2)
    with pytest.raises(LostParty, match="unknown rows"):
        run.predict(train[:1])


def test_what_is_released_answers_new_rows(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    words, run, _ = trained
    data = [word for p in ("bank", "shop") for word in ("--data", f"{p}={words.parent / f'{p}.csv'}")]
    done("split", "predict", words, "--run", run, *data, "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as text:
        found = {row["id"]: int(row["likeliest"]) for row in csv.DictReader(text)}
    assert np.mean([found[f"c{i:04d}"] == y for i, y in enumerate(additive(640)[1])]) > 0.8
    done("split", "predict", words, "--run", run, *data[:2], "--quorum", 1, "--out", tmp_path / "p.csv")


def test_it_is_audited_but_not_trained_again(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    words, run, _ = trained
    done("split", "audit", words, "--run", run, "--out", tmp_path)
    certificate = read_certificate((tmp_path / "certificate.json").read_text())
    assert certificate.standing("G7b").held
    assert not certificate.standing("G8").held
    refused("split", "audit", words, "--run", run, "--retrain", names="further release", mend="without --retrain")


def test_rounds_that_do_not_cross_are_neither_saved_nor_taped(tmp_path: Path) -> None:
    words = private(tmp_path)
    train = ("split", "train", words, "--out", tmp_path / "run")
    refused(*train, "--save-every", 5, names="--save-every 5")
    refused(*train, "--tape", names="--tape")


def test_a_label_party_released_them_and_is_asked_nothing(tmp_path: Path) -> None:
    words = private(tmp_path)
    words.write_text(words.read_text().replace(LABELS[1], LABELS[1] + '\nparty = "registry"'))
    result = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert {"G7a", "G7b", "G10"} <= set(result["held"])
    assert [c for c in facts(tmp_path / "run").crossed if c.party == "registry"] == []


def test_an_interrupted_training_begins_again_with_the_labels_that_were_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli_runner import run

    from quiltwork.cli.split import home

    def stopping(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    words = private(tmp_path)
    train = ("split", "train", words, "--out", tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(home, "train_privately", stopping)
        assert run(*train).code == 1
    released = (tmp_path / "run.states" / "released.json").read_text()
    done(*train, "--resume")
    assert (tmp_path / "run" / "released.json").read_text() == released


def test_a_delta_that_lets_a_row_be_published_and_bounds_of_other_columns_are_refused(tmp_path: Path) -> None:
    words = private(tmp_path)
    text = words.read_text()
    words.write_text(text.replace("epsilon = 20.0\n", "epsilon = 20.0\ndelta = 0.1\n", 1))
    refused("split", "train", words, "--out", tmp_path / "run", names=("parties.bank.delta", "64 rows"))
    assert not (tmp_path / "run.states").exists(), "nothing was released"
    words.write_text(text.replace(*REFUSED["columns ['x7'"], 1))
    refused("split", "train", words, "--out", tmp_path / "two", names=("parties.bank.bounds", "column 'x1'"))


def test_modules_that_take_statistics_of_rows_are_refused(tmp_path: Path) -> None:
    words = private(tmp_path)
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Own(nn.Sequential):\n    def __init__(self, columns, width):\n"
        "        super().__init__(nn.BatchNorm1d(columns), nn.Linear(columns, width))\n"
    )
    mlp = '{ kind = "mlp", hidden = [8], width = 4 }\n[parties.shop]'
    code = '{ kind = "code", file = "own.py", name = "Own", width = 4 }\n[parties.shop]'
    words.write_text(words.read_text().replace(mlp, code))
    train = ("split", "train", words, "--out", tmp_path / "run", "--trust-code", "bank")
    refused(*train, names=("component 'bank'", "statistics"))


def test_public_bounds_scale_columns_without_a_budget_too(tmp_path: Path) -> None:
    words = plan(tmp_path, additive(), epochs=8)
    bounds = "bounds = { x0 = [-4.0, 4.0], x1 = [-4.0, 4.0] }\n"
    words.write_text(words.read_text().replace('files = ["bank.csv"]\n', 'files = ["bank.csv"]\n' + bounds))
    assert done("split", "train", words, "--out", tmp_path / "run", "--json").json["scores"]["composed"] > 0.85
    from safetensors.torch import load_file

    states = {p: load_file(tmp_path / "run" / "components" / f"{p}.safetensors") for p in ("bank", "shop")}
    assert any("deviation" in name for name in states["shop"])
    assert not any("deviation" in name for name in states["bank"]), "nothing of the rows but what was learned"


def test_bounds_put_what_lies_outside_at_the_nearest_end() -> None:
    from quiltwork.cli.split.parts import Bounded

    rows = torch.tensor([[0.0, 5.0], [10.0, 0.0], [99.0, -3.0]])
    assert Bounded([0, 0], [10, 5])(rows).tolist() == [[-1, 1], [1, -1], [1, -1]]


@pytest.mark.slow
def test_each_trains_in_a_sealed_process_of_its_own(tmp_path: Path) -> None:
    words = private(tmp_path, more="processes = true")
    result = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert "G7b" in result["held"]
    assert set(facts(tmp_path / "run").sealing.values()) <= {"landlock", "audit-hook"}
    done("split", "audit", words, "--run", tmp_path / "run")
