import re

import numpy as np
import pytest
from evaluate_tables_example import FirstOf, composite, gaussian, multinomial, poisson, rows

from quiltwork.composite.solution import Solution
from quiltwork.errors import InvalidOption
from quiltwork.evaluate import plots, report, table_report
from quiltwork.evaluate.held_out import Shape, checked
from quiltwork.evaluate.scores import Cell, Release, Row, Scores, load_scores
from quiltwork.evaluate.tables import score_table
from quiltwork.models.mixture.transport import divergence_bound

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

LOCALS = {name: gaussian(shift=0.1 * i) for i, name in enumerate(("ash", "birch", "cedar", "dogwood"))}
ROWS = {party: rows(mixture, 120, seed=i) for i, (party, mixture) in enumerate(LOCALS.items())}


def models():
    return {"first": composite(LOCALS, FirstOf(["birch"])), "pooled": gaussian(shift=0.15)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return table_report.table_report(models(), ROWS, tmp_path_factory.mktemp("r") / "report.html")


def headings(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_one_call_writes_page_numbers_and_figures(written):
    page, numbers, *figures = written
    assert load_scores(numbers).metric == "nats per row"
    names = [path.name for path in figures]
    assert len(names) == len(set(names))
    assert {
        "score-matrix.png",
        "calibration.png",
        "experts-along-age-first.png",
        "experts-along-dose-first.png",
        "gate-over-age-and-dose-first.png",
        "objective-at-every-step.png",
        "machines-first.png",
        "likelihood-against-number-of-machines.png",
    } <= set(names)
    text = page.read_text()
    assert headings(text) == [
        "Score matrix",
        "Pareto front",
        "Gain of each party",
        "Further measures",
        "What the model says",
        "How it was composed",
        "Costs",
        "What this report does not show",
    ]
    assert text.count("<img ") == len(figures)


def test_the_page_speaks_of_rows_and_never_of_text_or_bytes(written):
    text = re.sub(r"<style>.*?</style>|<img [^>]*>|<[^>]*>", " ", written[0].read_text(), flags=re.S)
    assert "Negative log-likelihood, nats per row on held-out rows" in text
    for stranger in ("bits per byte", "held-out text", "sample text", "active parameters", "None"):
        assert stranger not in text


def test_exclusions_are_in_the_page_with_their_reason(written):
    row = re.search(r"<tr><th scope=\"row\">first</th><td class=\"text\">birch</td>.*?</tr>", written[0].read_text())
    assert row
    assert "its fit did not converge" in row.group()


def test_held_out_rows_stay_at_home_unless_asked(monkeypatch):
    seen = []
    monkeypatch.setattr(table_report.table_plots, "experts_over", lambda *a, data, **k: seen.append(data) or b"")
    monkeypatch.setattr(table_report.table_plots, "gate_surface", lambda *a, data, **k: seen.append(data) or b"")
    scores = score_table(models(), ROWS)
    table_report.table_drawings(models(), ROWS, scores, curve=False)
    assert seen == [None] * 3
    table_report.table_drawings(models(), ROWS, scores, curve=False, show_rows=True)
    assert all(data is not None for data in seen[3:])


def test_scores_may_be_given_with_what_was_added_to_them(tmp_path):
    scores = score_table(models(), ROWS)
    released = {party: Release(digest=f"sha256:{party}", bytes=1200) for party in LOCALS}
    scores = scores.model_copy(update={"contributions": released})
    page, *_ = table_report.table_report(models(), ROWS, tmp_path / "r.html", scores=scores, curve=False)
    assert "sha256:cedar" in page.read_text()


@pytest.mark.parametrize(
    ("mixture", "classes", "stem"),
    [
        (multinomial(), ("yes", "no", "perhaps"), "classes-along-"),
        (poisson(), None, "experts-along-"),
        (gaussian(outputs=1), None, "experts-along-"),
    ],
    ids=["classes", "counts", "numbers"],
)
def test_every_family_is_drawn(mixture, classes, stem):
    x, y = rows(mixture, 60)
    held = {"ash": (x, y if classes is None else np.array(classes)[y])}
    model = composite({"ash": mixture, "birch": mixture}, classes=classes)
    drawings = table_report.table_drawings({"m": model}, held, score_table({"m": model}, held))
    assert sum(d.stem.startswith(stem) for d in drawings) == 2


def test_several_responses_have_a_figure_each():
    mixture = gaussian(outputs=2)
    held = {"ash": rows(mixture, 60)}
    one = composite({"ash": mixture, "birch": mixture})
    table = type(one.table)(one.table.features, one.table.units, ("left", "right"), None, "gaussian")
    model = type(one)(one.method, table, one.locals, one.provenance)
    drawings = table_report.table_drawings({"m": model}, held, score_table({"m": model}, held))
    assert sum(d.stem.startswith(("left-along", "right-along")) for d in drawings) == 4


def test_distances_of_machines_are_the_bound_from_their_own_models():
    x = ROWS["ash"][0]
    found = table_report.machine_distances(composite(LOCALS), x)
    assert found["ash"] == pytest.approx(0, abs=1e-12)
    assert found["cedar"] == pytest.approx(divergence_bound(LOCALS["cedar"], LOCALS["ash"], x).mean())
    assert found["birch"] < found["cedar"] < found["dogwood"]


class Last:
    """A method that takes the last machine's model and refuses two machines."""

    name = "last"

    def needs(self):
        return frozenset({"mixture"})

    def solve(self, table, locals):
        if len(locals) == 2:
            raise InvalidOption("two machines", why="they cannot outvote each other", mend="Add one.")
        return Solution(locals[-1].mixture)


def test_the_curve_composes_anew_with_fewer_machines_in_one_nested_order():
    whole = composite(LOCALS, Last())
    columns = checked(ROWS, Shape.of(list(LOCALS.values())))
    points = table_report.machines_curve(whole, columns, seed=1)
    assert [point.machines for point in points] == [1, 4], "two machines are refused and have no point"
    order = np.random.default_rng(1).permutation(4)
    first = list(LOCALS.values())[order[0]]
    x, y = (np.concatenate(parts) for parts in zip(*ROWS.values(), strict=True))
    assert points[0].value == pytest.approx(-first.log_density(x, y).mean())
    assert points[-1].value == pytest.approx(-LOCALS["dogwood"].log_density(x, y).mean())
    assert points == table_report.machines_curve(whole, columns, seed=1)


def test_extra_figures_overwrite_none_of_the_scores(tmp_path):
    scores = Scores(domains=["d"], methods={"m": Row(domains={"d": Cell(value=1.0)})})
    mine = plots.Drawing("score-matrix", "composition", "Score matrix", plots.score_matrix(scores))
    paths = report.write_report(scores, tmp_path / "r.html", extra=[mine])
    assert [path.name for path in paths[2:]] == ["score-matrix.png", "score-matrix-2.png"]
    assert headings(paths[0].read_text())[1:3] == ["How it was composed", "Costs"]


def test_many_verdicts_are_folded():
    names = [f"p{i}" for i in range(13)]
    row = {name: Row(domains={name: Cell(value=0.0)}) for name in names}
    method = Row(domains={name: Cell(value=1.0) for name in names})
    scores = Scores(metric="nats per row", parties=names, domains=names, methods={"m": method}, alone=row)
    page = report.render(scores, [])
    assert "<details><summary>One sentence for each of 13 parties</summary>" in page
    assert page.count("better off alone than in any") == 13
    assert "Do not collaborate." in page.split("<details>")[0]
