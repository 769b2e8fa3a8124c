"""Paired differences and their errors against NumPy and scipy; the rule by counting false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from quiltwork.evaluate.screen_losses import UNPREDICTABLE, Losses, effect, errors_needed, mean_and_error, together
from quiltwork.evaluate.screen_record import Rule

SIZES = (400, 900, 250, 1200, 700, 330, 810, 640)


def losses(rate: float, seed: int, spread: float = 0.05) -> Losses:
    draw = np.random.default_rng(seed)
    return Losses(tuple((rate + spread * draw.normal(size=len(SIZES))) * np.array(SIZES)), SIZES)


def shifted(one: Losses, change: float, noise: float = 0.0, seed: int = 0) -> Losses:
    rates = change + noise * np.random.default_rng(seed).normal(size=len(one.nats))
    return Losses(tuple(np.array(one.nats) + rates * np.array(one.bytes)), one.bytes)


def test_the_change_and_its_error_are_those_of_a_ratio_over_documents() -> None:
    absent = losses(1.0, 0)
    present = shifted(absent, 0.02, 0.03, seed=1)
    found = effect("ash", "wiki", present, absent, Rule(), judged=1)
    d, b = np.subtract(present.nats, absent.nats), np.array(SIZES)
    assert found.change == pytest.approx(d.sum() / b.sum() / math.log(2))
    # the jackknife of a ratio estimates the same error
    left_out = np.array([(d.sum() - d[i]) / (b.sum() - b[i]) for i in range(len(b))]) / math.log(2)
    jackknife = math.sqrt((len(b) - 1) * left_out.var())
    assert found.error == pytest.approx(jackknife, rel=0.25)
    assert found.present - found.absent == pytest.approx(found.change)
    assert found.documents == len(b)


def test_documents_of_one_length_have_the_plain_standard_error() -> None:
    sizes = (100,) * 6
    absent = Losses((50.0, 60.0, 55.0, 52.0, 61.0, 48.0), sizes)
    d = np.array([1.0, 2.0, 0.5, 1.5, 1.0, 3.0])
    found = effect("a", "t", Losses(tuple(np.array(absent.nats) + d), sizes), absent, Rule(), 1)
    assert found.error == pytest.approx(stats.sem(d) / 100 / math.log(2))


@pytest.mark.parametrize("documents", [6, 10, 30, 200])
def test_the_errors_needed_are_near_student_s_t(documents: int) -> None:
    exact = stats.t.isf(stats.norm.sf(2.0), documents - 1)
    assert errors_needed(Rule(), documents, 1) == pytest.approx(exact, rel=0.06)
    assert (
        errors_needed(Rule(), documents, 7) > errors_needed(Rule(), documents, 2) > errors_needed(Rule(), documents, 1)
    )


def test_false_alarms_are_as_rare_as_the_rule_says() -> None:
    """A contribution without effect, judged on five texts at once, is accused in about 2.3 % of all screenings."""
    draw = np.random.default_rng(0)
    rule = Rule(harm=0.0, cost=0.0)
    accused = 0
    for _ in range(1500):
        kinds = set()
        for text in range(5):
            absent = Losses(tuple(draw.normal(100, 10, size=12)), (100,) * 12)
            present = Losses(tuple(np.array(absent.nats) + draw.normal(0, 1, size=12)), absent.bytes)
            kinds.add(effect("a", f"t{text}", present, absent, rule, judged=5).kind)
        accused += "harm" in kinds
    expected = 1500 * stats.norm.sf(2.0)
    assert abs(accused - expected) < 3.5 * math.sqrt(expected)


def test_negative_control_without_the_correction_many_texts_accuse_the_innocent() -> None:
    draw = np.random.default_rng(0)
    accused = 0
    for _ in range(300):
        d = draw.normal(0, 1, size=(5, 12))
        accused += bool((d.mean(axis=1) > 2 * d.std(axis=1, ddof=1) / math.sqrt(12)).any())
    assert accused > 300 * stats.norm.sf(2.0) * 3


@pytest.mark.parametrize(
    ("change", "noise", "kind"),
    [
        (0.05, 0.001, "harm"),
        (0.025, 0.001, "harm"),
        (0.022, 0.01, "cost"),  # beyond chance, but by more than counts as harm only by chance
        (0.01, 0.001, "cost"),
        (0.002, 0.0001, "none"),
        (0.05, 0.2, "none"),
        (-0.05, 0.001, "help"),
        (-0.002, 0.0001, "none"),
    ],
)
def test_both_limits_must_be_exceeded(change: float, noise: float, kind: str) -> None:
    absent = losses(1.0, 3)
    assert effect("a", "t", shifted(absent, change, noise), absent, Rule(), 3).kind == kind


def test_texts_together_show_what_none_of_them_shows() -> None:
    effects = []
    for n in range(6):
        noise = stats.zscore(np.random.default_rng(n).normal(size=len(SIZES)))
        absent = Losses((100.0,) * len(SIZES), (100,) * len(SIZES))
        effects.append(effect("a", f"t{n}", Losses(tuple(105.0 + 6.0 * noise), absent.bytes), absent, Rule(), judged=6))
    assert {one.kind for one in effects} <= {"none", "cost"}
    found = together(effects, Rule())
    assert found is not None
    relative = np.array([one.change / one.absent for one in effects])
    errors = np.array([one.error / one.absent for one in effects if one.error])
    assert (found.mean, found.texts) == (pytest.approx(relative.mean()), 6)
    assert found.error == pytest.approx(np.linalg.norm(errors) / 6)
    assert found.mean > Rule().harm + found.chance
    assert together(effects[:1], Rule()) is None


def test_texts_together_raise_few_false_alarms() -> None:
    """At a change that is as large as may be, they accuse in about 2.3 % of all screenings."""
    draw = np.random.default_rng(1)
    rule, accused = Rule(harm=0.02, cost=0.0), 0
    for _ in range(1500):
        effects = []
        for text in range(4):
            absent = Losses((100.0,) * 12, (100,) * 12)
            present = Losses(tuple(102.0 + 4.0 * draw.normal(size=12)), absent.bytes)
            effects.append(effect("a", f"t{text}", present, absent, rule, judged=4))
        found = together(effects, rule)
        accused += found is not None and found.mean > rule.harm + found.chance
    expected = 1500 * stats.norm.sf(2.0)
    assert accused < expected + 3.5 * math.sqrt(expected)


def test_few_documents_are_not_judged() -> None:
    few = Losses((10.0, 11.0), (10, 10))
    found = effect("a", "t", shifted(few, 3.0), few, Rule(), 1)
    assert (found.kind, found.chance) == ("unknown", None)
    assert effect("a", "t", Losses((5.0,), (3,)), Losses((4.0,), (3,)), Rule(), 1).error is None


def test_what_cannot_be_predicted_is_finite() -> None:
    broken = Losses((math.inf, math.nan, *losses(1.0, 0).nats[2:]), SIZES)
    found = effect("a", "t", broken, losses(1.0, 0), Rule(), 1)
    assert found.present < UNPREDICTABLE / math.log(2)
    assert math.isfinite(found.change)
    assert found.change > 100


def test_means_over_documents() -> None:
    values = [0.1, 0.5, 0.2, 0.9]
    mean, error = mean_and_error(values)
    assert (mean, error) == pytest.approx((np.mean(values), stats.sem(values)))
    assert mean_and_error([0.5]) == (0.5, None)


@pytest.mark.parametrize("errors", [0.0, 2.0, 7.0, 12.0, 30.0])
def test_however_sure_it_must_be_the_bar_is_that_of_scipy(errors: float) -> None:
    for judged in (1, 7):
        due = stats.norm.isf(stats.norm.sf(errors) / judged) * math.sqrt(9 / 7)
        assert errors_needed(Rule(errors=errors), 10, judged) == pytest.approx(due, abs=1e-12, rel=1e-9)
