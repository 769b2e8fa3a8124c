"""One ledger over parties: composition by hand, silence, units apart, and what is not covered said aloud."""

from __future__ import annotations

import json
import math

import dp_accounting
import pytest
from dp_accounting import pld

from quiltwork.errors import InvalidOption
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import Event, ExactEvent, GaussianEvent, LaplaceEvent, OtherEvent, SampledGaussianEvent
from quiltwork.privacy.labels import RandomisedResponse
from quiltwork.privacy.ledger import Ledger, coverage

PARTIES = ("ash", "birch", "cedar")
LABELS = RandomisedResponse(10, 2.0).event


def trained(multiplier: float = 2.0, rate: float = 0.2, steps: int = 20) -> SampledGaussianEvent:
    return SampledGaussianEvent(
        released="component", sigma=multiplier, sensitivity=1.0, sampling_rate=rate, steps=steps
    )


def ledger(events: dict[str, tuple[Event, ...]], labels: tuple[str, ...] = ()) -> Ledger:
    return Ledger(events, columns=PARTIES, labels=labels)


def test_a_case_pays_at_every_party_that_holds_a_part_of_it() -> None:
    parts = {"ash": (2.0, 0.2, 20), "birch": (3.0, 0.1, 40), "cedar": (1.5, 0.05, 30)}
    by_hand = pld.PLDAccountant()
    for multiplier, rate, steps in parts.values():
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))
        by_hand.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    books = ledger({party: (trained(*part),) for party, part in parts.items()})
    found = books.price("row", delta=1e-5)
    assert found == pytest.approx(by_hand.get_epsilon(1e-5), rel=2e-3)
    apart = [price([trained(*part)], delta=1e-5) for part in parts.values()]
    assert max(apart) < found < sum(apart), "a ledger for each party would claim less"


def test_a_silent_holder_has_no_bound_and_is_named() -> None:
    books = ledger({"ash": (trained(),), "birch": (trained(),)})
    assert books.silent("row") == ("cedar",)
    assert books.price("row", delta=1e-5) == math.inf
    line = books.line("row", delta=1e-5)
    assert line.covers == ()
    assert "party 'cedar' states no event" in line.not_covered[0]
    assert line.parties == PARTIES


def test_one_exact_release_undoes_the_bound_of_all() -> None:
    events: dict[str, tuple[Event, ...]] = {party: (trained(),) for party in PARTIES}
    assert math.isfinite(ledger(events).price("row", delta=1e-5))
    events["birch"] = (trained(), ExactEvent(released="activations", unit="row"))
    line = ledger(events).line("row", delta=1e-5)
    assert line.epsilon == math.inf
    assert any("activations: released without" in text for text in line.not_covered)


def test_units_are_kept_apart() -> None:
    books = ledger({**{party: (trained(),) for party in PARTIES}, "lab": (LABELS,)}, labels=("lab",))
    row, label = books.lines(delta=1e-5)
    assert (row.unit, label.unit) == ("row", "label")
    assert label.epsilon == pytest.approx(2.0)
    assert label.parties == ("lab",)
    assert row.epsilon == pytest.approx(price([trained()] * 3, delta=1e-5))


def test_labels_released_twice_cost_twice() -> None:
    books = ledger({"lab": (LABELS, LABELS)}, labels=("lab",))
    assert books.price("label", delta=0) == pytest.approx(4.0)


def test_labels_that_nobody_randomised_have_no_bound() -> None:
    books = ledger({}, labels=("lab",))
    assert books.price("label", delta=1e-5) == math.inf


@pytest.mark.parametrize("strange", [OtherEvent(mechanism="skellam", released="x", unit="person"), object(), None])
def test_what_is_not_known_counts_against_every_unit(strange: Event) -> None:
    books = ledger({**{party: (trained(),) for party in PARTIES}, "lab": (LABELS, strange)}, labels=("lab",))
    assert books.price("row", delta=1e-5) == math.inf
    assert books.price("label", delta=1e-5) == math.inf


def test_nothing_held_and_nothing_said_is_no_line() -> None:
    assert Ledger({}, columns=()).lines(delta=1e-5) == ()


def test_every_bound_says_what_it_does_not_cover() -> None:
    for event, words in (
        (LABELS, "own columns tell of its label"),
        (LABELS, "not declared but taken from the labels"),
        (trained(), "activations, outputs and losses of the training rows"),
        (trained(), "sampling that parties share"),
        (LaplaceEvent(released="counts", unit="row", scale=1.0, sensitivity=1.0), "which cases there are"),
    ):
        assert coverage(event).covers
        assert any(words in text for text in coverage(event).not_covered)
    for event in (ExactEvent(released="h", unit="row"), OtherEvent(mechanism="m", released="h", unit="u"), None):
        assert coverage(event).covers == ""
        assert "without a mechanism" in coverage(event).not_covered[0]


def test_a_line_is_json_and_no_bound_is_null() -> None:
    books = ledger({"lab": (LABELS,)}, labels=("lab",))
    row, label = [json.loads(json.dumps(line.to_json(), allow_nan=False)) for line in books.lines(delta=1e-5)]
    assert row["epsilon"] is None
    assert label["epsilon"] == pytest.approx(2.0)
    assert label["mechanisms"] == ["randomised_response"]


def test_a_delta_outside_its_domain_is_refused() -> None:
    with pytest.raises(InvalidOption, match="delta="):
        ledger({}).price("row", delta=1.0)


@pytest.mark.parametrize("unit", ["row", "label"])
def test_an_event_of_another_unit_than_a_sessions_bounds_nothing_and_hides_nothing(unit: str) -> None:
    sound: tuple[Event, ...] = (trained(), LABELS)
    books = Ledger({"ash": sound}, columns=("ash",), labels=("ash",))
    assert math.isfinite(books.price(unit, delta=1e-5))  # type: ignore[arg-type]
    document = GaussianEvent(released="tokens", sigma=4.0, sensitivity=1.0)
    for stray in (ExactEvent(released="activations"), document):
        for events in ((*sound, stray), (stray,)):
            line = Ledger({"ash": events}, columns=("ash",), labels=("ash",)).line(unit, delta=1e-5)  # type: ignore[arg-type]
            assert line.epsilon == math.inf
            assert line.covers == ()
            assert any("for one document" in text for text in line.not_covered)
