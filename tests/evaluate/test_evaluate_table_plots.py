import sys

import numpy as np
import pytest
from evaluate_figures import outside, overlaps, size_of, visible_texts
from evaluate_tables_example import gaussian, multinomial, poisson, rows

from quiltwork.evaluate import calibration_plots, composition_plots, gain_plots, plots, table_plots
from quiltwork.evaluate.composition_plots import Point
from quiltwork.evaluate.insight import gains
from quiltwork.evaluate.profile import Profile, gate_move
from quiltwork.evaluate.tables import score_table
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

matplotlib = pytest.importorskip("matplotlib")

X, Y = rows(gaussian(), 400)
LONG = "a covariate with a name that no axis has room for $x$"
PROFILE = Profile.of(X, [LONG, "dose"])


def many_experts(count: int):
    rng = np.random.default_rng(0)
    gate = SoftmaxGate(2 * rng.normal(size=(count, 3)))
    return Mixture(gate, GaussianExperts(3 * rng.normal(size=(count, 1, 3)), np.ones((count, 1))))


def crowd(parties: int):
    """Scores of many parties with long names, of which some gain and some lose."""
    alone = {f"regional-hospital-number-{i:02d}-of-the-north": gaussian(shift=0.05 * i) for i in range(parties)}
    held_out = {party: rows(mixture, 60, seed=i) for i, (party, mixture) in enumerate(alone.items())}
    models = {"reduction": gaussian(shift=0.4), "aligned_average": gaussian(scale=0.5), "pooled": gaussian(shift=0.3)}
    return score_table(models, held_out, alone=alone)


@pytest.fixture(scope="module")
def scores64():
    return crowd(64)


# --- profiles


def test_a_profile_spans_all_but_the_outermost_rows():
    x = np.arange(1001.0)[:, None] * np.array([1.0, -2.0])
    profile = Profile.of(x)
    np.testing.assert_allclose(profile.centre, [500, -1000])
    np.testing.assert_allclose(profile.low, [10, -1980])
    np.testing.assert_allclose(profile.high, [990, -20])
    assert profile.names == ("x0", "x1")


def test_a_constant_covariate_still_has_an_axis():
    profile = Profile.of(np.array([[1.0, 5.0], [2.0, 5.0]]))
    assert profile.low[1] < 5.0 < profile.high[1]


def test_a_slice_moves_what_is_drawn_and_nothing_else():
    found = PROFILE.slice((1, np.array([7.0, 8.0])))
    np.testing.assert_array_equal(found[:, 1], [7.0, 8.0])
    np.testing.assert_array_equal(found[:, 0], PROFILE.centre[[0, 0]])


def test_the_covariates_that_matter_come_first():
    gate = SoftmaxGate(np.array([[0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]]))
    experts = GaussianExperts(np.array([[[0.0, 0.0, 5.0, 0.1]], [[0.0, 0.0, 5.0, 0.0]]]), np.ones((2, 1)))
    profile = Profile.of(np.random.default_rng(0).normal(size=(100, 3)))
    assert profile.most_telling(Mixture(gate, experts)) == [1, 2, 0]
    assert profile.gate_movers(Mixture(gate, experts))[0] == 2
    assert gate_move(Mixture(gate, experts), profile.slice((0, profile.axis(0)))) == pytest.approx(0)


# --- experts, classes, gates


def test_expert_lines_are_the_experts_and_as_thick_as_their_gate(canvases):
    table_plots.experts_over(gaussian(), 0, PROFILE, target="y", data=(X, Y))
    above, below = canvases[0].axes
    axis = PROFILE.axis(0)
    x = PROFILE.slice((0, axis))
    gate, mean = np.exp(gaussian().log_gate(x)), gaussian().experts.mean(x)[:, :, 0]
    lines = [c for c in above.collections if type(c).__name__ == "LineCollection"]
    assert len(lines) == 2
    for k, line in enumerate(lines):
        starts = np.array([piece[0] for piece in line.get_segments()])
        np.testing.assert_allclose(starts[:, 1], mean[:-1, k])
        widths = np.array(line.get_linewidths())
        assert np.corrcoef(widths, gate[:-1, k])[0, 1] > 0.999
    prediction = next(line for line in above.lines if line.get_label().startswith("prediction"))
    np.testing.assert_allclose(prediction.get_ydata(), gaussian().mean(x)[:, 0])
    assert below.get_ylim() == (0, 1)


