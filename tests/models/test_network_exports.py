"""Cost of settings, and composed networks written for use elsewhere: the file computes what the model does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from network_modules import SHAPE, captured, inputs
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from quiltwork.errors import InvalidOption, StorageError
from quiltwork.models.network.cost import ADAPTERS, cost, costs
from quiltwork.models.network.exports import export
from quiltwork.models.network.splices import Place, Splice, pair
from quiltwork.models.network.stitched import StitchedNetwork


def joined() -> StitchedNetwork:
    nets = {"ash": captured("cnn"), "oak": captured("residual")}
    model = StitchedNetwork(nets, pair(("ash", "body.2"), ("oak", "block1")))
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(0.1)
    return model


def test_settings_cost_what_torch_counts() -> None:
    model = joined()
    for setting, found in costs(model).items():
        with FlopCounterMode(display=False) as counter:
            model(inputs(1), setting)
        assert found.multiply_adds == counter.get_total_flops() // 2, setting
        assert found.multiply_adds == sum(found.shares.values())


def test_shares_and_parameters() -> None:
    model, found = joined(), costs(joined())
    assert found["ensemble"].shares == found["ash"].shares | found["oak"].shares
    assert found["ensemble"].parameters == found["ash"].parameters + found["oak"].parameters
    assert found["ash"].parameters == sum(t.numel() for t in captured("cnn").tensors().values())
    adapters = sum(p.numel() for p in model.parameters())
    assert found["stitched"].parameters == found["ensemble"].parameters + adapters
    assert {k: v for k, v in found["stitched"].shares.items() if k != ADAPTERS} == found["ensemble"].shares


def test_a_tail_that_nobody_needs_costs_nothing() -> None:
    nets = {"ash": captured("cnn"), "oak": captured("residual")}
    splice = Splice(Place("oak", "block2"), (Place("ash", "body.2"),), "replace")
    found = cost(StitchedNetwork(nets, [splice], tails=["oak"]))
    whole = cost(StitchedNetwork(nets, []), "ensemble")
    assert 0 < found.shares["ash"] < whole.shares["ash"]
    assert found.parameters < whole.parameters
    with FlopCounterMode(display=False) as counter:
        StitchedNetwork(nets, [splice], tails=["oak"])(inputs(1))
    assert found.multiply_adds >= counter.get_total_flops() // 2


def read(path: Path, form: str, x: Tensor) -> Tensor:
    if form == "pt2":
        return torch.export.load(path).module()(x)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.tensor(session.run(None, {"x": x.numpy()})[0])


def check(model: torch.nn.Module, form: str, folder: Path) -> None:
    path = folder / f"model.{form}"
    export(model, SHAPE, path, form)  # type: ignore[arg-type]
    for rows in (1, 6):
        x = inputs(rows, seed=rows)
        with torch.no_grad():
            torch.testing.assert_close(read(path, form, x), model(x), atol=1e-5, rtol=1e-5)
    assert [file.name for file in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_stitched_pair_computes_the_same_elsewhere(form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    check(joined(), form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pt2", "onnx"])
@pytest.mark.parametrize("name", ["cnn", "residual", "mixer", "vit", "channels_last", "mlp", "assorted"])
def test_every_network_computes_the_same_elsewhere(name: str, form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    check(captured(name), form, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["ash", "oak", "elm", "ensemble", "stitched"])
def test_every_setting_computes_the_same_elsewhere(setting: str, tmp_path: Path) -> None:
    nets = {"ash": captured("cnn"), "elm": captured("vit"), "oak": captured("residual")}
    splices = (
        *pair(("ash", "body.2"), ("elm", "layers.0")),
        Splice(Place("oak", "block1"), (Place("elm", "layers.0"), Place("ash", "body.2"))),
    )
    check(StitchedNetwork(nets, splices, setting=setting), "onnx", tmp_path)


def test_exports_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="pt2 or onnx"):
        export(captured("mlp"), SHAPE, tmp_path / "m.pb", "pb")  # type: ignore[arg-type]
    (tmp_path / "m.pt2").write_text("mine")
    with pytest.raises(StorageError, match="it is there already"):
        export(captured("mlp"), SHAPE, tmp_path / "m.pt2", "pt2")
    with pytest.raises(StorageError):
        export(captured("mlp"), SHAPE, tmp_path / "nowhere" / "m.pt2", "pt2")
    assert (tmp_path / "m.pt2").read_text() == "mine"
