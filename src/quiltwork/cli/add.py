"""``quiltwork add``: let parties join a composed model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli import networks, pooling
from quiltwork.cli import routing_options as opt
from quiltwork.cli.inputs import print_json, public_text, read_contributions, say, weights
from quiltwork.cli.tables import open_mixture, told
from quiltwork.cli.trusting import Revocations, TrustFile, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import Composite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.trust import Trust
    from quiltwork.models.pool import Pool

NAME = "add"
HELP = """Let parties join a composed model.

The result is byte for byte what composing all of them at once would have written, with the method and the options that
the composed model remembers; the contributions that are in it already are not needed. To networks a party that is in
them may hand over more, stitches that it trained, say.

Of a language model, the files of those who are in it already are linked and not copied (`--copy` copies them). Base and
public text are needed only where the method must ask them something; they must be those of the composed model. Prompts
are needed of those who join, where rows are made of prompts. A soup is a sum that nobody can join: compose it again."""
EXAMPLES = """Examples:

`quiltwork add composed machine-9 machine-10 --out composed-of-ten`

`quiltwork add composed acme --weight acme=2 --out composed-with-acme`"""
_TEXT = "Language models"


def run(
    composed: Annotated[Path, typer.Argument(help="A composed model.")],
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories of those who join.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    base: Annotated[
        Path | None, typer.Option(help="Directory of the public base checkpoint.", rich_help_panel=_TEXT)
    ] = None,
    public: Annotated[
        list[Path] | None,
        typer.Option(help="The public text that the model was composed with.", rich_help_panel=_TEXT),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="How much one who joins counts: PARTY=WEIGHT. Repeatable. [default: 1]", rich_help_panel=_TEXT
        ),
    ] = None,
    prompts: opt.PromptFile = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy every file instead of linking it.", rich_help_panel=_TEXT)
    ] = False,
    pool: pooling.PoolDirectory = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Refuse a contribution of more bytes than this. [default: no limit]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let parties join a composed model."""
    from quiltwork.composite import saved_kind
    from quiltwork.files import require_absent

    opened = trusted(trust, revocations)
    kind = saved_kind(composed)
    stated = {"--base": base, "--public": public, "--weight": weight, "--copy": copy, "--pool": pool}
    stated["--prompts"] = prompts
    if kind != "language" and (odd := [name for name, value in stated.items() if value]):
        raise InvalidOption(odd[0], why="it is for language models, and this is none", mend="Leave it out.")
    require_absent(out, overwrite)
    kept = pooling.opened(pool)
    text = kind == "language"
    late = pooling.read_known(contributions, max_bytes, kept) if text else read_contributions(contributions, max_bytes)
    if kind == "language":
        options = {"weights": weights(weight or []), **opt.prompts_of(prompts)}
        result = _text(composed, late, base, public or [], options, opened, out, overwrite, copy, kept)
    elif kind == "network":
        result = _network(composed, late, opened, out, overwrite)
    else:
        result = _tables(composed, late, opened, out, overwrite)
    if json:
        print_json(result)


def _text(
    composed: Path,
    late: list[Contribution],
    base: Path | None,
    public: list[Path],
    options: dict[str, Any],
    trust: Trust | None,
    out: Path,
    overwrite: bool,
    copy: bool,
    pool: Pool | None,
) -> dict[str, Any]:
    from quiltwork.compose.joining_language import joined_language
    from quiltwork.composite import PROVENANCE, open_composite, saved_layout
    from quiltwork.models.base import open_base
    from quiltwork.models.json_files import read_json

    opened = open_base(base) if base is not None else None
    if public and opened is None:
        raise InvalidOption("--public", why="text is read with the base's tokenizer", mend="Give --base too.")
    early = open_composite(composed)
    described = public_text(public, opened, moments=_takes_moments(early)) if opened is not None else None
    whole = joined_language(early, late, base=opened, public=described, trust=trust, **options)
    last = partial(pooling.settle, late)
    whole.save(out, layout=saved_layout(composed), overwrite=overwrite, copy=copy, pool=pool, last=last)
    say(f"wrote {out}: {', '.join(whole.parties)}")
    return read_json(out / PROVENANCE) | {"path": str(out)}


def _takes_moments(composite: Composite) -> bool:
    """Whether the method of a composed model reads moments of public text."""
    from quiltwork.compose.joining_language import remembered

    return "moments" in remembered(composite, {}).needs()


def _network(
    composed: Path, late: list[Contribution], trust: Trust | None, out: Path, overwrite: bool
) -> dict[str, Any]:
    from quiltwork.compose.joining import joined_network

    network = joined_network(networks.open_network(composed), late, trust=trust)
    network.save(out, overwrite=overwrite)
    return networks.told(network, out, late)


def _tables(
    composed: Path, late: list[Contribution], trust: Trust | None, out: Path, overwrite: bool
) -> dict[str, Any]:
    from quiltwork.compose.joining import joined

    whole = joined(open_mixture(composed), late, trust=trust)
    whole.save(out, overwrite=overwrite)
    return told(whole, out)
