"""``--pool``: parties' files that are kept between compositions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import require_contribution

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.models.pool import Pool

PoolDirectory = Annotated[
    Path | None,
    typer.Option(
        "--pool",
        help="Keep the parties' files in this directory, and link them when they are composed again.",
        rich_help_panel="Language models",
    ),
]
"""``--pool`` where language models are composed."""


def opened(path: Path | None) -> Pool | None:
    """The pool that an option names.

    Raises:
        InvalidOption: the directory holds something else.
    """
    from quiltwork.models.pool import open_pool

    return None if path is None else open_pool(path)


def read_known(paths: Sequence[Path], max_bytes: int | None, pool: Pool | None) -> list[Contribution]:
    """Contributions to a language model: of those that a pool does not know, the caller must `settle` each.

    Raises:
        InvalidOption: a directory is there and holds no contribution.
        QuiltworkError: a contribution is not as it was declared, as far as it was read.
    """
    from quiltwork.contribution.store import read

    for path in paths:
        require_contribution(path)
    if pool is None:
        # composing reads every tensor of an expert once: that is when they are checked
        return [read(path, max_bytes=max_bytes, tensors="as used") for path in paths]
    return [_known(path, max_bytes, pool) for path in paths]


def settle(contributions: Sequence[Contribution]) -> None:
    """Check what of the contributions was not read in composing.

    Raises:
        QuiltworkError: a contribution is not as it was declared.
    """
    for contribution in contributions:
        contribution.settle()


def _known(path: Path, max_bytes: int | None, pool: Pool) -> Contribution:
    from quiltwork.contribution.store import read

    found = read(path, max_bytes=max_bytes, tensors="known")
    if not pool.knows(found.digest):
        found = read(path, max_bytes=max_bytes)
        pool.remember(found.digest)
    return found
