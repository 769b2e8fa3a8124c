"""Capture: a network computes what its module computes, its points are the module's, and what cannot be is refused."""

from __future__ import annotations

import math

import pytest
import torch
from network_modules import MODULES, Cnn, Mlp, captured, inputs, made, output, signature
from torch import Tensor, nn
from torch.nn import functional as F

from quiltwork.contribution.network_graph import Signature
from quiltwork.errors import ExportError, InvalidOption, QuiltworkError
from quiltwork.models.network.capture import capture
from quiltwork.models.network.network import Network

EXACT = ("cnn", "residual", "mixer", "mlp", "channels_last")


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_network_gives_what_its_module_gives(name: str, rows: int) -> None:
    x = inputs(rows, seed=rows)
    due, found = output(made(name), x), captured(name)(x)
    if name in EXACT:
        assert torch.equal(found, due)
    torch.testing.assert_close(found, due, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found, output(made(name, seed=1), x), atol=1e-3)


def test_the_normalisation_is_inside() -> None:
    shifted = capture(made("cnn"), inputs(4), signature=signature(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))
    x = inputs(3)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    due = made("cnn")((x - mean[:, None, None]) / std[:, None, None])
    assert torch.equal(shifted(x), due)


def test_a_vector_network_and_numbers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 2)).eval()
    network = capture(module, torch.rand(4, 6), signature=Signature(shape=(6,), units="m", outputs=2))
    x = torch.rand(5, 6)
    assert torch.equal(network(x), module(x))
    assert [p.name for p in network.points.values()] == ["0", "1"]


def hugging_face() -> dict[str, nn.Module]:
    import transformers as t

    common = {"num_labels": 5}
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    image = {"image_size": 16, "patch_size": 4}
    torch.manual_seed(0)
    return {
        "vit": t.ViTForImageClassification(t.ViTConfig(**small, **image, **common)),
        "deit": t.DeiTForImageClassification(t.DeiTConfig(**small, **image, **common)),
        "resnet": t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", **common)
        ),
        "convnext": t.ConvNextForImageClassification(
            t.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=2, **common)
        ),
        "swin": t.SwinForImageClassification(
            t.SwinConfig(embed_dim=8, depths=[2], num_heads=[2], window_size=2, image_size=16, patch_size=4, **common)
        ),
        "mobilenet": t.MobileNetV1ForImageClassification(t.MobileNetV1Config(depth_multiplier=0.1, **common)),
        "beit": t.BeitForImageClassification(t.BeitConfig(**small, **image, use_relative_position_bias=True, **common)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "deit", "resnet", "convnext", "swin", "mobilenet", "beit"])
def test_vision_models_of_hugging_face(name: str) -> None:
    module = hugging_face()[name].eval()
    shape = (3, 16, 16)
    network = capture(module, inputs(4, shape=shape), signature=signature(shape))
    for rows in (1, 2, 7):
        x = inputs(rows, seed=rows, shape=shape)
        torch.testing.assert_close(network(x), output(module, x), atol=1e-6, rtol=1e-5)
    assert len(network.points) >= 3


def test_a_vision_transformer_of_hugging_face() -> None:
    module, shape = hugging_face()["vit"].eval(), (3, 16, 16)
    network = capture(module, inputs(4, shape=shape), signature=signature(shape), points=["vit.layers.0"])
    x = inputs(5, shape=shape)
    torch.testing.assert_close(network(x), output(module, x), atol=1e-6, rtol=1e-5)
    point = network.point("vit.layers.0")
    assert (point.form, point.shape, point.leading, point.grid) == ("tokens", (17, 16), 1, (4, 4))


def forms(name: str) -> dict[str, tuple[str, tuple[int, ...], int]]:
    return {p.name: (p.form, p.shape, p.leading) for p in captured(name).points.values()}


def test_points_by_default_are_cuts_under_their_outermost_name() -> None:
    assert list(captured("cnn").points) == [*(f"body.{i}" for i in range(5)), "body", "drop"]
    assert all(point.cut for name in MODULES for point in captured(name).points.values())
    assert forms("residual") == {
        "stem": ("map", (8, 8, 8), 0),
        "block1": ("map", (8, 8, 8), 0),
        "block2": ("map", (8, 8, 8), 0),
        "pool": ("map", (8, 1, 1), 0),
    }
    assert forms("vit")["layers.0"] == ("tokens", (17, 16), 1)
    assert forms("mixer")["patches"] == ("map", (12, 4, 4), 0)
    assert forms("channels_last")["lift"] == ("grid", (8, 8, 8), 0)
    assert forms("mlp")["norm"] == ("vector", (16,), 0)


def test_what_is_no_cut_is_a_point_when_it_is_named() -> None:
    network = captured("residual", points=("block1.first", "block1", "block1.norm"))
    assert {p.name: p.cut for p in network.points.values()} == {
        "block1.first": False,
        "block1.norm": False,
        "block1": True,
    }


