"""Sampled Gaussian events: priced as dp-accounting and as Opacus price them; cotangents are no mechanism."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import pytest
from dp_accounting import pld

from quiltwork.errors import InvalidOption, PrivacyError
from quiltwork.privacy.accountant import calibrate_sampled_gaussian, price
from quiltwork.privacy.events import GaussianEvent, SampledGaussianEvent, parse_event

SAMPLED = {
    "mechanism": "sampled_gaussian",
    "released": "component",
    "unit": "row",
    "sigma": 1.5,
    "sensitivity": 1.0,
    "sampling_rate": 0.05,
    "steps": 200,
}
RESPONSE = {"mechanism": "randomised_response", "released": "labels", "unit": "label", "classes": 10, "flip": 0.01}


def sampled(multiplier: float, rate: float, steps: int, clip: float = 2.0) -> SampledGaussianEvent:
    return SampledGaussianEvent(
        released="component", sigma=multiplier * clip, sensitivity=clip, sampling_rate=rate, steps=steps
    )


def by_package(*parts: tuple[float, float, int], delta: float) -> float:
    accountant = pld.PLDAccountant()
    for multiplier, rate, steps in parts:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("multiplier", "rate", "steps"), [(1.0, 0.05, 300), (0.7, 0.01, 50), (4.0, 0.5, 100)])
def test_the_price_is_that_of_the_package(multiplier: float, rate: float, steps: int) -> None:
    exact = by_package((multiplier, rate, steps), delta=1e-5)
    assert price([sampled(multiplier, rate, steps)], delta=1e-5) == pytest.approx(exact, rel=2e-3)


def test_the_price_agrees_with_opacus() -> None:
    accountants = pytest.importorskip("opacus.accountants")
    for name, least, most in (("prv", 0.99, 1.01), ("rdp", 1.0, 1.5)):
        other = accountants.create_accountant(name)
        other.history = [(1.0, 0.05, 300)]
        ratio = other.get_epsilon(delta=1e-5) / price([sampled(1.0, 0.05, 300)], delta=1e-5)
        assert least <= ratio <= most, f"{name}: {ratio}"


def test_releases_of_several_parties_compose() -> None:
    parts = [(1.0, 0.05, 100), (2.0, 0.1, 60), (1.0, 0.05, 100)]
    together = price([sampled(*part) for part in parts], delta=1e-5)
    assert together == pytest.approx(by_package(*parts, delta=1e-5), rel=2e-3)
    assert together > max(price([sampled(*part)], delta=1e-5) for part in parts)


def test_without_sampling_it_is_the_gaussian() -> None:
    whole = GaussianEvent(released="component", unit="row", sigma=6.0, sensitivity=2.0)
    assert price([sampled(3.0, 1.0, 5)], delta=1e-6) == pytest.approx(price([whole] * 5, delta=1e-6), rel=1e-9)
    assert price([sampled(3.0, 0.2, 5)], delta=1e-6) < price([sampled(3.0, 1.0, 5)], delta=1e-6)


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"), [(1e-5, 0.5, 10), (1e-2, 1e-9, 10**6), (0.5, 1.0, 10**6), (1e300, 1e-9, 10**6)]
)
def test_extreme_events_are_priced_without_an_error(multiplier: float, rate: float, steps: int) -> None:
    assert price([sampled(multiplier, rate, steps, clip=1.0)], delta=1e-6) >= 0


@pytest.mark.parametrize("update", [{"sampling_rate": 0.0}, {"sampling_rate": 1.5}, {"steps": 0}, {"steps": 10**9}])
def test_an_event_that_was_not_validated_costs_infinity(update: dict[str, Any]) -> None:
    assert price([sampled(1.0, 0.1, 10).model_copy(update=update)], delta=1e-6) == math.inf
    with pytest.raises(PrivacyError):
        parse_event({**SAMPLED, **update})


@pytest.mark.parametrize("record", [SAMPLED, RESPONSE])
def test_the_records_survive_a_round_trip(record: dict[str, Any]) -> None:
    assert parse_event(record).model_dump(mode="json") == record


@pytest.mark.parametrize("update", [{"flip": 0.1}, {"flip": 0.0}, {"classes": 1}, {"unit": "row"}, {"epsilon": 1.0}])
def test_a_response_that_is_none_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError):
        parse_event({**RESPONSE, **update})


@pytest.mark.parametrize("record", [SAMPLED, {**SAMPLED, "mechanism": "gaussian"}, {**SAMPLED, "mechanism": "laplace"}])
def test_noise_on_cotangents_is_refused_as_a_mechanism(record: dict[str, Any]) -> None:
    names = {"sampled_gaussian": set(SAMPLED), "gaussian": {"sigma"}, "laplace": {"scale"}}[record["mechanism"]]
    kept = {k: v for k, v in {**record, "scale": 1.0}.items() if k in names | {"mechanism", "unit", "sensitivity"}}
    parse_event({**kept, "released": "component"})
    with pytest.raises(PrivacyError, match=r"cotangents bounds nothing.*before the first step"):
        parse_event({**kept, "released": "cotangents"})


# Calibration


@pytest.mark.parametrize(("epsilon", "releases"), [(1.0, 4), (3.0, 1)])
def test_calibration_is_tight_and_from_above(epsilon: float, releases: int) -> None:
    found = calibrate_sampled_gaussian(epsilon, 1e-5, sampling_rate=0.2, steps=20, releases=releases)
    assert price([sampled(found, 0.2, 20)] * releases, delta=1e-5) <= epsilon
    assert price([sampled(found * 0.99, 0.2, 20)] * releases, delta=1e-5) > epsilon


@pytest.mark.parametrize(
    "update", [{"delta": 0.0}, {"sampling_rate": 0.0}, {"sampling_rate": 1.1}, {"steps": 0}, {"releases": 0}]
)
def test_calibration_refuses_what_is_outside_its_domain(update: dict[str, Any]) -> None:
    sound = {"epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1, "steps": 10}
    with pytest.raises(InvalidOption, match="sampling_rate="):
        calibrate_sampled_gaussian(**{**sound, **update})
    with pytest.raises(InvalidOption, match="epsilon="):
        calibrate_sampled_gaussian(**{**sound, "epsilon": 0.0})
