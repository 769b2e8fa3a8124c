"""Options of ``compose`` that say how a mixture of experts finds its experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Language models"

TopK = Annotated[
    int | None,
    typer.Option(
        help="How many experts answer a token. [default: all; evidence_full 1]",
        rich_help_panel=PANEL,
    ),
]
Renormalise = Annotated[
    bool | None,
    typer.Option(
        help="Routers of rows: rescale the weights of those that answer to sum to 1. [default: yes]",
        rich_help_panel=PANEL,
    ),
]
Bias = Annotated[
    bool | None,
    typer.Option(
        help="learned_rows, native only: use the biases that the parties learned, which hold their experts "
        "back. [default: no]",
        rich_help_panel=PANEL,
    ),
]
Covariance = Annotated[
    str | None,
    typer.Option(
        help="residual_lda: rows are computed by the covariance of all (pooled) or of public text (public). "
        "[default: pooled]",
        rich_help_panel=PANEL,
    ),
]
Offsets = Annotated[
    bool | None,
    typer.Option(
        help="residual_lda: compute offsets of the rows too, which only the native layout holds. [default: yes]",
        rich_help_panel=PANEL,
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        help="prompt_rows: file of texts that each party should answer, and of those it should not: TOML or "
        "JSON, [PARTY] with positive = [...] and negative = [...].",
        rich_help_panel=PANEL,
    ),
]
PromptPool = Annotated[
    str | None,
    typer.Option(
        help="prompt_rows: a prompt counts by the mean over its tokens or by its last one: mean or last. "
        "[default: mean]",
        rich_help_panel=PANEL,
    ),
]
Rows = Annotated[
    str | None,
    typer.Option(
        help="evidence_rows: which rows stand beside evidence: learned_rows, residual_lda or prompt_rows. "
        "[default: learned_rows]",
        rich_help_panel=PANEL,
    ),
]
RowsShare = Annotated[
    float | None,
    typer.Option(
        help="evidence_rows: factor of what rows say, against evidence. [default: 1]",
        rich_help_panel=PANEL,
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        help="Evidence: a text is read as tokens, or as hashed pairs (bigrams) or triples (trigrams) of them. "
        "[default: bigrams]",
        rich_help_panel=PANEL,
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        help="Evidence, residual_lda: divides what speaks for a party, so that above 1 a token is trusted "
        "less. [default: 1]",
        rich_help_panel=PANEL,
    ),
]
HalfLife = Annotated[
    float | None,
    typer.Option(
        help="Evidence: so many tokens later a token counts half. [default: it never fades]",
        rich_help_panel=PANEL,
    ),
]
Switching = Annotated[
    float | None,
    typer.Option(
        help="Evidence: probability at each token that the author changes, for texts of several. [default: never]",
        rich_help_panel=PANEL,
    ),
]
Floor = Annotated[
    float | None,
    typer.Option(
        help="Evidence: the base answers text that no party explains better than uniform noise by so many nats "
        "a symbol (1 nat = 1.44 bits). [default: none]",
        rich_help_panel=PANEL,
    ),
]
Bound = Annotated[
    float | None,
    typer.Option(
        help="Evidence: most nats by which one symbol may speak for a party against public text. [default: 4]",
        rich_help_panel=PANEL,
    ),
]
MinimumWeight = Annotated[
    float | None,
    typer.Option(
        help="Evidence: an expert of smaller weight is not run. [default: 0.01]",
        rich_help_panel=PANEL,
    ),
]
Smoothing = Annotated[
    float | None,
    typer.Option(
        help="Evidence: is added to every count, so that nothing is impossible. [default: 0.5]",
        rich_help_panel=PANEL,
    ),
]


def prompts_of(path: Path | None) -> dict[str, Any]:
    """What a file of prompts states: ``prompts``, and ``negative`` if there are any for all parties."""
    from quiltwork.cli.prompts import read_prompts

    if path is None:
        return {}
    prompts, negative = read_prompts(path)
    return {"prompts": prompts} | ({"negative": negative} if negative else {})
