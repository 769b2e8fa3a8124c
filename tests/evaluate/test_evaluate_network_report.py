"""What the report says and draws of networks: owners, classes, knowledge, places to stitch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.compose.stitch import Stitch
from quiltwork.evaluate.network_plots import candidates_map, classes_map, flips_map, owners_pareto, owners_points
from quiltwork.evaluate.network_report import fits, network_drawings
from quiltwork.evaluate.network_views import (
    classes_view,
    decomposition_view,
    knowledge_view,
    owners_view,
    reach_headline,
    reach_view,
)
from quiltwork.evaluate.plots import draw_all
from quiltwork.evaluate.report import write_report
from quiltwork.evaluate.scores import Cell, Row, Scores
from quiltwork.models.network.pair_moments import merge
from quiltwork.models.network.placement import rank
from quiltwork.models.network.stitches import read_pair_statistics


def row(ash: float, oak: float, paired: float | None = 0.01, **extra: float) -> Row:
    right = {"class cat: share": 0.5, "class cat: right": 0.5 * (1 - ash), "class <dog>: share": 0.5}
    right["class <dog>: right"] = 0.5 * (1 - oak)
    cells = {
        name: Cell(value=value, spread=0.02, paired=paired, amount=100, extra=right | extra)
        for name, value in (("ash", ash), ("oak", oak))
    }
    return Row(domains=cells, total_params=1000, seconds=1.0)


def scores(**changes: Any) -> Scores:
    return Scores(
        **{
            "metric": "share wrong",
            "parties": ("ash", "oak"),
            "domains": ("ash", "oak"),
            "methods": {
                "pooled": row(0.02, 0.03),
                "evidence": row(0.04, 0.11),
                "ensemble": row(0.2, 0.2, individual=1.5, diversity=0.5),
            },
            "alone": {
                "ash": row(0.05, 0.6, None, **{"flips: oak": 0.03}),
                "oak": row(0.7, 0.1, None, **{"flips: ash": 0.01}),
            },
        }
        | changes
    )


def test_owners_see_their_own_model_the_best_other_and_the_composed_ones() -> None:
    view = owners_view(scores())
    assert view is not None
    assert view.unit == "accuracy in per cent"
    assert view.heads == ["own model", "best other's", "ensemble", "evidence", "pooled data (bound)"]
    cells = dict(view.rows)["ash"]
    assert [cell.text for cell in cells] == ["95.0", "30.0", "80.0", "96.0", "98.0"]
    assert [cell.note for cell in cells] == ["± 2.0", "oak", "-15.0 points", "+1.0 points", "+3.0 points"]
    assert [cell.best for cell in cells] == [False, False, False, True, False]
    assert [cell.worse for cell in cells] == [False, False, True, False, False]


def test_other_metrics_have_other_words() -> None:
    assert owners_view(scores(metric="nats per row")) is None
    assert reach_view(scores(metric="nats per row")) == []
    view = owners_view(scores(metric="squared error"))
    assert view is not None
    assert dict(view.rows)["oak"][0].text == "0.100"
    assert dict(view.rows)["oak"][2].note == "-0.100"


def test_what_reaches_the_others_is_told_and_nothing_where_nothing_does() -> None:
    told = reach_view(scores())
    assert (
        told[1]
        == "evidence: owners gain +57.5 points on the others' rows, on average; on their own nobody clearly loses"
    )
    assert "ash, oak clearly lose" in told[0]
    worse = scores(methods={"ensemble": row(0.8, 0.8)}, alone={"ash": row(0.05, 0.1), "oak": row(0.1, 0.1)})
    assert reach_view(worse)[-1].endswith("do not collaborate")
    assert not any("do not collaborate" in sentence for sentence in told)


def test_the_answer_on_top_says_who_reaches_beyond_the_own_rows() -> None:
    assert "gain most in evidence, +57.5 points on average" in reach_headline(scores())
    assert reach_headline(scores(methods={"ensemble": row(0.2, 0.2)})) == ""  # ash clearly loses in it
    assert reach_headline(scores(metric="nats per row")) == ""


def test_classes_are_told_before_and_after() -> None:
    view = classes_view(scores())
    assert view is not None
    heads, rows = view
    assert heads == ["alone", "ensemble", "evidence", "pooled data (bound)"]
    # own models on their own rows: class cat is answered as the 'ash' figure of each party's own model says
    assert dict(rows)["cat"][0] == f"{100 * (0.95 + 0.3) / 2:.1f}"
    assert dict(rows)["cat"][1:] == ["80.0", "96.0", "98.0"]
    assert classes_view(scores(methods={}, alone={})) is None


def test_knowledge_and_decomposition() -> None:
    assert knowledge_view(scores())[0].startswith(
        "ash: its own model is wrong on 5.0 % of its rows; that of oak is right"
    )
    assert decomposition_view(scores())[0] == ("ash", "1.500", "0.500", "1.000")
    assert decomposition_view(scores(methods={})) == []


def test_the_figures_show_their_numbers(canvases: list[Any]) -> None:
    owners_pareto(scores())
    axes = canvases[-1].axes[0]
    marks = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_label()}
    assert marks["evidence"] == (0.04, 0.11)
    assert marks["pooled (bound, needs pooled data)"] == (0.02, 0.03)
    assert axes.lines[-1].get_xdata() is not None
    step = axes.lines[0].get_xydata()
    assert [tuple(point) for point in step] == [(0.04, 0.11), (0.7, 0.1)]
    flips_map(scores())
    assert [text.get_text() for text in canvases[-1].axes[0].texts] == ["", "3.0 %", "1.0 %", ""]
    classes_map(scores())
    assert [text.get_text() for text in canvases[-1].axes[0].texts][:4] == ["62", "65", "80", "80"]


def test_candidates_are_shown_by_their_fit_and_the_chosen_ones_framed(canvases: list[Any]) -> None:
    fits = {("layer1", "stem"): 0.9, ("layer1", "blocks.2"): 0.3, ("layer2", "blocks.2"): -0.2}
    png = candidates_map(fits, "ash", "oak", chosen=[("layer1", "blocks.2"), ("gone", "gone")])
    axes = canvases[-1].axes[0]
    assert png.startswith(b"\x89PNG")
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.30", "", "-0.20"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["stem", "blocks.2"]
    assert [patch.get_xy() for patch in axes.patches] == [(0.53, -0.47)]


def test_one_owner_has_nobody_to_be_held_against() -> None:
    one = scores(parties=("ash",), domains=("ash", "oak"), alone={})
    assert owners_points(one) == {}
    assert "Pareto: owners against each other" not in {drawing.caption for drawing in draw_all(one)}


def test_the_page_holds_all_of_it_and_escapes_names(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    paths = write_report(scores(), tmp_path / "report.html")
    page = paths[0].read_text()
    for words in (
        "Own model",
        "Before and after, by class",
        "Knowledge that the others have",
        "diversity",
        "&lt;dog&gt;",
    ):
        assert words in page
    assert "<dog>" not in page
    assert "<script" not in page
    names = {path.name for path in paths}
    wanted = {"pareto-owners-against-each-other.png", "accuracy-by-class.png", "knowledge-of-others-models.png"}
    assert wanted <= names


def test_pages_of_other_metrics_hold_none_of_it(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    bits = {d: Cell(value=2.0) for d in ("ash", "oak")}
    text = Scores(parties=("ash", "oak"), domains=("ash", "oak"), methods={"soup": Row(domains=bits)})
    page = write_report(text, tmp_path / "report.html")[0].read_text()
    assert "Own model" not in page
    assert "by class" not in page


def test_every_candidate_is_drawn_once_with_the_stitched_ones_framed(tmp_path: Path, canvases: list[Any]) -> None:
    given = [parties.release(tmp_path, p, one=parties.network(p)) for p in ("ash", "birch")]
    sums = [parties.release_pair(tmp_path, p, *given, seed=seed) for seed, p in enumerate(("ash", "birch"))]
    merged = merge([read_pair_statistics(one) for one in sums])
    last = (merged.layout.a[-1].name, merged.layout.b[-1].name)
    composites = {
        "auto": compose([*given, *sums], Stitch()),
        "named": compose([*given, *sums], Stitch(pair=("birch", "ash"), points=last[::-1])),
    }
    (drawing,) = network_drawings(composites)
    assert drawing.stem == "candidate-pairs-ash-and-birch"
    found = fits(merged)
    candidates = rank(merged)
    assert found == {(one.a, one.b): (one.a_to_b + one.b_to_a) / 2 for one in candidates}
    axes = canvases[-1].axes[0]
    rows, columns = ([tick.get_text() for tick in ticks] for ticks in (axes.get_yticklabels(), axes.get_xticklabels()))
    framed = {(rows[round(p.get_y() + 0.47)], columns[round(p.get_x() + 0.47)]) for p in axes.patches}
    assert last in framed
    assert network_drawings({"plain": compose(given, Combine())}) == []
