"""The owner's side of networks: what leaves is the module, to the bit; figures and moments are those of the rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_owners import CLASSES, SIGNATURE, Small, inputs, small
from safetensors.torch import save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn

from quiltwork.contribution.networks import ModuleMethod, TaskReference
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import (
    AlteredContribution,
    FragmentError,
    InvalidOption,
    MalformedContribution,
    MissingPart,
    StorageError,
    TaskMismatch,
)
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.evidence.embedding import IdentityEmbedding, ModuleEmbedding, RandomEmbedding, projection
from quiltwork.evidence.moments_release import release_covariates
from quiltwork.models.network import capture as capturing
from quiltwork.models.network.opening import open_network
from quiltwork.party.examples import Examples
from quiltwork.party.input_moments import MomentsOrder, contribute_moments, embedded, summarise
from quiltwork.party.module import ModuleOrder, contribute_module
from quiltwork.party.module_outputs import OutputsOrder, contribute_outputs
from quiltwork.party.module_source import load_module
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import ExactEvent, GaussianEvent, SampledGaussianEvent

TASK = TaskReference.of(SIGNATURE)
IDENTITY = MomentsOrder(embedding=IdentityEmbedding(), classes="pooled")


def normalised(x: np.ndarray) -> Tensor:
    return (torch.from_numpy(x) - 0.5) / 0.25


# The module


def test_what_leaves_is_the_module_and_is_read_as_data(tmp_path: Path) -> None:
    module, examples = small(), inputs()
    made = contribute_module(module, SIGNATURE, tmp_path / "acme", ModuleOrder("acme"), examples=examples)
    again = read(made.path)
    assert again == made
    network = open_network(again)
    x = examples.inputs(0, 7)
    with torch.no_grad():
        assert torch.allclose(network(torch.from_numpy(x)), module(normalised(x)), atol=1e-6)
    assert sorted(path.name for path in made.path.iterdir()) == ["contribution.json", "module.safetensors"]
    held = {name.removeprefix("module."): again.tensor(name) for name in again.tensor_names()}
    assert torch.equal(held["stem.0.weight"], module.state_dict()["stem.0.weight"])
    assert isinstance(again.manifest.method, ModuleMethod)
    assert again.manifest.method.network == network.digest
    assert again.manifest.method.training is not None
    assert again.manifest.method.training.accuracy is None


def test_the_same_module_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        contribute_module(small(), SIGNATURE, tmp_path / name, ModuleOrder("acme")) for name in ("one", "two")
    )
    assert first.digest == second.digest
    other = contribute_module(small(seed=1), SIGNATURE, tmp_path / "three", ModuleOrder("acme"))
    assert other.digest != first.digest


def test_weights_of_a_private_training_are_released_at_its_price(tmp_path: Path) -> None:
    event = SampledGaussianEvent(released="module", sigma=4.0, sensitivity=2.0, sampling_rate=0.1, steps=50)
    made = contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme", privacy=(event,)))
    assert made.manifest.privacy == (event,)
    other = ExactEvent(released="inputs", unit="row")
    with pytest.raises(MalformedContribution, match="'module': it leaves the party"):
        contribute_module(small(), SIGNATURE, tmp_path / "y", ModuleOrder("acme", privacy=(other,)))


def test_figures_on_held_out_rows_are_stated_with_an_event(tmp_path: Path) -> None:
    module, held = small(), inputs(60, seed=5)
    made = contribute_module(module, SIGNATURE, tmp_path / "x", ModuleOrder("acme", rows=120), held_out=held)
    with torch.no_grad():
        logits = module(normalised(held.inputs(0, 60))).double()
    labels = torch.from_numpy(np.asarray(held.labels))
    assert isinstance(made.manifest.method, ModuleMethod)
    told = made.manifest.method.training
    assert told is not None
    assert told.accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    due = -torch.log_softmax(logits, 1)[torch.arange(60), labels].mean()
    assert told.loss == pytest.approx(float(due), rel=1e-5)
    assert {event.released for event in made.manifest.privacy} == {"module", "training"}


def test_numbers_have_a_squared_error_and_no_accuracy(tmp_path: Path) -> None:
    signature = SIGNATURE.model_copy(update={"classes": None})
    module, held = small(), inputs(40, classes=None)
    made = contribute_module(module, signature, tmp_path / "x", ModuleOrder("acme"), held_out=held)
    with torch.no_grad():
        error = module(normalised(held.inputs(0, 40))).double().numpy() - np.asarray(held.labels)
    assert isinstance(made.manifest.method, ModuleMethod)
    told = made.manifest.method.training
    assert told is not None
    assert told.accuracy is None
    assert told.loss == pytest.approx(float((error**2).mean()), rel=1e-5)


class Restless(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(1)


@pytest.mark.parametrize(
    ("module", "signature", "why"),
    [
        (lambda: Small(), {}, "training mode"),
        (lambda: Restless().eval(), {}, "two outputs for the same inputs"),
        (lambda: small(outputs=4), {}, "declares 3 outputs"),
        (lambda: small().double(), {}, "float32"),
    ],
)
def test_modules_that_cannot_leave(tmp_path: Path, module: Any, signature: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        contribute_module(module(), SIGNATURE.model_copy(update=signature), tmp_path / "x", ModuleOrder("acme"))
    assert not any(tmp_path.iterdir())


def test_inputs_of_another_task_are_refused(tmp_path: Path) -> None:
    for change, why in (
        ({"units": "0..255"}, "units"),
        ({"values": np.zeros((120, 1, 5, 5))}, "shape"),
        ({"classes": CLASSES[::-1]}, "classes"),
    ):
        examples = dataclasses.replace(inputs(), **change)  # type: ignore[arg-type]
        with pytest.raises(TaskMismatch, match=f"the {why} of table 0"):
            contribute_module(
                small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme", moments=IDENTITY), examples=examples
            )
    with pytest.raises(InvalidOption, match="no inputs"):
        contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme", moments=IDENTITY))
    with pytest.raises(FragmentError, match="fewer than 20"):
        contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme"), held_out=inputs(19))
    (tmp_path / "x").mkdir()
    with pytest.raises(StorageError):
        contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme"))


def test_a_network_that_is_not_the_one_it_calls_itself_is_refused(tmp_path: Path) -> None:
    made = contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme"))
    method = made.manifest.method
    assert isinstance(method, ModuleMethod)
    tensors = {name: made.tensor(name) for name in made.tensor_names()}
    tensors["module.head.bias"] = tensors["module.head.bias"] + 1
    fields = {"party": "acme", "task": TASK, "method": method, "privacy": made.manifest.privacy, "licence": "MIT"}
    forged = write(tmp_path / "y", Draft(tensors=tensors, **fields))  # type: ignore[arg-type]
    with pytest.raises(AlteredContribution, match="calls itself"):
        open_network(forged)
    moments = contribute_moments(inputs(), TASK, tmp_path / "z", "acme", IDENTITY)
    with pytest.raises(MissingPart, match="kind 'moments'"):
        open_network(moments)


# Moments


def test_moments_are_those_of_the_embedded_rows(tmp_path: Path) -> None:
    examples = inputs()
    flat = examples.inputs(0, 120).reshape(120, -1).astype(np.float64)
    for spec, rows in (
        (IdentityEmbedding(), flat),
        (RandomEmbedding(dimension=7, seed=3), flat @ projection(RandomEmbedding(dimension=7, seed=3), 36)),
    ):
        made = contribute_moments(
            examples, TASK, tmp_path / spec.kind, "acme", MomentsOrder(embedding=spec, classes="per_class")
        )
        found = {name: read(made.path).tensor(name).numpy() for name in made.tensor_names()}
        assert np.allclose(found["inputs.means"][0], rows.mean(0), atol=1e-9)
        assert np.allclose(found["inputs.covariances"][0], np.cov(rows.T, bias=True), atol=1e-9)
        for code in range(3):
            mine = rows[examples.require_labels() == code]
            assert found["classes.counts"][code] == 40
            assert np.allclose(found["classes.means"][code], mine.mean(0), atol=1e-9)
            assert np.allclose(found["classes.covariances"][code], np.cov(mine.T, bias=True), atol=1e-9)


def test_pooled_moments_give_the_linear_discriminant_of_the_rows() -> None:
    examples = inputs()
    found = summarise(examples, IDENTITY).tensors
    rows = embedded(examples, IdentityEmbedding())
    oracle = LinearDiscriminantAnalysis(solver="eigen", store_covariance=True).fit(rows, examples.require_labels())
    assert np.allclose(found["classes.covariances"], oracle.covariance_, atol=1e-9)


def test_a_module_embeds_as_well(tmp_path: Path) -> None:
    made = contribute_module(small(), SIGNATURE, tmp_path / "acme", ModuleOrder("acme"))
    network = open_network(made)
    spec = ModuleEmbedding(party="acme", digest=network.digest, point="body", dimension=8)
    found = summarise(inputs(), MomentsOrder(embedding=spec), network)
    with torch.no_grad():
        x = torch.from_numpy(inputs().inputs(0, 120))
        features = network.run(x, ["body"])["body"].double().mean((2, 3)).numpy()
    assert np.allclose(found.tensors["inputs.means"][0], features.mean(0), atol=1e-6)
    with pytest.raises(InvalidOption, match="not given"):
        summarise(inputs(), MomentsOrder(embedding=spec))
    wrong = spec.model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(InvalidOption, match="another one"):
        summarise(inputs(), MomentsOrder(embedding=wrong), network)


def test_noise_is_one_priced_event_a_statistic(tmp_path: Path) -> None:
    rule = ClippedGaussian(centre=np.zeros(5), scale=np.full(5, 0.5), epsilon=2.0, delta=1e-6)
    order = MomentsOrder(
        embedding=RandomEmbedding(dimension=5), inputs=rule, classes="pooled", classes_noise=rule, minimum_rows=10
    )
    made = contribute_moments(inputs(3000), TASK, tmp_path / "x", "acme", order)
    events = made.manifest.privacy
    assert [event.released for event in events] == ["inputs", "classes"]
    assert all(isinstance(event, GaussianEvent) and event.unit == "row" for event in events)
    for event in events:
        assert price([event], delta=1e-6) == pytest.approx(2.0, rel=1e-2)


def test_few_rows_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="fewer than 10"):
        contribute_moments(inputs(9), TASK, tmp_path / "x", "acme", MomentsOrder(embedding=IdentityEmbedding()))
    rare = inputs(31)  # eleven rows of the first class, ten of the others
    order = MomentsOrder(embedding=IdentityEmbedding(), inputs=None, classes="pooled", minimum_rows=11)
    assert summarise(rare, order).tensors["classes.counts"].tolist() == [11, 0, 0]
    with pytest.raises(InvalidOption, match="a group of one row"):
        MomentsOrder(minimum_rows=1)
    with pytest.raises(InvalidOption, match="neither of inputs nor"):
        summarise(inputs(), MomentsOrder(inputs=None))
    with pytest.raises(InvalidOption, match="no moments of classes"):
        MomentsOrder(classes_noise=ClippedGaussian(np.zeros(1), np.ones(1), 1.0, 1e-6))


def test_moments_of_inputs_and_of_classes_do_not_give_away_what_is_left_out() -> None:
    """One row of a rare class: all rows less those of the classes shown would be that row."""
    rare = inputs(61).take(np.arange(61)[(np.arange(61) % 3 < 2) | (np.arange(61) == 2)])
    both = summarise(rare, MomentsOrder(embedding=IdentityEmbedding(), classes="pooled")).tensors
    assert both["classes.counts"].tolist() == [21, 20, 0]
    assert both["inputs.counts"].tolist() == [41]
    means = both["classes.counts"] @ both["classes.means"] / 41
    assert np.allclose(means, both["inputs.means"][0])
    alone = summarise(rare, MomentsOrder(embedding=IdentityEmbedding())).tensors
    assert alone["inputs.counts"].tolist() == [42]


class Loudest(nn.Module):
    """A hostile network: whatever one image of a batch has, all of them show."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(36, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.head(self.body(flat * 0 + flat.amax(dim=0, keepdim=True)))


