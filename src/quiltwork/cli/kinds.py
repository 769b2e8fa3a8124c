"""A verb of several kinds, one of which is meant where none is named.

A word that begins with a dash is an option, and only a kind has options: ``quiltwork contribute --base ...`` is
``quiltwork contribute expert --base ...``.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup


def verb_of_kinds(verb: ModuleType, kinds: Sequence[ModuleType], *, bare: bool) -> typer.Typer:
    """The command group of a verb.

    Args:
        verb: its ``NAME``, ``HELP`` and ``EXAMPLES`` are the group's.
        kinds: one module a kind, with the same names and ``run``. The first is meant where none is named.
        bare: whether the verb alone, without a word behind it, runs the first kind; else it shows the help.
    """
    default = kinds[0].NAME

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            option = args[0].startswith("-") and args[0] not in ctx.help_option_names if args else bare
            return super().parse_args(ctx, [default, *args] if option else args)

    group = typer.Typer(name=verb.NAME, help=verb.HELP, epilog=verb.EXAMPLES, cls=Group, no_args_is_help=not bare)
    for kind in kinds:
        group.command(kind.NAME, help=kind.HELP, epilog=kind.EXAMPLES)(kind.run)
    group.callback()(lambda: None)
    return group
