"""Randomised response: its law, its price, what an observer may believe, and no way back to the true labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quiltwork.errors import InvalidOption
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import LaplaceEvent, RandomisedResponseEvent
from quiltwork.privacy.labels import RandomisedResponse, ReleasedLabels

CLASSES = st.integers(2, 1000)
EPSILONS = st.floats(1e-3, 32.0)


def frequencies(response: RandomisedResponse, label: int, count: int = 40_000, seed: int = 0) -> np.ndarray:
    labels = np.full(count, label, dtype=np.int64)
    return np.bincount(response.release(labels, rng=np.random.default_rng(seed)).labels, minlength=response.classes)


def law(classes: int, epsilon: float, label: int) -> np.ndarray:
    """Written out anew: the truth is e^epsilon times likelier than each other class."""
    weights = np.ones(classes)
    weights[label] = math.exp(epsilon)
    return weights / weights.sum()


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.5), (3, 1.0), (10, 3.0), (10, 6.0)])
@pytest.mark.parametrize("end", [0, -1])
def test_responses_have_their_law(classes: int, epsilon: float, end: int) -> None:
    label = end % classes
    found = frequencies(RandomisedResponse(classes, epsilon), label)
    assert stats.chisquare(found, law(classes, epsilon, label) * found.sum()).pvalue > 1e-4


def test_negative_control_the_test_of_the_law_refuses_a_neighbouring_epsilon_and_a_shifted_class() -> None:
    found = frequencies(RandomisedResponse(10, 3.0), 4)
    assert stats.chisquare(found, law(10, 3.1, 4) * found.sum()).pvalue < 1e-4
    assert stats.chisquare(found, law(10, 3.0, 5) * found.sum()).pvalue < 1e-4


@settings(deadline=None)
@given(CLASSES, EPSILONS)
def test_the_price_is_the_epsilon_asked_for_and_never_more(classes: int, epsilon: float) -> None:
    event = RandomisedResponse(classes, epsilon).event
    for delta in (0.0, 1e-6):
        paid = price([event], delta=delta)
        assert epsilon * (1 - 1e-3) - 1e-9 <= paid <= epsilon * (1 + 1e-12)


def test_the_price_is_the_largest_ratio_of_the_transition() -> None:
    for classes, epsilon in ((2, 0.1), (5, 2.0), (10, 8.0)):
        response = RandomisedResponse(classes, epsilon)
        matrix = response.transition
        ratio = max(matrix[a, c] / matrix[b, c] for a in range(classes) for b in range(classes) for c in range(classes))
        assert price([response.event], delta=0) == pytest.approx(math.log(ratio), rel=1e-12)
        assert matrix.sum(1) == pytest.approx(np.ones(classes), abs=1e-15)


def test_the_price_agrees_with_dp_accounting() -> None:
    from dp_accounting import pld

    for classes, epsilon in ((2, 1.0), (10, 3.0)):
        flip = RandomisedResponse(classes, epsilon).event.flip
        oracle = pld.privacy_loss_distribution.from_randomized_response(
            classes * flip, classes, value_discretization_interval=1e-4
        )
        assert price([RandomisedResponse(classes, epsilon).event], delta=0) == pytest.approx(
            oracle.get_epsilon_for_delta(0.0), abs=2e-4
        )


def test_releasing_twice_costs_twice_and_other_units_do_not_add_up() -> None:
    event = RandomisedResponse(10, 2.0).event
    assert price([event, event], delta=1e-6) == pytest.approx(4.0)
    noise = LaplaceEvent(released="heights", unit="label", scale=2.0, sensitivity=1.0)
    assert price([event, noise], delta=0) == pytest.approx(2.5)
    assert price([event, noise.model_copy(update={"unit": "row"})], delta=0) == math.inf


@pytest.mark.parametrize("flip", [0.0, -0.1, 0.1, 0.5, math.nan])
def test_an_event_that_was_not_validated_is_never_cheap(flip: float) -> None:
    event = RandomisedResponseEvent.model_construct(classes=10, flip=flip, unit="label", released="labels")
    assert price([event], delta=0) == math.inf


# What an observer believes


def test_the_implied_posterior_is_the_closed_form_and_bayes_by_counting() -> None:
    response = RandomisedResponse(10, 4.0)
    assert response.keep == pytest.approx(math.exp(4) / (math.exp(4) + 9), rel=1e-12)
    assert np.diag(response.posteriors()) == pytest.approx(np.full(10, response.keep))
    prior = np.arange(1, 11) / 55
    truth = np.repeat(np.arange(10), np.arange(1, 11) * 2000)
    released = response.release(truth.astype(np.int64), rng=np.random.default_rng(1)).labels
    for c in (0, 4, 9):
        counted = np.bincount(truth[released == c], minlength=10) / (released == c).sum()
        assert response.posteriors(prior)[c] == pytest.approx(counted, abs=0.03)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), st.floats(0.01, 10), st.integers(0, 2**31))
def test_no_belief_moves_by_more_than_epsilon(classes: int, epsilon: float, seed: int) -> None:
    prior = np.random.default_rng(seed).dirichlet(np.ones(classes)).clip(1e-6)
    prior /= prior.sum()
    after = RandomisedResponse(classes, epsilon).posteriors(prior)
    odds = np.log(after / (1 - after)) - np.log(prior / (1 - prior))
    assert np.abs(odds).max() <= epsilon + 1e-6


def test_the_description_says_what_is_believed_and_not_only_epsilon() -> None:
    text = RandomisedResponse(10, 4.0).describe()
    assert "epsilon 4" in text
    assert "0.86" in text
    assert "0.99" in RandomisedResponse(10, 4.0).describe([0.91] + [0.01] * 9)


# The true labels


def test_the_release_holds_no_true_label_and_can_overwrite_them() -> None:
    labels = np.arange(300, dtype=np.int64) % 3
    kept = labels.copy()
    released = RandomisedResponse(3, 0.5).release(labels)
    assert (labels == kept).all()
    assert not np.shares_memory(released.labels, labels)
    assert set(vars(released)) == {"labels", "event"}
    again = RandomisedResponse(3, 0.5).release(labels, overwrite=True)
    assert (labels == again.labels).all()
    assert (labels != kept).any()


def test_rows_without_a_label_stay_without() -> None:
    labels = np.array([-1, 0, -1, 1], dtype=np.int64)
    assert (RandomisedResponse(2, 0.1).release(labels).labels[[0, 2]] == -1).all()


def test_the_noise_is_the_operating_systems_and_cannot_be_drawn_again() -> None:
    labels = np.zeros(2000, dtype=np.int64)
    response = RandomisedResponse(10, 1.0)
    np.random.seed(0)
    one = response.release(labels).labels
    np.random.seed(0)
    assert (one != response.release(labels).labels).any()
    fixed = [response.release(labels, rng=np.random.default_rng(5)).labels for _ in range(2)]
    assert (fixed[0] == fixed[1]).all()


def test_accuracy_on_true_labels_is_estimated_from_the_released_ones() -> None:
    draw = np.random.default_rng(3)
    truth = draw.integers(0, 10, 20_000)
    predicted = np.where(draw.random(20_000) < 0.8, truth, (truth + 1) % 10)
    exact = (predicted == truth).mean()
    released = RandomisedResponse(10, 2.0).release(truth, rng=draw)
    found = released.accuracy(predicted)
    assert abs(found.value - exact) < 4 * found.error
    naive = (predicted == released.labels).mean()
    assert abs(naive - exact) > 20 * found.error, "without the correction the estimate is far off"


@pytest.mark.parametrize("predicted", [[0], [0, 1, 2]])
def test_accuracy_of_other_rows_is_refused(predicted: list[int]) -> None:
    released = RandomisedResponse(3, 2.0).release(np.array([0, 1]))
    with pytest.raises(InvalidOption, match="one class a row"):
        released.accuracy(predicted)
    with pytest.raises(InvalidOption, match="0 known"):
        ReleasedLabels(np.array([-1, -1]), released.event).accuracy([0, 0])


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([-2]), np.array([0.0]), np.zeros((2, 2), np.int64)])
def test_labels_outside_the_set_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(InvalidOption, match=r"int64 \[n\] in 0 ... 2"):
        RandomisedResponse(3, 1.0).release(labels)


def test_a_read_only_array_cannot_be_overwritten() -> None:
    labels = np.zeros(3, dtype=np.int64)
    labels.flags.writeable = False
    with pytest.raises(InvalidOption, match="writable"):
        RandomisedResponse(3, 1.0).release(labels, overwrite=True)


@pytest.mark.parametrize(("classes", "epsilon"), [(1, 1.0), (2, 0.0), (2, -1.0), (2, 33.0), (2, math.nan), (2, 1e-30)])
def test_parameters_outside_their_domain_are_refused(classes: int, epsilon: float) -> None:
    with pytest.raises(InvalidOption, match="epsilon="):
        RandomisedResponse(classes, epsilon)


@pytest.mark.parametrize("prior", [[1.0], [0.5, 0.6], [1.5, -0.5], [math.nan, 1.0]])
def test_a_prior_that_is_none_is_refused(prior: list[float]) -> None:
    with pytest.raises(InvalidOption, match="distribution"):
        RandomisedResponse(2, 1.0).posteriors(prior)
