"""What can be asked of fitted estimators, and what they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mixture_tables import density_by_hand, rows_of, separated
from scipy import stats
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.precision import precision
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor

LEVELS = [0.01, 0.3, 0.5, 0.9, 0.999]


def regressor(family: str = "gaussian", outputs: int = 1) -> Any:
    return MixtureOfExpertsRegressor.from_mixture(separated(family, outputs=outputs))


def shape_of_table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = rows_of(separated(), 200, seed)
    return x, y[:, 0]


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_quantiles_invert_the_distribution_function(family: str) -> None:
    model, (x, _) = regressor(family), rows_of(separated(family), 30)
    values = model.predict_quantiles(x, LEVELS)
    assert values.shape == (30, 5)
    m = model.mixture_
    for i, row in enumerate(x):
        z = np.concatenate([[1.0], row])
        gate, linear = softmax(m.gate.coefficients @ z), m.experts.coefficients[:, 0] @ z
        for j, level in enumerate(LEVELS):
            v = values[i, j]
            if family == "gaussian":
                cdf = gate @ stats.norm.cdf(v, linear, np.sqrt(m.experts.variances[:, 0]))
                assert cdf == pytest.approx(level, abs=1e-9)
            else:
                assert v == np.floor(v)
                assert gate @ stats.poisson.cdf(v, np.exp(linear)) >= level - 1e-12
                assert gate @ stats.poisson.cdf(v - 1, np.exp(linear)) < level


def test_quantiles_are_those_of_samples() -> None:
    model = regressor(outputs=2)
    x = np.tile([[0.1, -0.5]], (20_000, 1))
    drawn, values = model.sample(x, random_state=0), model.predict_quantiles(x[:1], [0.2, 0.7])
    assert values.shape == (1, 2, 2)
    for output in range(2):
        for j, level in enumerate([0.2, 0.7]):
            share = (drawn[:, output] <= values[0, output, j]).mean()
            assert share == pytest.approx(level, abs=4 * np.sqrt(0.25 / 20_000))


def test_mean_and_deviation_are_those_of_samples() -> None:
    for family in ("gaussian", "poisson"):
        model, x = regressor(family), np.tile([[0.3, 0.2]], (20_000, 1))
        drawn = model.sample(x, random_state=1)
        assert drawn.shape == (20_000,)
        spread = model.predict_std(x[:1])[0]
        assert model.predict(x[:1])[0] == pytest.approx(drawn.mean(), abs=5 * spread / np.sqrt(20_000))
        assert spread == pytest.approx(drawn.std(), rel=0.05)


@pytest.mark.parametrize("levels", [0.0, [0.5, 1.0], [[0.5]], [np.nan]])
def test_levels_outside_are_refused(levels: Any) -> None:
    with pytest.raises(InvalidOption, match="levels"):
        regressor().predict_quantiles(np.zeros((1, 2)), levels)


def test_predictions_have_the_shape_that_y_was_given_in() -> None:
    x, y = shape_of_table()
    assert MixtureOfExpertsRegressor().fit(x, y).predict(x).shape == (200,)
    wide = MixtureOfExpertsRegressor().fit(x, y[:, None])
    assert wide.predict(x).shape == wide.predict_std(x).shape == wide.sample(x, 0).shape == (200, 1)
    assert wide.predict_quantiles(x).shape == (200, 1, 3)


def test_gate_and_responsibilities_are_by_bayes() -> None:
    model, (x, y) = regressor(), rows_of(separated(), 20)
    gate = model.gate(x)
    np.testing.assert_allclose(gate, softmax(np.column_stack([np.ones(20), x]) @ model.mixture_.gate.coefficients.T, 1))
    joint = gate * np.column_stack(
        [
            np.exp(density_by_hand(Mixture(SoftmaxGate(np.zeros((1, 3))), model.mixture_.experts.select([k])), x, y))
            for k in range(2)
        ]
    )
    np.testing.assert_allclose(model.responsibilities(x, y[:, 0]), joint / joint.sum(axis=1, keepdims=True))


def test_the_classifier_speaks_in_its_labels() -> None:
    x, codes = rows_of(separated("multinomial"), 600)
    labels = np.array(["zinc", "acid", "base"])[codes]
    model = MixtureOfExpertsClassifier(2, random_state=0).fit(x, labels)
    assert model.classes_.tolist() == ["acid", "base", "zinc"]
    assert model.score(x, labels) > 0.7
    np.testing.assert_allclose(model.predict_proba(x).sum(axis=1), 1.0)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(x)), model.predict_proba(x))
    seen = model.predict_proba(x)[np.arange(600), np.searchsorted(model.classes_, labels)]
    np.testing.assert_allclose(model.log_density(x, labels), np.log(seen))
    np.testing.assert_allclose(model.responsibilities(x, labels).sum(axis=1), 1.0)
    assert set(model.sample(x, 0)) <= set(model.classes_)
    with pytest.raises(InvalidOption, match="'iron'"):
        model.log_density(x[:1], ["iron"])


def test_labels_of_given_parameters_keep_their_order() -> None:
    model = MixtureOfExpertsClassifier.from_mixture(separated("multinomial"), classes=["z", "a", "m"])
    x, codes = rows_of(separated("multinomial"), 50)
    labels = np.array(["z", "a", "m"])[codes]
    np.testing.assert_allclose(model.log_density(x, labels), model.mixture_.log_density(x, codes))
    assert model.predict(x).tolist() == np.array(["z", "a", "m"])[model.mixture_.mean(x).argmax(axis=1)].tolist()
    with pytest.raises(InvalidOption, match="classes"):
        MixtureOfExpertsClassifier.from_mixture(separated("multinomial"), classes=["z"])


def test_from_mixture_takes_a_pooled_gate_and_names() -> None:
    one = separated()
    pooled = Mixture(
        PooledGate((one.gate, one.gate), ConstantWeights(np.array([1.0, 3.0]))),
        GaussianExperts(np.tile(one.experts.coefficients, (2, 1, 1)), np.tile(one.experts.variances, (2, 1))),
    )
    model = MixtureOfExpertsRegressor.from_mixture(pooled, feature_names=["a", "b"])
    x, y = rows_of(one, 40)
    frame = pd.DataFrame(x, columns=["a", "b"])
    np.testing.assert_allclose(model.log_density(frame, y[:, 0]), density_by_hand(one, x, y))
    assert model.gate(frame).shape == (40, 4)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a"]])
    assert "expert 3" in str(model.explain(frame))
    with pytest.raises(InvalidOption, match="feature_names"):
        MixtureOfExpertsRegressor.from_mixture(pooled, feature_names=["a"])


@pytest.mark.parametrize(
    ("cls", "family"), [(MixtureOfExpertsRegressor, "multinomial"), (MixtureOfExpertsClassifier, "gaussian")]
)
def test_from_mixture_refuses_another_family(cls: Any, family: str) -> None:
    with pytest.raises(InvalidOption, match=family):
        cls.from_mixture(separated(family))


def test_it_lives_in_scikit_learns_world() -> None:
    x, y = shape_of_table()
    pipe = make_pipeline(StandardScaler(), MixtureOfExpertsRegressor(random_state=0))
    search = GridSearchCV(pipe, {"mixtureofexpertsregressor__n_experts": [1, 2]}, cv=2).fit(x, y)
    assert search.best_params_ == {"mixtureofexpertsregressor__n_experts": 2}
    model = MixtureOfExpertsRegressor(3, random_state=1).fit(x, y)
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(x).tobytes() == model.predict(x).tobytes()
    assert not hasattr(clone(model), "mixture_")
    assert clone(model).fit(x, y).predict(x).tobytes() == model.predict(x).tobytes()


def test_explain_names_the_columns_that_matter() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 4)) * [1, 1000, 1, 1]
    y = np.where(x[:, 2] > 0, 0.005 * x[:, 1], -4 * x[:, 3]) + 0.1 * rng.standard_normal(2000)
    frame = pd.DataFrame(x, columns=["age", "income", "cut", "dose"])
    model = MixtureOfExpertsRegressor(2, random_state=0).fit(frame, y)
    told = model.explain(frame, top=2)
    assert sum(story.share for story in told.experts) == pytest.approx(1.0)
    by_effect = {story.effects[0].feature: story for story in told.experts}
    assert set(by_effect) == {"income", "dose"}
    assert by_effect["income"].effects[0].value == pytest.approx(5.0, rel=0.1)
    high, low = by_effect["income"].places[0], by_effect["dose"].places[0]
    assert high.feature == low.feature == "cut"
    # the mean of a half-normal
    assert high.mean == pytest.approx(np.sqrt(2 / np.pi), abs=0.1)
    assert high.opens is not None
    assert high.opens > 0
    assert low.mean == pytest.approx(-np.sqrt(2 / np.pi), abs=0.1)
    assert "income -> y" in str(told)
    bare = model.explain(top=1)
    assert bare.experts[0].share is None
    assert bare.experts[0].places[0].feature == "cut"


@pytest.mark.parametrize("weighted", [False, True])
def test_precision_is_by_brute_force(weighted: bool) -> None:
    truth = separated()
    x, y = rows_of(truth, 60)
    w = np.random.default_rng(0).uniform(0, 2, 60) if weighted else np.ones(60)
    grams, hessian = precision(truth, x, y, w if weighted else None)
    z = np.column_stack([np.ones(60), x])
    tau, pi = truth.responsibilities(x, y), np.exp(truth.log_gate(x))
    np.testing.assert_allclose(grams, np.einsum("i,ik,ip,iq->kpq", w, tau, z, z))
    np.testing.assert_allclose(hessian, np.einsum("i,i,ip,iq->pq", w, pi[:, 0] * pi[:, 1], z, z))


def test_precision_of_three_gates_is_the_hessian_by_finite_differences() -> None:
    rng = np.random.default_rng(0)
    gate, x = rng.standard_normal((3, 3)), rng.standard_normal((40, 2))
    gate[-1] = 0
    experts = GaussianExperts(rng.standard_normal((3, 1, 3)), np.ones((3, 1)))
    z = np.column_stack([np.ones(40), x])

    def slope(free: np.ndarray) -> np.ndarray:
        """Of the gate's part for any fixed responsibilities, which drop out of the second derivative."""
        pi = softmax(z @ np.vstack([free.reshape(2, 3), np.zeros(3)]).T, axis=1)
        return np.asarray((pi[:, :2].T @ z).ravel())

    at = gate[:2].ravel()
    numeric = [(slope(at + h) - slope(at - h)) / 2e-5 for h in 1e-5 * np.eye(6)]
    hessian = precision(Mixture(SoftmaxGate(gate), experts), x, rng.standard_normal((40, 1)))[1]
    np.testing.assert_allclose(hessian, numeric, atol=1e-6)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n_experts": 0}, "n_experts"),
    ({"n_experts": 2.0}, "n_experts"),
    ({"n_experts": 201}, "n_samples = 200"),
    ({"n_experts": "bic", "max_experts": 0}, "max_experts"),
    ({"experts": "gamma"}, "experts"),
    ({"n_init": 0}, "n_init"),
    ({"start_rows": 0}, "start_rows"),
    ({"max_iter": 0}, "max_iter"),
    ({"tol": -1.0}, "tol"),
    ({"ridge_gate": -1.0}, "ridge_gate"),
    ({"ridge_experts": float("nan")}, "ridge_experts"),
    ({"min_variance": 0.0}, "min_variance"),
    ({"gate_step": "leap"}, "gate_step"),
]


