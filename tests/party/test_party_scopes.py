"""What each scope trains, what it leaves alone, and that what leaves is what was trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.models.bank import AnchorDraw, CoordinatedFFN
from quiltwork.models.base import Base, open_base
from quiltwork.party.scopes import FFNScope, FullScope, Scope
from quiltwork.training.loop import TrainingPlan, train

FAMILIES = ("olmo2", "llama")
PLAN = TrainingPlan(steps=4, batch_size=4, sequence_length=16, learning_rate=2e-2)

Bases = Callable[[str], Base]


def prepared(base: Base, scope: Scope, party: str = "ash") -> Any:
    model = base.load_model()
    scope.prepare(model, party)
    return model


def trained(base: Base, scope: Scope, party: str = "ash", plan: TrainingPlan = PLAN) -> Any:
    def blocks() -> Any:
        random = np.random.default_rng(0)
        while True:
            yield random.integers(1, base.vocabulary_size, plan.sequence_length)

    model = prepared(base, scope, party)
    train(model, blocks, plan, force_cpu=True)
    return model


def stored(base: Base) -> dict[str, Tensor]:
    return {name: source.load() for name, source in base.tensors.items()}


def without_experts(model: nn.Module) -> dict[str, Tensor]:
    """The state by the base's own names: each anchor counts as the FFN that it was."""
    kept = {}
    for name, tensor in model.state_dict().items():
        if not any(part in name for part in (".mlp.expert.", ".mlp.row", ".mlp.bias")):
            kept[name.replace(".mlp.anchor.", ".mlp.")] = tensor
    return kept


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.fixture(scope="session")
def bf16_base(tiny_base: Bases, tmp_path_factory: pytest.TempPathFactory) -> Base:
    place = tmp_path_factory.mktemp("base-bf16")
    base = tiny_base("llama")
    base.load_model().to(torch.bfloat16).save_pretrained(place)
    base.load_tokenizer().save_pretrained(place)
    return open_base(place)


