"""Labels' losses and cotangents against brute force and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from quiltwork.errors import InvalidOption
from quiltwork.models.split.targets import ClassTarget, NumberTarget

LABELS = torch.tensor([2, 0, 1, -1, 2])
NOISE = torch.tensor([[0.8, 0.1, 0.1], [0.0, 0.9, 0.1], [0.2, 0.2, 0.6]])
LOGITS = torch.tensor([[0.3, -1.0, 0.2], [1.5, 0.0, -0.5], [0.1, 0.2, 0.3]])
ROWS = torch.tensor([0, 1, 4])


def brute_force(logits: np.ndarray, noise: np.ndarray) -> float:
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return float(-np.log((p @ noise)[[0, 1, 2], [2, 0, 2]]).mean())


@pytest.mark.parametrize("noise", [None, NOISE], ids=["clean", "noisy"])
def test_classes_are_answered_by_the_gradient_of_the_likelihood(noise: torch.Tensor | None) -> None:
    cotangent, loss = ClassTarget(LABELS, 3, noise).answer(LOGITS, ROWS)
    matrix = np.eye(3) if noise is None else noise.double().numpy()
    logits = LOGITS.double().numpy()
    assert loss == pytest.approx(brute_force(logits, matrix), rel=1e-6)
    slopes = approx_fprime(logits.ravel(), lambda x: brute_force(x.reshape(3, 3), matrix), 1e-7)
    np.testing.assert_allclose(cotangent.numpy().ravel(), slopes, atol=1e-5)


def test_a_clean_likelihood_is_not_the_noisy_one() -> None:
    clean, noisy = (ClassTarget(LABELS, 3, noise).answer(LOGITS, ROWS)[1] for noise in (None, NOISE))
    assert clean != pytest.approx(noisy, rel=1e-3)


def test_numbers_are_answered_by_the_residual() -> None:
    target = NumberTarget(torch.tensor([1.0, -2.0, float("nan")]))
    cotangent, loss = target.answer(torch.tensor([[0.5], [1.0]]), torch.tensor([0, 1]))
    np.testing.assert_allclose(cotangent, [[-0.5], [3.0]])
    assert loss == pytest.approx((0.25 + 9) / 2)
    assert float(target.prior()) == -0.5
    assert target.outputs == 1


def test_priors_count_labels_and_see_through_noise() -> None:
    np.testing.assert_allclose(ClassTarget(LABELS, 3).prior(), [2 / 7, 2 / 7, 3 / 7])
    draw = np.random.default_rng(0)
    truth = draw.choice(3, 20_000, p=[0.6, 0.3, 0.1])
    noise = NOISE.double().numpy()
    released = np.array([draw.choice(3, p=noise[c] / noise[c].sum()) for c in truth])
    seen = ClassTarget(torch.from_numpy(released), 3, NOISE).prior()
    np.testing.assert_allclose(seen, [0.6, 0.3, 0.1], atol=0.02)
    assert not np.allclose(ClassTarget(torch.from_numpy(released), 3).prior(), [0.6, 0.3, 0.1], atol=0.02)


def test_labels_that_cannot_be_used() -> None:
    with pytest.raises(InvalidOption, match="row 1 has 3"):
        ClassTarget(torch.tensor([0, 3]), 3)
    with pytest.raises(InvalidOption, match="int64"):
        ClassTarget(torch.tensor([0.0, 1.0]), 3)
    with pytest.raises(InvalidOption, match="row 3"):
        ClassTarget(LABELS, 3).answer(LOGITS[:1], torch.tensor([3]))
    with pytest.raises(InvalidOption, match="stochastic"):
        ClassTarget(LABELS, 3, NOISE.T)
    with pytest.raises(InvalidOption, match="finite float32"):
        NumberTarget(torch.tensor([1.0, float("inf")]))
    with pytest.raises(InvalidOption, match="row 0"):
        NumberTarget(torch.tensor([float("nan")])).answer(torch.zeros(1, 1), torch.tensor([0]))
