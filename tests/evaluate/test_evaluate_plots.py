import io
import sys

import pytest
from evaluate_example import DOMAINS, PARTIES, drawn_example, example, many
from evaluate_figures import outside, overlaps, size_of, visible_texts

from quiltwork.errors import InvalidOption
from quiltwork.evaluate import drawing, plots
from quiltwork.evaluate.scores import Cell, Release, Row, Scores

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def drawn():
    return drawn_example()


def test_every_figure_of_the_example_is_drawn(drawn):
    assert [d.stem for d in drawn] == [
        "score-matrix",
        "pareto-parties-against-public-text",
        "pareto-parties-against-active-parameters",
        "gain-of-each-party",
        "routing-evidence_full",
        "routing-learned_rows",
        "routing-by-layer-learned_rows",
        "load-balance-evidence_full",
        "load-balance-learned_rows",
        "leave-one-out-evidence_full",
        "contributions",
    ]
    for d in drawn:
        width, height = size_of(d.png)
        assert 400 < width < 2200
        assert 100 < height < 2200


def test_figures_are_deterministic_and_leave_no_global_state(drawn):
    before = dict(matplotlib.rcParams)
    again = plots.score_matrix(example())
    assert again == next(d.png for d in drawn if d.stem == "score-matrix")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_readers_settings_do_not_change_figures(drawn):
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        again = plots.contribution_bytes(example())
    assert again == next(d.png for d in drawn if d.stem == "contributions")


def test_figures_change_with_the_numbers(drawn):
    other = example().model_copy(update={"contributions": {"law": Release(digest="", bytes=5)}})
    assert plots.contribution_bytes(other) != next(d.png for d in drawn if d.stem == "contributions")


@pytest.mark.parametrize("parties", [0, 2, 12])
def test_no_texts_overlap_and_all_lie_inside(parties, canvases):
    plots.draw_all(many(parties) if parties else example())
    assert canvases
    for canvas in canvases:
        boxes = visible_texts(canvas)
        assert overlaps(boxes) == []
        assert outside(canvas, boxes) == []


def test_the_overlap_check_sees_overlaps():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    canvas = Figure()
    FigureCanvasAgg(canvas)
    canvas.text(0.5, 0.5, "one")
    canvas.text(0.51, 0.5, "two")
    canvas.savefig(io.BytesIO())
    assert overlaps(visible_texts(canvas)) == [("one", "two")]


def test_the_matrix_shows_every_score(canvases):
    plots.score_matrix(example())
    axes = canvases[0].axes[0]
    shown = [t.get_text() for t in axes.texts]
    expected = [f"{cells[d].value:.2f}" for cells in plots.score_rows(example()).values() for d in DOMAINS]
    assert shown == expected
    colours = axes.images[0].get_array()
    assert colours[0].tolist() == [0.0] * len(DOMAINS)  # the base against itself
    assert colours[3, 0] == pytest.approx(100 * (2.012 - 4.712) / 4.712)


def test_the_matrix_without_a_base_is_coloured_by_column_means(canvases):
    cells = {"a": 1.0, "b": 3.0}
    rows = {m: Row(domains={"p": Cell(value=v)}) for m, v in cells.items()}
    plots.score_matrix(Scores(parties=["p", "q"], domains=["p", "q"], methods=rows))
    image = canvases[0].axes[0].images[0].get_array()
    assert image[:, 0].tolist() == [-50.0, 50.0]
    assert image.mask[:, 1].all()
    assert [t.get_text() for t in canvases[0].axes[0].texts] == ["1.00", "–", "3.00", "–"]


def test_gain_bars_have_the_sign_and_size_of_the_gain(canvases):
    plots.party_gains(example())
    panel = next(axes for axes in canvases[0].axes if axes.get_title() == "evidence_full")
    widths = [patch.get_width() for patch in panel.patches]
    assert widths == pytest.approx([0.059, 0.001, 0.080, -0.069, -0.009])
    assert [axes.get_title() for axes in canvases[0].axes if axes.get_visible()].count("base") == 0


def test_the_pareto_legend_marks_the_front_and_the_bound(canvases):
    plots.pareto_active(example())
    legend = [t.get_text() for t in canvases[0].axes[0].get_legend().get_texts()]
    assert [t for t in legend if "front" in t] == ["btm – on the front", "evidence_full – on the front"]
    assert "pooled (bound, needs pooled data)" in legend
    assert len(legend) == 8


