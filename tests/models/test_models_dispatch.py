"""Dispatch against a loop over tokens and experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quiltwork.models.bank import Mixing
from quiltwork.models.dispatch import Share, combine, dispatch

MATRICES = [torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in range(3)]
EXPERTS: list[Callable[[Tensor], Tensor]] = [lambda x, m=m: torch.tanh(x @ m) for m in MATRICES]  # type: ignore[misc]


def by_hand(weights: Tensor, x: Tensor) -> np.ndarray:
    result = np.zeros((len(weights), 4))
    for t, token in enumerate(x.reshape(-1, 4).numpy()):
        for e, matrix in enumerate(MATRICES):
            result[t] += float(weights[t, e]) * np.tanh(token @ matrix.numpy())
    return result


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.25, -0.5]), min_size=3, max_size=3), min_size=1, max_size=6),
    batch=st.sampled_from([1, 2]),
)
def test_combining_shares_is_the_weighted_sum(rows: list[list[float]], batch: int) -> None:
    weights = torch.tensor(rows * batch, dtype=torch.float64)
    x = torch.randn(batch, len(rows), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = combine(EXPERTS, dispatch(weights), x)
    assert found.shape == x.shape
    np.testing.assert_allclose(found.reshape(-1, 4).numpy(), by_hand(weights, x), atol=1e-14)
    if bool((weights != 0).any()):
        wrong = [share._replace(weight=None) if share.weight is not None else share for share in dispatch(weights)]
        same = np.allclose(combine(EXPERTS, wrong, x).reshape(-1, 4).numpy(), by_hand(weights, x), atol=1e-6)
        assert same == bool(((weights == 0) | (weights == 1)).all())


def test_one_expert_for_all_is_that_expert_to_the_bit() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    shares = dispatch(torch.tensor([[0.0, 1.0, 0.0]] * 6))
    assert shares == (Share(1, None, None),)
    assert torch.equal(combine(EXPERTS, shares, x), EXPERTS[1](x))


def test_each_expert_is_run_once_on_its_own_tokens() -> None:
    seen: list[int] = []
    experts = [lambda x, e=e: seen.append(10 * e + len(x)) or x for e in range(3)]
    weights = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.75, 0], [1.0, 0, 0]])
    combine(experts, dispatch(weights), torch.ones(1, 4, 4))  # type: ignore[arg-type]
    assert seen == [4, 12]


def test_a_learned_weight_keeps_its_gradient_where_it_is_one() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 1, 4, dtype=torch.float64)
    combine(EXPERTS, dispatch(weights), x).sum().backward()
    assert weights.grad is not None
    assert weights.grad[0, 0] == pytest.approx(float(EXPERTS[0](x).sum()))


def test_weights_that_are_no_numbers_show_in_the_answer() -> None:
    weights = torch.tensor([[float("nan"), 0.0, 0.0]], dtype=torch.float64)
    assert bool(combine(EXPERTS, dispatch(weights), torch.ones(1, 1, 4, dtype=torch.float64)).isnan().all())


def test_weights_for_all_layers_are_dispatched_once_and_anew_for_other_weights() -> None:
    mixing = Mixing(weights=torch.tensor([[[1.0, 0.0]]]))
    first = mixing.shares(torch.float32)
    assert mixing.shares(torch.float32) is first
    mixing.weights = torch.tensor([[[0.0, 1.0]]])
    assert mixing.shares(torch.float32) == (Share(1, None, None),)
    mixing.weights = torch.tensor([[[0.5, 0.5]]])
    shares = mixing.shares(torch.bfloat16)
    assert shares[0].weight is not None
    assert shares[0].weight.dtype == torch.bfloat16
