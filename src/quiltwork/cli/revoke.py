"""``quiltwork revoke``: an owner takes a contribution back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, require_contribution, say
from quiltwork.cli.trusting import Key, signing_key

NAME = "revoke"
HELP = """Take a contribution back: write a signed, dated statement that you did, and why.

Give the file to all who compose or use the contribution. Whoever names it with `--revocations`, and has your key in a
trust file, is refused the contribution and every composed model that holds it. It recalls no copy. A contribution that
you no longer have is named by its digest with `--digest` and `--party`."""
EXAMPLES = """Examples:

`quiltwork revoke acme --key acme.key --reason "two patients withdrew their consent" --out revoked/acme.revocation`"""


def run(
    key: Key,
    reason: Annotated[str, typer.Option(help="Why you take it back; everybody can read it.")],
    contribution: Annotated[Path | None, typer.Argument(help="Your contribution.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, NAME.revocation. [default: beside the contribution]")
    ] = None,
    digest: Annotated[str | None, typer.Option(help="Digest of the contribution, in place of its directory.")] = None,
    party: Annotated[str | None, typer.Option(help="Your name as a party, with --digest.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take a contribution back."""
    from datetime import UTC, datetime

    from quiltwork.contribution.revocation import SUFFIX, revoke
    from quiltwork.contribution.store import read
    from quiltwork.errors import InvalidOption
    from quiltwork.files import require_absent, write_file

    if (contribution is None) != (digest is not None and party is not None) or (contribution and (digest or party)):
        raise typer.BadParameter("give a contribution, or --digest and --party")
    target = out or Path(f"{contribution.resolve() if contribution else party}{SUFFIX}")
    if target.suffix != SUFFIX:
        why = f"a directory of revocations is searched for files that end in {SUFFIX}"
        raise InvalidOption(f"--out '{target}'", why=why, mend=f"End it in {SUFFIX}.")
    if contribution is not None:
        require_contribution(contribution)
    require_absent(target, overwrite)
    secret, moment = signing_key(key), datetime.now(UTC)
    if contribution is not None:
        checked = read(contribution)
        party, digest = checked.party, checked.digest
    write_file(target, revoke(str(party), str(digest), secret, reason=reason, at=moment))
    if json:
        print_json({"path": str(target), "party": party, "digest": digest, "key": secret.public.fingerprint})
    else:
        say(f"wrote {target}: {party} takes back {digest}, with key {secret.public.fingerprint}")
