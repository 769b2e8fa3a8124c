"""``quiltwork inspect``: what a contribution or a composed model holds, checked in full."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from quiltwork.cli import network_words, networks
from quiltwork.cli.inputs import print_json, read_contributions, require_contribution, say
from quiltwork.cli.standing import standing, standings
from quiltwork.cli.tables import is_table
from quiltwork.cli.trusting import ShownKeys, ShownRevocations, trusted

NAME = "inspect"
HELP = """Check a contribution in full and say what it holds, what left its party, and at what privacy price.

Also shows the provenance of a composed model. With `--trust` and `--revocations` it says what is signed and what was
taken back; nothing is refused for that."""
EXAMPLES = """Examples:

`quiltwork inspect acme`

`quiltwork inspect composed --json`

`quiltwork inspect acme --trust trust.toml --revocations revoked/`

`quiltwork inspect composed --bom composed.cdx.json`"""


def run(
    directory: Annotated[Path, typer.Argument(help="A contribution or a composed model.")],
    delta: Annotated[
        float, typer.Option(help="Privacy prices are stated as epsilon at this delta: the chance that the bound fails.")
    ] = 1e-6,
    max_bytes: Annotated[
        int | None, typer.Option(help="Refuse a contribution of more bytes than this. [default: no limit]")
    ] = None,
    bom: Annotated[
        Path | None, typer.Option(help="Also write a composed model's bill of materials, CycloneDX, to this file.")
    ] = None,
    trust: ShownKeys = None,
    revocations: ShownRevocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a contribution in full and say what it holds."""
    from quiltwork.composite import PROVENANCE

    if (directory / PROVENANCE).is_file():
        result = _composite(directory)
        stands = _standings(directory, trust, revocations)
    else:
        result = _contribution(directory, delta, max_bytes)
        stands = _standing(directory, trust, revocations)
    if bom is not None:
        _write_bill(directory, bom)
    if json:
        print_json(result | stands)
    else:
        _print(result, stands)


def _contribution(directory: Path, delta: float, max_bytes: int | None) -> dict[str, Any]:
    from quiltwork.contribution.describe import describe
    from quiltwork.contribution.store import read
    from quiltwork.privacy.accountant import price

    require_contribution(directory)
    contribution = read(directory, max_bytes=max_bytes)
    events = contribution.manifest.privacy
    prices = {name: price([e for e in events if e.released == name], delta=delta) for name in _released(events)}
    prices["everything"] = price(events, delta=delta)
    finite = {name: epsilon if math.isfinite(epsilon) else None for name, epsilon in prices.items()}
    return describe(contribution) | {"epsilon": finite, "delta": delta}


def _released(events: Any) -> list[str]:
    return list(dict.fromkeys(event.released for event in events))


def _composite(directory: Path) -> dict[str, Any]:
    """What quiltwork.json says, after the directory is held against it; of a language model, its small files are."""
    from quiltwork.composite import PROVENANCE, Provenance
    from quiltwork.models.json_files import read_json

    value = read_json(directory / PROVENANCE)
    Provenance.from_json(value, directory / PROVENANCE)
    if is_table(directory):
        from quiltwork.compose.reopen import open_table_composite

        open_table_composite(directory)
    elif networks.is_network(directory):
        networks.open_network(directory)
    else:
        from quiltwork.composite.written import read_written

        read_written(directory)
    return value


def _standing(directory: Path, trust: Path | None, revocations: Sequence[Path] | None) -> dict[str, Any]:
    """How a contribution stands, if somebody asked."""
    opened = trusted(trust, revocations)
    if opened is None:
        return {}
    [one] = read_contributions([directory])
    return {"standing": [{"party": one.party, "digest": one.digest} | standing(one.party, one.digest, opened, one)]}


def _standings(directory: Path, trust: Path | None, revocations: Sequence[Path] | None) -> dict[str, Any]:
    """How everything in a composed model stands, its base's parties included, if somebody asked."""
    from quiltwork.composite.provenance import read_provenance

    provenance = read_provenance(directory)
    found = standings((*provenance.contributions, *provenance.inherited), trust, revocations, [])
    if found is None:
        return {}
    return {"standing": [{"party": p, "digest": d} | one for (p, d), one in sorted(found.items())]}


def _write_bill(directory: Path, out: Path) -> None:
    from quiltwork.composite import PROVENANCE
    from quiltwork.errors import InvalidOption
    from quiltwork.files import require_absent, write_file

    if not (directory / PROVENANCE).is_file():
        raise InvalidOption(
            "--bom", why=f"'{directory}' is no composed model", mend="Leave it out, or name a composed model."
        )
    from quiltwork.composite.bom import bill_of_materials

    require_absent(out, overwrite=False)
    write_file(out, bill_of_materials(directory))
    say(f"wrote {out}")


def _print(result: dict[str, Any], stands: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=120)
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (_readable(result) | stands).items():
        if name == "epsilon":
            for part, epsilon in value.items():
                bound = f"epsilon {epsilon:.3g} at delta {result['delta']:g}" if epsilon is not None else "no bound"
                unit = _protected(result["privacy"], part) if epsilon is not None else ""
                table.add_row(f"privacy of {part}", bound + _mechanisms(result["privacy"], part) + unit)
        elif name not in ("delta", "format", "privacy", "releases"):
            table.add_row(name, Text(_words(value)))
    console.print(table)


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    """The same with the table that it is about, and a composed model's parties, in words."""
    if result.get("layout") == "network":
        return networks.readable(result)
    if result.get("task") is not None:
        return network_words.readable(result)
    if result.get("table") is None:
        return result
    table = result["table"]
    columns = [
        f"{name} ({unit})" if unit else name for name, unit in zip(table["features"], table["units"], strict=True)
    ]
    meaning = {"predicts": ", ".join(table["target"]), "from": ", ".join(columns)}
    if table["classes"]:
        meaning["classes"] = ", ".join(table["classes"])
    words = result | {"table": meaning}
    if result.get("layout") != "table":
        return words
    machines = {m["party"]: f"{m['rows']:,} rows, {m['licence']}, {m['digest']}" for m in result["contributions"]}
    steps = result["objective"]
    return {
        "method": {"name": result["method"], **result["options"]},
        "table": meaning,
        "family": result["family"],
        "parties": machines,
        "excluded": result["excluded"] or "none",
        "objective": f"{steps[0]:.6g} to {steps[-1]:.6g} in {len(steps)} steps" if steps else "none",
        "notes": result["notes"],
        "digest": result["digest"],
    }


def _mechanisms(events: list[dict[str, Any]], part: str) -> str:
    """How a part was released, in brackets; nothing for the sum of all parts."""
    names = dict.fromkeys(event["mechanism"] for event in events if event["released"] == part)
    return f" ({', '.join(names)})" if names else ""


def _protected(events: list[dict[str, Any]], part: str) -> str:
    """What a bound is for; the events of a bound protect one unit."""
    units = [event["unit"] for event in events if event["released"] == part] or [event["unit"] for event in events]
    return f", for one {units[0]} more or less" if units else ""


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_inline(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "\n".join(_inline(v) for v in value) or "none"
    return _inline(value)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_inline(v)}" for k, v in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
