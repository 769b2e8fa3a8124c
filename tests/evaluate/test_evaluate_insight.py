import math

import pytest
from evaluate_example import ALONE, DOMAINS, METHODS, PARTIES, example, many
from hypothesis import assume, given
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import insight
from quiltwork.evaluate.metrics import METRICS
from quiltwork.evaluate.scores import Cell, Row, Scores

BITS, NATS = METRICS["bits per byte"], METRICS["nats per row"]


def row(std: float | None = None, **cells: float) -> Row:
    return Row(domains={d: Cell(value=v, spread=std) for d, v in cells.items()})


def two(method: float, alone: float, *, std: float | None = None, base: float | None = None) -> Scores:
    """One party p with the given bits per byte in a soup, alone, and under the base."""
    methods = {"soup": row(std, p=method)} | ({"base": row(std, p=base)} if base else {})
    return Scores(parties=["p"], domains=["p"], methods=methods, alone={"p": row(std, p=alone)})


# --- comparisons


def test_the_error_is_that_of_a_difference_of_independent_runs():
    assert insight.difference(Cell(value=1, spread=0.3), Cell(value=1, spread=0.4)).error == pytest.approx(0.5)
    assert insight.difference(Cell(value=1, spread=0.3), Cell(value=1)).error == pytest.approx(0.3)
    assert insight.difference(Cell(value=1), Cell(value=1)).error is None


def test_a_paired_error_is_used_where_it_belongs_and_nowhere_else():
    alone, cell = Cell(value=1, spread=0.3, paired=9), Cell(value=1, spread=0.4, paired=0.01)
    assert insight.difference(alone, cell, paired=True).error == 0.01
    assert insight.difference(alone, cell).error == pytest.approx(0.5)
    assert insight.difference(alone, Cell(value=1, spread=0.4), paired=True).error == pytest.approx(0.5)


@given(
    st.sampled_from([BITS, NATS]),
    st.floats(-9, 9),
    st.floats(-9, 9),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1),
)
def test_clear_differences_are_asymmetric_and_need_more_than_the_metric_asks(metric, x, y, s, t):
    a, b = Cell(value=x, spread=s), Cell(value=y, spread=t)
    found = insight.difference(b, a)
    assert found.clearly_better(metric) == insight.difference(a, b).clearly_worse(metric)
    assert not (found.clearly_better(metric) and found.clearly_worse(metric))
    if found.clearly_better(metric):
        assert y - x > metric.clear * math.hypot(s or 0, t or 0)


def test_rows_of_a_table_are_held_to_two_standard_errors():
    assert insight.Difference(-0.15, 0.1).clearly_better(BITS)
    assert not insight.Difference(-0.15, 0.1).clearly_better(NATS)
    assert insight.Difference(-0.25, 0.1).clearly_better(NATS)


def test_differences_that_three_decimals_cannot_show_are_not_clear():
    assert not insight.Difference(-0.0004, None).clearly_better(BITS)
    assert insight.Difference(-0.0006, None).clearly_better(BITS)


# --- gains


def test_gains_against_the_figures_by_hand():
    gains = {g.party: g for g in insight.gains(example(), "evidence_full")}
    for i, party in enumerate(PARTIES):
        assert gains[party].own == pytest.approx(ALONE[party][i] - METHODS["evidence_full"][i])
        others = [ALONE[party][j] - METHODS["evidence_full"][j] for j in range(5) if j != i]
        assert gains[party].others == pytest.approx(sum(others) / 4)
        assert gains[party].own_error == pytest.approx(0.012 * math.sqrt(2))


def test_gains_that_were_not_scored_are_none():
    scores = Scores(parties=["p", "q"], domains=["p"], methods={"soup": row(p=1.0)}, alone={"p": row(p=2.0)})
    assert insight.gains(scores, "soup") == [
        insight.Gain("p", own=1.0, own_error=None, others=None),
        insight.Gain("q", own=None, own_error=None, others=None),
    ]


def test_better_off_alone_names_the_party_with_figures():
    (found,) = insight.better_off_alone(example(), "evidence_full")
    assert found[:3] == ("law", 2.150, 2.219)
    assert found.difference == pytest.approx((0.069, 0.012 * math.sqrt(2)))
    assert [c.party for c in insight.better_off_alone(example(), "soup")] == list(PARTIES)


def test_better_off_alone_ignores_what_is_within_one_deviation():
    assert insight.better_off_alone(two(2.05, 2.0, std=0.1), "soup") == []
    assert [c.party for c in insight.better_off_alone(two(2.05, 2.0, std=0.01), "soup")] == ["p"]


