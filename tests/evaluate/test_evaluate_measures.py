import numpy as np
import pytest
from evaluate_tables_example import gaussian, multinomial, poisson, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from quiltwork.evaluate.measures import measures
from quiltwork.evaluate.pooling import derived, pooled
from quiltwork.evaluate.scores import Cell


@pytest.mark.parametrize("mixture", [gaussian(), gaussian(outputs=3), poisson()], ids=["one", "three", "counts"])
def test_measures_of_numbers_against_scikit_learn(mixture):
    x, y = rows(mixture, 300)
    found, predicted = measures(mixture, x, y), mixture.mean(x)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, predicted))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y, predicted))
    assert found["rpe"] == pytest.approx(((y - predicted) ** 2).sum() / (y**2).sum())
    if y.shape[1] == 1:
        assert found["mse"] == pytest.approx(metrics.mean_squared_error(y, predicted))


def test_measures_of_classes_against_scikit_learn():
    mixture = multinomial(sharpness=2.0)
    x, y = rows(mixture, 400)
    found, p = measures(mixture, x, y), mixture.mean(x)
    assert found["accuracy"] == metrics.accuracy_score(y, p.argmax(axis=1))
    one_hot = np.eye(3)[y]
    assert found["brier"] == pytest.approx(((p - one_hot) ** 2).sum() / len(y))
    assert -mixture.log_density(x, y).mean() == pytest.approx(metrics.log_loss(y, p, labels=[0, 1, 2]))


def test_a_classifier_that_is_too_sure_has_a_calibration_error():
    truth = multinomial()
    x, y = rows(truth, 20_000)
    assert measures(truth, x, y)["calibration_error"] < 0.02
    assert measures(multinomial(sharpness=4.0), x, y)["calibration_error"] > 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 79), st.sampled_from([gaussian(), gaussian(outputs=2), poisson(), multinomial()]))
def test_parts_pool_to_the_measures_of_all_rows_together(cut, mixture):
    x, y = rows(mixture, 80)
    parts = [
        Cell(value=0.0, amount=len(x[s]), extra=measures(mixture, x[s], y[s])) for s in (slice(cut), slice(cut, None))
    ]
    whole = measures(mixture, x, y)
    found = pooled(parts)
    assert found.keys() == whole.keys()
    assert found == pytest.approx(whole, abs=1e-9)


def test_the_mean_of_ratios_is_not_the_ratio_of_all_rows():
    """What ``pooled`` must not do."""
    x, y = rows(gaussian(), 80)
    halves = [measures(gaussian(), x[s], y[s] + shift) for s, shift in ((slice(40), 0.0), (slice(40, None), 5.0))]
    shifted = np.concatenate([y[:40], y[40:] + 5.0])
    wrong = (halves[0]["r2"] + halves[1]["r2"]) / 2
    right = pooled([Cell(value=0.0, amount=40, extra=half) for half in halves])["r2"]
    assert right == pytest.approx(metrics.r2_score(shifted, gaussian().mean(x)))
    assert abs(right - wrong) > 0.1


def test_a_constant_response_has_no_r2_and_zeros_no_relative_error():
    assert "r2" not in derived({"mse": 1.0, "mean_absolute": 1.0, "mean_square": 4.0, "mean": 2.0})
    assert "rpe" not in derived({"mse": 1.0, "mean_absolute": 1.0, "mean_square": 0.0, "mean": 0.0})


def test_pooling_leaves_out_what_a_part_lacks_or_what_has_no_mean():
    one = Cell(value=0, amount=2, extra={"accuracy": 1.0, "ari": 0.5})
    two = Cell(value=0, amount=6, extra={"accuracy": 0.5, "ari": 0.5, "brier": 1.0})
    assert pooled([one, two]) == {"accuracy": 0.625}
    assert pooled([]) == {}
