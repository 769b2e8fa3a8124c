"""Options of ``compose`` that say how a mixture of experts finds its experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

PANEL = "Language models"

TopK = Annotated[int | None, typer.Option(help="Experts a token.", rich_help_panel=PANEL)]
Renormalise = Annotated[
    bool | None, typer.Option(help="Routers of rows: rescale top-k weights to sum to 1.", rich_help_panel=PANEL)
]
Bias = Annotated[
    bool | None, typer.Option(help="learned_rows: use the parties' negative biases.", rich_help_panel=PANEL)
]
Covariance = Annotated[
    str | None,
    typer.Option(help="residual_lda: pooled over the parties, or the public text's.", rich_help_panel=PANEL),
]
Offsets = Annotated[
    bool | None, typer.Option(help="residual_lda: offsets too, which only native holds.", rich_help_panel=PANEL)
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        help="prompt_rows: TOML or JSON file, [PARTY] positive = [...], negative = [...].", rich_help_panel=PANEL
    ),
]
PromptPool = Annotated[
    str | None, typer.Option(help="prompt_rows: mean or last token of a prompt.", rich_help_panel=PANEL)
]
Rows = Annotated[
    str | None,
    typer.Option(
        help="evidence_rows: learned_rows, residual_lda or prompt_rows. [default: learned_rows]", rich_help_panel=PANEL
    ),
]
RowsShare = Annotated[
    float | None, typer.Option(help="evidence_rows: weight of the rows' logits.", rich_help_panel=PANEL)
]
Features = Annotated[
    str | None, typer.Option(help="Evidence: tokens, bigrams or trigrams. [default: bigrams]", rich_help_panel=PANEL)
]
Temperature = Annotated[
    float | None, typer.Option(help="Divides log-likelihoods; residual_lda: its logits.", rich_help_panel=PANEL)
]
HalfLife = Annotated[
    float | None, typer.Option(help="Evidence: tokens until evidence counts half.", rich_help_panel=PANEL)
]
Switching = Annotated[
    float | None, typer.Option(help="Evidence: probability a token that the author changes.", rich_help_panel=PANEL)
]
Floor = Annotated[
    float | None, typer.Option(help="Evidence: 'none of them', nats above uniform noise.", rich_help_panel=PANEL)
]
Bound = Annotated[
    float | None,
    typer.Option(help="Evidence: nats by which a party may exceed public text at one symbol.", rich_help_panel=PANEL),
]
MinimumWeight = Annotated[
    float | None, typer.Option(help="Evidence: smaller weights are dropped.", rich_help_panel=PANEL)
]
Smoothing = Annotated[float | None, typer.Option(help="Evidence: pseudo-count of each token.", rich_help_panel=PANEL)]


def prompts_of(path: Path | None) -> dict[str, Any]:
    """What a file of prompts states: ``prompts``, and ``negative`` if there are any for all parties."""
    from quiltwork.cli.prompts import read_prompts

    if path is None:
        return {}
    prompts, negative = read_prompts(path)
    return {"prompts": prompts} | ({"negative": negative} if negative else {})
