"""Names, licences and cards that no manifest takes are refused with the rule in words, and those it takes pass."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.party.words import check_words


@pytest.mark.parametrize(
    ("word", "text", "what", "mend"),
    [
        ("party", "Hooli", "party 'Hooli'", "Use a-z, 0-9, '-' and '_'"),
        ("party", "hooli.code", "party 'hooli.code'", "a letter or digit first."),
        ("label", "Hooli", "party 'Hooli'", "PARTY.SHARE"),
        ("label", "hooli.", "party 'hooli.'", "PARTY.SHARE"),
        ("licence", "", "licence ''", "1 to 100 characters"),
        ("licence", "x" * 101, "licence 'xxx", "SPDX"),
        ("card", "\x1b[2J", "card ", "can be printed"),
    ],
)
def test_what_no_manifest_takes(word: str, text: str, what: str, mend: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        check_words({word: text})
    assert caught.value.what.startswith(what)
    assert mend in caught.value.mend
    assert "[a-z0-9]" not in str(caught.value), "a rule, not a pattern"


@given(text=st.text(alphabet="abzAZ09-_. é", max_size=6))
def test_names_follow_the_rule_in_words(text: str) -> None:
    sound = re.fullmatch("[a-z0-9][a-z0-9_-]*", text) is not None
    if sound:
        check_words({"party": text, "label": text})
    else:
        with pytest.raises(InvalidOption):
            check_words({"party": text})