def test_rows_are_drawn_only_when_given(canvases):
    table_plots.experts_over(gaussian(), 0, PROFILE)
    table_plots.experts_over(gaussian(), 0, PROFILE, data=(X, Y))
    table_plots.gate_surface(gaussian(), (0, 1), PROFILE)
    points = [
        sum(len(c.get_offsets()) for c in f.axes[0].collections if type(c).__name__ == "PathCollection")
        for f in canvases
    ]
    assert points == [0, len(X), 0]


def test_extrapolation_does_not_stretch_the_picture(canvases):
    """An expert that takes off where its gate is shut."""
    gate = SoftmaxGate(np.array([[0.0, 20.0], [0.0, 0.0]]))
    experts = GaussianExperts(np.array([[[0.0, 1.0]], [[0.0, 1000.0]]]), np.full((2, 1), 0.01))
    profile = Profile.of(np.linspace(0.5, 3, 100)[:, None])
    table_plots.experts_over(Mixture(gate, experts), 0, profile)
    assert canvases[0].axes[0].get_ylim()[1] < 5


def test_class_probabilities_are_the_models(canvases):
    table_plots.classes_over(multinomial(), 1, PROFILE, classes=["yes", "no", "perhaps"])
    lines = canvases[0].axes[0].lines
    p = multinomial().mean(PROFILE.slice((1, PROFILE.axis(1))))
    for c, line in enumerate(lines[:3]):
        np.testing.assert_allclose(line.get_ydata(), p[:, c])
    assert [line.get_label() for line in lines[:3]] == ["yes", "no", "perhaps"]


def test_the_surface_shows_the_likeliest_expert_and_how_sure_the_gate_is(canvases):
    from matplotlib.colors import to_rgb

    table_plots.gate_surface(gaussian(), (0, 1), PROFILE)
    image = np.asarray(canvases[0].axes[0].images[0].get_array())
    across, up = PROFILE.axis(0, table_plots.PLANE), PROFILE.axis(1, table_plots.PLANE)
    for i, j in ((0, 0), (60, 60), (120, 120), (0, 120)):
        gate = np.exp(gaussian().log_gate(np.array([[across[j], up[i]]])))[0]
        pure = np.array(to_rgb(table_plots.OKABE_ITO[gate.argmax()]))
        weight = 0.12 + 0.88 * (gate.max() - 0.5) / 0.5
        np.testing.assert_allclose(image[i, j], 1 - weight * (1 - pure), atol=1e-9)


@pytest.mark.parametrize("count", [1, 9, 40])
def test_any_number_of_experts_is_drawn(count):
    mixture = many_experts(count)
    for png in (
        table_plots.experts_over(mixture, 0, PROFILE),
        table_plots.gate_surface(mixture, (0, 1), PROFILE),
    ):
        assert size_of(png) > (600, 400)


# --- compositions


def test_a_step_that_raises_the_objective_is_marked(canvases):
    composition_plots.objective_steps({"good": [3.0, 2.0, 1.5]})
    composition_plots.objective_steps({"bad": [3.0, 2.0, 2.5]})
    marked = [[line.get_label() for line in canvas.axes[1].lines].count("rose") for canvas in canvases]
    assert marked == [0, 1]
    np.testing.assert_allclose(canvases[0].axes[1].lines[0].get_ydata(), [1.0, 0.5])


def test_rounding_is_no_rise(canvases):
    composition_plots.objective_steps({"flat": [3.0, 2.0, 2.0 + 1e-14]})
    assert len(canvases[0].axes[1].lines) == 1


