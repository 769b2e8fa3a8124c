"""Low-rank experts and LoRA: what is trained, what leaves, and that composing gives the trained model back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quiltwork.compose.alone import Alone
from quiltwork.compose.method import compose
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base, open_base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.lora import LoRAScope
from quiltwork.party.scopes import FFNScope, FullScope, LowRankScope, Scope
from quiltwork.training.loop import TrainingPlan, train

FAMILIES = ("olmo2", "llama")
PLAN = TrainingPlan(steps=4, batch_size=4, sequence_length=16, learning_rate=2e-2)
SCOPES: dict[str, Scope] = {"lowrank": LowRankScope(rank=3, alpha=6.0, bias=-0.1), "lora": LoRAScope(rank=2, alpha=5.0)}

Bases = Callable[[str], Base]


def prepared(base: Base, scope: Scope, party: str = "ash") -> Any:
    model = base.load_model()
    scope.prepare(model, party)
    return model


def trained(base: Base, scope: Scope, party: str = "ash") -> Any:
    def blocks() -> Any:
        random = np.random.default_rng(0)
        while True:
            yield random.integers(1, base.vocabulary_size, PLAN.sequence_length)

    model = prepared(base, scope, party)
    train(model, blocks, PLAN, force_cpu=True)
    return model


def released(base: Base, scope: Scope, place: Path, fragment: Path) -> Contribution:
    order = Order(party="ash", scopes=(scope,), plan=PLAN, tokens=None, bigrams=None)
    return contribute(base, open_fragment([fragment]), place, order, force_cpu=True)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 25).reshape(2, 12), use_cache=False).logits  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def bf16(tiny_base: Bases, tmp_path_factory: pytest.TempPathFactory) -> Base:
    place = tmp_path_factory.mktemp("base-bf16")
    tiny_base("llama").load_model().to(torch.bfloat16).save_pretrained(place)
    tiny_base("llama").load_tokenizer().save_pretrained(place)
    return open_base(place)


# what is trained ------------------------------------------------------


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_starts_at_the_base(tiny_base: Bases, family: str, name: str) -> None:
    base = tiny_base(family)
    torch.testing.assert_close(logits(prepared(base, SCOPES[name])), logits(base.load_model()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_factors_and_rows_are_trained(tiny_base: Bases, family: str, name: str) -> None:
    base = tiny_base(family)
    model = trained(base, SCOPES[name])
    moved = {n for n, p in model.named_parameters() if p.requires_grad}
    assert moved
    assert all(any(word in n for word in (".up", ".down", "lora_", ".row", ".bias")) for n in moved)
    state = {n.replace(".anchor.", ".").replace(".base_layer.", "."): t for n, t in model.state_dict().items()}
    assert all(torch.equal(state[n], s.load()) for n, s in base.tensors.items())
    start = SCOPES[name].tensors(prepared(base, SCOPES[name]), base)
    end = SCOPES[name].tensors(model, base)
    assert [n for n in end if torch.equal(start[n], end[n])] == []


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_starts_follow_from_the_party_alone(tiny_base: Bases, scope: Scope) -> None:
    base = tiny_base("llama")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    one = scope.tensors(prepared(base, scope), base)
    assert torch.equal(torch.rand(4), expected), "preparing draws from the global generator"
    again, other = scope.tensors(prepared(base, scope), base), scope.tensors(prepared(base, scope, "birch"), base)
    assert all(torch.equal(one[n], again[n]) for n in one)
    downs = [n for n in one if n.endswith((".down", ".a"))]
    assert downs
    assert not any(torch.equal(one[n], other[n]) for n in downs)
    assert not any(torch.equal(one[a], one[b]) for a in downs for b in downs if a < b and one[a].shape == one[b].shape)


def test_lora_covers_every_linear_map_but_the_head(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    maps = {n for n, m in base.load_model().named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    tensors = LoRAScope(rank=2).tensors(prepared(base, LoRAScope(rank=2)), base)
    assert {n.removeprefix("lora.").removesuffix(".weight.a") for n in tensors if n.endswith(".a")} == maps
    assert len(maps) == 7 * base.layers


# what leaves ----------------------------------------------------------


@pytest.mark.parametrize(
    "scope", [LowRankScope(rank=3), LowRankScope(rank=32, bias=-0.2), LowRankScope(anchor_share=0)]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_those_that_the_manifest_requires(tiny_base: Bases, family: str, scope: LowRankScope) -> None:
    base = tiny_base(family)
    tensors, due = scope.tensors(prepared(base, scope), base), scope.method(base).required_tensors()
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {n: need.shape for n, need in due.items()}
    assert {t.dtype for t in tensors.values()} == {base.torch_dtype}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_a_base_in_bfloat16_trains_in_float32_and_releases_its_own_dtype(bf16: Base, scope: Scope) -> None:
    model = trained(bf16, scope)
    factors = [p for n, p in model.named_parameters() if any(word in n for word in (".up", ".down", "lora_"))]
    assert {p.dtype for p in factors if p.requires_grad} == {torch.float32}
    assert {t.dtype for t in scope.tensors(model, bf16).values()} == {torch.bfloat16}
    assert bool(logits(model).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_rank_expert_composes_to_the_function_that_was_trained(
    tiny_base: Bases, fragments: Any, tmp_path: Path, family: str
) -> None:
    base, scope = tiny_base(family), LowRankScope(rank=3, alpha=6.0, anchor_share=0.0)
    contribution = released(base, scope, tmp_path / "ash", fragments["ash"])
    assert contribution.parts == {"lowrank"}
    assert contribution.provides == {"lowrank", "ffn"}
    model = compose([contribution], Alone("ffn"), base).model()
    plain = base.load_model()
    for number, layer in enumerate(plain.model.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            name = f"lowrank.layers.{number}.{role}"
            up, down = (contribution.tensor(f"{name}.{factor}").double().numpy() for factor in ("up", "down"))
            weight = getattr(layer.mlp, role).weight
            weight.data = torch.from_numpy(weight.detach().double().numpy() + up @ down).float()
    assert torch.equal(logits(model), logits(plain))
    assert not torch.allclose(logits(model), logits(base.load_model()), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_composes_to_what_peft_merges(tiny_base: Bases, fragments: Any, tmp_path: Path, family: str) -> None:
    """peft's own training object, filled with what left, and merged by peft, is the composed model."""
    from peft import LoraConfig, get_peft_model

    base, scope = tiny_base(family), LoRAScope(rank=2, alpha=6.0)
    contribution = released(base, scope, tmp_path / "ash", fragments["ash"])
    composed = compose([contribution], Alone("full"), base).model()
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft = get_peft_model(base.load_model(), LoraConfig(r=2, lora_alpha=6, target_modules=targets))
    state = {
        f"base_model.model.{name.removeprefix('lora.').removesuffix(f'.weight.{factor.lower()}')}"
        f".lora_{factor}.default.weight": contribution.tensor(name)
        for factor in "AB"
        for name in contribution.tensor_names("lora.")
        if name.endswith(f".{factor.lower()}")
    }
    assert len(state) == 2 * 7 * base.layers
    assert not peft.load_state_dict(state, strict=False).unexpected_keys
    merged = peft.merge_and_unload()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(composed.state_dict()[name], tensor, rtol=0, atol=2e-7)
    torch.testing.assert_close(logits(composed), logits(merged), rtol=0, atol=2e-6)
    assert not torch.allclose(logits(composed), logits(base.load_model()), atol=1e-3)
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(composed.state_dict()[name], base.tensors[name].load())


