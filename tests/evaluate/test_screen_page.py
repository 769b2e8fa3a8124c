"""The page of a screening: nothing a stranger wrote becomes markup, and every finding is told whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.plots import drawn
from quiltwork.evaluate.screen_page import render, write_screening
from quiltwork.evaluate.screen_plots import (
    captures_map,
    effects_map,
    last_effects,
    likeness_map,
    sizes_strip,
    wanted,
)
from quiltwork.evaluate.screen_record import Capture, Effect, Finding, Likeness, Screened, Screening, Weights

PARTIES, TEXTS = ("ash", "<b>oak</b>"), ("ash", "wiki")


def example(rounds: int = 2) -> Screening:
    effects = [
        Effect(
            party=party,
            text=text,
            present=2.0 + 0.1 * i,
            absent=2.0,
            change=0.1 * i,
            error=0.01,
            chance=0.03,
            kind="harm" if i else "none",
            documents=9,
            round=number,
        )
        for number in range(1, rounds + 1)
        for i, party in enumerate(("", *PARTIES) if number == 1 else ("", "ash"))
        for text in TEXTS
    ]
    captures = [
        Capture(
            party=slot,
            text=text,
            share=0.2 + 0.3 * i,
            group=0.2 + 0.3 * i,
            owner=0.5,
            error=0.01,
            spread=0.01,
            uniform=1 / 3,
            documents=9,
        )
        for i, slot in enumerate(("base", *PARTIES))
        for text in TEXTS
    ]
    finding = Finding(check="norm", level="look", what="<i>large</i>", why="a why", mend="a mend & more")
    return Screening(
        base="sha256:" + "ab" * 32,
        method="evidence_ffn",
        texts=TEXTS,
        public=("wiki",),
        contributions=(
            Screened(
                party="ash", digest="d1", weights=Weights(size=0.1, others=1.2, deviations=-3.0, tensors={"a": 0.1})
            ),
            Screened(
                party=PARTIES[1],
                digest="d2",
                findings=(finding,),
                set_aside=1,
                weights=Weights(size=1.2, others=0.1, deviations=9.0, tensors={"a": 1.0, "b": 1.5, "c": 0.0}),
            ),
        ),
        effects=tuple(effects),
        captures=tuple(captures),
        likeness=(Likeness(parties=PARTIES, cosine=0.3, identical=0, compared=4, common_text={"tokens": 0.1}),),
        notes=("a note",),
        advice="look first",
        reason="Look at <b>oak</b>.",
    )


def test_findings_are_told_whole_and_escaped() -> None:
    screening = example()
    page = render(screening, drawn(wanted(screening)))
    for text in ("&lt;i&gt;large&lt;/i&gt;", "a why", "a mend &amp; more", "a note", "&lt;b&gt;oak&lt;/b&gt;"):
        assert text in page
    assert "<b>oak" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_effects_are_those_of_the_last_round(canvases: list[Any]) -> None:
    screening = example()
    assert {key: one.round for key, one in last_effects(screening).items()} == {
        ("", "ash"): 2,
        ("", "wiki"): 2,
        ("ash", "ash"): 2,
        ("ash", "wiki"): 2,
        (PARTIES[1], "ash"): 1,
        (PARTIES[1], "wiki"): 1,
    }
    effects_map(screening)
    axes = canvases[-1].axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["+0.0", "+0.0", "+5.0 ▲", "+5.0 ▲", "+10.0 ▲", "+10.0 ▲"]


def test_captures_frame_the_owner(canvases: list[Any]) -> None:
    captures_map(example())
    axes = canvases[-1].axes[0]
    assert [text.get_text() for text in axes.texts] == ["20%", "20%", "50%", "50%", "80%", "80%"]
    framed = {(round(p.get_x() + 0.47), round(p.get_y() + 0.47)) for p in axes.patches}
    assert framed == {(0, 1), (1, 0)}  # ash answers ash, the base the public text


def test_sizes_and_likeness_are_drawn(canvases: list[Any]) -> None:
    sizes_strip(example())
    marks = [line for line in canvases[-1].axes[0].get_lines() if line.get_marker() == "D"]
    assert [list(line.get_xdata()) for line in marks] == [[1.2]]
    likeness_map(example())
    assert [axes.get_title() for axes in canvases[-1].axes] == ["cosine of changes", "common text"]
    assert [text.get_text() for text in canvases[-1].axes[0].texts] == ["0.30", "0.30"]


def test_weights_alone_have_a_page_without_losses(tmp_path: Path) -> None:
    value = example().model_copy(update={"effects": (), "captures": (), "texts": (), "public": (), "method": None})
    paths = write_screening(value, tmp_path / "page.html")
    assert [path.name for path in paths[:2]] == ["page.html", "page.json"]
    assert len(paths) == 4
    assert "weights and statistics only" in paths[0].read_text()
    assert "Loss with and without" not in paths[0].read_text()
    empty = Screening(base="x")
    assert "Screening of 0 contributions" in render(empty, drawn(wanted(empty)))


def test_only_a_page_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"page\.pdf"):
        write_screening(example(), tmp_path / "page.pdf")
    assert list(tmp_path.iterdir()) == []
