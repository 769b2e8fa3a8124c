"""``quiltwork verify``: whether contributions are signed by whom they say they are from, and models as written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.inputs import legible, print_json, read_contributions
from quiltwork.cli.trusting import Revocations, TrustFile, refuse_revoked_models, require_revocations, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.signing_keys import VerifyingKey
    from quiltwork.contribution.trust import Trust
    from quiltwork.files import FileRecord

NAME = "verify"
HELP = """Check contributions in full, and their signatures; check composed and merged models in full.

With `--trust`, the key must be that of the contribution's party and count today, and nothing that the `--revocations`
name passes. With `--public-key` or `--certificate`, that key must have made the signature, whatever party is named; of
a certificate the key and the days are used, and nobody's signature on it is checked.

Of a composed model, and of what `quiltwork merge` wrote, every byte of every file is held against what was recorded
when it was written. That finds whatever was changed since, by accident or by someone who did not change the record too:
these are not signed. The revocations of a composed model's parties count if they are given."""
EXAMPLES = """Examples:

`quiltwork verify acme globex --trust trust.toml --revocations revoked/`

`quiltwork verify acme --public-key acme.pem`

`quiltwork verify composed merged`"""


def run(
    directories: Annotated[list[Path], typer.Argument(help="Contributions, or composed or merged models.")],
    trust: TrustFile = None,
    revocations: Revocations = None,
    public_key: Annotated[Path | None, typer.Option(help="File of the public key that must have signed, PEM.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="File of an X.509 certificate whose key must have signed, PEM.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Refuse a contribution of more bytes than this. [default: no limit]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check contributions in full, and their signatures; check composed and merged models in full."""
    from quiltwork.compose.merged import RECORD
    from quiltwork.composite import PROVENANCE

    composed = [path for path in directories if (path / PROVENANCE).is_file()]
    merged = [path for path in directories if path not in composed and (path / RECORD).is_file()]
    paths = [path for path in directories if path not in (*composed, *merged)]
    if sum(one is not None for one in (trust, public_key, certificate)) != 1 and (paths or public_key or certificate):
        what = f" to check {paths[0]}, which is neither a composed nor a merged model" if paths else ""
        raise typer.BadParameter(f"give one of --trust, --public-key and --certificate{what}")
    if (public_key or certificate) and (composed or merged):
        raise InvalidOption(
            f"{'--public-key' if public_key else '--certificate'} for '{(*composed, *merged)[0]}'",
            why="contributions are signed, and composed and merged models are not",
            mend="Verify it without; a composed model's revocations are asked for with --trust and --revocations.",
        )
    if trust is not None and not (paths or composed):
        raise InvalidOption(
            f"--trust for '{merged[0]}'",
            why="a merged model names checkpoints, and no party's contribution",
            mend="Verify it without.",
        )
    opened = trusted(trust, revocations)
    if composed and opened is not None:
        require_revocations(revocations)
        refuse_revoked_models(composed, opened)
    signed = _signed(read_contributions(paths, max_bytes), opened, public_key, certificate) if paths else []
    whole = [*map(_whole, composed), *map(_merged, merged)]
    if json:
        print_json([*signed, *whole])
        return
    for one in signed:
        print(f"{one['party']}: {one['digest']} is signed with key {one['key']}")
    for one in whole:
        print(legible(_told(one)))


def _signed(
    given: list[Contribution], trust: Trust | None, public_key: Path | None, certificate: Path | None
) -> list[dict[str, Any]]:
    """Each contribution with the key that signed it."""
    if trust is not None:
        trust.require(given)
        keys = [trust.signer(one) for one in given]
    else:
        keys = _by_key(given, public_key, certificate)
    return [{"party": c.party, "digest": c.digest, "key": k.fingerprint} for c, k in zip(given, keys, strict=True)]


def _whole(path: Path) -> dict[str, Any]:
    """A composed model of which every byte was read: its parties, and what else lies in its directory."""
    from quiltwork.composite import saved_kind
    from quiltwork.composite.provenance import read_provenance

    found: dict[str, Any] = {"path": str(path), "parties": sorted(set(read_provenance(path).parties))}
    if saved_kind(path) != "language":
        from quiltwork.compose.reopen import open_any

        open_any(path)
        return found
    from quiltwork.composite.written import read_written

    written = read_written(path)
    written.verify()
    return found | _read(written.files, written.foreign())


def _merged(path: Path) -> dict[str, Any]:
    """A merged checkpoint of which every byte was read: what went into it, and what else lies in its directory."""
    from quiltwork.compose.merged import read_merged

    found = read_merged(path)
    found.listed.verify()
    models = {"models": [model.name for model in found.record.models]}
    return {"path": str(path)} | models | _read(found.listed.files, found.listed.foreign())


def _read(files: Mapping[str, FileRecord], foreign: Sequence[str]) -> dict[str, Any]:
    return {"files": len(files), "bytes": sum(one.bytes for one in files.values()), "foreign": list(foreign)}


def _told(one: dict[str, Any]) -> str:
    read = f"{one['files']} files of {one['bytes']} bytes" if "files" in one else "every file"
    made = f"composed of {', '.join(one['parties'])}" if "parties" in one else f"merged of {', '.join(one['models'])}"
    words = f"{one['path']}: {read} are as they were written; {made}"
    return words + (f"; no part of the model: {', '.join(one['foreign'])}" if one.get("foreign") else "")


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