def test_the_curve_has_its_points_and_the_fit_on_all_data(canvases):
    points = [Point(4, 1.2, 0.1), Point(1, 1.5, 0.1), Point(2, 1.3, None)]
    composition_plots.likelihood_by_machines({"reduction": points}, pooled=Point(0, 1.1, 0.05))
    axes = canvases[0].axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 4]
    assert axes.lines[0].get_ydata().tolist() == [1.5, 1.3, 1.2]
    assert any(line.get_label() == "fit on all data together" for line in axes.lines)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4"]


@pytest.mark.parametrize("count", [6, 64])
def test_machines_left_out_are_named_with_the_reason(count, canvases):
    distances = {f"regional-hospital-number-{i:02d}-of-the-north": 0.01 * (i + 1) for i in range(count)}
    distances[next(iter(distances))] = 0.0
    last = list(distances)[-1]
    distances[last] = 50.0
    composition_plots.machine_distances(distances, {last: "its fit did not converge"}, method="reduction")
    axes = canvases[0].axes[0]
    (told,) = [t.get_text() for t in axes.texts]
    assert "its fit did not converge" in told
    assert (last in told) == (count > composition_plots.MOST_NAMED)
    assert f"{count - 1} took part, 1 left out" in axes.get_title()
    assert [line.get_marker() for line in axes.lines].count("X") == 1
    # the machine at no distance is an arrow at the end, not a point somewhere
    assert [line.get_marker() for line in axes.lines].count("<") == 1


# --- scores of many parties


def test_many_parties_fold_their_own_models_into_one_row(scores64, canvases):
    found = plots.score_rows(scores64)
    assert list(found) == ["reduction", "aligned_average", "pooled", "alone: each on its own"]
    own = found["alone: each on its own"]
    assert {p: cell.value for p, cell in own.items()} == {
        p: scores64.alone[p].domains[p].value for p in scores64.parties
    }
    plots.score_matrix(scores64)
    assert len(canvases[0].axes[0].texts) == 0


def test_many_gains_are_counted_and_coloured_by_what_is_clear(scores64, canvases):
    gain_plots.party_gains(scores64)
    panel = next(axes for axes in canvases[0].axes if axes.get_title().startswith("reduction"))
    found = gains(scores64, "reduction")
    clear = [g for g in found if abs(g.own) > max(2 * g.own_error, 0.0005)]
    gain, lose = sum(g.own > 0 for g in clear), sum(g.own < 0 for g in clear)
    assert f"{gain} gain, {lose} lose, {64 - gain - lose} unclear" in panel.get_title()
    assert lose > 5
    assert 64 - gain - lose > 5
    drawn = [line.get_ydata()[0] for line in panel.lines if len(line.get_ydata()) == 1]
    np.testing.assert_allclose(drawn, sorted(g.own for g in found))


def test_values_out_of_all_proportion_get_a_logarithmic_scale(canvases):
    for far in (1.3, 5e6):
        composition_plots.likelihood_by_machines({"m": [Point(1, far), Point(2, 1.2), Point(4, 1.1), Point(8, 1.1)]})
    assert [canvas.axes[0].get_yscale() for canvas in canvases] == ["linear", "symlog"]


def test_bars_out_of_all_proportion_keep_their_numbers_inside(canvases):
    alone = {name: gaussian() for name in ("ash", "birch", "cedar", "dogwood", "elm")}
    held_out = {name: rows(gaussian(), 60, seed=i) for i, name in enumerate(alone)}
    models = {"far": gaussian(scale=1e-3), "near": gaussian(shift=0.2), "nearer": gaussian(shift=0.1)}
    gain_plots.party_gains(score_table(models, held_out, alone=alone))
    assert canvases[0].axes[0].get_xscale() == "symlog"
    boxes = visible_texts(canvases[0])
    assert overlaps(boxes) == []
    assert outside(canvases[0], boxes) == []


