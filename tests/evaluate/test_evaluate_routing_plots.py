"""Figures of load and position: what is drawn is what the scores say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from quiltwork.evaluate.plots import draw_all
from quiltwork.evaluate.report import render
from quiltwork.evaluate.routing import STARTS
from quiltwork.evaluate.routing_plots import balances, load_balance, own_by_position, positioned, slots_by_position
from quiltwork.evaluate.scores import Routing, Scores, Span, from_json

SLOTS = ("base", "ash", "oak.one", "oak.two")
DOMAINS = ("ash", "oak", "wiki")


def routing(own: int, sure: float) -> Routing:
    """A router that grows sure of one slot with the position."""

    def at(share: float) -> tuple[float, ...]:
        return tuple(share if slot == own else (1 - share) / 3 for slot in range(4))

    shares = [0.25, (0.25 + sure) / 2, sure]
    tokens = [16, 48, 136]
    spans = tuple(
        Span(start=start, tokens=n, shares=at(share), firsts=at(min(1.0, share + 0.1)))
        for start, n, share in zip(STARTS, tokens, shares, strict=False)
    )
    return Routing(slots=SLOTS, layers=(at(float(np.average(shares, weights=tokens))),) * 2, spans=spans)


@pytest.fixture
def scores() -> Scores:
    return Scores(
        parties=("ash", "oak"),
        public=("wiki",),
        domains=DOMAINS,
        routing={"evidence": {"ash": routing(1, 0.9), "oak": routing(2, 0.7), "wiki": routing(0, 0.8)}},
    )


def test_spans_survive_a_score_file(scores: Scores) -> None:
    assert from_json(scores.to_json()) == scores


@pytest.mark.parametrize(
    "change", [{"shares": (0.5, 0.5)}, {"firsts": (0.9, 0.9, 0.0, 0.0)}, {"tokens": 0}, {"start": -1}, {"ends": 3}]
)
def test_spans_outside_their_range_are_refused(scores: Scores, change: dict[str, Any]) -> None:
    value = scores.model_dump(mode="json")
    Scores.model_validate_json(json.dumps(value))
    value["routing"]["evidence"]["ash"]["spans"][0] |= change
    with pytest.raises(ValidationError):
        Scores.model_validate_json(json.dumps(value))


def test_the_balance_is_drawn_for_each_text_and_for_all(scores: Scores, canvases: list[Any]) -> None:
    load_balance(scores, "evidence", DOMAINS)
    (axes,) = canvases[-1].axes
    found = balances(dict(scores.routing["evidence"]))
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([found[d].max_over_mean for d in (*DOMAINS, "")])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [*DOMAINS, "all together"]
    means = np.mean([list(scores.routing["evidence"][d].mean().values()) for d in DOMAINS], axis=0)
    assert found[""].max_over_mean == pytest.approx(means.max() / means.mean())


def test_the_own_party_is_drawn_by_position(scores: Scores, canvases: list[Any]) -> None:
    own_by_position(scores, DOMAINS)
    (axes,) = canvases[-1].axes
    mean, first = (line.get_ydata() for line in axes.get_lines())
    # an owner of two experts counts whole: oak's second slot has a third of what is left
    sure, oak = np.array([0.9, 0.7, 0.8]), np.array([0.0, 1.0, 0.0])
    expected = []
    for share in (0.25 + 0 * sure, (0.25 + sure) / 2, sure):
        expected.append(np.mean(share + oak * (1 - share) / 3))
    np.testing.assert_allclose(mean, expected)
    assert (np.asarray(first) > np.asarray(mean)).all()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0–15", "16–63", "64–255"]


def test_every_slot_has_a_line_in_every_panel(scores: Scores, canvases: list[Any]) -> None:
    slots_by_position(scores, "evidence", DOMAINS)
    panels = [axes for axes in canvases[-1].axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == list(DOMAINS)
    assert all(len(axes.get_lines()) == len(SLOTS) for axes in panels)
    shown = panels[0].get_lines()[1].get_ydata()
    assert list(shown) == [span.shares[1] for span in scores.routing["evidence"]["ash"].spans]


def test_the_report_has_them_where_positions_are_known(scores: Scores) -> None:
    drawings = draw_all(scores)
    assert {one.section for one in drawings} >= {"balance", "positions", "routing"}
    page = render(scores, drawings)
    assert "Who answers at which position" in page
    value = scores.model_dump()
    for one in value["routing"]["evidence"].values():
        one["spans"] = ()
    bare = Scores.model_validate(value)
    assert positioned(bare, "evidence", DOMAINS) == []
    assert "Who answers at which position" not in render(bare, draw_all(bare))
