import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from evaluate_example import DOMAINS, METHODS, PARTIES, drawn_example, example, many

from quiltwork.errors import InvalidOption, StorageError
from quiltwork.evaluate import report, views
from quiltwork.evaluate.pareto import front
from quiltwork.evaluate.plots import draw_all
from quiltwork.evaluate.scores import Cell, Release, Routing, Row, Sample, Scores, Token, load_scores

pytest.importorskip("jinja2")
SMALL = Scores(parties=["p"], contributions={"p": Release(digest="d", bytes=7)})
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Tags with attributes, the text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.text.append(" " if tag in ("td", "th", "tr", "li", "p") else "")

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def drawings():
    return drawn_example()


@pytest.fixture(scope="module")
def page(drawings):
    return report.render(example(), drawings)


@pytest.fixture(scope="module")
def read(page):
    reader = Reader(page)
    assert reader.open == []
    return reader


def plain(reader):
    return re.sub(r"\s+", " ", "".join(reader.text))


# --- files


def test_files_written(tmp_path):
    target, scores = (
        tmp_path / "out" / "report.html",
        example().model_copy(update={"routing": {}, "methods": {}}),
    )
    drawn = draw_all(scores)
    paths = report.write_report(scores, target)
    assert paths[:2] == [target, tmp_path / "out" / "report.json"]
    assert [p.name for p in paths[2:]] == [f"{d.stem}.png" for d in drawn]
    assert {p.parent for p in paths[2:]} == {tmp_path / "out" / "report-plots"}
    assert target.read_text(encoding="utf-8") == report.render(scores, drawn)
    assert load_scores(paths[1]) == scores
    assert [p.read_bytes() for p in paths[2:]] == [d.png for d in drawn]
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name]


def test_plots_can_go_elsewhere_and_a_second_run_replaces(tmp_path):
    first = report.write_report(SMALL, tmp_path / "r.html", plots_dir=tmp_path / "figures")
    before = [p.read_bytes() for p in first]
    second = report.write_report(SMALL, tmp_path / "r.html", plots_dir=tmp_path / "figures")
    assert first == second
    assert before == [p.read_bytes() for p in second]
    assert first[-1] == tmp_path / "figures" / "contributions.png"


def test_a_target_that_is_not_html_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match=r"scores\.json.*does not end in \.html"):
        report.write_report(SMALL, tmp_path / "scores.json")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StorageError, match=r"report\.html"):
        report.write_report(SMALL, tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_missing_jinja2_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InvalidOption, match=r"jinja2 is not installed.*quiltwork\[report\]"):
        report.render(Scores(), [])


def test_importing_the_report_is_light():
    code = "import sys, quiltwork.evaluate.report as r; print([m for m in %r if m in sys.modules])"
    heavy = ["torch", "transformers", "matplotlib", "jinja2", "pyarrow"]
    run = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- self-contained


def test_nothing_is_fetched_and_no_script_runs(page, read):
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for tag, attributes in read.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert "href" not in attributes
        if tag == "img":
            assert attributes["src"].startswith("data:image/png;base64,")
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_a_policy_forbids_everything_but_inline_style_and_images(read):
    policies = [a["content"] for t, a in read.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_figures_are_inside_with_a_text_each(read, drawings):
    images = [a for tag, a in read.tags if tag == "img"]
    inside = {base64.b64decode(a["src"].split(",", 1)[1]) for a in images}
    assert inside == {d.png for d in drawings}
    assert all(a["alt"] for a in images)


def test_the_page_is_deterministic(page, drawings):
    assert report.render(example(), drawings) == page


# --- content


def test_sections_are_in_the_readers_order(page):
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Score matrix",
        "Pareto front",
        "Gain of each party",
        "Who answers",
        "Sample text",
        "Leaving one party out",
        "What left each party",
        "Costs",
        "What this report does not show",
    ]
    assert page.index('class="answer"') < page.index("<h2>")


