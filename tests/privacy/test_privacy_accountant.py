"""The accountant against closed forms: pure Laplace, the analytic Gaussian, and composition of two."""

from __future__ import annotations

import builtins
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.stats import norm

from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.privacy import accountant
from quiltwork.privacy.accountant import calibrate_gaussian, calibrate_laplace, gaussian_delta, price
from quiltwork.privacy.events import ExactEvent, GaussianEvent, LaplaceEvent, OtherEvent


def laplace(multiplier: float, sensitivity: float = 3.0) -> LaplaceEvent:
    return LaplaceEvent(released="tokens", scale=multiplier * sensitivity, sensitivity=sensitivity)


def gaussian(multiplier: float, sensitivity: float = 3.0) -> GaussianEvent:
    return GaussianEvent(released="tokens", sigma=multiplier * sensitivity, sensitivity=sensitivity)


def oracle_delta(multiplier: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8, in scipy's log-space arithmetic."""
    first = norm.logcdf(0.5 / multiplier - epsilon * multiplier)
    second = epsilon + norm.logcdf(-0.5 / multiplier - epsilon * multiplier)
    return float(math.exp(first) * -math.expm1(second - first))


def oracle_epsilon(multiplier: float, delta: float) -> float:
    high = 0.5 / multiplier**2 + 40 / multiplier
    return float(optimize.brentq(lambda e: oracle_delta(multiplier, e) - delta, 0, high, xtol=1e-12))


@pytest.mark.parametrize("multiplier", [0.125, 0.5, 1.0, 2.0, 50.0])
def test_one_laplace_event_costs_sensitivity_over_scale(multiplier: float) -> None:
    assert price([laplace(multiplier)], delta=1e-9) == pytest.approx(1 / multiplier, rel=1e-6, abs=1e-6)
    assert price([laplace(multiplier)], delta=0) == pytest.approx(1 / multiplier, rel=1e-12)


@pytest.mark.parametrize("multiplier", [0.2, 0.7, 1.0, 4.2247, 20.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
def test_one_gaussian_event_costs_what_the_analytic_formula_says(multiplier: float, delta: float) -> None:
    exact = oracle_epsilon(multiplier, delta)
    paid = price([gaussian(multiplier)], delta=delta)
    assert exact - 1e-7 <= paid <= exact + 2e-3


def test_two_gaussians_cost_as_one_with_the_multipliers_added_in_inverse_squares() -> None:
    one, two = 1.5, 2.5
    together = 1 / math.sqrt(1 / one**2 + 1 / two**2)
    paid = price([gaussian(one), gaussian(two)], delta=1e-6)
    assert paid == pytest.approx(oracle_epsilon(together, 1e-6), abs=2e-3)


def two_laplaces_delta(epsilon: float, points: int = 400) -> float:
    """Hockey-stick divergence of two unit Laplace releases, summed over the joint law of their losses.

    One loss is 1 with probability 1/2, -1 with probability exp(-1)/2, and between them has the density
    exp((l - 1) / 2) / 4.
    """
    step = 2.0 / points
    inner = -1 + step * (np.arange(points) + 0.5)
    losses = np.concatenate([inner, [1.0, -1.0]])
    masses = np.concatenate([step * np.exp((inner - 1) / 2) / 4, [0.5, math.exp(-1) / 2]])
    assert masses.sum() == pytest.approx(1, abs=1e-5)
    total = losses[:, None] + losses[None]
    return float((np.outer(masses, masses) * np.maximum(0, 1 - np.exp(epsilon - total))).sum())


def test_two_laplaces_cost_as_the_divergence_of_their_joint_loss() -> None:
    exact = optimize.brentq(lambda epsilon: two_laplaces_delta(epsilon) - 0.05, 0.5, 2.0)
    paid = price([laplace(1.0), laplace(1.0)], delta=0.05)
    assert paid == pytest.approx(exact, abs=1e-3)
    assert paid < 1.9, "composition with a delta must beat adding up"


def test_mixed_events_cost_no_more_than_their_sum_and_no_less_than_the_dearest() -> None:
    events = [laplace(1.0), gaussian(2.0)]
    apart = price(events[:1], delta=5e-7) + price(events[1:], delta=5e-7)
    together = price(events, delta=1e-6)
    assert max(price([event], delta=1e-6) for event in events) < together <= apart + 1e-3
    assert together == pytest.approx(price(events[::-1], delta=1e-6), rel=1e-12)


def test_at_delta_zero_laplace_adds_up_and_gaussian_is_unbounded() -> None:
    assert price([laplace(1.0), laplace(0.25)], delta=0) == pytest.approx(5.0, rel=1e-12)
    assert price([laplace(1.0), gaussian(100.0)], delta=0) == math.inf


def test_nothing_released_costs_nothing() -> None:
    assert price([], delta=1e-6) == 0.0
    assert price(iter(()), delta=0) == 0.0


@pytest.mark.parametrize(
    "event",
    [
        ExactEvent(released="ffn"),
        ExactEvent(released="tokens", note="cells seen in fewer than 5 documents set to zero"),
        OtherEvent(mechanism="skellam", released="tokens", unit="document"),
        SimpleNamespace(mechanism="laplace", scale=1e9, sensitivity=1.0),
        {"mechanism": "laplace", "scale": 1e9, "sensitivity": 1.0},
        None,
        LaplaceEvent.model_construct(released="tokens", scale=math.nan, sensitivity=1.0),
        LaplaceEvent.model_construct(released="tokens", scale=-1.0, sensitivity=1.0),
        GaussianEvent.model_construct(released="tokens", sigma=1.0, sensitivity=0.0),
        GaussianEvent.model_construct(released="tokens", sigma=math.inf, sensitivity=1.0),
    ],
)
def test_what_no_theorem_covers_costs_infinity_in_any_company(event: object) -> None:
    assert price([event], delta=1e-6) == math.inf  # type: ignore[list-item]
    assert price([laplace(10.0), event], delta=1e-6) == math.inf  # type: ignore[list-item]


def test_negative_control_an_accountant_that_skips_what_it_does_not_know_is_caught() -> None:
    events = [laplace(10.0), ExactEvent(released="ffn")]
    lenient = price([event for event in events if isinstance(event, LaplaceEvent)], delta=1e-6)
    assert lenient < 1 < price(events, delta=1e-6)


def test_negative_control_the_ratio_and_not_the_scale_is_what_counts() -> None:
    same = [LaplaceEvent(released="tokens", scale=2.0 * s, sensitivity=s) for s in (0.01, 1.0, 1e6)]
    assert len({round(price([event], delta=1e-6), 9) for event in same}) == 1
    halved = LaplaceEvent(released="tokens", scale=1.0, sensitivity=1.0)
    assert price([halved], delta=1e-6) > 1.9 * price(same[:1], delta=1e-6)


@pytest.mark.parametrize("multiplier", [1e-308, 1e-30, 1e-5, 0.007, 1e3, 1e9, 1e300])
def test_extreme_multipliers_are_priced_without_an_error(multiplier: float) -> None:
    for event in (
        LaplaceEvent(released="tokens", scale=multiplier, sensitivity=1.0),
        GaussianEvent(released="tokens", sigma=multiplier, sensitivity=1.0),
    ):
        paid = price([event], delta=1e-6)
        assert paid >= 0
        assert (paid > 100) == (multiplier < 1)


def test_a_coarse_grid_still_gives_an_upper_bound() -> None:
    assert oracle_epsilon(0.02, 1e-6) <= price([gaussian(0.02)], delta=1e-6) <= oracle_epsilon(0.02, 1e-6) * 1.001
    many = [gaussian(0.1)] * 5
    assert price(many, delta=1e-6) == pytest.approx(oracle_epsilon(0.1 / math.sqrt(5), 1e-6), rel=1e-3)


def test_a_stricter_delta_costs_more() -> None:
    paid = [price([gaussian(1.0)], delta=delta) for delta in (1e-3, 1e-6, 1e-9)]
    assert paid == sorted(paid)
    assert paid[0] < paid[-1]


@pytest.mark.parametrize("delta", [-1e-9, 1.0, 2.0, math.nan, math.inf])
def test_a_delta_outside_its_domain_is_refused(delta: float) -> None:
    with pytest.raises(InvalidOption, match=r"delta=.*probability below 1"):
        price([], delta=delta)


def test_a_missing_accountant_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("dp_accounting"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PrivacyError, match=r"dp-accounting.*not installed.*quiltwork\[privacy\]"):
        price([laplace(1.0)], delta=1e-6)
    # what needs no arithmetic needs no package
    assert price([ExactEvent(released="ffn")], delta=1e-6) == math.inf
    assert price([laplace(2.0)], delta=0) == 0.5


def test_the_room_is_light_to_import() -> None:
    code = "import sys, quiltwork.privacy.accountant; print('dp_accounting' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


@settings(deadline=None)
@given(st.floats(1e-3, 50), st.floats(1e-6, 1e6))
def test_laplace_calibration_and_price_are_inverse(epsilon: float, sensitivity: float) -> None:
    scale = calibrate_laplace(epsilon, sensitivity)
    event = LaplaceEvent(released="tokens", scale=scale, sensitivity=sensitivity)
    assert price([event], delta=0) == pytest.approx(epsilon, rel=1e-12)


@settings(deadline=None)
@given(st.floats(1e-3, 100), st.floats(1e-14, 0.4), st.floats(1e-3, 1e6))
def test_gaussian_calibration_meets_the_formula_tightly_and_from_above(
    epsilon: float, delta: float, sensitivity: float
) -> None:
    sigma = calibrate_gaussian(epsilon, delta, sensitivity)
    assert oracle_delta(sigma / sensitivity, epsilon) <= delta * (1 + 1e-6)
    assert oracle_delta(0.999 * sigma / sensitivity, epsilon) > delta
    assert gaussian_delta(sigma, epsilon, sensitivity) == pytest.approx(delta, rel=1e-6)


def test_gaussian_calibration_agrees_with_the_package_and_with_the_price() -> None:
    import dp_accounting

    for epsilon, delta in ((0.1, 1e-5), (1.0, 1e-6), (8.0, 1e-6)):
        sigma = calibrate_gaussian(epsilon, delta, 5.0)
        assert sigma / 5.0 == pytest.approx(dp_accounting.get_sigma_gaussian(epsilon, delta), rel=1e-6)
        event = GaussianEvent(released="tokens", sigma=sigma, sensitivity=5.0)
        assert price([event], delta=delta) == pytest.approx(epsilon, abs=2e-3)


def test_negative_control_the_classical_formula_is_not_valid_for_large_epsilon() -> None:
    epsilon, delta = 20.0, 1e-2
    classical = math.sqrt(2 * math.log(1.25 / delta)) / epsilon
    assert oracle_delta(classical, epsilon) > delta, "the classical sigma would break the promise"
    assert calibrate_gaussian(epsilon, delta, 1.0) > classical


@pytest.mark.parametrize("epsilon", [1e-300, 1e300])
def test_gaussian_calibration_ends_for_any_epsilon(epsilon: float) -> None:
    assert 0 < calibrate_gaussian(epsilon, 1e-6, 1.0) < math.inf


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_calibration_refuses_what_is_outside_its_domain(value: float) -> None:
    with pytest.raises(InvalidOption, match=r"epsilon=.*positive and finite"):
        calibrate_laplace(value, 1.0)
    with pytest.raises(InvalidOption, match=r"sensitivity=.*positive and finite"):
        calibrate_gaussian(1.0, 1e-6, value)
    with pytest.raises(InvalidOption, match=r"delta=.*between 0 and 1"):
        calibrate_gaussian(1.0, value, 1.0)


def test_losses_past_the_bound_are_infinite_rather_than_slow() -> None:
    events = [gaussian(0.02)] * 20
    assert price(events, delta=1e-6) == math.inf
    assert accountant.price(events[:1], delta=1e-6) < math.inf


@pytest.mark.parametrize("delta", [0.0, 1e-300, 1e-16, 1e-9, 0.1])
def test_laplace_never_costs_more_than_the_sum_and_a_tiny_delta_is_no_discount_for_gauss(
    delta: float,
) -> None:
    assert price([laplace(2.0), laplace(4.0)], delta=delta) <= 0.75
    if delta < 1e-15:
        assert price([gaussian(2.0)], delta=delta) == math.inf


# Units


def of_a_row(*events: LaplaceEvent | GaussianEvent | ExactEvent) -> list[LaplaceEvent | GaussianEvent | ExactEvent]:
    return [event.model_copy(update={"unit": "row"}) for event in events]


@pytest.mark.parametrize("delta", [0.0, 1e-6])
def test_a_row_costs_what_a_document_costs(delta: float) -> None:
    for events in ([laplace(2.0)], [gaussian(3.0)], [laplace(2.0), gaussian(3.0)], [ExactEvent(released="ffn")]):
        assert price(of_a_row(*events), delta=delta) == price(events, delta=delta)


def test_prices_for_a_row_and_for_a_document_do_not_add_up() -> None:
    for events in ([laplace(2.0), laplace(2.0)], [gaussian(5.0), laplace(2.0)]):
        assert math.isfinite(price(events, delta=1e-6))
        assert price([events[0], *of_a_row(events[1])], delta=1e-6) == math.inf