@given(st.floats(0.5, 5), st.floats(0.5, 5))
def test_better_off_alone_is_the_sign_of_the_gain(method, alone):
    scores = two(method, alone)
    own = insight.gains(scores, "soup")[0].own
    assert own is not None
    assert bool(insight.better_off_alone(scores, "soup")) == (own < -insight.RESOLUTION)


@pytest.mark.parametrize("ask", [insight.gains, insight.better_off_alone, insight.externalities])
def test_unknown_methods_are_refused(ask):
    with pytest.raises(InvalidOption, match="method 'vote'"):
        ask(example(), "vote")


def test_references_are_not_compositions():
    assert set(METHODS) - set(insight.composed(example())) == {"base", "pooled"}


# --- externalities


def test_externalities_are_the_score_without_minus_the_score_with():
    scores = example()
    effects = insight.externalities(scores, "evidence_full")
    for party in PARTIES:
        without = scores.leave_one_out["evidence_full"][party].domains
        for i, domain in enumerate(DOMAINS):
            assert effects[party][domain] == pytest.approx(without[domain].value - METHODS["evidence_full"][i])
    assert effects["code"]["code"] > 2
    assert effects["code"]["medical"] == pytest.approx(-0.04)


def test_externalities_need_a_measurement():
    with pytest.raises(InvalidOption, match=r"leave-one-out of 'soup'.*one of \['evidence_full'\]"):
        insight.externalities(example(), "soup")


def joining(own: float, alone: float, other_with: float, other_without: float) -> str:
    scores = Scores(
        parties=["p", "q"],
        domains=["p", "q"],
        methods={"soup": row(p=own, q=other_with)},
        alone={"p": row(p=alone)},
        leave_one_out={"soup": {"p": row(p=9.0, q=other_without)}},
    )
    (sentence,) = insight.who_should_join(scores, "soup")
    return sentence


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            (1.8, 2.0, 3.0, 3.5),
            "p: gains by joining (-10.0 % bits per byte against alone); joining soup helps q (+0.500",
        ),
        (
            (2.2, 2.0, 3.0, 3.5),
            "p: loses by joining (+10.0 % bits per byte against alone); joining soup helps q (+0.500",
        ),
        (
            (1.8, 2.0, 3.0, 2.5),
            "p: gains by joining (-10.0 % bits per byte against alone); joining soup costs q (-0.500",
        ),
        (
            (2.2, 2.0, 3.0, 3.0),
            "p: loses by joining (+10.0 % bits per byte against alone); joining soup makes no clear",
        ),
        (
            (2.0, 2.0, 3.0, 3.0),
            "p: sees no clear difference by joining (+0.0 % bits per byte against alone); joining",
        ),
    ],
)
def test_who_should_join_says_both_sides(figures, said):
    assert joining(*figures).startswith(said)


def test_who_should_join_is_one_sentence_a_party_that_was_left_out():
    assert [s.split(":")[0] for s in insight.who_should_join(example(), "evidence_full")] == list(PARTIES)


# --- verdicts


def test_verdicts_of_the_example():
    assert insight.verdicts(example()) == [
        "code: better off in btm (2.012 against 2.110 alone, -4.6 %)",
        "math: better off in btm (1.280 against 1.311 alone, -2.4 %)",
        "medical: better off in btm (1.903 against 2.020 alone, -5.8 %)",
        "law: better off alone than in any composed model (2.150 alone against 2.188 in btm, the best of them, +1.8 %)",
        "fiction: better off in btm (2.282 against 2.301 alone, -0.8 %)",
    ]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (two(1.93, 2.10), "p: better off in soup (1.930 against 2.100 alone, -8.1 %)"),
        (two(2.10, 1.93), "p: better off alone than in any composed model"),
        (two(1.93, 2.10, std=0.5), "p: no clear difference between alone (2.100) and soup (1.930, -8.1 %)"),
        (two(2.0, 2.0), "p: no clear difference between alone (2.000) and soup (2.000, +0.0 %)"),
        (two(2.00004, 2.0), "p: no clear difference between alone (2.000) and soup (2.000, +0.0 %)"),
        (two(2.0 - 4e-5, 2.0), "p: no clear difference between alone (2.000) and soup (2.000, +0.0 %)"),
        (two(2.0, 2.1, base=1.9), "p: the public base is as good (1.900, 2.100 alone, 2.000 in soup)"),
        (two(2.0, 2.1, base=2.05), "p: better off in soup"),
        (Scores(parties=["p"]), "p: not measured"),
    ],
)
def test_each_kind_of_verdict(scores, said):
    (sentence,) = insight.verdicts(scores)
    assert sentence.startswith(said)


def test_a_verdict_never_recommends_the_pooled_bound_or_the_base_as_a_composition():
    scores = Scores(
        parties=["p"],
        domains=["p"],
        methods={"pooled": row(p=1.0), "soup": row(p=2.5)},
        alone={"p": row(p=2.0)},
    )
    (sentence,) = insight.verdicts(scores)
    assert "pooled" not in sentence
    assert sentence.startswith("p: better off alone")


