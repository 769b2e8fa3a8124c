"""Ensembles of fitted estimators: sums written out, weights from owners' numbers, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.ensembles import EnsembleClassifier, EnsembleRegressor


def rows(seed: int, n: int = 300, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, 2)) + 2 * np.array([[0, 0], [1, 0], [0, 1]])[y] + shift, y


@pytest.fixture(scope="module")
def owners() -> dict[str, Any]:
    return {
        "ash": LogisticRegression().fit(*rows(0)),
        "birch": RandomForestClassifier(10, random_state=0).fit(*rows(1)),
        "cedar": GaussianNB().fit(*rows(2)),
    }


def test_mean_of_probabilities_is_scikit_learns_soft_vote(owners: dict[str, Any]) -> None:
    x, y = rows(3)
    vote = VotingClassifier(list(owners.items()), voting="soft", weights=[1, 2, 3])
    vote.estimators_, vote.classes_ = list(owners.values()), np.arange(3)
    vote.le_ = None
    ensemble = EnsembleClassifier(owners, weights={"ash": 1, "birch": 2, "cedar": 3}).fit()
    np.testing.assert_allclose(ensemble.predict_proba(x), vote.predict_proba(x), atol=1e-7)
    assert ensemble.score(x, y) > 0.75


def test_members_that_know_other_classes_are_aligned() -> None:
    x, y = rows(4)
    few = LogisticRegression().fit(x[y != 1], np.array(["a", "b", "c"])[y[y != 1]])
    all_of_them = LogisticRegression().fit(x, np.array(["a", "b", "c"])[y])
    ensemble = EnsembleClassifier({"few": few, "all": all_of_them}).fit()
    found = ensemble.predict_proba(x)
    wanted = all_of_them.predict_proba(x) / 2
    wanted[:, [0, 2]] += few.predict_proba(x) / 2
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    assert set(ensemble.predict(x)) <= {"a", "b", "c"}
    geometric = EnsembleClassifier({"few": few, "all": all_of_them}, rule="geometric").fit()
    assert geometric.predict_proba(x)[:, 1].max() < 0.01


def test_stacked_weights_are_those_of_pooled_held_out_rows(owners: dict[str, Any]) -> None:
    x, y = rows(5, 400)
    ensemble = EnsembleClassifier(owners, weights="stacked")
    parts = [ensemble.stacking_sums(x[s], y[s]) for s in (slice(0, 90), slice(90, 400))]
    apart = clone(ensemble).set_params(sums=parts).fit()
    pooled = clone(ensemble).set_params(sums=[ensemble.stacking_sums(x, y)]).fit()
    np.testing.assert_allclose(apart.weights_, pooled.weights_, atol=1e-9)

    def brier(weights: np.ndarray) -> float:
        p = sum(w * one.predict_proba(x) for w, one in zip(weights, owners.values(), strict=True))
        return float(((p - np.eye(3)[y]) ** 2).sum())

    rivals = np.random.default_rng(0).dirichlet(np.ones(3), 300)
    assert brier(pooled.weights_) <= min(map(brier, [*rivals, *np.eye(3)])) + 1e-6


def test_evidence_trusts_the_owner_whose_rows_look_alike() -> None:
    near, far = rows(6), rows(7, shift=6.0)
    owners = {"near": LogisticRegression().fit(*near), "far": LogisticRegression().fit(*far)}
    summaries = {name: CovariateSummary.from_rows(data[0]) for name, data in (("near", near), ("far", far))}
    evident = EnsembleClassifier(owners, weights="evidence", summaries=summaries).fit()
    plain = EnsembleClassifier(owners).fit()
    for name, shift in (("near", 0.0), ("far", 6.0)):
        x, y = rows(8, shift=shift)
        assert evident.score(x, y) == pytest.approx(owners[name].score(x, y), abs=0.02)
        assert evident.score(x, y) > plain.score(x, y)
    assert evident.weights_ is None
    turned = EnsembleClassifier(
        {"far": owners["far"], "near": owners["near"]}, weights="evidence", summaries=summaries
    ).fit()
    np.testing.assert_allclose(turned.predict_proba(near[0]), evident.predict_proba(near[0]), atol=1e-9)


@pytest.mark.parametrize("outputs", [1, 2])
def test_regressors_by_mean_and_median(outputs: int) -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(60, 3))
    y = x @ rng.normal(size=(3, outputs)) + 0.1 * rng.normal(size=(60, outputs))
    y = y[:, 0] if outputs == 1 else y
    owners = {
        "a": LinearRegression().fit(x[:20], y[:20]),
        "b": Ridge(5.0).fit(x[20:40], y[20:40]),
        "c": DecisionTreeRegressor(max_depth=2, random_state=0).fit(x[40:], y[40:]),
    }
    every = np.stack([one.predict(x) for one in owners.values()])
    np.testing.assert_allclose(EnsembleRegressor(owners).fit().predict(x), every.mean(axis=0))
    np.testing.assert_allclose(EnsembleRegressor(owners, "median").fit().predict(x), np.median(every, axis=0))
    stacker = EnsembleRegressor(owners, weights="stacked")
    stacker = stacker.set_params(sums=[stacker.stacking_sums(x[:30], y[:30]), stacker.stacking_sums(x[30:], y[30:])])
    best = ((stacker.fit().predict(x) - y) ** 2).mean()
    assert best <= min(((one - y) ** 2).mean() for one in every) + 1e-9
    assert stacker.score(x, y) > 0.9


def test_an_ensemble_is_cloned_with_its_fitted_members(owners: dict[str, Any]) -> None:
    x, _ = rows(10)
    ensemble = EnsembleClassifier(owners, rule="median").fit()
    np.testing.assert_array_equal(clone(ensemble).fit().predict_proba(x), ensemble.predict_proba(x))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rule": "mean"}, "mean"),
        ({"weights": "best"}, "best"),
        ({"weights": {"ash": 1.0}}, "weights"),
        ({"weights": {"ash": 1.0, "birch": -1.0, "cedar": 1.0}}, "weights"),
        ({"weights": "stacked"}, "sums"),
        ({"weights": "evidence"}, "summary"),
    ],
)
def test_options_that_do_not_fit_are_refused(owners: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        EnsembleClassifier(owners, **changes).fit()


def test_members_that_cannot_take_part_are_refused(owners: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"'new'.*not fitted"):
        EnsembleClassifier({"new": GaussianNB()}).fit()
    with pytest.raises(InvalidOption, match=r"'svc'.*predict_proba"):
        EnsembleClassifier({"svc": LinearSVC().fit(*rows(11))}).fit()
    with pytest.raises(InvalidOption, match="none"):
        EnsembleRegressor({}).fit()
    with pytest.raises(InvalidOption, match="class 9"):
        EnsembleClassifier(owners).stacking_sums(rows(12)[0], np.full(300, 9))
    two = EnsembleClassifier({name: owners[name] for name in ("ash", "cedar")})
    with pytest.raises(InvalidOption, match="of 2 members"):
        EnsembleClassifier(owners, weights="stacked", sums=[two.stacking_sums(*rows(13))]).fit()
