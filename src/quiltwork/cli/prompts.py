"""A file of prompts, for rows that a composer makes of them: TOML, or JSON of the same shape.

negative = ["The parish church has a west tower."]     # for every party, optional if each has its own

[acme]
positive = ["def main():", "import os"]
negative = ["Dear customer"]                             # optional
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.router_prompts import Prompts

LIMIT = 2**20
"""Largest file that is read, in bytes."""


def read_prompts(path: Path) -> tuple[dict[str, Prompts], tuple[str, ...]]:
    """Prompts by party, and those that are negative for all.

    Raises:
        InvalidOption: the file cannot be read, is too large, is neither TOML nor JSON, or holds something else.
    """
    from quiltwork.compose.router_prompts import Prompts

    table = _parsed(path)
    shared = _texts(path, table.pop("negative", []), "negative")
    prompts = {}
    for party, given in table.items():
        if not isinstance(given, dict) or not given.keys() <= {"positive", "negative"}:
            raise _refused(path, f"{party!r} is not a table of 'positive' and 'negative'")
        kinds = {kind: _texts(path, texts, f"{party}.{kind}") for kind, texts in given.items()}
        prompts[party] = Prompts(kinds.get("positive", ()), kinds.get("negative", ()))
    return prompts, shared


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LIMIT:
            raise _refused(path, f"it is larger than {LIMIT} bytes")
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, str(error).splitlines()[0][:200]) from error
    if not isinstance(found, dict):
        raise _refused(path, "it is not a table")
    return found


def _texts(path: Path, value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _refused(path, f"{name!r} is not a list of texts")
    return tuple(value)


def _refused(path: Path, why: str) -> InvalidOption:
    mend = 'Write, in TOML: negative = ["…"], and for each party [PARTY] with positive = ["…"].'
    return InvalidOption(f"--prompts '{path}'", why=why, mend=mend)
