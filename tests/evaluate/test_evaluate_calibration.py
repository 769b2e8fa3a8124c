import numpy as np
import pytest
from evaluate_tables_example import gaussian, multinomial, poisson, rows
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import calibration
from quiltwork.evaluate.pooling import LEVELS
from quiltwork.evaluate.reliability import reliability


def gaussian_cdf(mixture, x, y):
    """The mixture's distribution function by scipy, row by row and expert by expert."""
    gate, mean = np.exp(mixture.log_gate(x)), mixture.experts.mean(x)
    scale = np.sqrt(mixture.experts.variances)
    return np.array(
        [
            [
                sum(gate[i, k] * stats.norm.cdf(y[i, j], mean[i, k, j], scale[k, j]) for k in range(gate.shape[1]))
                for j in range(y.shape[1])
            ]
            for i in range(len(x))
        ]
    )


@pytest.mark.parametrize("outputs", [1, 3])
def test_u_of_gaussian_experts_is_the_distribution_function(outputs):
    mixture = gaussian(outputs=outputs)
    x, y = rows(mixture, 40)
    low, high = calibration.pit(mixture, x, y)
    assert (low == high).all()
    np.testing.assert_allclose(low, gaussian_cdf(mixture, x, y), atol=1e-12)


def test_u_of_counts_is_the_interval_between_two_values_of_the_distribution_function():
    mixture = poisson()
    x, y = rows(mixture, 60)
    assert (y == 0).any()
    gate, rate = np.exp(mixture.log_gate(x)), mixture.experts.mean(x)[:, :, 0]
    low, high = calibration.pit(mixture, x, y)
    np.testing.assert_allclose(high[:, 0], (gate * stats.poisson.cdf(y, rate)).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(low[:, 0], (gate * stats.poisson.cdf(y - 1, rate)).sum(axis=1), atol=1e-12)


def test_classes_have_no_distribution_function():
    mixture = multinomial()
    x, _ = rows(mixture, 5)
    with pytest.raises(InvalidOption, match="multinomial"):
        calibration.pit(mixture, x, np.zeros((5, 1)))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_bins_share_every_row_completely(ends):
    pairs = np.sort(np.array(ends), axis=1)
    # narrower intervals than rounding are points
    pairs[:, 1] = np.where(pairs[:, 1] - pairs[:, 0] < 1e-9, pairs[:, 0], pairs[:, 1])
    shares = calibration.histogram(pairs[:, :1], pairs[:, 1:])
    assert sum(shares.values()) == pytest.approx(1.0)
    assert min(shares.values()) >= 0


@given(st.floats(0, 1), st.floats(0.01, 0.5), st.floats(0, 1), st.floats(0.01, 0.5))
def test_the_share_of_an_interval_is_what_even_spreading_gives(start, width, low, length):
    grid = np.linspace(low, low + length, 20_001)
    brute = np.mean((grid > start) & (grid <= start + width))
    found = calibration.share_between(np.array([low]), np.array([low + length]), start, start + width)
    assert found[0] == pytest.approx(brute, abs=2e-3)


@pytest.mark.parametrize("mixture", [gaussian(), gaussian(outputs=2), poisson()], ids=["one", "two", "counts"])
def test_the_truth_is_calibrated(mixture):
    low, high = calibration.pit(mixture, *rows(mixture, 20_000))
    for level, found in zip(LEVELS, calibration.coverage(low, high).values(), strict=True):
        assert found == pytest.approx(level / 100, abs=0.012)
    assert list(calibration.histogram(low, high).values()) == pytest.approx([0.1] * 10, abs=0.01)


@pytest.mark.parametrize(
    ("scale", "low_end", "high_end"), [(0.4, 0.4, 0.8), (3.0, 0.97, 1.0)], ids=["too sure", "unsure"]
)
def test_a_model_that_is_too_sure_or_unsure_is_seen(scale, low_end, high_end):
    x, y = rows(gaussian(), 5000)
    low, high = calibration.pit(gaussian(scale=scale), x, y)
    assert low_end < calibration.coverage(low, high)["coverage_90"] < high_end
    shares = calibration.histogram(low, high)
    # too sure: responses in both tails; unsure: in the middle
    assert (shares["pit_0"] > 0.15 and shares["pit_9"] > 0.15) == (scale < 1)
    assert (shares["pit_4"] > 0.15 and shares["pit_5"] > 0.12) == (scale > 1)


def test_a_shifted_model_is_seen_though_its_width_is_right():
    x, y = rows(gaussian(), 5000)
    shares = calibration.histogram(*calibration.pit(gaussian(shift=-0.6), x, y))
    assert shares["pit_9"] > 3 * shares["pit_0"]


def test_reliability_by_hand():
    p = np.array([[0.95, 0.05], [0.92, 0.08], [0.4, 0.6], [1.0, 0.0]])
    found = reliability(p, np.array([0, 1, 1, 0]))
    assert found["bin_9_share"] == 0.75
    assert found["bin_9_confidence"] == pytest.approx((0.95 + 0.92 + 1.0) / 4)
    assert found["bin_9_hits"] == 0.5
    assert (found["bin_6_share"], found["bin_6_hits"]) == (0.25, 0.25)
    assert sum(found[f"bin_{j}_share"] for j in range(10)) == 1.0