def test_negative_control_another_scaling_is_noticed(tiny_base: Bases) -> None:
    base = tiny_base("llama")
    model = trained(base, LoRAScope(rank=2, alpha=6.0))
    before = logits(model)
    for one in model.modules():
        if hasattr(one, "scaling") and isinstance(one.scaling, dict):
            assert one.scaling == {"default": 3.0}
            one.scaling["default"] = 1.0
    assert not torch.allclose(logits(model), before, atol=1e-4)


def test_factors_are_far_smaller_than_what_they_stand_for(tiny_base: Bases) -> None:
    base = tiny_base("llama")

    def count(scope: Scope) -> int:
        return sum(t.numel() for t in scope.tensors(prepared(base, scope), base).values())

    hidden, wide, layers = base.hidden_size, base.intermediate_size, base.layers
    assert count(LowRankScope(rank=2)) == layers * (3 * 2 * (hidden + wide) + hidden)
    assert count(LoRAScope(rank=2)) == layers * 2 * (3 * (hidden + wide) + 4 * 2 * hidden)
    assert count(LowRankScope(rank=2)) < count(FFNScope()) / 5


# refusals -------------------------------------------------------------


@pytest.mark.parametrize("kind", [LowRankScope, LoRAScope])
@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank=0"), ({"alpha": 0.0}, r"alpha=0\.0"), ({"alpha": float("nan")}, "alpha=nan")],
)
def test_options_outside_their_domain_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        kind(**options)


def test_a_rank_above_a_layer_s_is_refused_with_its_size(tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match=r"rank=33: the smaller side .* is 32"):
        prepared(tiny_base("llama"), LowRankScope(rank=33))
    with pytest.raises(InvalidOption, match=r"rank=33: the base's 'model\.layers\.0\.self_attn\.q_proj'.*\[32, 32\]"):
        prepared(tiny_base("llama"), LoRAScope(rank=33))


@pytest.mark.parametrize(
    ("scopes", "words"),
    [
        ((FFNScope(), LowRankScope()), "'ffn' and 'lowrank' are two forms"),
        ((FullScope(), LoRAScope()), "'full' and 'lora' are two forms"),
        ((LowRankScope(rank=2), LowRankScope(rank=3)), "given twice"),
    ],
)
def test_one_expert_has_one_form(scopes: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        Order(party="ash", scopes=scopes)


def test_both_low_rank_scopes_leave_together(tiny_base: Bases, fragments: Any, tmp_path: Path) -> None:
    base = tiny_base("olmo2")
    order = Order(party="ash", scopes=tuple(SCOPES.values()), plan=PLAN, tokens=None, bigrams=None)
    first = contribute(base, open_fragment([fragments["ash"]]), tmp_path / "one", order, force_cpu=True)
    again = contribute(base, open_fragment([fragments["ash"]]), tmp_path / "two", order, force_cpu=True)
    assert first.digest == again.digest
    assert first.provides == {"ffn", "lowrank", "full", "lora"}
    assert {event.released for event in first.manifest.privacy} == {"lowrank", "lora", "training"}
    assert first.manifest.training is not None  # type: ignore[union-attr]
    assert "peft" in first.manifest.training.software  # type: ignore[union-attr]