@pytest.mark.parametrize(("options", "named"), BAD)
def test_options_outside_their_domain_are_named(options: dict[str, Any], named: str) -> None:
    x, y = shape_of_table()
    with pytest.raises(InvalidOption, match=named):
        MixtureOfExpertsRegressor(**options).fit(x, y)


def test_what_is_wrong_with_a_table_is_named() -> None:
    x, y = shape_of_table()
    frame = pd.DataFrame(x, columns=["dose", "age"])
    frame.loc[17, "age"] = np.nan
    with pytest.raises(InvalidOption, match=r"column 'age' of X: it holds NaN in row 17"):
        MixtureOfExpertsRegressor().fit(frame, y)
    x[3, 0] = np.inf
    with pytest.raises(InvalidOption, match=r"column 0 of X: it holds inf in row 3"):
        MixtureOfExpertsRegressor().fit(x, y)
    x[3, 0] = 0.0
    with pytest.raises(InvalidOption, match=r"sample_weight\[4\]"):
        MixtureOfExpertsRegressor().fit(x, y, -1.0 * (np.arange(200) == 4))
    with pytest.raises(ValueError, match="zero"):
        MixtureOfExpertsRegressor().fit(x, y, np.zeros(200))
    with pytest.raises(InvalidOption, match="n_samples = 1"):
        MixtureOfExpertsRegressor().fit(x, y, 1.0 * (np.arange(200) == 4))
    with pytest.raises(InvalidOption, match="one class only"):
        MixtureOfExpertsClassifier().fit(x, np.zeros(200))
    for wrong in (y, -np.ones(200)):
        with pytest.raises(InvalidOption, match="whole numbers"):
            MixtureOfExpertsRegressor(experts="poisson").fit(x, wrong)
    with pytest.raises(ValueError, match="inconsistent"):
        MixtureOfExpertsRegressor().fit(x, y).log_density(x, y[:5])
    with pytest.raises(InvalidOption, match="y"):
        MixtureOfExpertsRegressor().fit(x, y).log_density(x, np.column_stack([y, y]))


def test_large_finite_columns_are_not_taken_for_infinite() -> None:
    x, y = shape_of_table()
    MixtureOfExpertsRegressor(max_iter=2).fit(x * [1e150, 1.0], y)


def test_columns_whose_squares_overflow_are_refused() -> None:
    x, y = shape_of_table()
    with pytest.raises(InvalidOption, match="column 1"):
        MixtureOfExpertsRegressor().fit(x * [1.0, 1e200], y)


def test_a_run_that_was_cut_short_says_so() -> None:
    x, y = shape_of_table()
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        model = MixtureOfExpertsRegressor(3, max_iter=1, tol=0.0, n_init=1).fit(x, y)
    assert not model.converged_


def test_every_iteration_is_told_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = shape_of_table()
    model = MixtureOfExpertsRegressor(random_state=0, verbose=1).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert lines[-1].startswith(f"2 experts, iteration {model.n_iter_}: ")
