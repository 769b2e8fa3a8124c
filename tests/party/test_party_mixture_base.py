"""An owner's expert beside a base that is a mixture: the mixture stays, and shares are those of one softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from family_mixtures import family_base, mixture_of, written
from quiltwork.errors import CheckpointError
from quiltwork.models.base import Base, open_base
from quiltwork.models.families import FAMILIES
from quiltwork.party.lora import LoRAScope
from quiltwork.party.scopes import FFNScope, FullScope, LowRankScope

Bases = Callable[..., Base]


@pytest.fixture(scope="module")
def mixture_base(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """``mixture_base(family, **router)``: a portable composite of three experts, opened as a base."""

    @cache
    def build(family: str, top_k: int | None = None) -> Base:
        place = tmp_path_factory.mktemp(f"{family}-{top_k}")
        dense = family_base(family, place / "dense")
        return open_base(written(mixture_of(dense, top_k=top_k), dense, place / "mixture"))

    return build


def by_hand(base: Base, layer: int, x: np.ndarray, row: np.ndarray, bias: float) -> np.ndarray:
    """softmax over the own experts and the new one, one token after the other, in float64; all of them active.

    The new expert is the first one with its output doubled.
    """
    assert base.own is not None
    experts = [base.ffn(), *base.own.others]
    weights = [{role: e[layer, role].load().double().numpy() for role in ("gate_proj", "up_proj", "down_proj")}
               for e in experts]  # fmt: skip
    weights.append(weights[0] | {"down_proj": 2 * weights[0]["down_proj"]})
    rows = np.vstack([base.own.rows[layer].load().double().numpy(), row])
    result = np.zeros_like(x)
    for t, token in enumerate(x):
        logits = rows @ token + np.array([0.0] * base.own.count + [min(bias, 0.0)])
        shares = np.exp(logits - logits.max())
        for share, w in zip(shares / shares.sum(), weights, strict=True):
            gate = w["gate_proj"] @ token
            result[t] += share * (w["down_proj"] @ (gate / (1 + np.exp(-gate)) * (w["up_proj"] @ token)))
    return result


def prepared(base: Base, scope: Any) -> Any:
    model = base.load_model()
    scope.prepare(model, "acme")
    return model


@pytest.mark.parametrize("bias", [None, -0.7])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_shares_are_those_of_one_softmax_over_all(family: str, bias: float | None, mixture_base: Bases) -> None:
    base = mixture_base(family)
    ffn = prepared(base, FFNScope(anchor_share=1.0, bias=bias)).model.layers[1].mlp
    ffn.expert.down_proj.weight.mul_(2.0)
    x = torch.randn(2, 5, base.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = by_hand(base, 1, x.reshape(-1, base.hidden_size).double().numpy(), ffn.row.double().numpy(), bias or 0.0)
    np.testing.assert_allclose(ffn(x).reshape(-1, base.hidden_size).numpy(), expected, atol=2e-4, rtol=1e-4)
    # the sigmoid of a dense base's anchor, which knows of no other rows, is another function
    dense_share = torch.sigmoid(x @ ffn.row)[..., None]
    wrong = (1 - dense_share) * ffn.anchor(x) + dense_share * ffn.expert(x)
    assert not np.allclose(wrong.reshape(-1, base.hidden_size).numpy(), expected, atol=1e-2)


@pytest.mark.parametrize("family", ["olmo2", "mistral"])
@torch.no_grad()
def test_an_own_rule_that_leaves_experts_out_is_kept(family: str, mixture_base: Bases) -> None:
    """The anchor is the base's own block, top-k and all; the new expert's share is measured against all rows."""
    base = mixture_base(family, 2)
    plain = base.load_model().model.layers[0].mlp
    ffn = prepared(base, FFNScope(anchor_share=1.0)).model.layers[0].mlp
    x = torch.randn(1, 4, base.hidden_size, generator=torch.Generator().manual_seed(1))
    own = x @ base.own.rows[0].load().T  # type: ignore[union-attr]
    share = torch.cat([own, (x @ ffn.row)[..., None]], -1).softmax(-1)[..., -1:]
    torch.testing.assert_close(ffn(x), (1 - share) * plain(x) + share * ffn.expert(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_starts_as_the_first_and_nothing_else_learns(family: str, mixture_base: Bases) -> None:
    base = mixture_base(family)
    scope = FFNScope(anchor_share=1.0, bias=-0.1)
    model = prepared(base, scope)
    tensors = scope.tensors(model, base)
    for (layer, role), source in base.ffn().items():
        assert torch.equal(tensors[f"ffn.layers.{layer}.{role}.weight"], source.load())
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    ids = torch.arange(1, 13)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    moved = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    kinds = ("expert.gate_proj.weight", "expert.up_proj.weight", "expert.down_proj.weight", "row", "bias")
    assert moved == {f"model.layers.{layer}.mlp.{kind}" for layer in range(base.layers) for kind in kinds}


@torch.no_grad()
def test_low_rank_factors_are_beside_the_first_expert(mixture_base: Bases) -> None:
    base = mixture_base("llama")
    scope = LowRankScope(rank=3, anchor_share=1.0)
    model = prepared(base, scope)
    one = model.model.layers[0].mlp
    x = torch.randn(1, 4, base.hidden_size, generator=torch.Generator().manual_seed(1))
    whole = prepared(base, FFNScope(anchor_share=1.0)).model.layers[0].mlp
    torch.testing.assert_close(one(x), whole(x), atol=1e-6, rtol=1e-6)
    assert scope.tensors(model, base)["lowrank.layers.0.up_proj.up"].shape == (base.intermediate_size, 3)


@pytest.mark.parametrize("scope", [FullScope(), LoRAScope(rank=2), FFNScope(width=8)], ids=str)
def test_what_would_change_the_stacked_experts_is_refused(scope: Any, mixture_base: Bases) -> None:
    with pytest.raises(CheckpointError, match="of a base that is a mixture of experts: its experts stay") as caught:
        prepared(mixture_base("mistral"), scope)
    assert "'lowrank'" in caught.value.mend
