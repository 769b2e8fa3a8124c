"""The token before each document, read from the tokenizer's files where they say it, so that nothing else is loaded.

tokenizer_config.json and special_tokens_map.json name the tokens that begin and end a text, tokenizer.json numbers
them. Where the two disagree about a name, or a named token has no number, only the tokenizer itself knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMING = ("special_tokens_map.json", "tokenizer_config.json")


def stated_separator(files: Mapping[str, Mapping[str, Any]]) -> int | None:
    """BOS, else EOS, as the files state it; None where they leave it open.

    Args:
        files: the content of the tokenizer's JSON files that are there, by name.
    """
    naming = [files[name] for name in _NAMING if name in files]
    for role in ("bos_token", "eos_token"):
        stated = [_text(one[role]) for one in naming if one.get(role) is not None]
        if stated:
            agreed = stated[0] if len(set(stated)) == 1 else None
            return _number(agreed, files.get("tokenizer.json", {})) if agreed is not None else None
    return None


def _text(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _number(token: str, tokenizer: Mapping[str, Any]) -> int | None:
    """A token's id: among those added to the vocabulary, else in the vocabulary."""
    added = {one.get("content"): one.get("id") for one in tokenizer.get("added_tokens") or []}
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    found = added.get(token, vocabulary.get(token))
    return found if isinstance(found, int) else None
