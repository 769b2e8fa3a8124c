import math

import pytest
from evaluate_example import ALONE, DOMAINS, METHODS, PARTIES, example, many
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import insight
from quiltwork.evaluate.scores import Cell, Row, Scores


def row(std: float | None = None, **cells: float) -> Row:
    return Row(domains={d: Cell(bpb=v, bpb_std=std) for d, v in cells.items()})


def two(method: float, alone: float, *, std: float | None = None, base: float | None = None) -> Scores:
    """One party p with the given bits per byte in a soup, alone, and under the base."""
    methods = {"soup": row(std, p=method)} | ({"base": row(std, p=base)} if base else {})
    return Scores(parties=["p"], domains=["p"], methods=methods, alone={"p": row(std, p=alone)})


# --- comparisons


def test_spread_is_that_of_a_difference_of_independent_runs():
    assert insight.spread(Cell(bpb=1, bpb_std=0.3), Cell(bpb=1, bpb_std=0.4)) == pytest.approx(0.5)
    assert insight.spread(Cell(bpb=1, bpb_std=0.3), Cell(bpb=1)) == pytest.approx(0.3)
    assert insight.spread(Cell(bpb=1), Cell(bpb=1)) is None


@given(st.floats(0.1, 9), st.floats(0.1, 9), st.none() | st.floats(0, 1), st.none() | st.floats(0, 1))
def test_clearly_below_is_asymmetric_and_needs_more_than_one_deviation(x, y, s, t):
    a, b = Cell(bpb=x, bpb_std=s), Cell(bpb=y, bpb_std=t)
    assert not (insight.clearly_below(a, b) and insight.clearly_below(b, a))
    if insight.clearly_below(a, b):
        assert y - x > math.hypot(s or 0, t or 0)


def test_differences_that_three_decimals_cannot_show_are_not_clear():
    assert not insight.clearly_below(Cell(bpb=2.0000), Cell(bpb=2.0004))
    assert insight.clearly_below(Cell(bpb=2.0000), Cell(bpb=2.0006))


def test_percent():
    assert insight.percent_above(3.0, 2.0) == 50.0
    assert insight.percent_above(0.0, 0.0) == 0.0
    assert insight.percent_above(1.0, 0.0) == math.inf


# --- gains


def test_gains_against_the_figures_by_hand():
    gains = {g.party: g for g in insight.gains(example(), "evidence_full")}
    for i, party in enumerate(PARTIES):
        assert gains[party].own == pytest.approx(ALONE[party][i] - METHODS["evidence_full"][i])
        others = [ALONE[party][j] - METHODS["evidence_full"][j] for j in range(5) if j != i]
        assert gains[party].others == pytest.approx(sum(others) / 4)
        assert gains[party].own_std == pytest.approx(0.012 * math.sqrt(2))


def test_gains_that_were_not_scored_are_none():
    scores = Scores(parties=["p", "q"], domains=["p"], methods={"soup": row(p=1.0)}, alone={"p": row(p=2.0)})
    assert insight.gains(scores, "soup") == [
        insight.Gain("p", own=1.0, own_std=None, others=None),
        insight.Gain("q", own=None, own_std=None, others=None),
    ]


def test_better_off_alone_names_the_party_with_figures():
    assert insight.better_off_alone(example(), "evidence_full") == [
        insight.Comparison("law", 2.150, 2.219, pytest.approx(100 * 0.069 / 2.150))
    ]
    assert [c.party for c in insight.better_off_alone(example(), "soup")] == list(PARTIES)


def test_better_off_alone_ignores_what_is_within_one_deviation():
    assert insight.better_off_alone(two(2.05, 2.0, std=0.1), "soup") == []
    assert [c.percent for c in insight.better_off_alone(two(2.05, 2.0, std=0.01), "soup")] == [2.5]


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
            assert effects[party][domain] == pytest.approx(without[domain].bpb - METHODS["evidence_full"][i])
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
        "Of 5 parties, judged on their own held-out text: 4 better off in a composed model, 1 better"
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
