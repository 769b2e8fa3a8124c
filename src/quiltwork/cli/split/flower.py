"""``quiltwork split flower``: make the Flower app by which a composer trains with owners on machines of their own.

The app is two files that import this package and do nothing else, so an owner who accepts it runs what is installed on
the own machine. What the composer needs besides, the labels, the invitations and the plan, stays where it is; the app
names the places, and so tells owners their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork import __version__
from quiltwork.cli.inputs import say

if TYPE_CHECKING:
    from quiltwork.cli.split.apart import Orders

NAME = "flower"
HELP = """Make a Flower app that trains a plan with owners on machines of their own.

Each owner hosts its party (`quiltwork split host`) and starts a SuperNode; the composer starts a SuperLink, collects
the invitations in a folder as PARTY.json, makes the app and runs it. The run directory is written by the SuperLink's
machine. docs/sessions.md goes through it machine by machine. A round takes seconds, whatever its size: for tens of
coarse rounds.

Labels stay at the composer: they are randomised first where labels.epsilon says so. What owners are told is what the
session's messages tell, the plan, and the names of the places that the app names."""
EXAMPLES = """Example:

`quiltwork split flower plan.toml --invitations invitations --out run --app app`"""

_PROJECT = """[project]
name = "quiltwork-session"
version = "{version}"
description = "A session of quiltwork: imports what is installed, and brings no code of its own."
license = "Apache-2.0"
dependencies = []

[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[tool.flwr.app]
publisher = "quiltwork"

[tool.flwr.app.components]
serverapp = "quiltwork_session.composer:app"
clientapp = "quiltwork_session.owner:app"

[tool.flwr.app.config]
{config}
"""
_COMPOSER = '''"""The composer, on the SuperLink's machine."""

from quiltwork.cli.split.flower import composer_app

app = composer_app()
'''
_OWNER = '''"""The relay to the owner's own process, on the SuperNode's machine."""

from quiltwork.session.flower_nodes import relay_app

app = relay_app()
'''


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, the same file at all.")],
    invitations: Annotated[Path, typer.Option(help="Folder of the owners' invitations, PARTY.json each.")],
    out: Annotated[Path, typer.Option(help="Run directory that the training is to write.")],
    app: Annotated[Path, typer.Option(help="Directory of the Flower app to make.")],
    save_every: Annotated[int, typer.Option(min=0, help="Rounds between states for resuming; 0 for none.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last state, if there is one.")] = False,
    patience: Annotated[float, typer.Option(help="Seconds until all owners' nodes must be up.")] = 300.0,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Whether the program's own code may run.")] = False,
) -> None:
    """Make a Flower app that trains a plan with owners on machines of their own."""
    from quiltwork.cli.split.apart import Orders, plan_apart
    from quiltwork.cli.split.folder import plan_digest
    from quiltwork.cli.split.invitation import read_invitation
    from quiltwork.files import new_directory

    trusted = ("program",) if trust_code else ()
    known = plan_apart(plan, trusted)
    for party in sorted(known.parties):
        read_invitation(invitations, party, plan_digest(plan.read_bytes()))
    places = (plan.absolute(), invitations.absolute(), out.absolute())
    orders = Orders(*places, save_every, resume, trusted, patience)
    with new_directory(app) as place:
        for name, text in files(orders).items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)
    say(f"wrote '{app}'; run it: FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 flwr run {app} --stream")


def files(orders: Orders) -> dict[str, str]:
    """Text of the app's files, by name."""
    import json

    told = {key: value if isinstance(value, int | float) else _word(value) for key, value in vars(orders).items()}
    # a JSON string without control characters beyond its escapes is a TOML string too
    config = "\n".join(f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in told.items())
    return {
        "pyproject.toml": _PROJECT.format(version=__version__, config=config),
        "quiltwork_session/__init__.py": '"""A session of quiltwork."""\n',
        "quiltwork_session/composer.py": _COMPOSER,
        "quiltwork_session/owner.py": _OWNER,
    }


def _word(value: Path | Sequence[str]) -> str:
    return str(value) if isinstance(value, Path) else ",".join(value)


def composer_app() -> Any:
    """The ``flwr.serverapp.ServerApp`` that trains by the orders in its run's configuration.

    Raises:
        InvalidOption: Flower is not installed.
    """
    from quiltwork.session.flower_wire import flower

    flower()
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        _composed(grid, dict(context.run_config))

    return app


def _composed(grid: Any, config: dict[str, Any]) -> None:
    """Train, and print what `quiltwork split train --json` prints; a refusal is told in full, here at the composer."""
    from quiltwork.cli.inputs import print_json
    from quiltwork.cli.split.apart import Orders, train_apart
    from quiltwork.errors import QuiltworkError

    orders = Orders(
        Path(config["plan"]), Path(config["invitations"]), Path(config["out"]), int(config["save-every"]),
        bool(config["resume"]), tuple(filter(None, str(config["trusted"]).split(","))), float(config["patience"]),
    )  # fmt: skip
    try:
        print_json(train_apart(grid, orders))
    except QuiltworkError as error:
        say(f"refused: {error.what}\n  why:   {error.why}\n  mend:  {error.mend}")
        raise
