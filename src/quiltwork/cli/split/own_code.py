"""Code that a plan names: it runs where the command line trusts it by name, and never because a plan says so."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from quiltwork.errors import InvalidOption


def own_code(place: str, file: Path, name: str, owner: str, trusted: Collection[str]) -> Any:
    """What a Python file calls ``name``; None where it has no such thing.

    Args:
        place: how an error names it.
        file: its path.
        name: of a class or a function.
        owner: whose code it is, as --trust-code names it.
        trusted: whose code may run.

    Raises:
        InvalidOption: it is not trusted, or there is no such file.
    """
    if owner not in trusted:
        raise InvalidOption(
            place,
            why="a plan is data, and does not run code by itself",
            mend=f"Read the file; then say --trust-code {owner}. Trust your own party's only.",
        )
    path = file.resolve()
    spec = importlib.util.spec_from_file_location(f"quiltwork_plan_{owner.replace('-', '_')}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InvalidOption(place, why="there is no such Python file", mend="Correct the path.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name, None)
