"""The command and its verbs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quiltwork import __version__
from quiltwork.cli import (
    add,
    choose,
    compose,
    contribute,
    demo,
    evaluate,
    export,
    generate,
    inspect,
    listing,
    merge,
    predict,
    remove,
    report,
    revoke,
    screen,
    sign,
    split,
    tune,
    verify,
)
from quiltwork.cli.inputs import legible
from quiltwork.cli.kinds import verb_of_kinds
from quiltwork.errors import QuiltworkError

_INTERRUPTED = 130
"""What typer makes of Ctrl-C."""

_MAKING = (demo, contribute, sign, inspect, verify, screen, compose, tune, choose, add, remove, listing, revoke, merge)
_VERBS = (*_MAKING, evaluate, report, generate, predict, export, split)
_BARE = {demo: True, contribute: False, split: False}
"""The verbs of several kinds, and whether the verb alone runs its first kind or shows the help."""


class _InOrderOfUse(TyperGroup):
    """The help lists verbs as data walks; groups would come last."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return [verb.NAME for verb in _VERBS]


_EXTRAS = {
    "transformers": "lm",
    "accelerate": "lm",
    "tokenizers": "lm",
    "peft": "lora",
    "sklearn": "tables",
    "cryptography": "signing",
    "cyclonedx": "bom",
}
"""The extra that brings a package; the other extras are named where they are used."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"quiltwork {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train apart. Compose together. Only what was declared leaves."""


def _command(verbs: Iterable[ModuleType]) -> typer.Typer:
    """The command with some of its verbs."""
    command = typer.Typer(
        name="quiltwork",
        cls=_InOrderOfUse,
        help="Train apart. Compose together. Only what was declared leaves.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    command.callback()(_root)
    for verb in verbs:
        if verb in _BARE:
            command.add_typer(verb_of_kinds(verb, verb.KINDS, bare=_BARE[verb]))
        else:
            command.command(verb.NAME, help=verb.HELP, epilog=verb.EXAMPLES)(verb.run)
    return command


app = _command(_VERBS)


def _asked_for(arguments: Sequence[str]) -> Sequence[ModuleType]:
    """The verb that the first argument names; all where it names none. To work out options of all takes a while."""
    return [verb for verb in _VERBS if arguments and arguments[0] == verb.NAME] or _VERBS


def _quiet_libraries() -> None:
    """No telemetry, no network and no progress bars of their own from the libraries behind the verbs."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def main() -> None:
    """Entry point of the command."""
    _quiet_libraries()
    try:
        try:
            _command(_asked_for(sys.argv[1:]))()
        finally:
            sys.stdout.flush()  # a reader that went away shows here, not when the interpreter shuts down
    except QuiltworkError as error:
        print(legible(f"refused: {error.what}\n  why:   {error.why}\n  mend:  {error.mend}"), file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"refused: this command\n  why:   it needs the package '{error.name}', which is not installed\n"
            f"  mend:  Install the extra that brings it: pip install 'quiltwork[{extra}]'.",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"'{error.filename}'" if error.filename else "the file system"
        why = error.strerror or str(error)
        text = f"refused: {where}\n  why:   {why}\n  mend:  Check the path and its permissions."
        print(legible(text), file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        print("interrupted; nothing half-written is left behind", file=sys.stderr)
        sys.exit(1)
