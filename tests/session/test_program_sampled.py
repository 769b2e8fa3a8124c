"""Sampled programs: unbiased, consistent, exact where they can be, and far nearer than the score function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from program_oracles import logs_of, random_logits
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.session.split.program_sampling import Sampled
from quiltwork.session.split.programs import Fold, total


def sampled(program: Fold, samples: int) -> Sampled:
    return Sampled(program.apply, program.sizes, program.outcomes, samples)


def gradients(program: Fold | Sampled, logits: list[Tensor], labels: Tensor, seed: int = 0) -> Tensor:
    """Of the mean of -log P(y), all operands side by side."""
    leaves = [one.clone().requires_grad_() for one in logits]
    logs = program.log_outcomes(logs_of(leaves), seed)
    loss = torch.nn.functional.nll_loss(torch.log_softmax(logs, 1), labels)
    return torch.cat(torch.autograd.grad(loss, leaves), 1)


def score_function(program: Fold, logits: list[Tensor], labels: Tensor, samples: int, seed: int) -> Tensor:
    """REINFORCE: log-derivatives of sampled tuples, weighted by reward less its mean; the reward is a hit."""
    draw = torch.Generator().manual_seed(seed)
    drawn = [torch.multinomial(torch.softmax(one, 1), samples, True, generator=draw) for one in logits]
    tuples = torch.stack(drawn, 2).numpy()
    hits = torch.from_numpy(np.stack([program.apply(row) for row in tuples])) == labels[:, None]
    weights = hits.double() - hits.double().mean(1, keepdim=True)
    slopes = [
        torch.nn.functional.one_hot(d, one.shape[1]) - torch.softmax(one, 1)[:, None]
        for one, d in zip(logits, drawn, strict=True)
    ]
    return torch.cat([-(weights[:, :, None] * slope).mean(1) for slope in slopes], 1)


def cosine(one: Tensor, two: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), 0))


def test_estimated_probabilities_are_unbiased() -> None:
    program = total([4, 3], modulus=3)
    logs = logs_of(random_logits(program.sizes, 1, seed=3, scale=0.5))
    exact = program.log_outcomes(logs).exp()[0]
    draws = torch.stack([sampled(program, 50).log_outcomes(logs, seed).exp()[0] for seed in range(400)])
    assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 20).all()


def test_more_samples_come_nearer() -> None:
    program = total([5, 5, 5])
    logits = random_logits(program.sizes, 16, seed=1)
    labels = 2 + torch.arange(16) % 8
    due = gradients(program, logits, labels)
    errors = [
        float((gradients(sampled(program, m), logits, labels) - due).norm() / due.norm()) for m in (64, 1024, 16384)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.1


def test_marginals_of_samples_are_right_to_two_samples() -> None:
    program = sampled(total([4, 6]), 40)
    p = [torch.softmax(one, 1) for one in random_logits([4, 6], 5)]
    tuples = program._drawn(p, np.random.default_rng(0))
    for place, one in enumerate(p):
        shares = np.stack([np.bincount(row, minlength=one.shape[1]) for row in tuples[:, :, place]]) / 40
        assert np.abs(shares - one.numpy()).max() <= 2 / 40


@pytest.mark.parametrize("operands", [2, 4])
def test_the_score_function_points_farther_away(operands: int) -> None:
    program = total([10] * operands)
    logits = random_logits(program.sizes, 64, seed=2, scale=2)
    symbols = np.stack(
        [
            torch.multinomial(torch.softmax(one, 1), 1, generator=torch.Generator().manual_seed(i))[:, 0].numpy()
            for i, one in enumerate(logits)
        ],
        1,
    )
    labels = torch.from_numpy(program.apply(symbols))
    due = gradients(program, logits, labels)
    for seed in range(3):
        ours = cosine(gradients(sampled(program, 256), logits, labels, seed), due)
        theirs = cosine(score_function(program, logits, labels, 256, seed), due)
        assert ours > theirs + 0.03


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    program, logs = sampled(total([10, 10]), 4), logs_of(random_logits([10, 10], 3))
    assert torch.equal(program.log_outcomes(logs, 1), program.log_outcomes(logs, 1))
    assert not torch.equal(program.log_outcomes(logs, 1), program.log_outcomes(logs, 2))


def test_an_outcome_that_no_run_met_has_no_gradient_and_is_finite() -> None:
    never = Sampled(lambda s: np.zeros(len(s), dtype=np.int64), (3, 3), ("always", "never"), samples=4)
    logits = random_logits([3, 3], 2)
    leaves = [one.clone().requires_grad_() for one in logits]
    logs = never.log_outcomes(logs_of(leaves))
    np.testing.assert_allclose(logs.detach().exp(), [[1, 0.125]] * 2)
    for found in torch.autograd.grad(logs[:, 1].sum(), leaves):
        assert not found.any()


@pytest.mark.parametrize(
    "runs",
    [
        lambda s: s.sum(1) * 1.0,
        lambda s: s.sum(1) - 1,
        lambda s: s.sum(1) + 90,
        lambda s: s[:1, 0],
    ],
    ids=["floats", "negative", "too large", "too few"],
)
def test_answers_that_are_no_outcomes_are_refused(runs) -> None:
    program = Sampled(runs, (3, 3), tuple(range(5)), samples=4)
    with pytest.raises(InvalidOption, match="the sampled program"):
        program.log_outcomes(logs_of(random_logits([3, 3], 2)))


def test_a_program_without_samples_is_refused() -> None:
    with pytest.raises(InvalidOption, match="samples=0"):
        Sampled(lambda s: s[:, 0], (3,), (0, 1, 2), samples=0)
