"""``quiltwork split identity``: what an owner is known by to the other owners, in sums under masks.

    bank.identity        the private half, 64 hexadecimal digits: stays with the owner
    bank.identity.pub    the public half: to every other owner, from hand to hand and not by way of the composer

A composer who could put in its own keys would be every other owner to each of them, and see each one's values; so the
owners collect the public halves themselves, as PARTY.pub in a folder of each.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import say
from quiltwork.errors import InvalidOption, StorageError

if TYPE_CHECKING:
    from quiltwork.cli.split.plan import Plan
    from quiltwork.sharing.seats import Seat
    from quiltwork.sharing.secure_sum import Identity

NAME = "identity"
HELP = """Draw an identity for sums under masks (composer.sum = "secure") among owners on machines of their own.

Writes the private half, which stays, and beside it with .pub at its end the public half, which every other owner needs.
Hand it over yourself and not by way of the composer: who can change it can see what the masks hide. `split host` takes
both: --identity, and --roster, a folder with PARTY.pub of all parties."""
EXAMPLES = """Example:

`quiltwork split identity --out bank.identity`"""

_HALF = re.compile(r"[0-9a-f]{64}\n?")


def run(
    out: Annotated[Path, typer.Option(help="File to write for the private half; the public one is OUT.pub.")],
) -> None:
    """Draw an identity for sums under masks."""
    from quiltwork.files import write_file

    public = out.with_name(f"{out.name}.pub")
    for path in (out, public):
        if path.exists():
            raise StorageError(f"target '{path}'", why="something is already there", mend="Choose another --out.")
    identity = _library().fresh()
    write_file(out, identity.private.private_bytes_raw().hex() + "\n", private=True)
    write_file(public, identity.public.hex() + "\n")
    say(f"wrote '{out}', which stays, and '{public}' for every other owner")


def seat_of(plan: Plan, party: str, identity: Path | None, roster: Path | None) -> Seat | None:
    """A party's seat, from its own identity and what the other owners handed over; None for a plan without masks.

    Raises:
        InvalidOption: a file is missing or damaged, the folder has another identity for this party, two have the same
            one, or files are given and not wanted.
    """
    if not plan.masked or identity is None or roster is None:
        if plan.masked or identity or roster:
            raise InvalidOption(
                "--identity and --roster",
                why=f"composer.sum is {'' if plan.masked else 'not '}'secure'",
                mend="Give both for sums under masks, made by `quiltwork split identity`, and neither for others.",
            )
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from quiltwork.sharing.seats import Seat

    private = _half(identity)
    public = {name: _half(roster / f"{name}.pub") for name in sorted(plan.parties)}
    if _library()(Ed25519PrivateKey.from_private_bytes(private)).public != public[party]:
        raise _unfit(roster / f"{party}.pub", f"it is not of '{identity}'")
    twice = next((name for name in public if list(public.values()).count(public[name]) > 1), None)
    if twice is not None:
        raise _unfit(roster / f"{twice}.pub", "another party has the same")
    return Seat(party, private, public)


def _library() -> type[Identity]:
    try:
        from quiltwork.sharing.secure_sum import Identity
    except ImportError:
        raise InvalidOption(
            "sums under masks", why="the package cryptography is not installed", mend="Install quiltwork[sharing]."
        ) from None
    return Identity


def _half(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise _unfit(path, "it is not there" if isinstance(error, FileNotFoundError) else "it cannot be read") from None
    if not _HALF.fullmatch(text):
        raise _unfit(path, "it is not 64 hexadecimal digits")
    return bytes.fromhex(text.strip())


def _unfit(path: Path, why: str) -> InvalidOption:
    return InvalidOption(
        f"identity '{path}'", why=why, mend="Ask its owner for the file that `quiltwork split identity` wrote."
    )