def test_headline_counts_every_party_once():
    text = insight.headline(example())
    assert text.startswith(
        "Collaborate, but not all. Of 5 parties, judged on their own held-out text: 4 better off in a composed model, 1"
    )
    assert "lowest mean over the parties is btm (1.933 bits per byte; 3.955 for base; 2.077 for pooled)" in text
    assert text.endswith("in it law would do better alone.")


def test_headline_claims_nothing_that_was_not_measured():
    assert insight.headline(Scores()) == "Of 0 parties, judged on their own held-out text: none listed."
    nobody_alone = Scores(parties=["p"], domains=["p"], methods={"soup": row(p=2.0)})
    assert "alone" not in insight.headline(nobody_alone)
    assert "soup (2.000 bits per byte)." in insight.headline(nobody_alone)
    assert "nobody would do better alone" in insight.headline(two(1.0, 2.0))


@pytest.mark.parametrize("parties", [2, 5, 12])
def test_sentences_for_any_number_of_parties(parties):
    scores = many(parties)
    assert len(insight.verdicts(scores)) == len(insight.who_should_join(scores, "evidence_full")) == parties


# --- metrics of any sign


def table(method: float, alone: float, *, paired: float | None, spread: float = 1.0) -> Scores:
    """One party p with the given nats per row in a reduction and alone, and the error of the paired difference."""
    return Scores(
        metric="nats per row",
        parties=["p"],
        domains=["p"],
        methods={"reduction": Row(domains={"p": Cell(value=method, spread=spread, paired=paired)})},
        alone={"p": Row(domains={"p": Cell(value=alone, spread=spread)})},
    )


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (
            table(-0.6, -0.5, paired=0.01),
            "p: better off in reduction (-0.600 against -0.500 alone, -0.100 ± 0.010 nats per row)",
        ),
        (
            table(-0.5, -0.6, paired=0.01),
            "p: better off alone than in any composed model (-0.600 alone against -0.500 in reduction, the best of "
            "them, +0.100 ± 0.010 nats per row)",
        ),
        (
            table(0.1, -0.1, paired=0.11),
            "p: no clear difference between alone (-0.100) and reduction (0.100, +0.200 ± 0.110 nats per row)",
        ),
        (table(-0.6, -0.5, paired=None), "p: no clear difference between alone (-0.500) and reduction"),
    ],
)
def test_verdicts_on_a_metric_of_any_sign_speak_its_unit_and_never_per_cent(scores, said):
    (sentence,) = insight.verdicts(scores)
    assert sentence.startswith(said)
    assert "%" not in sentence


def test_pairing_sees_what_the_spread_of_the_rows_hides():
    assert "better off in reduction" in insight.verdicts(table(-0.6, -0.5, paired=0.01, spread=5.0))[0]


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-100, 100))
def test_shifting_all_values_by_a_constant_changes_no_verdict(method, alone, shift):
    """A change of the target's unit moves every log-likelihood by one constant."""
    assume(abs(abs(method - alone) - 0.2) > 1e-6)
    assume(abs(abs(method - alone) - insight.RESOLUTION) > 1e-6)
    here = insight.advice(table(method, alone, paired=0.1))
    assert here == insight.advice(table(method + shift, alone + shift, paired=0.1))


def crowd(gain: int, lose: int, even: int) -> Scores:
    differences = [-1.0] * gain + [1.0] * lose + [0.0] * even
    names = [f"p{i}" for i in range(len(differences))]
    return Scores(
        metric="nats per row",
        parties=names,
        domains=names,
        methods={"reduction": row(None, **dict(zip(names, differences, strict=True)))},
        alone={name: row(None, **{name: 0.0}) for name in names},
    )


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((3, 0, 1), "collaborate"),
        ((3, 1, 0), "collaborate, but not all"),
        ((1, 1, 0), "collaborate, but not all"),
        ((1, 2, 0), "do not collaborate"),
        ((0, 1, 5), "do not collaborate"),
        ((0, 0, 2), "no clear difference"),
        ((0, 0, 0), "not measured"),
    ],
)
def test_the_advice_weighs_those_who_gain_against_those_who_lose(counts, said):
    scores = crowd(*counts)
    assert insight.advice(scores) == said
    assert insight.headline(scores).startswith("Of 0" if said == "not measured" else f"{said.capitalize()}. Of")


def test_sentences_name_few_and_count_the_rest():
    text = insight.headline(crowd(1, 64, 0))
    assert "p1, p2, p3, p4, p5, p6 and 58 more would do better alone" in text