def test_the_answer_and_the_verdicts_come_first(read):
    text = plain(read)
    assert "4 better off in a composed model, 1 better off alone" in text
    assert "law: better off alone than in any composed model (2.150 alone against 2.188 in btm" in text


def test_the_page_says_what_it_does_not_show(read):
    text = plain(read)
    for phrase in (
        "each owner chose its own",
        "They are a release of their own, outside any epsilon above",
        "says nothing on leaving out two",
        "is not detected here",
    ):
        assert phrase in text


def test_matrix_marks_the_best_of_each_column_without_the_pooled_bound():
    rows = {row.label: row for row in views.matrix_view(example())}
    assert list(rows) == [*METHODS, *(f"alone: {p}" for p in PARTIES)]
    best = {d: [label for label, r in rows.items() if r.cells[i].best] for i, d in enumerate(DOMAINS)}
    assert best["code"] == ["btm"]
    assert best["law"] == ["alone: law"]
    assert best["wikipedia"] == ["base"]  # pooled is lower, and is a bound
    assert rows["pooled"].cells[5].text == "1.995"
    assert {label: row.kind for label, row in rows.items()}["pooled"] == "reference"


def test_matrix_marks_a_party_that_is_better_off_alone_in_its_column_only():
    row = next(r for r in views.matrix_view(example()) if r.label == "evidence_full")
    assert [d for d, cell in zip(DOMAINS, row.cells, strict=True) if cell.worse] == ["law"]
    assert row.better_alone == ["law"]
    assert row.mean_parties == "1.966"
    assert row.mean_public == "1.959"


def test_matrix_in_the_page(page):
    start = page.index('<th scope="row">btm</th>')
    line = page[start : page.index("</tr>", start)]
    assert '<span class="whole best ">2.012</span><span class="spread">± 0.012</span>' in line
    assert '<span class="whole  worse">▲ 2.188</span>' in line


def test_pareto_over_parties_includes_models_alone():
    assert views.pareto_parties(example()) == ["btm", "alone: law"]
    values = {r.label: [float(c.text) for c in r.cells[:5]] for r in views.matrix_view(example())}
    del values["pooled"]
    assert front(values) == ["btm", "alone: law"]


def test_contributions_show_digest_bytes_and_bound(read):
    text = plain(read)
    assert "medical 2.47 MB 2473008 42 8 sha256:2222" in text
    assert "code 2.41 MB 2411008 40 no bound sha256:0000" in text


def test_costs_show_parameters(read):
    assert "btm 6.62 M 6.62 M 41.5" in plain(read)


@pytest.mark.parametrize(
    ("identical", "said"),
    [(True, "is byte-identical to the model composed without it"), (False, "Opt-out failed")],
)
def test_opt_out_is_reported_as_it_was_seen(identical, said):
    text = plain(Reader(report.render(Scores(opt_out_identical=identical), [])))
    assert said in text
    assert "Opt-out" not in plain(Reader(report.render(Scores(), [])))


def test_one_run_is_said_to_have_no_spread():
    assert "One run only" in plain(Reader(report.render(many(2), [])))


def test_empty_scores_give_a_page_with_its_limits_only():
    page = report.render(Scores(), [])
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["What this report does not show"]
    assert Reader(page).open == []


@pytest.mark.parametrize("parties", [2, 12])
def test_pages_for_few_and_many_parties(parties):
    reader = Reader(report.render(many(parties), []))
    assert reader.open == []
    assert "None" not in plain(reader)


# --- sample text


def tokens_of(scores: Scores):
    legend = views.legend_view(scores)
    return views.sample_view(scores.samples[0], legend)


def sampled(*tokens: tuple[str, str]) -> Scores:
    shown = [Token(text=text, slot=slot, weight=0.5) for text, slot in tokens]
    return Scores(parties=["p", "q"], samples=[Sample(domain="p", method="m", tokens=shown)])


