"""``quiltwork contribute KIND``: the owner's side, one file a kind of contribution.

Without a kind it means ``expert``, as in ``quiltwork contribute --base ...``: a word that begins with a dash is an
option, and only a kind has options.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from quiltwork.cli.contribute import expert

NAME = "contribute"
HELP = """Work on your own data, here, and write one contribution directory.

Nothing but that directory is meant to leave: look at it with `quiltwork inspect` before you hand it over. Without a
kind, `expert` is meant."""
EXAMPLES = """Examples:

`quiltwork contribute expert --base BASE --data notes/ --party acme --out acme`

`quiltwork contribute mixture --data a.parquet --target y --party a --out a --json`"""
KINDS = (expert,)


class _ExpertUnlessNamed(TyperGroup):
    """A group whose options are those of ``expert``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = [expert.NAME, *args]
        return super().parse_args(ctx, args)


group = typer.Typer(name=NAME, help=HELP, epilog=EXAMPLES, cls=_ExpertUnlessNamed, no_args_is_help=True)
for kind in KINDS:
    group.command(kind.NAME, help=kind.HELP, epilog=kind.EXAMPLES)(kind.run)
group.callback()(lambda: None)
