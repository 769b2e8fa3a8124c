import numpy as np
import pandas as pd
import pytest
from evaluate_tables_example import FEATURES, FirstOf, composite, gaussian, multinomial, poisson, rows
from scipy import stats

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import insight
from quiltwork.evaluate.held_out import HeldOutRows
from quiltwork.evaluate.merging import merge
from quiltwork.evaluate.scores import from_json
from quiltwork.evaluate.standard_error import standard_error
from quiltwork.evaluate.tables import mixture_of, score_table

LOCALS = {"ash": gaussian(), "birch": gaussian(shift=0.3), "cedar": gaussian(shift=-0.2)}
ROWS = {party: rows(mixture, 150, seed=i) for i, (party, mixture) in enumerate(LOCALS.items())}
WEB = rows(gaussian(), 80, seed=9)


@pytest.fixture(scope="module")
def model():
    return composite(LOCALS)


@pytest.fixture(scope="module")
def scores(model):
    return score_table(
        {"first": model, "pooled": gaussian(shift=0.1)},
        ROWS,
        public={"web": WEB},
        leave_one_out=["first"],
        truth=gaussian(),
    )


def losses(mixture, x, y):
    """Negative log-densities by scipy."""
    gate, mean = np.exp(mixture.log_gate(x)), mixture.experts.mean(x)[:, :, 0]
    density = stats.norm.pdf(y, mean, np.sqrt(mixture.experts.variances[:, 0]))
    return -np.log((gate * density).sum(axis=1))


def test_every_cell_is_the_mean_loss_of_that_model_on_those_rows(scores):
    assert (scores.metric, scores.parties, scores.public) == ("nats per row", tuple(LOCALS), ("web",))
    assert scores.domains == (*LOCALS, "web")
    for domain, (x, y) in {**ROWS, "web": WEB}.items():
        for row, mixture in [(scores.methods["pooled"], gaussian(shift=0.1))] + [
            (scores.alone[party], local) for party, local in LOCALS.items()
        ]:
            expected = losses(mixture, x, y)
            cell = row.domains[domain]
            assert cell.value == pytest.approx(expected.mean())
            assert cell.spread == pytest.approx(stats.sem(expected))
            assert cell.amount == len(x)


def test_the_paired_error_is_that_of_the_differences_row_by_row(scores):
    for party, (x, y) in ROWS.items():
        difference = losses(gaussian(shift=0.1), x, y) - losses(LOCALS[party], x, y)
        assert scores.methods["pooled"].domains[party].paired == pytest.approx(stats.sem(difference), rel=1e-6)
        found = insight.compare(scores, party, "pooled")
        assert found.difference.value == pytest.approx(difference.mean())
    assert scores.methods["pooled"].domains["web"].paired is None
    assert scores.alone["ash"].domains["ash"].paired is None


def test_leaving_one_out_is_paired_with_the_whole(scores, model):
    assert set(scores.leave_one_out["first"]) == set(LOCALS)
    x, y = ROWS["cedar"]
    difference = losses(model.without("ash").mixture, x, y) - losses(model.mixture, x, y)
    cell = scores.leave_one_out["first"]["ash"].domains["cedar"]
    assert cell.paired == pytest.approx(stats.sem(difference))
    assert np.abs(difference).max() > 0
    assert scores.leave_one_out["first"]["birch"].domains["cedar"].paired == 0.0


def test_a_party_that_is_harmed_is_told_and_one_that_gains_too():
    harmed = {"ash": gaussian(), "birch": gaussian(shift=2.0)}
    held_out = {party: rows(mixture, 200, seed=i) for i, (party, mixture) in enumerate(harmed.items())}
    scores = score_table({"first": composite(harmed)}, held_out)
    ash, birch = insight.verdicts(scores)
    assert ash.startswith("ash: no clear difference")
    assert birch.startswith("birch: better off alone than in any composed model")
    assert insight.advice(scores) == "do not collaborate"
    assert insight.headline(scores).startswith("Do not collaborate. Of 2 parties, judged on their own held-out rows")
    swapped = score_table({"first": composite(harmed)}, held_out, alone={"birch": gaussian(shift=-2.0)})
    assert insight.verdicts(swapped)[1].startswith("birch: better off in first")


