"""``quiltwork verify``: whether contributions are signed by whom they say they are from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import print_json, read_contributions
from quiltwork.cli.trusting import Revocations, TrustFile, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.signing_keys import VerifyingKey

NAME = "verify"
HELP = """Check contributions in full, and their signatures.

With `--trust`, the key must be that of the contribution's party and count today, and nothing that the `--revocations`
name passes. With `--public-key` or `--certificate`, that key must have made the signature, whatever party is named; of
a certificate the key and the days are used, and nobody's signature on it is checked."""
EXAMPLES = """Examples:

`quiltwork verify acme globex --trust trust.toml --revocations revoked/`

`quiltwork verify acme --public-key acme.pem`"""


def run(
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories.")],
    trust: TrustFile = None,
    revocations: Revocations = None,
    public_key: Annotated[Path | None, typer.Option(help="Public key, PEM.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="X.509 certificate, PEM.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Refuse a contribution larger than this.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check contributions in full, and their signatures."""
    if sum(one is not None for one in (trust, public_key, certificate)) != 1:
        raise typer.BadParameter("give one of --trust, --public-key and --certificate")
    opened = trusted(trust, revocations)
    given = read_contributions(contributions, max_bytes)
    if opened is not None:
        opened.require(given)
        keys = [opened.signer(one) for one in given]
    else:
        keys = _by_key(given, public_key, certificate)
    found = [{"party": c.party, "digest": c.digest, "key": k.fingerprint} for c, k in zip(given, keys, strict=True)]
    if json:
        print_json(found)
    else:
        for one in found:
            print(f"{one['party']}: {one['digest']} is signed with key {one['key']}")


def _by_key(given: list[Contribution], public_key: Path | None, certificate: Path | None) -> list[VerifyingKey]:
    from datetime import UTC, datetime

    from quiltwork.contribution.signing_keys import read_verifying_key
    from quiltwork.contribution.trust import signer

    path = public_key or certificate
    assert path is not None, "run() has seen that there is one"
    if (b"-----BEGIN CERTIFICATE-----" in path.read_bytes()) != (certificate is not None):
        stated, other = ("--certificate", "--public-key") if certificate else ("--public-key", "--certificate")
        raise InvalidOption(f"{stated} '{path}'", why="it holds the other of the two", mend=f"Give it as {other}.")
    key, today = read_verifying_key(path), datetime.now(UTC).date()
    return [signer(one, [key], today) for one in given]
