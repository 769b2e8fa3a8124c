"""Compositions of outputs against Bayes' rule, brute force and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression, Ridge

from quiltwork.errors import InvalidOption
from quiltwork.session.split.outputs import Mean, Median, Product
from quiltwork.session.split.stacking import Stacked


def log_probabilities(seed: int, parties: int, rows: int, classes: int) -> dict[str, torch.Tensor]:
    draw = np.random.default_rng(seed).dirichlet(np.ones(classes), (parties, rows))
    return {f"p{i}": torch.from_numpy(np.log(table)) for i, table in enumerate(draw)}


@given(strategies.integers(0, 2**31), strategies.integers(1, 5), strategies.integers(2, 4))
def test_the_product_is_bayes_rule_for_independent_fragments(seed: int, parties: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    prior = draw.dirichlet(np.ones(classes) * 3) * 0.9 + 0.1 / classes
    likelihoods = draw.uniform(0.1, 1, (parties, classes))
    posteriors = prior * likelihoods
    outputs = {f"p{i}": torch.from_numpy(np.log(p / p.sum()))[None] for i, p in enumerate(posteriors)}
    whole = prior * likelihoods.prod(0)
    found = Product(torch.from_numpy(prior)).compose(outputs).exp().numpy()[0]
    np.testing.assert_allclose(found, whole / whole.sum(), rtol=1e-9)
    if parties > 1:
        uncorrected = posteriors.prod(0)
        assert not np.allclose(uncorrected / uncorrected.sum(), whole / whole.sum(), rtol=1e-9)


def test_one_party_s_product_is_its_output() -> None:
    outputs = log_probabilities(0, 1, 5, 3)
    torch.testing.assert_close(Product(torch.tensor([0.2, 0.3, 0.5])).compose(outputs), outputs["p0"])


def test_mean_and_median_are_numpy_s() -> None:
    outputs = log_probabilities(1, 4, 6, 3)
    tables = np.stack([table.numpy() for table in outputs.values()])
    np.testing.assert_allclose(Mean().compose(outputs).exp().numpy(), np.exp(tables).mean(0), rtol=1e-12)
    middle = np.exp(np.median(tables, 0))
    np.testing.assert_allclose(Median().compose(outputs).exp().numpy(), middle / middle.sum(1, keepdims=True))
    np.testing.assert_allclose(Median(classes=False).compose(outputs).numpy(), np.median(tables, 0))


@given(strategies.integers(0, 2**31))
def test_one_arbitrary_party_of_five_does_not_move_the_median_past_the_honest(seed: int) -> None:
    outputs = log_probabilities(seed, 5, 3, 4)
    honest = torch.stack([outputs[f"p{i}"] for i in range(4)])
    outputs["p4"] = torch.from_numpy(np.random.default_rng(seed).choice([math.nan, 1e9, -1e9, 0.0], (3, 4)))
    found = Median(classes=False).compose(outputs)
    assert bool(((found >= honest.min(0).values) & (found <= honest.max(0).values)).all())


def test_a_floor_bounds_what_one_party_takes_away() -> None:
    sure = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    liar = torch.tensor([[-1000.0, 0.0]], dtype=torch.float64)
    outputs = {"p0": sure, "p1": sure, "p2": sure, "liar": liar}
    prior = torch.tensor([0.5, 0.5])
    assert Product(prior).compose(outputs).argmax() == 1
    assert Product(prior, floor=-3.0).compose(outputs).argmax() == 0


def test_a_class_excluded_by_all_leaves_the_prior() -> None:
    outputs = {"a": torch.tensor([[0.0, -math.inf]]), "b": torch.tensor([[-math.inf, 0.0]])}
    found = Product(torch.tensor([0.25, 0.75])).compose(outputs).exp()
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.75]]))


def stacked_by_scipy(design: np.ndarray, labels: np.ndarray, ridge: float, classes: int) -> np.ndarray:
    """Probabilities of the minimiser of the stated objective, by brute force."""
    parties = (design.shape[1]) // classes
    start = np.vstack([np.tile(np.eye(classes), (parties, 1)), np.zeros((1, classes))])

    def probabilities(weights: np.ndarray) -> np.ndarray:
        found: np.ndarray = softmax(design @ weights[:-1] + weights[-1], axis=1)
        return found

    def objective(flat: np.ndarray) -> float:
        weights = flat.reshape(start.shape)
        loss = -np.log(probabilities(weights)[np.arange(len(labels)), labels]).sum()
        return float(loss + ridge / 2 * ((weights - start)[:-1] ** 2).sum())

    best = minimize(objective, start.ravel(), method="BFGS", options={"gtol": 1e-5}).x
    return probabilities(best.reshape(start.shape))


def test_stacking_of_classes_minimises_what_it_says() -> None:
    outputs = log_probabilities(2, 3, 60, 2)
    labels = np.random.default_rng(3).integers(0, 2, 60)
    stacked = Stacked(outputs, torch.from_numpy(labels), ridge=2.0)
    design = np.concatenate([table.numpy() for table in outputs.values()], 1)
    np.testing.assert_allclose(
        stacked.compose(outputs).exp().numpy(), stacked_by_scipy(design, labels, 2.0, 2), atol=1e-5
    )
    some = {party: outputs[party] for party in ("p0", "p2")}
    part = stacked_by_scipy(design[:, [0, 1, 4, 5]], labels, 2.0, 2)
    np.testing.assert_allclose(stacked.compose(some).exp().numpy(), part, atol=1e-5)


def test_stacking_of_two_classes_with_little_penalty_is_logistic_regression() -> None:
    outputs = log_probabilities(2, 2, 200, 2)
    labels = np.random.default_rng(3).integers(0, 2, 200)
    design = np.concatenate([table.numpy() for table in outputs.values()], 1)
    oracle = LogisticRegression(C=1e6, tol=1e-12, max_iter=10_000).fit(design, labels)
    found = Stacked(outputs, torch.from_numpy(labels), ridge=1e-6).compose(outputs).exp().numpy()
    np.testing.assert_allclose(found, oracle.predict_proba(design), atol=1e-4)


def test_stacking_on_next_to_nothing_is_the_product() -> None:
    outputs = log_probabilities(4, 3, 2, 3)
    found = Stacked(outputs, torch.tensor([0, 1]), ridge=1e9).weights(("p0", "p1", "p2"))
    torch.testing.assert_close(found[:-1], torch.eye(3).double().repeat(3, 1), atol=1e-6, rtol=0)


def test_stacking_of_numbers_is_ridge_regression() -> None:
    draw = np.random.default_rng(4)
    outputs = {f"p{i}": torch.from_numpy(draw.normal(size=(50, 1))) for i in range(3)}
    labels = draw.normal(size=50)
    design = np.concatenate([table.numpy() for table in outputs.values()], 1)
    found = Stacked(outputs, torch.from_numpy(labels), classes=False, ridge=0.7).compose(outputs)
    np.testing.assert_allclose(found[:, 0].numpy(), Ridge(alpha=0.7).fit(design, labels).predict(design), atol=1e-10)


def test_refusals() -> None:
    outputs = log_probabilities(5, 2, 4, 2)
    with pytest.raises(InvalidOption, match="no party is present"):
        Mean().compose({})
    with pytest.raises(InvalidOption, match="positive with sum one"):
        Product(torch.tensor([0.5, 0.6]))
    with pytest.raises(InvalidOption, match="log-probability"):
        Product(torch.tensor([0.5, 0.5]), floor=1.0)
    with pytest.raises(InvalidOption, match="held-out"):
        Stacked(outputs, torch.zeros(3, dtype=torch.int64))
    stacked = Stacked(outputs, torch.tensor([0, 1, 0, 1]))
    with pytest.raises(InvalidOption, match="outputs of zoe"):
        stacked.compose({"zoe": outputs["p0"]})
    with pytest.raises(InvalidOption, match="nobody"):
        stacked.compose({})
