"""Who is set aside first, on made-up losses of every composition: harms that hang on others, owners with shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from screen_plants import World, greedy, texts

from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen import screen
from quiltwork.evaluate.screen_losses import Losses
from quiltwork.evaluate.screen_record import Capture, Finding, Rule
from quiltwork.evaluate.screen_rounds import Rounds
from quiltwork.evaluate.screen_runs import Runs
from quiltwork.evaluate.screen_verdicts import capture_findings, groups

PARTIES = ("ash", "birch", "cedar", "elm", "fir")
SIZES = (100,) * 12


@dataclass
class Made:
    """Stands for a composite."""

    parties: tuple[str, ...]
    slots: tuple[str, ...] = ()

    def model(self) -> Made:
        return self

    def without(self, party: str) -> Made:
        return Made(tuple(p for p in self.parties if p != party))


class MadeRuns(Runs):
    """Runs whose losses are said by a rule: nats a byte of a text in the composition of some parties."""

    def __init__(self, rate: Callable[[frozenset[str], str], float], names: Sequence[str]) -> None:
        method = type("Method", (), {"needs": lambda _: frozenset({"ffn"})})()
        held_out = HeldOut({name: ["x"] for name in names}, tuple(names))
        given: Any = None
        super().__init__(given, given, method, None, held_out, Rule(), "cpu", lambda _: None)
        self.rate = rate

    @property
    def _of_base(self) -> Mapping[str, Losses]:
        found: Mapping[str, Losses] = self._score(Made(()))[0]
        return found

    def compose(self, parties: Sequence[str] | None = None) -> Any:
        return Made(PARTIES)

    def _score(self, model: Any, slots: int = 0, texts: Sequence[str] | None = None) -> Any:
        draw = np.random.default_rng(0)
        names = self.held_out.domains if texts is None else texts
        found = {}
        for name in names:
            rates = self.rate(frozenset(model.parties), name) + 0.01 * draw.normal(size=len(SIZES))
            found[name] = Losses(tuple(rates * np.array(SIZES)), SIZES)
        return found, {}


def judged(rate: Callable[[frozenset[str], str], float], names: Sequence[str] = PARTIES) -> Rounds:
    found = Rounds(MadeRuns(rate, names), groups(PARTIES, ()), (), {party: [] for party in PARTIES})
    found.run()
    return found


def levels(found: Rounds) -> dict[str, set[str]]:
    return {party: {f.level for f in some} for party, some in found.findings.items() if some}


def test_a_harm_that_hangs_on_another_s_is_not_judged_first() -> None:
    """Ash harms elm most, but only while cedar is there; cedar harms elm by itself."""

    def rate(present: frozenset[str], text: str) -> float:
        if text != "elm" or "cedar" not in present:
            return 1.0
        return 1.3 + 0.5 * ("ash" in present)

    found = judged(rate)
    first = {one.party: one.change for one in found.effects if one.round == 1 and one.kind == "harm" and one.party}
    assert first.keys() == {"ash", "cedar"}
    assert (found.aside, levels(found)) == ({"cedar": 1}, {"cedar": {"harm"}})


def test_negative_control_without_it_the_innocent_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two make it worse together than either alone; whoever has the larger figure would be first."""

    def rate(present: frozenset[str], text: str) -> float:
        if text == "fir":
            return 1.0 + 0.9 * ({"ash", "cedar"} <= present)
        return 1.0 + 0.3 * (text == "elm" and "cedar" in present)

    assert judged(rate).aside == {"cedar": 1}
    monkeypatch.setattr(Rounds, "_hangs", lambda *_: False)
    assert judged(rate).aside["ash"] == 1


def test_where_each_harm_hangs_on_the_other_both_are_looked_at_and_nobody_is_called_harmful() -> None:
    def rate(present: frozenset[str], text: str) -> float:
        return 1.0 + 0.5 * (text == "elm" and {"ash", "cedar"} <= present)

    found = judged(rate)
    assert levels(found) == {"ash": {"look"}, "cedar": {"look"}}
    assert found.aside == {"ash": 1, "cedar": 1}
    assert all("cannot be told" in f.why for f in (*found.findings["ash"], *found.findings["cedar"]))


def test_a_harm_is_not_excused_by_taking_out_whom_it_harms() -> None:
    def rate(present: frozenset[str], text: str) -> float:
        return (
            1.0 + 0.5 * (text == "cedar" and {"ash", "cedar"} <= present) + 0.2 * (text == "elm" and "cedar" in present)
        )

    found = judged(rate)
    assert levels(found) == {"ash": {"harm"}, "cedar": {"harm"}}
    assert found.aside == {"ash": 1, "cedar": 2}