def test_noise_is_no_verdict():
    x, y = rows(gaussian(), 12, seed=4)
    scores = score_table({"m": gaussian(shift=0.05)}, {"p": (x, y)}, alone={"p": gaussian()})
    assert scores.methods["m"].domains["p"].value != scores.alone["p"].domains["p"].value
    assert "no clear difference" in insight.verdicts(scores)[0]


def test_rows_that_belong_together_count_once():
    """Each row four times over must not look four times as sure."""
    x, y = rows(gaussian(), 50)
    single = score_table({"m": gaussian(shift=0.3)}, {"p": (x, y)}, alone={"p": gaussian()})
    groups = np.tile([f"g{i}" for i in range(50)], 4)
    repeated = HeldOutRows(np.tile(x, (4, 1)), np.tile(y, (4, 1)), groups=groups)
    grouped = score_table({"m": gaussian(shift=0.3)}, {"p": repeated}, alone={"p": gaussian()})
    naive = score_table({"m": gaussian(shift=0.3)}, {"p": (repeated.x, repeated.y)}, alone={"p": gaussian()})
    cells = [s.methods["m"].domains["p"] for s in (single, grouped, naive)]
    assert cells[1].paired == pytest.approx(cells[0].paired)
    assert cells[1].spread == pytest.approx(cells[0].spread)
    assert cells[2].paired < 0.6 * cells[0].paired


def test_standard_errors_against_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=60), rng.integers(0, 9, 60)
    fit = sm.OLS(values, np.ones(60)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=False
    )
    assert standard_error(values, groups) == pytest.approx(fit.bse[0] * np.sqrt(9 / 8))
    assert standard_error(values) == pytest.approx(stats.sem(values))
    assert standard_error(values[:1]) is None
    assert standard_error(values, np.zeros(60)) is None


def test_measures_stand_where_they_are_of_use(scores):
    assert {"rpe", "r2", "mae", "coverage_90", "pit_0"} <= scores.methods["first"].domains["birch"].extra.keys()
    assert scores.alone["ash"].domains["ash"].extra.keys() == scores.methods["first"].domains["ash"].extra.keys()
    assert scores.alone["ash"].domains["birch"].extra == {}


def test_distances_to_the_truth_are_the_models(scores):
    assert scores.methods["first"].extra == pytest.approx(
        {"relaxed_divergence": 0, "transport_divergence": 0, "parameter_error": 0}, abs=1e-12
    )
    assert scores.methods["pooled"].extra["parameter_error"] > 0


def test_labels_give_the_agreement_of_the_gate():
    x, y = ROWS["ash"]
    best = np.exp(gaussian().log_gate(x)).argmax(axis=1)
    scores = score_table({"m": gaussian()}, {"ash": HeldOutRows(x, y, labels=1 - best)})
    assert scores.methods["m"].domains["ash"].extra["ari"] == 1.0


def test_exclusions_are_told():
    scores = score_table({"first": composite(LOCALS, FirstOf(["ash"]))}, ROWS)
    assert scores.methods["first"].excluded == {"ash": "its fit did not converge"}
    assert from_json(scores.to_json()) == scores


def test_columns_scored_apart_merge_to_the_whole(scores, model):
    models = {"first": model, "pooled": gaussian(shift=0.1)}
    whole = score_table(models, ROWS, leave_one_out=["first"])
    parts = [score_table(models, {party: held}, leave_one_out=["first"]) for party, held in ROWS.items()]
    merged = merge(*parts)
    assert merged.parties == whole.parties
    for name in models:
        assert merged.methods[name].domains == whole.methods[name].domains
    assert {p: r.domains for p, r in merged.alone.items()} == {p: r.domains for p, r in whole.alone.items()}
    assert insight.verdicts(merged) == insight.verdicts(whole)


@pytest.mark.parametrize("mixture", [poisson(), multinomial()], ids=["counts", "classes"])
def test_other_families(mixture):
    x, y = rows(mixture, 50)
    flat = y if y.ndim == 1 else y[:, 0]
    cell = score_table({"m": mixture}, {"p": (x, flat)}).methods["m"].domains["p"]
    assert cell.value == pytest.approx(-mixture.log_density(x, y).mean())


