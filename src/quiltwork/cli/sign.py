"""``quiltwork sign``: an owner signs its contribution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, require_contribution, say
from quiltwork.cli.trusting import Key, signing_key

NAME = "sign"
HELP = """Sign a contribution with your key.

The contribution is checked in full first. The signature is a bundle of OpenSSF Model Signing over every file, which the
`model-signing` package verifies too. It lies in the directory as contribution.sig; the digest does not change. Give
your public key to those who compose by another way than the contribution."""
EXAMPLES = """Examples:

`openssl ecparam -name prime256v1 -genkey -noout -out acme.key && openssl ec -in acme.key -pubout -out acme.pem`

`quiltwork sign acme --key acme.key`"""


def run(
    contribution: Annotated[Path, typer.Argument(help="Your contribution.")],
    key: Key,
    overwrite: Annotated[bool, typer.Option(help="Replace a signature that is there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Sign a contribution with your key."""
    from quiltwork.contribution.signature import sign
    from quiltwork.contribution.store import read

    require_contribution(contribution)
    secret = signing_key(key)
    checked = read(contribution)
    written, name = sign(checked, secret, overwrite=overwrite), secret.public.fingerprint
    if json:
        print_json({"path": str(written), "party": checked.party, "digest": checked.digest, "key": name})
    else:
        say(f"wrote {written}: {checked.party}, {checked.digest}")
        say(f"signed with key {name}; those who compose need its public half in their trust file")