def test_a_method_under_which_most_harm_accuses_no_single_one() -> None:
    found = judged(lambda present, _: 1.0 + 0.2 * len(present))
    assert found.aside == {}
    assert levels(found) == {party: {"look"} for party in PARTIES}
    assert found.majority == PARTIES


def test_who_was_set_aside_for_losses_before_most_were_seen_to_harm_is_not_accused_either() -> None:
    """Ash hides what birch, cedar and elm do to fir's text."""

    def rate(present: frozenset[str], text: str) -> float:
        others = 0.2 * len(present & {"birch", "cedar", "elm"})
        return 1.0 + (text == "fir") * (1.0 if "ash" in present else others)

    found = judged(rate)
    assert found.aside == {"ash": 1}
    assert found.majority == ("ash", "birch", "cedar", "elm")
    assert levels(found) == {party: {"look"} for party in found.majority}


def test_where_most_harm_under_rows_nobody_is_accused_of_attracting_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(present: frozenset[str], _: str) -> float:
        return 1.0 + 0.2 * len(present)

    told = iter([[("elm", ATTRACTS)], [("elm", ATTRACTS)], []])
    monkeypatch.setattr("quiltwork.evaluate.screen_rounds.capture_findings", lambda *_: next(told))
    found = judged(rate)
    assert (found.aside, found.majority) == ({}, PARTIES)
    # a router that reads histograms can be asked whose text it is
    monkeypatch.setattr(Rounds, "_reads", True)
    assert judged(rate).aside["elm"] == 1


ATTRACTS = Finding(check="capture", level="look", about="ash", what="w", why="y", mend="m")


def capture(party: str, text: str, share: float, group: float, owner: float) -> Capture:
    known: dict[str, Any] = {"error": 0.01, "spread": 0.01, "uniform": 0.2, "documents": 20}
    return Capture(party=party, text=text, share=share, group=group, owner=owner, **known)


def test_what_shares_of_one_owner_take_from_each_other_is_nobody_s_loss() -> None:
    own = [
        capture("oak.a", "oak.b", 0.9, 1.0, 1.0),
        capture("oak.b", "oak.b", 0.1, 1.0, 1.0),
        capture("oak.a", "elm", 0.0, 0.0, 1.0),
        capture("oak.b", "elm", 0.0, 0.0, 1.0),
    ]
    assert list(capture_findings(own, Rule())) == []
    # an owner of three experts out of four may answer a good part of everything
    many = [capture(f"oak.{n}", text, 0.17, 0.5, 0.48) for n in "abc" for text in ("elm", "ash")]
    assert list(capture_findings(many, Rule())) == []
    # split among shares, a capture is one all the same
    split = [capture(f"oak.{n}", "elm", 0.3, 0.9, 0.1) for n in "abc"]
    assert [party for party, _ in capture_findings(split, Rule())] == ["oak.a", "oak.b", "oak.c"]


def test_shares_of_one_owner_do_not_accuse_each_other(world: World) -> None:
    """One owner hands over two experts of two kinds of text; the other owner's text stays its own."""
    names = {"oak.code": "birch", "oak.law": "cedar"}
    shares = [world.altered(world.honest[old], lambda _, t: t, party=new) for new, old in names.items()]
    held_out = HeldOut({n: texts(o, 1000, 12) for n, o in (names | {"ash": "ash"}).items()}, ("ash", *names), 64)
    given = [*shares, world.honest["ash"]]
    found = screen(given, world.base, METHOD, held_out=held_out, public=world.public)
    assert {one.party: one.verdict for one in found.contributions} == dict.fromkeys(("ash", *names), "clean")
    effects = {(one.party, one.text): one for one in found.effects}
    assert effects["oak.code", "oak.law"].change == effects["oak.law", "oak.law"].change < 0
    law = [one for one in found.captures if one.text == "oak.law"]
    assert all(one.owner == pytest.approx(sum(o.share for o in law if o.party in names)) for one in law)
    # a share whose histogram is made up is still found
    planted = world.altered(greedy(world, 1000.0), lambda _, t: t, party="oak.code")
    found = screen(
        [planted, shares[1], world.honest["ash"]], world.base, METHOD, held_out=held_out, public=world.public
    )
    assert {one.party for one in found.contributions if one.verdict != "clean"} == {"oak.code"}


METHOD = MixtureOfExperts(PrefixEvidence(), scope="full")
