"""``quiltwork split host``: the owner's side of a session between machines, a process that stays until it is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import say
from quiltwork.errors import InvalidOption, StorageError

if TYPE_CHECKING:
    from quiltwork.cli.split.invitation import Invitation
    from quiltwork.cli.split.owner import Owner
    from quiltwork.cli.split.plan import Plan
    from quiltwork.session.channel import PairKeys

NAME = "host"
HELP = """Host one party of a plan on its owner's machine, until the session is over.

The party's component lives in a sealed process that opens its own files only. It listens at a socket in a directory
that this user alone may enter; the app of the owner's Flower node relays frames to it and sees nothing else. Other
parties' files are not needed here, nor the labels.

An invitation is written for the composer: two secret keys for this session, names of the columns, the number of rows
and a keyed digest of their ids. Carry it on a way that both trust, not over Flower; whoever has it can speak as either
end. A new one is drawn at each start.

States, and at the end the component, are saved in --folder; a session that was interrupted goes on from there if the
party is hosted again with the same folder.

Where composer.sum is "secure", the composer sees sums under masks that owners agree on: --identity, --roster, and
`quiltwork split identity`."""
EXAMPLES = """Example:

`quiltwork split host plan.toml --party bank --socket ~/quilt/bank --folder bank-states --invitation bank.json`"""


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, the same file at all.")],
    party: Annotated[str, typer.Option(help="Which party of the plan this is.")],
    socket: Annotated[Path, typer.Option(help="Where to listen; its directory is made, or is this user's alone.")],
    folder: Annotated[Path, typer.Option(help="Where states and the component go.")],
    invitation: Annotated[Path, typer.Option(help="File to write for the composer.")],
    patience: Annotated[float, typer.Option(help="Seconds without a message after which to give up.")] = 3600.0,
    identity: Annotated[
        Path | None, typer.Option(help="For sums under masks: this party's, by split identity.")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(help="Likewise: folder of PARTY.pub, the public halves of all.")
    ] = None,
    trust_code: Annotated[bool, typer.Option("--trust-code", help="Whether the party's own code may run.")] = False,
) -> None:
    """Host one party of a plan until the session is over."""
    from quiltwork.cli.split.apart import owners_plan
    from quiltwork.cli.split.build import words
    from quiltwork.cli.split.identity import seat_of
    from quiltwork.session.channel import PairKeys
    from quiltwork.session.resident import Resident

    if not patience > 0:
        raise InvalidOption(f"--patience {patience}", why="nobody comes in no time", mend="Give seconds.")
    if invitation.exists():
        raise StorageError(
            f"invitation '{invitation}'", why="it is of a session that may go on", mend="End that, or remove the file."
        )
    trusted = (party,) if trust_code else ()
    known, keys = owners_plan(plan), PairKeys.fresh()
    owner, card = _opened(known, plan, party, (folder, trusted), keys)
    owner = replace(owner, seat=seat_of(known, party, identity, roster))
    # what a component says does not depend on the number of classes, which only the composer knows
    terms = words(known, 1)[party]
    timeout = known.training.timeout
    with Resident(party, owner, terms, keys, socket.absolute(), timeout=timeout, folder=folder) as resident:
        card.model_copy(update={"sealing": resident.sealing}).write(invitation)
        say(f"party '{party}' is ready, {resident.sealing}; carry '{invitation}' to the composer, not over Flower")
        try:
            resident.serve(patience)
        finally:
            # its keys are spent
            invitation.unlink(missing_ok=True)
    say(f"the session is over; what was saved is in '{folder}'")


def _opened(
    plan: Plan, path: Path, party: str, places: tuple[Path, tuple[str, ...]], keys: PairKeys
) -> tuple[Owner, Invitation]:
    """What the party's process begins with, and the invitation; the columns' values are not read here.

    Raises:
        InvalidOption: the plan has no such party, or the label is among its columns.
        FragmentError: its files cannot be used, or an id appears twice.
    """
    import numpy as np

    from quiltwork.cli.split.build import parted
    from quiltwork.cli.split.folder import plan_digest
    from quiltwork.cli.split.invitation import Invitation, ids_digest
    from quiltwork.cli.split.owner import Owner
    from quiltwork.cli.split.rows import read_names, require_no_label
    from quiltwork.party.alignment import SameRows

    if party not in plan.parties:
        raise InvalidOption(
            f"party '{party}'", why="the plan has it not", mend=f"The parties: {', '.join(sorted(plan.parties))}."
        )
    root, (folder, trusted) = path.parent.resolve(), places
    table = read_names(plan.parties[party], plan.id, root)
    require_no_label(plan, {party: table}, root)
    count, ids = len(table.values), table.ids
    order = np.arange(count) if ids is None else SameRows().positions({party: ids})[party]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    train, _ = parted(plan, count)
    owner = Owner(plan, party, root, table.names, order, train, trusted, folder.resolve())
    agreed = None if ids is None else ids_digest([ids[row] for row in order], keys)
    card = Invitation(
        party=party, plan=plan_digest(path.read_bytes()), down=keys.down.hex(), up=keys.up.hex(), sealing="not sealed",
        columns=list(table.names), cases=count, ids=agreed,
    )  # fmt: skip
    return owner, card
