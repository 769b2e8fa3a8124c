"""Words that an owner chooses and a manifest will hold: refused before hours of training rather than after."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from quiltwork.contribution.fields import Card, PartyLabel, PartyName, Short
from quiltwork.errors import InvalidOption

_NAME = "Use a-z, 0-9, '-' and '_', at most 64 of them, a letter or digit first"
_RULES = {
    "party": (PartyName, f"{_NAME}."),
    "label": (PartyLabel, f"{_NAME}; a share of a party is named PARTY.SHARE."),
    "licence": (Short, "Use 1 to 100 characters that can be printed, best an SPDX expression."),
    "card": (Card, "Use at most 100 000 characters that can be printed."),
}


def check_words(words: Mapping[str, str]) -> None:
    """Refuse a word that the format does not take.

    Args:
        words: by ``party``, ``label`` (a party, or a share of one), ``licence`` and ``card``.

    Raises:
        InvalidOption: one of them breaks the format's rules.
    """
    for name, text in words.items():
        kind, mend = _RULES[name]
        try:
            TypeAdapter(kind).validate_python(text)
        except ValidationError as error:
            what = f"{'party' if name == 'label' else name} {text[:100]!r}"
            why = "no manifest takes it" if name in ("party", "label") else error.errors()[0]["msg"]
            raise InvalidOption(what, why=why, mend=mend) from error