def test_one_method_and_parties_without_a_score_fit_the_figure(canvases):
    alone = {name: gaussian() for name in ("ash", "birch", "cedar")}
    gain_plots.party_gains(score_table({"reduction": gaussian(shift=0.2)}, {"ash": rows(gaussian(), 60)}, alone=alone))
    (axes,) = canvases[0].axes
    low, high = sorted(axes.get_ylim())
    assert low < min(axes.get_yticks()) - 0.3
    assert high > max(axes.get_yticks()) + 0.3
    boxes = visible_texts(canvases[0])
    assert overlaps(boxes) == []
    assert outside(canvases[0], boxes) == []


# --- calibration


def test_calibration_shows_every_method_and_what_is_alone(canvases):
    x, y = rows(gaussian(), 2000)
    scores = score_table({"sure": gaussian(scale=0.4), "right": gaussian()}, {"p": (x, y)}, alone={"p": gaussian()})
    assert calibration_plots.calibrated(scores)
    calibration_plots.calibration(scores)
    coverage, histogram = canvases[0].axes
    lines = {line.get_label(): line.get_ydata() for line in coverage.lines}
    assert np.abs(lines["right"]).max() < 4
    assert (lines["sure"] < -10).all()
    np.testing.assert_array_equal(lines["alone"], lines["right"])
    assert len(histogram.patches) == 3
    np.testing.assert_allclose(histogram.patches[0].get_data().values.mean(), 1.0)


def test_reliability_of_a_classifier_that_is_too_sure_lies_below_the_diagonal(canvases):
    x, y = rows(multinomial(), 4000)
    scores = score_table({"sure": multinomial(sharpness=4.0)}, {"p": (x, y)})
    calibration_plots.calibration(scores)
    line = canvases[0].axes[0].lines[0]
    assert (line.get_ydata()[-3:] < line.get_xdata()[-3:] - 0.05).all()


def test_nothing_is_drawn_where_nothing_was_measured():
    scores = score_table({"m": gaussian()}, {"p": (X, Y)})
    row = scores.methods["m"]
    bare = {d: cell.model_copy(update={"extra": {}}) for d, cell in row.domains.items()}
    without = scores.model_copy(update={"methods": {"m": row.model_copy(update={"domains": bare})}})
    assert [d.stem for d in plots.draw_all(scores)] == ["score-matrix", "calibration"]
    assert [d.stem for d in plots.draw_all(without)] == ["score-matrix"]


# --- all of them


def all_figures(scores):
    yield table_plots.experts_over(many_experts(9), 0, PROFILE, target=LONG, data=(X, Y))
    yield table_plots.experts_over(poisson(), 1, PROFILE)
    yield table_plots.classes_over(multinomial(), 0, PROFILE, classes=["yes", "no", LONG])
    yield table_plots.gate_surface(many_experts(9), (0, 1), PROFILE, data=X)
    yield composition_plots.objective_steps({"reduction": [3.0, 2.0, 1.9], LONG: [4.0, 1.0]})
    yield calibration_plots.calibration(scores)
    yield gain_plots.party_gains(scores)
    distances = {party: 0.01 * (i + 1) for i, party in enumerate(scores.parties)}
    excluded = dict.fromkeys(scores.parties[-2:], "it stands 30 nats a row from the machines nearest to it, 1 is usual")
    yield composition_plots.machine_distances(distances, excluded, method="reduction")
    points = [Point(m, 1.0 + 1 / m, 0.01) for m in (1, 2, 4, 8, 12)]
    yield composition_plots.likelihood_by_machines({"reduction": points, LONG: points}, pooled=Point(0, 1.0, 0.01))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("parties", [3, 64])
def test_no_texts_overlap_and_all_lie_inside(parties, canvases, scores64):
    for png in all_figures(scores64 if parties == 64 else crowd(parties)):
        width, height = size_of(png)
        assert 400 < width < 2200
        assert 100 < height < 2200
    assert len(canvases) == 9
    for canvas in canvases:
        boxes = visible_texts(canvas)
        assert overlaps(boxes) == []
        assert outside(canvas, boxes) == []


def test_figures_are_the_same_bytes_again_and_leave_no_state():
    before = dict(matplotlib.rcParams)
    scores = crowd(3)
    assert list(all_figures(scores)) == list(all_figures(scores))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