def test_class_names_are_looked_up_and_never_taken_for_codes():
    mixture = multinomial()
    x, codes = rows(mixture, 40)
    names = ("2", "0", "1")
    model = composite({"ash": mixture, "birch": mixture}, classes=names)
    expected = score_table({"m": mixture}, {"ash": (x, codes)}).methods["m"].domains["ash"].value
    as_text = np.array(names)[codes]
    for y in (as_text, as_text.astype(int)):
        assert score_table({"m": model}, {"ash": (x, y)}).methods["m"].domains["ash"].value == expected
    with pytest.raises(InvalidOption, match="the models know no class '3', but 2, 0, 1"):
        score_table({"m": model}, {"ash": (x, np.where(codes == 0, "3", as_text))})


def test_a_data_frames_columns_are_put_in_order(model):
    x, y = ROWS["ash"]
    frame = pd.DataFrame(x, columns=list(FEATURES))
    swapped = frame[list(reversed(FEATURES))].assign(other="ignored")
    expected = score_table({"m": model}, {"ash": (x, y)}).methods["m"].domains["ash"]
    assert score_table({"m": model}, {"ash": (swapped, y)}).methods["m"].domains["ash"] == expected
    with pytest.raises(InvalidOption, match=r"'ash': column 'dose' is missing"):
        score_table({"m": model}, {"ash": (frame[["age"]], y)})


NAN, X, Y = np.array([[np.nan, 1.0]]), np.zeros((2, 2)), np.zeros(2)


@pytest.mark.parametrize(
    ("mixture", "given", "why"),
    [
        (gaussian(), {}, "there are none"),
        (gaussian(), {"p": (np.zeros((2, 3)), Y)}, r"'p': x has shape \[2, 3\], and the models have 2 features"),
        (gaussian(), {"p": (np.zeros((0, 2)), np.zeros(0))}, r"x has shape \[0, 2\]"),
        (gaussian(), {"p": (NAN, [1.0])}, "a value of x is not finite"),
        (gaussian(), {"p": (X, [1.0, np.inf])}, "a value of y is not finite"),
        (gaussian(), {"p": (X, np.zeros(3))}, "x has 2 rows and y 3"),
        (gaussian(), {"p": (X, np.zeros((2, 2)))}, r"y has shape \[2, 2\], and the models have 1 outputs"),
        (gaussian(), {"p": HeldOutRows(X, Y, groups=[1])}, "x has 2 rows and groups 1"),
        (gaussian(), {"p": (X, [1e200, 0.0])}, "row 0 has no finite density"),
        (poisson(), {"p": (X, [0.5, 1.0])}, "a value of y is no count"),
        (poisson(), {"p": (X, [-1.0, 1.0])}, "a value of y is no count"),
        (multinomial(), {"p": (X, [0, 3])}, "classes as codes from 0 to 2"),
        (multinomial(), {"p": (X, ["a", "b"])}, "classes as codes from 0 to 2"),
        (multinomial(), {"p": (X, [[0], [1]])}, "classes are one a row"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_bad_rows_are_refused_by_party(mixture, given, why):
    with pytest.raises(InvalidOption, match=why):
        score_table({"m": mixture}, given)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"models": {}}, "the models: there is none"),
        ({"models": {"a": gaussian(), "b": poisson()}}, "they are of different tables: gaussian with 2 features"),
        ({"models": {"a": "gaussian"}}, "holds no mixture"),
        ({"models": {"a": gaussian()}, "public": {"ash": ROWS["ash"]}}, "a party has that name"),
        ({"models": {"a": gaussian()}, "leave_one_out": ["a"]}, "no composite of that name is among the models"),
        ({"models": {"a": gaussian()}, "leave_one_out": ["b"]}, "there is no such model"),
    ],
)
def test_bad_models_and_names_are_refused(options, why):
    with pytest.raises(InvalidOption, match=why):
        score_table(held_out=ROWS, **options)


def test_estimators_and_composites_are_models(model):
    class Fitted:
        mixture_ = gaussian()

    assert mixture_of(Fitted()) is Fitted.mixture_
    assert mixture_of(model) is model.mixture
