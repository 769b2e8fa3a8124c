"""Rules of combination against sums written out, one input and class at a time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import rankdata

from quiltwork.errors import InvalidOption
from quiltwork.models.network.combining import combine

CLASS_RULES = ("probability", "logit", "geometric", "rank", "median")


def weighted_median(values: list[float], weights: list[float]) -> float:
    """The middle of all points that have at most half of the weight on either side."""
    middle = [
        v
        for v in values
        if sum(w for u, w in zip(values, weights, strict=True) if u < v) <= 0.5 + 1e-9
        and sum(w for u, w in zip(values, weights, strict=True) if u > v) <= 0.5 + 1e-9
        and any(w > 0 for u, w in zip(values, weights, strict=True) if u == v)
    ]
    return (min(middle) + max(middle)) / 2


def by_hand(outputs: np.ndarray, weights: np.ndarray, rule: str) -> np.ndarray:
    members, n, k = outputs.shape
    found = np.zeros((n, k))
    for i in range(n):
        w = weights if weights.ndim == 1 else weights[i]
        log_p = np.stack([log_softmax(outputs[m, i]) for m in range(members)])
        if rule == "probability":
            p = sum(w[m] * np.exp(log_p[m]) for m in range(members))
        elif rule == "geometric":
            p = np.prod([np.exp(log_p[m]) ** w[m] for m in range(members)], axis=0)
        elif rule == "logit":
            p = np.exp(log_softmax(sum(w[m] * outputs[m, i] for m in range(members))))
        elif rule == "rank":
            p = sum(w[m] * rankdata(outputs[m, i]) for m in range(members))
        else:
            p = np.array([weighted_median(list(np.exp(log_p[:, c])), list(w)) for c in range(k)])
        found[i] = np.log(p / p.sum())
    return found


def draw(members: int, n: int, k: int, seed: int, per_input: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(members), size=n if per_input else None)
    return rng.normal(size=(members, n, k)) * 3, weights


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 5), st.integers(2, 5), st.integers(0, 10**6), st.booleans(), st.sampled_from(CLASS_RULES))
def test_every_rule_is_the_sum_written_out(members: int, k: int, seed: int, per_input: bool, rule: str) -> None:
    outputs, weights = draw(members, 3, k, seed, per_input)
    found = combine(torch.tensor(outputs), torch.tensor(weights), rule).numpy()
    np.testing.assert_allclose(found, by_hand(outputs, weights, rule), atol=1e-9)


@pytest.mark.parametrize("rule", CLASS_RULES)
def test_no_weights_are_equal_weights_and_outputs_are_distributions(rule: str) -> None:
    outputs, _ = draw(4, 6, 3, 0, False)
    plain = combine(torch.tensor(outputs), None, rule)
    equal = combine(torch.tensor(outputs), torch.full((4,), 0.25, dtype=torch.float64), rule)
    assert torch.allclose(plain, equal, atol=1e-12)
    assert torch.allclose(plain.exp().sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_equal_weights_give_the_textbook_median_of_an_even_number() -> None:
    values = np.random.default_rng(1).normal(size=(6, 5, 2))
    found = combine(torch.tensor(values), None, "median", "numbers").numpy()
    np.testing.assert_allclose(found, np.median(values, axis=0), atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_numbers_combine_by_mean_and_weighted_median(members: int, seed: int) -> None:
    values, weights = draw(members, 4, 2, seed, True)
    mean = combine(torch.tensor(values), torch.tensor(weights), "mean", "numbers").numpy()
    np.testing.assert_allclose(mean, np.einsum("nm,mnk->nk", weights, values), atol=1e-12)
    middle = combine(torch.tensor(values), torch.tensor(weights), "median", "numbers").numpy()
    wanted = [[weighted_median(list(values[:, i, c]), list(weights[i])) for c in range(2)] for i in range(4)]
    np.testing.assert_allclose(middle, wanted, atol=1e-12)


def test_all_weight_on_one_member_is_that_member() -> None:
    outputs, _ = draw(3, 5, 4, 2, False)
    alone = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for rule in ("probability", "geometric", "median"):
        found = combine(torch.tensor(outputs), alone, rule).numpy()
        np.testing.assert_allclose(found, log_softmax(outputs[1], axis=-1), atol=1e-9)
    ranked = combine(torch.tensor(outputs), alone, "rank").argmax(dim=1)
    assert torch.equal(ranked, torch.tensor(outputs[1]).argmax(dim=1))


def test_logit_and_geometric_are_one_and_differ_from_the_mean_of_probabilities() -> None:
    outputs = torch.tensor(draw(3, 20, 3, 3, False)[0])
    assert torch.allclose(combine(outputs, None, "logit"), combine(outputs + 7 * outputs[:, :, :1], None, "geometric"))
    assert not torch.allclose(combine(outputs, None, "logit"), combine(outputs, None, "probability"), atol=0.1)


def test_certain_members_that_disagree_leave_no_infinity() -> None:
    sure = torch.tensor([[[0.0, -1e9]], [[-1e9, 0.0]], [[0.0, -1e9]]])
    for rule in CLASS_RULES:
        assert combine(sure, None, rule).exp().isfinite().all()
    three = torch.log_softmax(torch.eye(3)[:, None] * 1e9, dim=-1)
    assert combine(three, None, "median").exp()[0].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("rule", "task"), [("mean", "classes"), ("probability", "numbers"), ("best", "classes")])
def test_a_rule_of_another_task_is_refused(rule: str, task: str) -> None:
    with pytest.raises(InvalidOption, match=rule):
        combine(torch.zeros(2, 1, 2), None, rule, task)  # type: ignore[arg-type]


class _Combined(torch.nn.Module):
    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([x, 2 * x - 1, -x.flip(1)])
        return combine(outputs, torch.softmax(x, dim=1)[:, :3], self.rule)


@pytest.mark.parametrize("rule", CLASS_RULES)
def test_every_rule_exports_for_any_batch(rule: str, tmp_path: Path) -> None:
    module, example = _Combined(rule).eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    for n in (1, 5):
        x = torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
        assert torch.equal(program.module()(x), module(x))


def test_the_oracle_of_medians_knows_the_textbook() -> None:
    assert weighted_median([3.0, 1.0, 2.0], [1 / 3] * 3) == 2.0
    assert weighted_median([1.0, 2.0], [0.5, 0.5]) == 1.5
    assert math.isclose(weighted_median([1.0, 2.0, 5.0], [0.2, 0.2, 0.6]), 5.0)
