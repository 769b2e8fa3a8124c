"""scikit-learn's own checks of estimators, for every family.

Some of the checks feed fractional responses, which Poisson experts refuse by design. Those are declared here one by
one, and all checks run again on a regressor that rounds what it is given.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor

FRACTIONAL = (
    "check_n_features_in_after_fitting",
    "check_sample_weight_equivalence_on_dense_data",
    "check_regressors_train",
    "check_regressor_data_not_an_array",
    "check_regressors_no_decision_function",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
)


class RoundingRegressor(MixtureOfExpertsRegressor):
    """Counts from whatever scikit-learn's checks feed."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        whole = y if y is None or np.asarray(y).dtype.kind not in "fiu" else np.round(np.asarray(y, dtype=float))
        return super().fit(X, whole, sample_weight)


def refused(estimator: Any) -> dict[str, str]:
    if type(estimator) is MixtureOfExpertsRegressor and estimator.experts == "poisson":
        return dict.fromkeys(FRACTIONAL, "feeds fractional counts, which are refused")
    return {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        MixtureOfExpertsRegressor(),
        MixtureOfExpertsRegressor(1),
        MixtureOfExpertsRegressor("bic", max_experts=2, gate_step="bohning"),
        MixtureOfExpertsRegressor(experts="poisson"),
        RoundingRegressor(experts="poisson", ridge_experts=0.1),
        MixtureOfExpertsClassifier(),
        MixtureOfExpertsClassifier(3, max_iter=50, n_init=2),
    ],
    expected_failed_checks=refused,
)
def test_scikit_learn_accepts_it(estimator: Any, check: Any) -> None:
    check(estimator)