def hooked(module: nn.Module, name: str, x: Tensor, value: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The output of a submodule by a forward hook, and of the module; with ``value`` in its place."""
    seen = []

    def hook(_module: nn.Module, _taken: object, out: Tensor | tuple[Tensor, ...]) -> object:
        seen.append((out if isinstance(out, Tensor) else out[0]).clone())
        return value if value is None or isinstance(out, Tensor) else (value, *out[1:])

    handle = module.get_submodule(name).register_forward_hook(hook)
    found = output(module, x)
    handle.remove()
    return seen[0], found


@pytest.mark.parametrize("name", MODULES)
def test_points_read_and_replace_what_forward_hooks_do(name: str) -> None:
    module, network, x = made(name), captured(name), inputs(5, seed=8)
    for point in network.points.values():
        value, _ = hooked(module, point.name, x)
        torch.testing.assert_close(network.run(x, [point.name])[point.name], value, atol=1e-5, rtol=1e-5)
        other = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
        _, due = hooked(module, point.name, x, other)
        found = network.run(x, ["output"], {point.name: other})["output"]
        torch.testing.assert_close(found, due, atol=1e-4, rtol=1e-4)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.again, self.never, self.once = nn.Linear(192, 192), nn.Linear(2, 2), nn.Linear(192, 5)
        self.tail = nn.Flatten(0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.again(torch.tanh(self.again(x.flatten(1))))
        return self.once(h) + 0 * self.tail(h).sum()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("again", "called 2 times"),
        ("never", "called no times"),
        ("ones", "no submodule of this name"),
        ("tail", "no float tensor"),
    ],
)
def test_names_that_are_no_points_are_refused(name: str, why: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InvalidOption, match=why) as caught:
        capture(Twice().eval(), inputs(4), signature=signature(), points=[name])
    assert "'once'" in caught.value.mend


class Views(nn.Module):
    """A submodule whose output is read twice: once as it is, and once before a step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(192, 5)
        self.outer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x.flatten(1))
        return self.outer(h) + h.sin()


def test_a_point_is_believed_only_if_replacing_it_has_the_same_effect() -> None:
    torch.manual_seed(0)
    module = Views().eval()
    assert capture(module, inputs(4), signature=signature(), points=["inner"]).points.keys() == {"inner"}
    with pytest.raises(InvalidOption, match="'outer'"):
        capture(module, inputs(4), signature=signature(), points=["outer"])


class Draws(Cnn):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1e-3 * torch.rand_like(x))


class Branches(Cnn):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


class Sorts(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1).sort(dim=1).values)


class Counts(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("module", "kind", "why"),
    [
        (Draws(), InvalidOption, "two outputs for the same inputs"),
        (Branches(), ExportError, "cannot follow"),
        (Sorts(), ExportError, "sort"),
        (Counts(), ExportError, "changes it while it computes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), InvalidOption, "5 outputs"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(), InvalidOption, "float64"),
    ],
)
def test_what_cannot_be_captured_is_refused(module: nn.Module, kind: type[QuiltworkError], why: str) -> None:
    with pytest.raises(kind, match=why):
        capture(module.eval(), inputs(4), signature=signature())


def test_training_mode_left_on_is_refused_by_name() -> None:
    module = made("cnn")
    module.drop.train()
    with pytest.raises(InvalidOption, match="submodule 'drop'"):
        capture(module, inputs(4), signature=signature())


def test_a_module_whose_rows_know_of_each_other_is_refused() -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    head = [nn.Flatten(), nn.Linear(192, 5)]
    with pytest.raises(InvalidOption, match="depends on the others of its batch"):
        capture(nn.Sequential(norm, *head).eval(), inputs(4), signature=signature())
    assert capture(nn.Sequential(nn.InstanceNorm2d(3), *head).eval(), inputs(4), signature=signature())


def test_an_example_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"\[4, 3, 4, 4\]"):
        capture(made("cnn"), inputs(4, shape=(3, 4, 4)), signature=signature())


def test_the_batch_may_be_as_large_as_another_size() -> None:
    """Eight rows, eight channels and eight by eight cells: the exporter could take one for the other."""
    network = capture(made("residual"), inputs(8), signature=signature())
    for rows in (1, 8, 9):
        assert torch.equal(network(inputs(rows)), output(made("residual"), inputs(rows)))


def test_a_capture_is_a_copy_and_frozen() -> None:
    module = made("mlp")
    network = capture(module, inputs(4), signature=signature())
    before = network(inputs(3))
    with torch.no_grad():
        module.head.weight.add_(1)
    assert torch.equal(network(inputs(3)), before)
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training


def test_tied_weights_cross_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 5)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.b(F.relu(self.a(x.flatten(1)))))

    torch.manual_seed(0)
    module = Tied().eval()
    network = capture(module, inputs(4), signature=signature())
    assert torch.equal(network(inputs(3)), output(module, inputs(3)))
    held = sum(math.prod(t.shape) for t in network.tensors().values())
    assert held == sum(p.numel() for p in module.parameters())


def test_names_of_weights_are_those_of_the_module() -> None:
    state = made("residual").state_dict()
    tensors = captured("residual").tensors()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_digests_tell_networks_apart() -> None:
    assert captured("mlp").digest == capture(made("mlp"), inputs(4), signature=signature()).digest
    others = [
        captured("mlp", seed=1),
        captured("mlp", points=("norm",)),
        capture(made("mlp"), inputs(4), signature=signature(units="0..255")),
    ]
    assert len({network.digest for network in (captured("mlp"), *others)}) == 4
    again = Network.from_parts(
        captured("mlp").signature,
        captured("mlp").graph,
        captured("mlp").points.values(),
        {name: tensor.double() for name, tensor in captured("mlp").tensors().items()},
    )
    assert again.digest == captured("mlp").digest
