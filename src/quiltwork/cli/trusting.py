"""What several verbs ask about signatures: whom to trust, and what was taken back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import public_text, read_contributions, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import PublicText
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.signing_keys import SigningKey
    from quiltwork.contribution.trust import Trust
    from quiltwork.models.base import Base

PANEL = "Signatures"
TrustFile = Annotated[
    Path | None,
    typer.Option("--trust", help="File of parties' keys; what they have not signed is refused.", rich_help_panel=PANEL),
]
"""``--trust`` where contributions come in."""

Revocations = Annotated[
    list[Path] | None,
    typer.Option(
        "--revocations",
        help="Revocation, or directory of them; what they name is refused. Repeatable.",
        rich_help_panel=PANEL,
    ),
]
"""``--revocations``, which needs ``--trust``."""

RevocationKeys = Annotated[
    Path | None,
    typer.Option("--trust", help="File of parties' keys, to tell whose revocations are.", rich_help_panel=PANEL),
]
"""``--trust`` where a composed model is opened: it holds no signatures."""

ShownKeys = Annotated[
    Path | None,
    typer.Option(
        "--trust", help="File of parties' keys, to tell what is signed and taken back.", rich_help_panel=PANEL
    ),
]
"""``--trust`` where contributions and composed models are shown, and refused by nobody."""

ShownRevocations = Annotated[
    list[Path] | None,
    typer.Option(
        "--revocations",
        help="Revocation, or directory of them; what they name is marked. Repeatable.",
        rich_help_panel=PANEL,
    ),
]
"""``--revocations`` in the same places."""

PASSWORD = "QUILTWORK_KEY_PASSWORD"
Key = Annotated[
    Path, typer.Option("--key", help=f"File of your private key, PEM; its password is read from ${PASSWORD}.")
]
"""``--key`` of an owner."""


def signing_key(path: Path) -> SigningKey:
    """An owner's private key.

    Raises:
        InvalidOption: it cannot be read, or is of another kind.
    """
    from quiltwork.contribution.signing_keys import read_signing_key

    return read_signing_key(path, os.environ.get(PASSWORD) or None)


def trusted(trust: Path | None, revocations: Sequence[Path] | None) -> Trust | None:
    """Whom to trust as the options say, None if they say nothing; files that are no revocation are told.

    Raises:
        InvalidOption: revocations are given without a trust file, or a file cannot be used.
        MalformedContribution: a revocation cannot be read.
    """
    if trust is None:
        if revocations:
            raise InvalidOption(
                "--revocations",
                why="a revocation is its party's where the party's key made it, and no keys are given",
                mend="Name the file of parties' keys with --trust.",
            )
        return None
    from quiltwork.contribution.trust import open_trust

    opened = open_trust(trust, revocations=revocations or ())
    for note in opened.notes:
        say(f"note: {note}")
    return opened


def read_trusted(paths: Sequence[Path], trust: Trust | None) -> list[Contribution]:
    """Contributions that are read to be used, and trusted if somebody is asked for.

    Raises:
        InvalidOption, QuiltworkError: as `read_contributions`.
        UntrustedContribution, RevokedContribution: as `Trust.require`.
    """
    given = read_contributions(paths)
    if trust is not None:
        trust.require(given)
    return given


def trusted_public(
    paths: Sequence[Path], base: Base, trust: Trust | None, *, moments: bool
) -> PublicText | Contribution | None:
    """What describes public text, as `public_text` gives it; a contribution is trusted like any other."""
    from quiltwork.contribution.sealed import Contribution

    public = public_text(paths, base, moments=moments)
    if trust is not None and isinstance(public, Contribution):
        trust.require([public])
    return public


def refuse_inherited(base: Path, trust: Trust | None) -> None:
    """Refuse a base that is a composed model and holds what a party took back.

    Raises:
        RevokedContribution: it does.
        CheckpointError: it is one, and is not as it was written.
    """
    if trust is not None:
        from quiltwork.composite import provenance
        from quiltwork.composite.written import inherited_from

        provenance.refuse_inherited(inherited_from(base), trust)


def refuse_revoked(
    models: Mapping[str, Path] | Sequence[Path],
    trust: Path | None,
    revocations: Sequence[Path] | None,
    contributions: Sequence[Path] = (),
) -> None:
    """Refuse composed models, and contributions, of which a party took something back; others pass.

    Raises:
        RevokedContribution: one did.
        InvalidOption: only one of the two options is given, or a file cannot be used.
        CheckpointError: a model's provenance cannot be read.
    """
    opened = trusted(trust, revocations)
    if opened is None:
        return
    require_revocations(revocations)
    refuse_revoked_models(list(models.values()) if isinstance(models, Mapping) else models, opened)
    for contribution in read_contributions(contributions):
        opened.refuse_revoked(contribution.party, contribution.digest)


def require_revocations(revocations: Sequence[Path] | None) -> None:
    """Refuse keys alone, where composed models are asked about.

    Raises:
        InvalidOption: there are no revocations.
    """
    if not revocations:
        raise InvalidOption(
            "--trust",
            why="a composed model holds no signatures, so keys alone say nothing about it",
            mend="Give --revocations too, or ask for signatures when composing.",
        )


def refuse_revoked_models(paths: Sequence[Path], trust: Trust | None) -> None:
    """Refuse composed models of which a party took something back; what is no composed model passes.

    Raises:
        RevokedContribution: one did.
        CheckpointError: a model's provenance cannot be read.
    """
    if trust is None:
        return
    from quiltwork.composite import PROVENANCE
    from quiltwork.composite.provenance import read_provenance

    for path in paths:
        if (path / PROVENANCE).is_file():
            read_provenance(path).refuse_revoked(trust)
