"""The page: complete, escaped, and as loud about what is not held."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit_runs import finished, fragments

from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate, certify, read_certificate
from quiltwork.audit.page import render, write_page
from quiltwork.errors import InvalidOption

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
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_guarantee_stands_there_with_its_standing(certificate: Certificate) -> None:
    html = render(certificate)
    for guarantee in GUARANTEES:
        assert guarantee.title in html
    assert html.count('<td class="open">NOT HELD</td>') == len(certificate.not_held) == len(GUARANTEES) - 1
    assert html.count('<td class="held">held</td>') == 1
    assert certificate.digest in html
    assert "0.800 to 0.950" in html


def test_the_page_is_sound_and_asks_for_nothing(certificate: Certificate) -> None:
    html = render(certificate)
    reader = Balanced()
    reader.feed(html)
    assert reader.open == []
    assert not reader.seen & {"script", "img", "link", "iframe"}
    assert HOSTILE not in html
    assert not re.search(r"(src|href)=|https?://", html)


def test_the_page_and_its_json_are_written(certificate: Certificate, tmp_path: Path) -> None:
    page, text = write_page(certificate, tmp_path / "certificate.html")
    assert page.read_text(encoding="utf-8") == render(certificate)
    assert read_certificate(text.read_text()) == certificate
    with pytest.raises(InvalidOption, match=r"\.html"):
        write_page(certificate, tmp_path / "certificate.txt")
