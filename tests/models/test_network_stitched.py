"""Stitched networks: settings recovered exactly, the identity, order, circles, weights per input."""

from __future__ import annotations

import copy

import pytest
import torch
from network_modules import captured, inputs, made, signature
from torch import Tensor, nn

from quiltwork.errors import InvalidOption, TensorMismatch
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.capture import capture
from quiltwork.models.network.combined import CombinedNetworks
from quiltwork.models.network.network import Network
from quiltwork.models.network.splices import Place, Splice, pair
from quiltwork.models.network.stitched import StitchedNetwork

POINTS = {
    "cnn": ("body.2", "body.5"),
    "residual": ("stem", "block1", "block2"),
    "vit": ("layers.0", "layers.1"),
    "mixer": ("patches",),
}


def network(name: str) -> Network:
    return captured(name, points=POINTS[name])


def joined(**options: object) -> StitchedNetwork:
    networks = {"ash": network("cnn"), "oak": network("residual")}
    return StitchedNetwork(networks, pair(("ash", "body.2"), ("oak", "block1")), **options)  # type: ignore[arg-type]


def stirred(model: StitchedNetwork, seed: int = 5) -> StitchedNetwork:
    """The same with adapters that are no identities."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return model


class Ramp(nn.Module):
    """Shares that depend on the input, and differ between parties."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members

    def forward(self, x: Tensor) -> Tensor:
        level = x.flatten(1).mean(dim=1, keepdim=True)
        return torch.softmax(8 * level * torch.arange(self.members), dim=1)


def test_each_network_is_a_setting_exactly() -> None:
    model, x = stirred(joined()), inputs(5, 2)
    assert torch.equal(model(x, "ash"), network("cnn")(x))
    assert torch.equal(model(x, "oak"), network("residual")(x))
    assert model.settings == ("ash", "oak", "ensemble", "stitched")
    assert not torch.allclose(model(x), model(x, "ensemble"))


@pytest.mark.parametrize("rule", ["probability", "logit", "median"])
def test_the_ensemble_is_a_setting_exactly(rule: str) -> None:
    model, x = stirred(joined(rule=rule)), inputs(5, 2)
    alone = CombinedNetworks({"ash": network("cnn"), "oak": network("residual")}, rule, [0.5, 0.5])  # type: ignore[arg-type]
    assert torch.equal(model.set("ensemble")(x), alone(x))
    if rule == "probability":
        due = (network("cnn")(x).softmax(1) + network("residual")(x).softmax(1)) / 2
        torch.testing.assert_close(model(x).exp(), due)


def test_the_ensemble_with_shares_per_input_is_a_setting_exactly() -> None:
    model, x = stirred(joined(weigher=Ramp(2))), inputs(5, 2)
    alone = CombinedNetworks({"ash": network("cnn"), "oak": network("residual")}, "probability", Ramp(2))
    assert torch.equal(model(x, "ensemble"), alone(x))
    assert not torch.equal(joined()(x, "ensemble"), alone(x))


@pytest.mark.parametrize("mode", ["average", "replace"])
@pytest.mark.parametrize(("name", "point"), [("cnn", "body.2"), ("residual", "block1"), ("vit", "layers.0")])
def test_a_network_stitched_to_itself_is_itself(name: str, point: str, mode: str) -> None:
    one, x = network(name), inputs(5, 2)
    splices = pair(("ash", point), ("oak", point), mode)  # type: ignore[arg-type]
    for tail in ("ash", "oak"):
        assert torch.equal(StitchedNetwork({"ash": one, "oak": one}, splices, tails=[tail])(x), one(x))
    both = StitchedNetwork({"ash": one, "oak": one}, splices)(x)
    torch.testing.assert_close(both, one(x).log_softmax(1), atol=1e-6, rtol=0)
    shaken = stirred(StitchedNetwork({"ash": one, "oak": one}, splices))
    assert not torch.allclose(shaken(x), one(x).log_softmax(1), atol=1e-2)


def by_hooks(x: Tensor, model: StitchedNetwork) -> Tensor:
    """The pair of `joined` computed with forward hooks on the eager modules."""
    cnn, residual = made("cnn"), made("residual")
    normal, seen = (x - 0.5) / 0.25, {}

    def read(name: str):
        return lambda _module, _taken, out: seen.__setitem__(name, out.clone())

    def give(value: Tensor):
        return lambda _module, _taken, _out: value

    spots = {"ash": cnn.body[2], "oak": residual.block1}
    handles = [spot.register_forward_hook(read(name)) for name, spot in spots.items()]
    cnn(normal), residual(normal)
    for handle in handles:
        handle.remove()
    into_ash = (seen["ash"] + model.adapters[0][0](seen["oak"])) / 2
    into_oak = (seen["oak"] + model.adapters[1][0](seen["ash"])) / 2
    spots["ash"].register_forward_hook(give(into_ash))
    spots["oak"].register_forward_hook(give(into_oak))
    return ((cnn(normal).softmax(1) + residual(normal).softmax(1)) / 2).log()


def test_a_pair_is_what_forward_hooks_compute() -> None:
    model, x = stirred(joined()), inputs(6, 3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), by_hooks(x, model), atol=1e-5, rtol=1e-5)
        other = stirred(joined(), seed=6)
        assert not torch.allclose(other(x), by_hooks(x, model), atol=1e-3)