def test_tokens_carry_the_slot_that_answered_and_its_weight(page):
    assert 'title="public, weight 0.50">def</span>' in page
    assert 'title="code, weight 0.58"><sup>1</sup>(</span>' in page


def test_white_space_is_shown():
    shown = tokens_of(sampled(("a\n", "p"), ("\t", "p"), ("    ", "p"), ("", "p"), (" x y", "p")))
    assert [t.text for t in shown] == ["a↵\n", "→\t", "····", "", " x y"]


@pytest.mark.parametrize("code", [0, 7, 13, 27, 0x7F, 0x85, 0x200F, 0x2028, 0x202E, 0x2066])
def test_characters_that_deceive_are_replaced(code):
    shown = views.visible(f"a{chr(code)}b")
    assert chr(code) not in shown
    assert len(shown) == 3
    assert shown[0] + shown[2] == "ab"


def test_runs_of_four_are_marked_where_they_begin():
    scores = sampled(*[("x", "p")] * 4, *[("x", "q")] * 3, *[("x", "p")] * 5)
    marks = [t.mark for t in tokens_of(scores)]
    assert marks == ["1", "", "", "", "", "", "", "1", "", "", "", ""]


def test_looks_repeat_only_with_another_border():
    names = [f"p{i}" for i in range(12)]
    scores = Scores(
        parties=names,
        samples=[Sample(domain="d", method="m", tokens=[Token(text="x", slot=n, weight=1) for n in names])],
    )
    legend = views.legend_view(scores).values()
    assert [slot.number for slot in legend] == list(range(1, 13))
    assert len({(slot.colour, slot.border) for slot in legend}) == 12


# --- hostile names and text

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "javascript:alert(1)",
    "--><svg onload=alert(1)>",
    "&lt;b&gt;",
]


def hostile(name: str) -> Scores:
    row = Row(domains={name: Cell(value=1.0)}, active_params=1)
    return Scores(
        machine=name,
        created=name,
        base=name,
        parties=[name],
        domains=[name],
        methods={name: row, "soup": row},
        alone={name: row},
        leave_one_out={name: {name: row}},
        routing={name: {name: Routing(slots=[name], layers=[[1.0]])}},
        contributions={name: Release(digest=name, bytes=1)},
        samples=[Sample(domain=name, method=name, tokens=[Token(text=name, slot=name, weight=1.0)])],
    )


def skeleton(page: str):
    """The tags and the names of their attributes, without any value."""
    return [(tag, sorted(attributes)) for tag, attributes in Reader(page).tags]


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_names_and_text_change_no_markup(attack):
    page = report.render(hostile(attack), [])
    assert skeleton(page) == skeleton(report.render(hostile("harmless"), []))
    assert attack in "".join(Reader(page).text)
    assert "49" not in page.split("</style>")[1]


def test_the_attack_check_sees_missing_escapes():
    page = report.render(hostile(ATTACKS[0]), []).replace("&lt;script&gt;", "<script>")
    assert skeleton(page) != skeleton(report.render(hostile("harmless"), []))


def test_hostile_names_reach_no_path(tmp_path):
    paths = report.write_report(hostile("../../../evil"), tmp_path / "in" / "r.html")
    for path in paths:
        assert path.resolve().is_relative_to(tmp_path / "in")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_json_beside_the_page_is_strict(tmp_path):
    paths = report.write_report(SMALL, tmp_path / "r.html")
    json.loads(paths[1].read_text(encoding="utf-8"), parse_constant=pytest.fail)


# --- numbers as text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (9994, "9.99 k"),
        (9996, "10.0 k"),
        (99_960, "100 k"),
        (999_600, "1.00 M"),
        (7e9, "7.00 G"),
        (2e12, "2.00 T"),
    ],
)
def test_counts_have_three_digits(value, shown):
    assert views.count(value) == shown
    assert views.size(value) == (shown + "B" if " " in shown else f"{shown} B")