# what moves -----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_ffn_training_leaves_every_tensor_of_the_base_as_it_was(tiny_base: Bases, family: str) -> None:
    base = tiny_base(family)
    model = trained(base, FFNScope(bias=-0.1))
    assert changed(stored(base), without_experts(model)) == set()
    assert not any(p.requires_grad for layer in model.model.layers for p in layer.mlp.anchor.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_ffn_training_moves_every_expert_row_and_bias(tiny_base: Bases, family: str) -> None:
    base = tiny_base(family)
    scope = FFNScope(bias=-0.1)
    start, end = scope.tensors(prepared(base, scope), base), scope.tensors(trained(base, scope), base)
    assert changed(start, end) == set(end)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_moves_every_tensor(tiny_base: Bases, family: str) -> None:
    base = tiny_base(family)
    model = trained(base, FullScope())
    assert changed(stored(base), model.state_dict()) == set(base.tensors)


def test_negative_control_an_optimiser_with_the_anchor_is_noticed(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    model = prepared(base, FFNScope())
    with torch.no_grad():
        model.model.layers[1].mlp.anchor.up_proj.weight[3, 4] += 1e-6
    assert changed(stored(base), without_experts(model)) == {"model.layers.1.mlp.up_proj.weight"}


# what leaves ----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "scope",
    [FFNScope(), FFNScope(bias=-0.5, top_k=2), FFNScope(anchor_share=1.0), FFNScope(anchor_share=0.0, bias=-0.1)],
    ids=["half", "bias", "anchored", "alone"],
)
def test_ffn_tensors_are_those_that_the_manifest_requires(tiny_base: Bases, family: str, scope: FFNScope) -> None:
    base = tiny_base(family)
    tensors, required = scope.tensors(prepared(base, scope), base), scope.method(base).required_tensors()
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {n: need.shape for n, need in required.items()}
    assert {t.dtype for t in tensors.values()} == {base.torch_dtype} == {torch.float32}
    assert all(t.is_contiguous() and not t.requires_grad for t in tensors.values())
    declared = scope.method(base)
    assert (declared.top_k, declared.anchor_share) == (scope.top_k, scope.anchor_share)
    assert declared.router == (scope.anchor_share > 0)


def test_an_expert_starts_as_the_base_has_it(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    tensors = FFNScope().tensors(prepared(base, FFNScope()), base)
    for (layer, role), source in base.ffn().items():
        assert torch.equal(tensors[f"ffn.layers.{layer}.{role}.weight"], source.load())


@pytest.mark.parametrize("family", FAMILIES)
def test_differences_and_base_make_the_trained_model(tiny_base: Bases, family: str) -> None:
    base = tiny_base(family)
    model = trained(base, FullScope())
    deltas = FullScope().tensors(model, base)
    assert set(deltas) == {f"full.{name}" for name in base.tensors}
    for name, source in base.tensors.items():
        assert deltas[f"full.{name}"].dtype == base.torch_dtype
        torch.testing.assert_close(source.load() + deltas[f"full.{name}"], model.state_dict()[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("dtype", "wanted"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_differences_in_another_dtype(tiny_base: Bases, dtype: str, wanted: torch.dtype) -> None:
    base = tiny_base("olmo2")
    model = trained(base, FullScope(dtype=dtype))
    exact = FullScope().tensors(model, base)
    for name, delta in FullScope(dtype=dtype).tensors(model, base).items():
        assert delta.dtype == wanted
        assert torch.equal(delta, exact[name].to(wanted))


def test_an_untrained_full_model_differs_by_nothing(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    deltas = FullScope().tensors(prepared(base, FullScope()), base)
    assert all(float(delta.abs().max()) == 0 for delta in deltas.values())


@pytest.mark.parametrize("scope", [FFNScope(bias=-0.1), FullScope()], ids=["ffn", "full"])
def test_a_base_in_bfloat16_keeps_its_dtype(bf16_base: Base, scope: Scope) -> None:
    assert bf16_base.dtype == "BF16"
    model = trained(bf16_base, scope)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tensors = scope.tensors(model, bf16_base)
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    if isinstance(scope, FullScope):
        for name, source in bf16_base.tensors.items():
            delta, end = tensors[f"full.{name}"].double(), model.state_dict()[name].double()
            # the difference is rounded to 8 bits of its own, which is all that is lost
            assert bool(((source.load().double() + delta - end).abs() <= 2.0**-8 * delta.abs()).all())


# rows and biases ------------------------------------------------------


def rows(base: Base, party: str, **options: Any) -> list[Tensor]:
    scope = FFNScope(**options)
    tensors = scope.tensors(prepared(base, scope, party), base)
    return [tensors[f"ffn.layers.{layer}.router.weight"] for layer in range(base.layers)]


def test_a_row_starts_from_the_party_and_the_layer_only(tiny_base: Bases) -> None:
    one = rows(tiny_base("olmo2"), "ash")
    torch.manual_seed(5)
    same = rows(tiny_base("llama"), "ash", anchor_share=1.0, bias=-0.2)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_rows_of_different_parties_and_layers_are_far_apart(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    found = [row for party in ("ash", "birch", "cedar") for row in rows(base, party)]
    for i, row in enumerate(found):
        assert 0.5 * 0.02 < float(row.std()) < 1.5 * 0.02
        for other in found[:i]:
            assert abs(float(torch.cosine_similarity(row, other, dim=0))) < 0.7


def test_preparing_draws_nothing_from_the_global_generator(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    for scope in (FFNScope(), FullScope()):
        model = base.load_model()
        torch.manual_seed(3)
        expected = torch.rand(4)
        torch.manual_seed(3)
        scope.prepare(model, "ash")
        assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("start", [-1e-4, -2.0])
def test_a_released_bias_is_never_positive(tiny_base: Bases, start: float) -> None:
    base = tiny_base("olmo2")
    tensors = FFNScope(bias=start).tensors(trained(base, FFNScope(bias=start)), base)
    biases = [tensors[f"ffn.layers.{layer}.router.bias"] for layer in range(base.layers)]
    assert all(float(bias) <= 0 for bias in biases)
    assert all(bias.shape == (1,) for bias in biases)


def test_a_bias_pushed_above_zero_counts_as_zero(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    scope = FFNScope(bias=-0.1, anchor_share=1.0)
    model = prepared(base, scope)
    ids = torch.arange(1, 9)[None]
    outputs = []
    for value in (0.0, 3.0):
        for layer in model.model.layers:
            layer.mlp.bias.data.fill_(value)
        outputs.append(model(input_ids=ids).logits)
    assert torch.equal(*outputs)
    assert all(float(t) == 0 for name, t in scope.tensors(model, base).items() if name.endswith("router.bias"))


# the anchor's share ---------------------------------------------------


def test_share_zero_learns_no_router_and_is_the_expert_alone(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    scope = FFNScope(anchor_share=0.0)
    model = trained(base, scope)
    tensors = scope.tensors(model, base)
    assert not any("router" in name for name in tensors)
    assert not any(layer.mlp.row.requires_grad for layer in model.model.layers)
    plain = base.load_model()
    for number, layer in enumerate(plain.model.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            getattr(layer.mlp, role).weight.data = tensors[f"ffn.layers.{number}.{role}.weight"]
    ids = torch.arange(1, 9)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits)


def test_share_one_mixes_every_sequence(tiny_base: Bases) -> None:
    model = prepared(tiny_base("llama"), FFNScope(anchor_share=1.0))
    seen = record_draws(model, steps=5)
    assert seen == [[None, None]] * 5


def record_draws(model: Any, steps: int, batch: int = 8) -> list[list[Any]]:
    """What each layer finds drawn, pass by pass."""
    seen: list[list[Any]] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(
            lambda module, *_: seen[-1].append(None if module._draw.present is None else module._draw.present.clone())
        )
    for _ in range(steps):
        seen.append([])
        model(input_ids=torch.ones(batch, 4, dtype=torch.long))
    return seen


def test_one_draw_a_sequence_serves_all_layers(tiny_base: Bases) -> None:
    model = prepared(tiny_base("olmo2"), FFNScope(anchor_share=0.5))
    torch.manual_seed(0)
    seen = record_draws(model, steps=40)
    assert all(first.shape == (8, 1) and torch.equal(first, second) for first, second in seen)
    assert any(not torch.equal(a[0], b[0]) for a, b in pairwise(seen))
    share = torch.cat([first for first, _ in seen]).float().mean()
    assert 0.4 < float(share) < 0.6  # 320 draws: three and a half deviations either side
    torch.manual_seed(0)
    again = record_draws(prepared(tiny_base("olmo2"), FFNScope(anchor_share=0.5)), steps=40)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(seen, again, strict=True))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_share_is_that_of_the_sequences(share: float) -> None:
    draw = AnchorDraw(share)
    torch.manual_seed(1)
    draw.draw(5000, torch.device("cpu"))
    assert draw.present is not None
    assert abs(float(draw.present.float().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 5000)


def test_a_sequence_is_answered_by_both_or_by_the_expert_alone(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    config = base.load_model().config
    anchor = base.load_model().model.layers[0].mlp
    draw = AnchorDraw(0.5)
    ffn = CoordinatedFFN(anchor, torch.linspace(-1, 1, config.hidden_size), bias=-0.3, draw=draw)
    with torch.no_grad():
        for parameter in ffn.expert.parameters():
            parameter.add_(0.05)
    x = torch.randn(2, 3, config.hidden_size, generator=torch.Generator().manual_seed(0))
    draw.present = torch.tensor([[True], [False]])
    answer = ffn(x)
    logits = torch.stack([torch.zeros(2, 3), x @ ffn.row - 0.3], dim=-1)
    weights = logits.softmax(-1)
    both = weights[..., :1] * anchor(x) + weights[..., 1:] * ffn.expert(x)
    torch.testing.assert_close(answer[0], both[0])
    torch.testing.assert_close(answer[1], ffn.expert(x)[1])
    assert not torch.allclose(both[1], answer[1], atol=1e-4)


# refusals -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_share": 1.5}, r"anchor_share=1\.5: it is a share of the sequences\. Choose one in \[0, 1\]"),
        ({"anchor_share": -0.1}, r"anchor_share=-0\.1"),
        ({"anchor_share": math.nan}, "anchor_share=nan"),
        ({"bias": 0.0}, r"bias=0\.0: .*no gradient from zero upwards\. Start from a negative"),
        ({"bias": 0.5}, r"bias=0\.5"),
        ({"bias": math.nan}, "bias=nan"),
        ({"bias": -math.inf}, "bias=-inf"),
        ({"top_k": 0}, "top_k=0: it is a number of experts"),
        ({"top_k": 2000}, "top_k=2000"),
    ],
)
def test_ffn_options_outside_their_domain_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        FFNScope(**options)


def test_full_differences_have_three_dtypes() -> None:
    with pytest.raises(InvalidOption, match=r"dtype='int8': .*Use base, float32 or bfloat16"):
        FullScope(dtype="int8")


def test_an_untied_head_in_a_tied_base_cannot_arise(tiny_base: Bases) -> None:
    """A tied base stores one matrix, and one difference leaves for it."""
    base = tiny_base("olmo2")
    assert "lm_head.weight" not in base.tensors
    assert "full.lm_head.weight" not in FullScope().tensors(prepared(base, FullScope()), base)
    untied = tiny_base("llama")
    assert "full.lm_head.weight" in FullScope().tensors(prepared(untied, FullScope()), untied)