def test_a_chain_of_three_takes_what_was_spliced_upstream() -> None:
    nets = {"ash": network("cnn"), "elm": network("vit"), "oak": network("residual")}
    splices = (
        Splice(Place("oak", "stem"), (Place("ash", "body.2"),), "replace"),
        Splice(Place("elm", "layers.0"), (Place("oak", "block1"),), "replace"),
    )
    model, x = stirred(StitchedNetwork(nets, splices, tails=["elm"])), inputs(4, 2)
    first = nets["ash"].run(x, ["body.2"])["body.2"]
    into_oak = model.adapters[0][0](first)
    second = nets["oak"].run(x, ["block1"], {"stem": into_oak})["block1"]
    due = nets["elm"].run(x, ["output"], {"layers.0": model.adapters[1][0](second)})["output"]
    assert torch.equal(model(x), due)
    without = nets["oak"].run(x, ["block1"])["block1"]
    wrong = nets["elm"].run(x, ["output"], {"layers.0": model.adapters[1][0](without)})["output"]
    assert not torch.allclose(model(x), wrong)


def test_several_sources_are_averaged_with_the_point() -> None:
    nets = {"ash": network("cnn"), "elm": network("vit"), "oak": network("residual")}
    sources = (Place("ash", "body.2"), Place("elm", "layers.0"))
    model, x = stirred(StitchedNetwork(nets, [Splice(Place("oak", "block1"), sources)], tails=["oak"])), inputs(4, 2)
    raw = [nets[p].run(x, [n])[n] for p, n in (("oak", "block1"), *sources)]
    mixed = (raw[0] + model.adapters[0][0](raw[1]) + model.adapters[0][1](raw[2])) / 3
    due = nets["oak"].run(x, ["output"], {"block1": mixed})["output"]
    torch.testing.assert_close(model(x), due, atol=1e-6, rtol=1e-6)


def test_splices_that_wait_for_each_other_are_refused() -> None:
    nets = {"ash": network("cnn"), "oak": network("residual")}
    splices = (
        Splice(Place("ash", "body.2"), (Place("oak", "block2"),)),
        Splice(Place("oak", "block1"), (Place("ash", "body.5"),)),
    )
    with pytest.raises(InvalidOption, match=r"'body.2' of ash and 'block1' of oak|'block1' of oak and 'body.2' of ash"):
        StitchedNetwork(nets, splices)
    one = splices[0]
    assert StitchedNetwork(nets, [one]).splices == (one,)
    with pytest.raises(InvalidOption, match="neither can come first"):
        StitchedNetwork(nets, [Splice(Place("oak", "block1"), (Place("oak", "block2"),))])


def test_splices_of_nobody_or_nowhere_are_refused() -> None:
    nets = {"ash": network("cnn"), "oak": network("residual")}
    with pytest.raises(InvalidOption, match="no network of party 'elm'"):
        StitchedNetwork(nets, [Splice(Place("ash", "body.2"), (Place("elm", "x"),))])
    with pytest.raises(InvalidOption, match="'block1'"):
        StitchedNetwork(nets, [Splice(Place("oak", "blok1"), (Place("ash", "body.2"),))])
    with pytest.raises(InvalidOption, match="another splice goes into the same value"):
        StitchedNetwork(nets, [Splice(Place("oak", "block1"), (Place("ash", "body.2"),))] * 2)
    with pytest.raises(InvalidOption, match="it needs a source"):
        Splice(Place("ash", "body.2"), ())
    with pytest.raises(InvalidOption, match="Choose one of ash, oak, ensemble, stitched"):
        joined(setting="elm")
    with pytest.raises(InvalidOption, match="'ensemble'"):
        StitchedNetwork({"ensemble": network("cnn")}, [])


def test_networks_of_two_tasks_are_refused() -> None:
    other = capture(made("cnn"), inputs(4), signature=signature(classes=("e", "d", "c", "b", "a")), points=["body.2"])
    with pytest.raises(InvalidOption, match="classes differ"):
        StitchedNetwork({"ash": network("cnn"), "oak": other}, [])


def test_shares_per_input_weigh_outputs_and_points() -> None:
    model, x = stirred(joined(weigher=Ramp(2))), inputs(5, 2)
    shares = Ramp(2)(x)
    raw = {p: model[p].run(x, [n])[n] for p, n in (("ash", "body.2"), ("oak", "block1"))}
    sent = {"ash": model.adapters[0][0](raw["oak"]), "oak": model.adapters[1][0](raw["ash"])}
    s = shares.reshape(5, 2, 1, 1, 1)
    outs = [
        model["ash"].run(x, ["output"], {"body.2": s[:, 0] * raw["ash"] + s[:, 1] * sent["ash"]})["output"],
        model["oak"].run(x, ["output"], {"block1": s[:, 1] * raw["oak"] + s[:, 0] * sent["oak"]})["output"],
    ]
    due = (shares[:, :1] * outs[0].softmax(1) + shares[:, 1:] * outs[1].softmax(1)).log()
    torch.testing.assert_close(model(x), due, atol=1e-5, rtol=1e-5)
    plain = stirred(joined(weigher=Ramp(2), weighted_points=False))
    assert not torch.allclose(plain(x), due, atol=1e-3)


def test_only_adapters_train_and_gradients_reach_them() -> None:
    model, x = stirred(joined()), inputs(6, 2)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"adapters"}
    nn.functional.cross_entropy(model(x), torch.arange(6) % 5).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_copy_has_adapters_of_its_own() -> None:
    model, x = stirred(joined()), inputs(3, 2)
    before, other = model(x), copy.deepcopy(model)
    assert torch.equal(other(x), before)
    stirred(other, seed=9)
    assert torch.equal(model(x), before)
    assert not torch.allclose(other(x), before)


def test_adapters_for_other_points_are_refused() -> None:
    point, other = network("cnn").point("body.2"), network("residual").point("block1")
    with pytest.raises(InvalidOption, match="adapters"):
        joined(adapters=[[Adapter(other, point)], [Adapter(other, point)]])
    with pytest.raises(TensorMismatch, match="shape"):
        Adapter(other, point, torch.zeros(3, 3))
