"""Versions of the software that a contribution was made with."""

from __future__ import annotations

import importlib.metadata
from functools import cache


@cache
def version(name: str) -> str:
    """The installed version of a distribution; looked up once, since many machines of one house ask again."""
    return importlib.metadata.version(name)


def versions(*names: str) -> dict[str, str]:
    """Distribution to version."""
    return {name: version(name) for name in names}
