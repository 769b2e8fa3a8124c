"""``quiltwork list``: who is in a composed model, and what of it is whose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.inputs import print_json
from quiltwork.cli.standing import BAD, any_bad, standings
from quiltwork.cli.trusting import PANEL, ShownKeys, ShownRevocations
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite.provenance import Provenance

NAME = "list"
HELP = """Say who is in a composed model, and what of it is whose.

Every party with the digest and the licence of its contribution; of a language model also its slot, which is the number
of its expert, and the bytes of the file that holds its tensors and no one else's. A directory that was changed is
refused; `quiltwork verify` reads every byte of it.

With `--trust` and `--revocations` it also says what was taken back, by whom, when and why; of parties whose
contributions are given with `--contribution`, whether those are signed. Nothing is refused for that, and the exit code
is 0, unless `--strict` is given: then it is 1 if anything is revoked or not signed, also in a base that is a composed
model itself."""
EXAMPLES = """Examples:

`quiltwork list composed`

`quiltwork list composed --trust trust.toml --revocations revoked/ --strict`

`quiltwork list composed --trust trust.toml --contribution acme --contribution globex`"""


def run(
    composed: Annotated[Path, typer.Argument(help="A composed model.")],
    contribution: Annotated[
        list[Path] | None,
        typer.Option(help="Contribution of a party, whose signature is looked at. Repeatable.", rich_help_panel=PANEL),
    ] = None,
    trust: ShownKeys = None,
    revocations: ShownRevocations = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1 if anything is revoked or not signed.", rich_help_panel=PANEL),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Say who is in a composed model, and what of it is whose."""
    from quiltwork.composite import saved_kind
    from quiltwork.composite.provenance import read_provenance

    provenance = read_provenance(composed)
    if strict and trust is None:
        raise InvalidOption("--strict", why="nobody's keys are given", mend="Give --trust, and --revocations.")
    entries = (*provenance.contributions, *provenance.inherited)
    stands = standings(entries, trust, revocations, contribution or [])
    kind = saved_kind(composed)
    found = _language(composed) if kind == "language" else _others(composed, kind, provenance)
    if stands is not None:
        for entry in (*found["parties"], *found.get("inherited", [])):
            entry.update(stands[entry["party"], entry["digest"]])
    if json:
        print_json(found)
    else:
        _print(found)
    if strict and stands is not None and any_bad(stands):
        raise typer.Exit(1)


def _common(path: Path, provenance: Provenance, layout: str) -> dict[str, Any]:
    return {"path": str(path), "layout": layout, "method": provenance.method, "base": provenance.base}


def _language(path: Path) -> dict[str, Any]:
    from quiltwork.composite import saved_layout
    from quiltwork.composite.written import read_written
    from quiltwork.models.checkpoint import party_shard

    written = read_written(path)
    provenance = written.provenance
    parties: list[dict[str, Any]] = []
    for slot, entry in enumerate(provenance.contributions, start=_own_experts(path)):
        shard = written.files.get(party_shard(entry.party))
        _, _, share = entry.party.partition(".")
        named = {"party": entry.party, "owner": entry.owner, "share": share or None}
        apart = {"slot": slot if shard else None, "bytes": shard.bytes if shard else None}
        parties.append(named | {"digest": entry.digest, "licence": entry.licence} | apart)
    return _common(path, provenance, saved_layout(path)) | {
        "base_name": provenance.base_name,
        "public": provenance.public,
        "tuned": provenance.tuned.what if provenance.tuned is not None else None,
        "averaged": provenance.averaged,
        "inherited": [dict(vars(entry)) for entry in provenance.inherited],
        "parties": parties,
        "bytes": sum(record.bytes for record in written.files.values()),
    }


def _own_experts(path: Path) -> int:
    """How many experts the base has itself, which come first: one, if it is no mixture."""
    from quiltwork.composite import open_composite
    from quiltwork.errors import ExportError
    from quiltwork.models.assembly import Experts

    try:
        assembly = open_composite(path).assembly
    except ExportError:  # a sum, in which nobody has a slot
        return 1
    own = assembly.body.own if isinstance(assembly, Experts) else None
    return own.count if own is not None else 1


def _others(path: Path, kind: str, provenance: Provenance) -> dict[str, Any]:
    from quiltwork.compose.reopen import open_any

    open_any(path)
    parties = [{"party": e.party, "digest": e.digest, "licence": e.licence} for e in provenance.contributions]
    return _common(path, provenance, kind) | {"parties": parties}


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=140)
    titles = {"party": "party", "slot": "slot", "digest": "contribution", "licence": "licence", "bytes": "bytes"}
    titles |= {"standing": "standing", "detail": ""}
    shown = [name for name in titles if any(entry.get(name) is not None for entry in found["parties"])]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in shown:
        table.add_column(titles[name], justify="right" if name in ("slot", "bytes") else "left", overflow="fold")
    for entry in found["parties"]:
        table.add_row(*(Text(_word(name, entry.get(name))) for name in shown))
    console.print(Text(_heading(found)))
    console.print(table)
    for entry in found.get("inherited", []):
        if entry.get("standing") in BAD:
            console.print(Text(f"{entry['party']}, in the base, is {entry['standing']}: {entry['detail']}"))


def _word(name: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}".replace(",", " ") if name == "bytes" else str(value)


def _heading(found: dict[str, Any]) -> str:
    base = found.get("base_name") or (f"{found['base'][:19]}…" if found["base"] else None)
    words = [f"{found['method']} ({found['layout']})", *([f"on base {base}"] if base else [])]
    if found.get("tuned"):
        words.append(f"tuned on public text ({found['tuned']}): nobody can leave or join")
    if found.get("inherited"):
        words.append(f"its base holds {', '.join(entry['party'] for entry in found['inherited'])}")
    if found.get("averaged"):
        words.append("its body is an average: nobody can leave or join")
    if found.get("bytes"):
        words.append(f"{_word('bytes', found['bytes'])} bytes in all")
    return "; ".join(words)
