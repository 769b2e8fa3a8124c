"""Plans with stacked outputs: weights fitted to one half of the held-out rows, judged on the other, and kept."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import done, refused
from cli_split import additive, plan, write_csv
from scipy.optimize import minimize
from scipy.special import log_softmax

from quiltwork.audit.certificate import read_certificate

STACKED = "[composer]\nhidden = [16]", '[composer]\nhidden = [16]\noutputs = "stacked"'


def stacked(place: Path, rows: int = 240, epochs: int = 8) -> Path:
    words = plan(place, additive(rows), epochs=epochs)
    words.write_text(words.read_text().replace(*STACKED))
    return words


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("stacked")
    words = stacked(place)
    done("split", "train", words, "--out", place / "run")
    return words, place / "run"


def predictions(words: Path, run: Path, place: Path, *parties: str) -> dict[str, np.ndarray]:
    data = [word for p in parties for word in ("--data", f"{p}={words.parent / f'{p}.csv'}")]
    done("split", "predict", words, "--run", run, *data, "--quorum", len(parties), "--out", place / "p.csv")
    with (place / "p.csv").open() as text:
        return {row["id"]: np.array([float(row["p(0)"]), float(row["p(1)"])]) for row in csv.DictReader(text)}


def test_weights_are_those_of_an_independent_fit(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """The multinomial fit of scipy on what the run kept gives the predictions of the command."""
    words, run = trained
    tensors = {name: t.numpy() for name, t in load(run).items()}
    labels, own = tensors.pop("labels"), [tensors["output/bank"], tensors["output/shop"]]
    assert len(labels) == 24  # half of 48 held out
    design = np.concatenate([*own, np.ones((len(labels), 1))], 1)
    start = np.concatenate([np.eye(2), np.eye(2), np.zeros((1, 2))])

    def loss(flat: np.ndarray) -> float:
        weights = flat.reshape(5, 2)
        fit = -log_softmax(design @ weights, axis=1)[np.arange(len(labels)), labels].sum()
        return float(fit + 0.5 * ((weights - start)[:-1] ** 2).sum())

    weights = minimize(loss, start.ravel(), method="BFGS", options={"gtol": 1e-8}).x.reshape(5, 2)
    alone = {p: heads(words, run, p) for p in ("bank", "shop")}
    found = predictions(words, run, tmp_path, "bank", "shop")
    for case in list(found)[::20]:
        row = np.concatenate([alone["bank"][case], alone["shop"][case], [1.0]])
        np.testing.assert_allclose(found[case], np.exp(log_softmax(row @ weights)), atol=1e-4)


def load(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "stacked.safetensors")


def heads(words: Path, run: Path, party: str) -> dict[str, np.ndarray]:
    """Log-probabilities of one head, by its component and its head alone."""
    from quiltwork.cli.split.folder import read_note, restored_component, restored_mode
    from quiltwork.cli.split.plan import read_plan

    made = read_plan(words)
    note = read_note(run, words.read_bytes())
    mode = restored_mode(run, made, note, words.parent, ())
    component = restored_component(run, made, note, party, words.parent, ())
    with (words.parent / f"{party}.csv").open() as text:
        rows = list(csv.DictReader(text))
    x = torch.tensor([[float(row[c]) for c in note.columns[party]] for row in rows])
    logs = mode.outputs({party: component.predict(x)})[party].numpy()  # type: ignore[attr-defined]
    return {row["case"]: log for row, log in zip(rows, logs, strict=True)}


def test_a_quorum_has_weights_of_its_own(trained: tuple[Path, Path], tmp_path: Path) -> None:
    both = predictions(*trained, tmp_path, "bank", "shop")
    one = predictions(*trained, tmp_path, "bank")
    truth = {f"c{i:04d}": y for i, y in enumerate(additive()[1])}
    right = {n: np.mean([p.argmax() == truth[c] for c, p in found.items()]) for n, found in ((2, both), (1, one))}
    assert right[2] > 0.8
    assert 0.6 < right[1] < right[2]


def test_the_run_is_audited_by_training_again(trained: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = trained
    note = json.loads((run / "run.json").read_text())
    assert note["cases"] == [240, 48]
    assert set(note["scores"]) == {"composed", "bank alone", "shop alone"}
    done("split", "audit", words, "--run", run, "--retrain", "--out", tmp_path)
    certificate = read_certificate((tmp_path / "certificate.json").read_text())
    assert {"G2", "G10"} <= set(certificate.held)


def test_what_weights_are_fitted_to_cannot_be_exchanged(trained: tuple[Path, Path], tmp_path: Path) -> None:
    words, run = trained
    shutil.copytree(run, tmp_path / "run")
    content = bytearray((run / "stacked.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "run" / "stacked.safetensors").write_bytes(bytes(content))
    refused("split", "audit", words, "--run", tmp_path / "run", names=("stacked.safetensors", "not as it was written"))
    (tmp_path / "run" / "stacked.safetensors").unlink()
    refused("split", "audit", words, "--run", tmp_path / "run", names="stacked.safetensors")


def test_numbers_are_stacked_too(tmp_path: Path) -> None:
    words = stacked(tmp_path, epochs=20)
    tables, _ = additive()
    y = tables["bank"][:, 0] + tables["shop"][:, 0]
    write_csv(tmp_path / "labels.csv", [f"c{i:04d}" for i in range(len(y))], {"y": [repr(float(v)) for v in y]})
    words.write_text(words.read_text().replace('column = "y"', 'column = "y"\ntask = "regression"'))
    scores = done("split", "train", words, "--out", tmp_path / "run", "--json").json["scores"]
    # a sum over fragments: the mean of heads sees half of each
    assert scores["composed"] > 0.85
    mean = words.read_text().replace('"stacked"', '"mean"')
    words.write_text(mean)
    assert done("split", "train", words, "--out", tmp_path / "mean", "--json").json["scores"]["composed"] < 0.8


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("training.held_out is 0", "seed = 3", "seed = 3\nheld_out = 0.0"),
        ("keeps from it", 'column = "y"', 'column = "y"\nparty = "registry"'),
        ("keeps from it", 'column = "y"', 'column = "y"\nepsilon = 2.0'),
        ("of isolated mode", 'mode = "isolated"', 'mode = "joint"'),
    ],
)
def test_where_nothing_can_be_stacked_it_is_said(name: str, old: str, new: str, tmp_path: Path) -> None:
    words = stacked(tmp_path, 40, 1)
    words.write_text(words.read_text().replace(old, new))
    refused("split", "train", words, "--out", tmp_path / "run", names=name)
