"""``quiltwork contribute checkpoint``: a model that was tuned already becomes a contribution."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.contribute.handover import show
from quiltwork.cli.contribute.sealing import seal_for_text
from quiltwork.cli.inputs import read_text, say
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.party.fragment import Fragment
    from quiltwork.streaming.layout import Dtype

NAME = "checkpoint"
HELP = """Make a contribution of a model that you tuned already, or a smaller one of a contribution of yours.

What leaves is the difference to the base (full), its feed-forward weights (ffn), or the low-rank change nearest to them
(lowrank). Nothing is trained, so no router row leaves: choose evidence, which reads histograms, or whole models."""
EXAMPLES = """Examples:

`quiltwork contribute checkpoint --base BASE --checkpoint TUNED --party acme --out acme`

`quiltwork contribute checkpoint --base BASE --checkpoint TUNED --scope lowrank --rank 64 --drop-rest --data notes/
--party acme --out acme --confine`"""

RANK = 64
_USUAL = {"tokens": "exact", "bigrams": "exact", "trigrams": "none", "moments": "none"}
_DTYPES: dict[str, Dtype | None] = {"base": None, "float32": "F32", "bfloat16": "BF16"}


def run(
    base: Annotated[Path, typer.Option(help="Directory of the public base checkpoint.")],
    checkpoint: Annotated[
        Path, typer.Option(help="Directory of the tuned checkpoint, or of a contribution of yours (ffn or full).")
    ],
    party: Annotated[str, typer.Option(help="Your name in the composed model: a-z, 0-9, - and _.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    scope: Annotated[str, typer.Option(help="What leaves: full, ffn or lowrank, as above.")] = "full",
    rank: Annotated[
        int | None, typer.Option(help="lowrank: columns of the two factors that stand for a change. [default: 64]")
    ] = None,
    drop_rest: Annotated[
        bool, typer.Option("--drop-rest", help="ffn, lowrank: leave out what else was tuned, rather than refuse it.")
    ] = False,
    delta_dtype: Annotated[str, typer.Option(help="full: type of the differences: base, float32, bfloat16.")] = "base",
    share: Annotated[
        str | None, typer.Option(help="Name of this one of several experts of yours: the party is PARTY.SHARE.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="The text that it was tuned on, for the statistics. Repeatable.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Token histogram of --data: as for contribute expert.")] = "exact",
    bigrams: Annotated[str, typer.Option(help="Histogram of hashed pairs of tokens of --data: as --tokens.")] = "exact",
    trigrams: Annotated[
        str, typer.Option(help="Histogram of hashed triples of tokens of --data: as --tokens.")
    ] = "none",
    moments: Annotated[
        str, typer.Option(help="Means and covariances of the base's inner states over --data: none, diagonal or full.")
    ] = "none",
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    licence: Annotated[str, typer.Option(help="Licence of the contribution (SPDX).")] = "LicenseRef-unstated",
    card: Annotated[Path | None, typer.Option(help="File with free text for whoever composes.")] = None,
    confine: Annotated[
        bool, typer.Option(help="Seal this process: it can open the base, the checkpoint, the data and OUT's parent.")
    ] = False,
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing contribution.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a contribution of a model that you tuned already."""
    _require_agreement(scope, rank, drop_rest)
    _require_directory(checkpoint)
    if not data:
        _refuse_statistics({"tokens": tokens, "bigrams": bigrams, "trigrams": trigrams, "moments": moments})
    refuse_revoked([base], trust, revocations)
    text = read_text(card, "--card") if card else ""
    scratch = out.with_name(f".{out.name}.scratch")
    try:
        sealing = seal_for_text([base, checkpoint, *(data or [])], out, scratch) if confine else "off"
        say(f"confinement: {sealing}")
        from quiltwork.evidence.release import release_rule
        from quiltwork.models.base import open_base
        from quiltwork.party.checkpoint import Taking, contribute_checkpoint
        from quiltwork.party.contribute import Order, moments_by_name

        order = Order(
            party=f"{party}.{share}" if share else party,
            tokens=None if tokens == "none" else release_rule(tokens),
            bigrams=None if bigrams == "none" else release_rule(bigrams),
            trigrams=None if trigrams == "none" else release_rule(trigrams),
            moments=moments_by_name(moments),
            licence=licence,
            card=text,
        )
        taking = Taking(scope, RANK if rank is None else rank, drop_rest, _dtype(delta_dtype))  # type: ignore[arg-type]
        fragment = _fragment(data, text_field)
        contribution = contribute_checkpoint(
            open_base(base), checkpoint, out, taking, order, fragment=fragment, overwrite=overwrite, say=say
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    show(contribution, out, sealing, json=json)


def _require_agreement(scope: str, rank: int | None, drop_rest: bool) -> None:
    """Refuse options that the scope does not take."""
    if rank is not None and scope != "lowrank":
        raise InvalidOption(
            f"--rank with the scope {scope}", why="it is an option of lowrank", mend="Leave it out, or choose lowrank."
        )
    if drop_rest and scope == "full":
        raise InvalidOption(
            "--drop-rest with the scope full",
            why="the whole change leaves",
            mend="Leave it out, or choose ffn or lowrank.",
        )


def _require_directory(checkpoint: Path) -> None:
    """Refuse what is no directory before the process seals itself off, which would speak of its own rules."""
    if not checkpoint.is_dir():
        raise InvalidOption(
            f"--checkpoint '{checkpoint}'",
            why="it is a file, and a checkpoint is a directory"
            if checkpoint.exists()
            else "there is no such directory",
            mend="Name the directory of the model that you tuned from --base, or of a contribution of yours.",
        )


def _refuse_statistics(stated: Mapping[str, str]) -> None:
    """Refuse statistics that were asked for in so many words, where there is no text to take them of."""
    for name, value in stated.items():
        if value not in ("none", _USUAL[name]):
            raise InvalidOption(
                f"--{name} {value}", why="there is no text to take it of", mend="Name the text with --data."
            )


def _dtype(name: str) -> Dtype | None:
    if name not in _DTYPES:
        raise InvalidOption(
            f"--delta-dtype {name}", why="differences are not released in it", mend="Use base, float32 or bfloat16."
        )
    return _DTYPES[name]


def _fragment(data: list[Path] | None, text_field: str) -> Fragment | None:
    from quiltwork.party.fragment import open_fragment

    return open_fragment(data, text_field=text_field) if data else None
