"""Expert layers against loops over tokens and experts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from quiltwork.errors import InvalidOption
from quiltwork.models.bank import AnchorDraw, CoordinatedFFN, ExpertBank, Mixing, RowRouter


class Toy(nn.Module):
    """A one-matrix stand-in for an FFN that counts the tokens it sees."""

    def __init__(self, seed: int, hidden: int = 5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(seed)))
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.reshape(-1, x.shape[-1]).shape[0]
        return torch.tanh(x @ self.weight)


def _named(experts: list[Toy]) -> dict[str, nn.Module]:
    return {f"slot{number}": expert for number, expert in enumerate(experts)}


def by_hand(
    x: NDArray[np.float64], rows: NDArray[np.float64], bias: NDArray[np.float64] | None, top_k: int, renormalise: bool
) -> NDArray[np.float64]:
    """Softmax over all, the k largest kept, one token after the other."""
    result = np.zeros((len(x), len(rows)))
    for t, token in enumerate(x):
        logits = [float(row @ token) + (0.0 if bias is None else float(bias[e])) for e, row in enumerate(rows)]
        total = sum(math.exp(value) for value in logits)
        shares = [math.exp(value) / total for value in logits]
        kept = sorted(range(len(rows)), key=lambda e, s=shares: -s[e])[:top_k]
        scale = sum(shares[e] for e in kept) if renormalise else 1.0
        for e in kept:
            result[t, e] = shares[e] / scale
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    experts=st.integers(1, 6),
    data=st.data(),
    renormalise=st.booleans(),
    biased=st.booleans(),
)
def test_row_router_is_softmax_then_top_k(
    seed: int, experts: int, data: st.DataObject, renormalise: bool, biased: bool
) -> None:
    top_k = data.draw(st.integers(1, experts))
    generator = torch.Generator().manual_seed(seed)
    router = RowRouter(5, experts, top_k=top_k, renormalise=renormalise, bias=biased)
    router.weight.data = torch.randn(experts, 5, generator=generator)
    if router.bias is not None:
        router.bias.data = torch.randn(experts, generator=generator)
    x = torch.randn(2, 3, 5, generator=generator)
    found = router(x).detach()
    bias = None if router.bias is None else router.bias.detach().double().numpy()
    expected = by_hand(
        x.reshape(-1, 5).double().numpy(), router.weight.detach().double().numpy(), bias, top_k, renormalise
    )
    np.testing.assert_allclose(found.reshape(-1, experts).double().numpy(), expected, atol=2e-6)


def test_the_router_softmaxes_in_float32_and_answers_in_the_input_s_dtype() -> None:
    router = RowRouter(4, 3, top_k=3, renormalise=False, bias=False).bfloat16()
    router.weight.data = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    logits = nn.functional.linear(x, router.weight).float()
    assert router(x).dtype == torch.bfloat16
    assert torch.equal(router(x), logits.softmax(-1).bfloat16())


def test_renormalising_after_top_k_differs_from_not() -> None:
    kept = [
        RowRouter(4, 3, top_k=2, renormalise=flag, bias=False)(torch.ones(1, 1, 4)).detach() for flag in (True, False)
    ]
    assert kept[0].sum() == pytest.approx(1.0)
    assert kept[1].sum() == pytest.approx(2 / 3)


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_top_k_outside_the_experts_is_refused(top_k: int) -> None:
    with pytest.raises(InvalidOption, match=f"top_k={top_k}: the router has 3 experts"):
        RowRouter(4, 3, top_k=top_k, renormalise=True, bias=False)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_bank_is_the_dense_sum(top_k: int) -> None:
    experts = [Toy(seed) for seed in range(3)]
    router = RowRouter(5, 3, top_k=top_k, renormalise=True, bias=False)
    router.weight.data = torch.randn(3, 5, generator=torch.Generator().manual_seed(9))
    bank = ExpertBank(_named(experts), router)
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(10))
    weights = router(x)
    dense = sum(weights[..., e, None] * expert(x) for e, expert in enumerate(experts))
    torch.testing.assert_close(bank(x), dense, atol=1e-6, rtol=0)
    without_last = sum(weights[..., e, None] * expert(x) for e, expert in enumerate(experts[:2]))
    assert not torch.allclose(bank(x), without_last, atol=1e-3)


def test_each_expert_sees_only_the_tokens_that_give_it_weight() -> None:
    experts = [Toy(seed) for seed in range(3)]
    mixing = Mixing()
    bank = ExpertBank(_named(experts), mixing)
    mixing.weights = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0, 1.0, 0], [0, 1.0, 0]]])
    bank(torch.randn(1, 4, 5))
    assert [expert.seen for expert in experts] == [2, 3, 0]


def test_weights_from_outside_must_have_been_set() -> None:
    with pytest.raises(RuntimeError, match="mixing weights"):
        ExpertBank({"base": Toy(0)}, Mixing())(torch.zeros(1, 1, 5))


def coordinated(*, share: float, bias: float | None = None) -> tuple[CoordinatedFFN, AnchorDraw]:
    draw = AnchorDraw(share)
    module = CoordinatedFFN(Toy(0), torch.randn(5, generator=torch.Generator().manual_seed(3)), bias=bias, draw=draw)
    with torch.no_grad():
        module.expert.weight += 0.3
    return module, draw


@pytest.mark.parametrize("bias", [None, -0.7, 0.4])
def test_the_owner_mixes_by_a_softmax_against_zero(bias: float | None) -> None:
    module, _ = coordinated(share=1.0, bias=bias)
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    logit = x @ module.row + (min(bias, 0.0) if bias is not None else 0.0)
    share = torch.stack([torch.zeros_like(logit), logit], dim=-1).softmax(-1)
    expected = share[..., :1] * module.anchor(x) + share[..., 1:] * module.expert(x)
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=0)


def test_where_the_anchor_is_not_drawn_the_expert_answers_alone() -> None:
    module, draw = coordinated(share=0.5)
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(4))
    both = module(x)
    draw.present = torch.tensor([[True], [False]])
    torch.testing.assert_close(module(x)[0], both[0])
    torch.testing.assert_close(module(x)[1], module.expert(x)[1])
    assert not torch.allclose(module(x)[1], both[1], atol=1e-3)


def test_only_the_expert_and_its_router_learn() -> None:
    module, _ = coordinated(share=1.0, bias=-0.5)
    module(torch.randn(1, 3, 5)).sum().backward()
    learning = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert learning == {"expert.weight", "row", "bias"}


def test_the_draw_has_its_share_and_extremes_draw_nothing() -> None:
    torch.manual_seed(0)
    draw = AnchorDraw(0.25)
    draw.draw(4000, torch.device("cpu"))
    assert draw.present is not None
    assert draw.present.float().mean().item() == pytest.approx(0.25, abs=0.03)
    for share in (0.0, 1.0):
        whole = AnchorDraw(share)
        whole.draw(8, torch.device("cpu"))
        assert whole.present is None