def test_routing_bars_stack_to_one(canvases):
    plots.routing_shares(example(), "learned_rows")
    ends = {}
    for patch in canvases[0].axes[0].patches:
        ends[patch.get_y()] = ends.get(patch.get_y(), 0.0) + patch.get_width()
    assert len(ends) == len(DOMAINS)
    assert list(ends.values()) == pytest.approx([1.0] * len(DOMAINS))


def test_externalities_are_blue_where_a_party_helps(canvases):
    plots.externalities(example(), "evidence_full")
    image = canvases[0].axes[0].images[0]
    own = image.to_rgba(image.get_array())[0, 0]
    harm = image.to_rgba(image.get_array())[0, 2]
    assert own[2] > own[0]
    assert harm[0] > harm[2]


def test_slots_have_distinct_looks_up_to_twelve_parties_and_public_is_grey():
    styles = drawing.slot_styles(example())
    assert styles["public"] == (drawing.PUBLIC_GREY, 0)
    assert len(set(styles.values())) == len(PARTIES) + 1
    assert len(set(drawing.slot_styles(many(12)).values())) == 12


def test_labels_stay_apart_and_dollars_are_not_mathematics():
    names = [*many(12).parties, "a$b$c", "short"]
    shown = drawing.labels(names)
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= drawing.MAX_LABEL + 2
    assert shown[-2:] == [r"a\$b\$c", "short"]
    assert drawing.labels(["x" * 30, "x" * 31]) == ["…", "…x"]


HOSTILE = ("$", r"$\frac{", "$x$", "{}", "%s", "../../etc/passwd", "日本", "a\\", "_", "<b>")


@pytest.mark.filterwarnings("error", "ignore:Glyph")
def test_hostile_names_are_drawn():
    row = Row(domains={name: Cell(value=1.0) for name in HOSTILE}, active_params=1)
    scores = Scores(
        parties=HOSTILE,
        domains=HOSTILE,
        methods=dict.fromkeys(HOSTILE, row),
        alone=dict.fromkeys(HOSTILE, row),
        leave_one_out={"../$x$": dict.fromkeys(HOSTILE, row), "$": dict.fromkeys(HOSTILE, row)},
        contributions={name: Release(digest=name, bytes=1) for name in HOSTILE},
    )
    drawn = plots.draw_all(scores)
    assert len(drawn) == 5
    for d in drawn:
        size_of(d.png)
        assert "/" not in d.stem
        assert not d.stem.startswith(".")
        assert d.stem.isascii()


@pytest.mark.filterwarnings("error")
def test_names_that_begin_with_an_underscore_stay_in_the_legend(canvases):
    plots.pareto_active(Scores(parties=["p"], domains=["p"], methods={"_m": row_of_one("p")}))
    legend = [t.get_text() for t in canvases[0].axes[0].get_legend().get_texts()]
    assert legend == [" _m – on the front"]


def row_of_one(domain):
    return Row(domains={domain: Cell(value=1.0)}, active_params=1)


def test_stems_of_methods_that_differ_in_odd_characters_stay_apart():
    one = example().routing["evidence_full"]
    scores = Scores(domains=DOMAINS, routing=dict.fromkeys(("a/b", "a b", "A:B"), one))
    shares = [d.stem for d in plots.draw_all(scores) if d.section == "routing"]
    assert shares == ["routing-a-b", "routing-a-b-2", "routing-a-b-3"]


def test_nothing_is_drawn_from_nothing():
    assert plots.draw_all(Scores()) == []
    assert plots.draw_all(Scores(parties=["p"], domains=["p"])) == []


def test_partial_scores_are_drawn(canvases):
    scores = Scores(
        parties=["p", "q"],
        domains=["p", "q"],
        methods={"soup": Row(domains={"p": Cell(value=1.0)})},
        alone={"p": Row(domains={"p": Cell(value=1.0)})},
    )
    assert [d.stem for d in plots.draw_all(scores)] == ["score-matrix", "gain-of-each-party"]
    assert any("not scored" in t.get_text() for t in canvases[1].axes[0].texts)


def test_hundreds_of_domains_give_a_crowded_figure_and_no_failure():
    names = [f"d{i}" for i in range(900)]
    scores = Scores(domains=names, methods={"soup": Row(domains={"d0": Cell(value=1.0)})})
    with drawing.figure(0.85 * len(scores.domains), 2.0) as (canvas, png):
        canvas.add_subplot()
    assert size_of(png.getvalue())[0] == drawing.MAX_INCHES * drawing.DPI


def test_missing_matplotlib_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(InvalidOption, match=r"matplotlib is not installed.*quiltwork\[report\]"):
        plots.contribution_bytes(example())