def test_under_noise_inputs_are_embedded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from quiltwork.party import input_moments

    # its maker's quiltwork does not refuse it
    monkeypatch.setattr(capturing, "_require_apart", lambda *_: None)
    network = capturing.capture(Loudest().eval(), torch.rand(4, 1, 6, 6), signature=SIGNATURE)
    spec = ModuleEmbedding(party="stranger", digest=network.digest, point="body", dimension=2)
    quiet, loud = inputs(20), inputs(20)
    loud.values[7] = 1.0
    seen: list[np.ndarray] = []
    rule = ClippedGaussian(np.zeros(2), np.ones(2), 1.0, 1e-6)

    def kept(rows: np.ndarray, *given: object, **named: object) -> object:
        seen.append(rows)
        return release_covariates(rows, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(input_moments, "release_covariates", kept)
    for one in (quiet, loud):
        summarise(one, MomentsOrder(embedding=spec, inputs=rule), network)
    assert np.flatnonzero((seen[0] != seen[1]).any(axis=1)).tolist() == [7]
    # negative control: in one batch all rows hear of it
    assert (embedded(quiet, spec, network) != embedded(loud, spec, network)).any(axis=1).all()


# Outputs of several networks


def test_sums_of_outputs_are_those_of_all_rows(tmp_path: Path) -> None:
    modules = {"acme": small(), "beta": small(6, seed=1)}
    made = [contribute_module(m, SIGNATURE, tmp_path / p, ModuleOrder(p)) for p, m in modules.items()]
    parts = [inputs(60, seed=1), inputs(90, seed=2)]
    sums: dict[str, np.ndarray] = {}
    for number, part in enumerate(parts):
        found = contribute_outputs(made[::-1], part, tmp_path / f"o{number}", OutputsOrder("acme"))
        assert [one.party for one in found.manifest.method.about] == ["acme", "beta"]  # type: ignore[union-attr]
        for name in found.tensor_names():
            sums[name] = sums.get(name, 0) + found.tensor(name).numpy()
    x = normalised(np.concatenate([part.inputs(0, 90) for part in parts]))
    y = np.concatenate([part.require_labels() for part in parts])
    with torch.no_grad():
        p = np.stack([torch.softmax(m(x).double(), 1).numpy() for m in modules.values()])
    hot = np.eye(3)[y]
    assert np.allclose(sums["outputs.gram"], [[(a * b).sum() for b in p] for a in p], rtol=1e-5)
    assert np.allclose(sums["outputs.cross"], [(a * hot).sum() for a in p], rtol=1e-5)
    assert sums["outputs.target"].tolist() == [150.0]
    assert sums["outputs.correct"].tolist() == [float((a.argmax(1) == y).sum()) for a in p]
    weights = np.array([0.3, 0.7])
    brier = sums["outputs.target"] - 2 * weights @ sums["outputs.cross"] + weights @ sums["outputs.gram"] @ weights
    assert brier[0] == pytest.approx(float(((0.3 * p[0] + 0.7 * p[1] - hot) ** 2).sum()), rel=1e-5)


def test_outputs_need_rows_labels_and_one_task(tmp_path: Path) -> None:
    made = contribute_module(small(), SIGNATURE, tmp_path / "acme", ModuleOrder("acme"))
    with pytest.raises(FragmentError, match="fewer than 50"):
        contribute_outputs([made], inputs(49), tmp_path / "x", OutputsOrder("acme"))
    unlabelled = Examples("table", inputs().values, "0..1")
    with pytest.raises(FragmentError, match="no labels"):
        contribute_outputs([made], unlabelled, tmp_path / "x", OutputsOrder("acme"))
    other = SIGNATURE.model_copy(update={"classes": CLASSES[::-1]})
    turned = contribute_module(small(6), other, tmp_path / "beta", ModuleOrder("beta"))
    with pytest.raises(TaskMismatch, match="party 'beta'"):
        contribute_outputs([made, turned], inputs(), tmp_path / "x", OutputsOrder("acme"))


# The owner's files

CODE = """
import torch
from torch import nn

class Net(nn.Sequential):
    pass

def build():
    return Net(nn.Flatten(), nn.Linear(36, 3)).eval()

def number():
    return 7

def broken():
    raise KeyError("secret")
"""


def test_a_function_and_its_weights_give_a_module(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(CODE)
    torch.manual_seed(3)
    weights = {"1.weight": torch.randn(3, 36), "1.bias": torch.randn(3)}
    save_file(weights, tmp_path / "w.safetensors")
    module = load_module(f"{tmp_path}/model.py:build", tmp_path / "w.safetensors")
    assert torch.equal(module.state_dict()["1.weight"], weights["1.weight"])
    assert contribute_module(module, SIGNATURE, tmp_path / "acme", ModuleOrder("acme"))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_saved_program_leaves_as_the_module_that_it_was(tmp_path: Path) -> None:
    module = small()
    program = torch.export.export(
        module, (torch.rand(2, 1, 6, 6),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False
    )
    torch.export.save(program, tmp_path / "m.pt2")
    found = contribute_module(load_module(f"{tmp_path}/m.pt2"), SIGNATURE, tmp_path / "a", ModuleOrder("acme"))
    due = contribute_module(module, SIGNATURE, tmp_path / "b", ModuleOrder("acme"))
    assert isinstance(found.manifest.method, ModuleMethod)
    assert isinstance(due.manifest.method, ModuleMethod)
    assert found.manifest.method.network == due.manifest.method.network


def test_files_that_give_no_module(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(CODE)
    save_file({"1.weight": torch.zeros(3, 36)}, tmp_path / "short.safetensors")
    save_file({"1.weight": torch.zeros(3, 35), "1.bias": torch.zeros(3)}, tmp_path / "bent.safetensors")
    torch.save({"1.weight": nn.Linear(1, 1)}, tmp_path / "code.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    (tmp_path / "bad.pt2").write_bytes(b"nothing")
    where = f"{tmp_path}/model.py"
    for source, weights, why in (
        (f"{where}:number", None, "an object of type int"),
        (f"{where}:broken", None, r"its own code fails \(KeyError\)"),
        (f"{where}:missing", None, "AttributeError"),
        (where, None, "neither FILE.pt2"),
        (f"{tmp_path}/bad.pt2", None, "cannot read it"),
        (f"{where}:build", "short.safetensors", "it lacks '1.bias'"),
        (f"{where}:build", "bent.safetensors", "another shape"),
        (f"{where}:build", "bad.safetensors", "cannot be read"),
        (f"{where}:build", "code.pt", "cannot be read as safetensors"),
    ):
        with pytest.raises(InvalidOption, match=why):
            load_module(source, None if weights is None else tmp_path / weights)
    with pytest.raises(FragmentError):
        load_module(f"{tmp_path}/none.py:build")


def test_nothing_in_a_contribution_names_code(tmp_path: Path) -> None:
    """What crosses is numbers and closed words; a class or a file of the owner's is nowhere in it."""
    made = contribute_module(small(), SIGNATURE, tmp_path / "x", ModuleOrder("acme"), examples=inputs())
    text = (made.path / "contribution.json").read_text()
    assert "Small" not in text
    assert "network_owners" not in text
    assert json.loads(text)["method"]["graph"]["nodes"]
    header = (made.path / "module.safetensors").read_bytes()[:8000]
    assert b"pickle" not in header
    assert ExactEvent(released="module", unit="row", note="weights, trained without noise") in made.manifest.privacy
