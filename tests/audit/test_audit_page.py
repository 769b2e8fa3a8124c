"""The page: complete, escaped, and as loud about what is not held."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_runs import finished, fragments

from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate, certify, read_certificate
from quiltwork.audit.figures import OVER_ALL, drawable, prices
from quiltwork.audit.page import Account, render, write_page
from quiltwork.errors import InvalidOption
from quiltwork.privacy.labels import RandomisedResponse

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    facts = finished("joint", *fragments(), label_party=True)
    facts = facts.model_copy(update={"warnings": (HOSTILE,)})
    numbers = {"success": 0.9, "baseline": 0.3, "low": 0.8, "high": 0.95, "cases": 40}
    attack = Attack(name=HOSTILE, party="p0", adversary="the party", measure="share", **numbers)  # type: ignore[arg-type]
    return certify(facts, (), [attack.on(facts)])


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def account(certificate: Certificate) -> Account:
    scores = {"composed": 0.75, f"{HOSTILE} alone": 0.5}
    return Account(HOSTILE, certificate, scores, "accuracy", 48, [{"composer": 1.5 / (t + 1)} for t in range(900)])


def test_every_guarantee_stands_there_with_its_standing_and_its_tests(certificate: Certificate) -> None:
    html = render([Account("run", certificate)])
    for guarantee in GUARANTEES:
        assert guarantee.title in html
        assert guarantee.enforcement.replace("'", "&#39;") in html
    assert html.count('<td class="open">NOT HELD</td>') == len(certificate.not_held) == len(GUARANTEES) - 1
    assert html.count('<td class="held">held</td>') == 1
    assert certificate.digest in html
    assert "0.800 to 0.950" in html
    ran = {c.name: c for c in certificate.checks}
    assert f"bytes: passed</span> <code>{ran['bytes'].digest[:16]}</code>" in html
    assert "replay: not run" in html
    assert "label-ledger: found a breach" in html


def test_the_page_is_sound_and_asks_for_nothing(account: Account) -> None:
    html = render([account])
    reader = Balanced()
    reader.feed(html)
    assert reader.open == []
    assert not reader.seen & {"script", "link", "iframe"}
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)|https?://', html)


def sizes(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def test_the_page_its_json_and_its_figures_are_written(account: Account, tmp_path: Path) -> None:
    page, text, *drawn = write_page([account], tmp_path / "certificate.html")
    assert page.read_text(encoding="utf-8") == render([account])
    assert read_certificate(text.read_text()) == account.certificate
    assert {path.name for path in drawn} == {"certificate.png", "certificate-scores.png", "certificate-losses.png"}
    assert all(min(sizes(path)) > 150 for path in drawn)
    with pytest.raises(InvalidOption, match=r"\.html"):
        write_page([account], tmp_path / "certificate.txt")


def test_several_runs_have_one_page_and_files_of_their_own(account: Account, tmp_path: Path) -> None:
    other = Account("../<other>", account.certificate, {"composed": 0.8})
    third = Account("..-other-", account.certificate)
    page, *beside = write_page([account, other, third], tmp_path / "all.html")
    html = page.read_text()
    assert html.count('class="run"') == 3
    assert html.count("0.8000") == 1
    assert {path.parent for path in beside} == {tmp_path}
    assert len({path.name for path in beside}) == len(beside) == 3 + 1 + 3 + 1
    with pytest.raises(InvalidOption, match="two have one name"):
        write_page([account, account], tmp_path / "no.html")
    with pytest.raises(InvalidOption, match="none is given"):
        render([])


@pytest.mark.parametrize("names", [("scores", "b"), ("a", "a-losses"), ("a b", "a-b", "a-b.1", "a-b.2")])
def test_no_name_of_a_run_takes_another_files_place(
    names: tuple[str, ...], account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for drawing in ("certificate_png", "scores_png", "losses_png"):
        monkeypatch.setattr(f"quiltwork.audit.figures.{drawing}", lambda *_: b"")
    written = write_page([replace(account, name=name) for name in names], tmp_path / "all.html")
    assert len(set(written)) == len(written) == 1 + len(names) + 1 + 2 * len(names)


def test_without_the_drawing_library_the_page_says_so(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawable()
    monkeypatch.setattr("quiltwork.audit.figures.drawable", lambda: False)
    html = render([account])
    assert "matplotlib is not installed" in html
    assert "<img" not in html
    assert "0.7500" in html


def test_the_ledger_prices_each_holder_and_all_together() -> None:
    """Two label holders of epsilon 2 each pay 4 together; rows have no bound at any party."""
    data, labels = fragments()
    facts = finished("joint", data, labels)
    event = RandomisedResponse(3, 2.0).event.model_dump(mode="json")
    stated = certify(facts.model_copy(update={"events": {"p0": (event,), "p1": (event,)}}))
    found = {(one.unit, one.party): one.epsilon for one in prices(stated)}
    assert found["label", "p0"] == pytest.approx(2.0)
    assert found["label", "p1"] == pytest.approx(2.0)
    assert found["label", OVER_ALL] == pytest.approx(4.0)
    assert all(math.isinf(found["row", who]) for who in (*data, OVER_ALL))
