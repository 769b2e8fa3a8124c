"""Options of ``compose`` that say how weights, mixtures of tables and networks are put together.

Each names the methods that take it and says what they do without it; `quiltwork.cli.routing_options` has those of
routers.
"""

from __future__ import annotations

from typing import Annotated

import typer

TEXT, TABLES, NETWORKS = "Language models", "Mixtures of tables", "Networks"

Scale = Annotated[
    float | None,
    typer.Option(
        help="Factor of the summed changes to the base; prompt_rows: of the rows. "
        "[default: task_arithmetic, dare 0.4; ties, prompt_rows 1]",
        rich_help_panel=TEXT,
    ),
]
Density = Annotated[
    float | None,
    typer.Option(
        help="ties, dare: share of each party's changes that is kept. [default: ties 0.2; dare 0.5]",
        rich_help_panel=TEXT,
    ),
]
Elect = Annotated[
    bool | None,
    typer.Option(
        help="dare: of what is kept, average those who agree on a sign, as ties does. [default: no]",
        rich_help_panel=TEXT,
    ),
]
NExperts = Annotated[
    int | None,
    typer.Option(
        help="reduction: how many experts the result has. [default: the number that describes all in fewest bits]",
        rich_help_panel=TABLES,
    ),
]
Gate = Annotated[
    str | None,
    typer.Option(
        help="reduction: how the result divides inputs among its experts: logit (average of the machines' rules), "
        "projection (fitted to all their experts) or auto. [default: auto]",
        rich_help_panel=TABLES,
    ),
]
Experts = Annotated[
    str | None,
    typer.Option(
        help="reduction: experts nearest to those pooled (transport), or averaged by how sharply rows determine them "
        "(precision). [default: transport]",
        rich_help_panel=TABLES,
    ),
]
Robust = Annotated[
    bool | None,
    typer.Option(help="reduction: leave out local fits that went astray. [default: yes]", rich_help_panel=TABLES),
]
MachineWeights = Annotated[
    str | None,
    typer.Option(
        help="A machine counts by its number of rows (rows), or where it has seen such inputs (evidence). "
        "[default: reduction evidence; ambient rows]",
        rich_help_panel=TABLES,
    ),
]
Divergence = Annotated[
    str | None,
    typer.Option(
        help="middle: how far mixtures are apart: bound, transport or relaxed (a smooth transport). [default: bound]",
        rich_help_panel=TABLES,
    ),
]
Support = Annotated[
    int | None,
    typer.Option(
        help="How many points are drawn from the parties' summaries, to compare mixtures at. "
        "[default: reduction 20000; others 200]",
        rich_help_panel=TABLES,
    ),
]
Seed = Annotated[
    int | None, typer.Option(help="dare, btx, tables: seed of random draws. [default: 0]", rich_help_panel=TABLES)
]
Combining = Annotated[
    str | None,
    typer.Option(
        "--rule",
        help="combine, stitch: what is averaged over networks: probability, logit or rank, or their median; of numbers "
        "mean or median. [default: probability; of numbers mean]",
        rich_help_panel=NETWORKS,
    ),
]
Weighting = Annotated[
    str | None,
    typer.Option(
        help="combine, stitch: networks count alike (uniform) or by who has seen such inputs (evidence); combine: or "
        "by fit on owners' held-out rows (stacked). [default: uniform]",
        rich_help_panel=NETWORKS,
    ),
]
EvidenceOf = Annotated[
    str | None,
    typer.Option(
        "--evidence",
        help="Evidence is read from summaries of all inputs, or of each class: inputs or classes. [default: inputs]",
        rich_help_panel=NETWORKS,
    ),
]
Prior = Annotated[
    str | None,
    typer.Option(
        help="Evidence: before an input is seen, parties count alike (equal) or by their rows. [default: equal]",
        rich_help_panel=NETWORKS,
    ),
]
Pair = Annotated[
    str | None,
    typer.Option(
        help="stitch: whose networks are joined, PARTY,PARTY. [default: all that have statistics]",
        rich_help_panel=NETWORKS,
    ),
]
Points = Annotated[
    str | None,
    typer.Option(
        help="stitch: at which layers of that pair, POINT,POINT. [default: where they fit best]",
        rich_help_panel=NETWORKS,
    ),
]
Mode = Annotated[
    str | None,
    typer.Option(
        help="stitch: what arrives is averaged with what the layer has of its own, or replaces it: average or replace. "
        "[default: average]",
        rich_help_panel=NETWORKS,
    ),
]
Both = Annotated[
    bool | None,
    typer.Option(
        "--both/--one-way",
        help="stitch: join both ways, or the first into the second. [default: both]",
        rich_help_panel=NETWORKS,
    ),
]
Ridge = Annotated[
    float | None,
    typer.Option(
        help="stitch: how strongly the linear maps are held small. [default: best on held-out rows]",
        rich_help_panel=NETWORKS,
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option(
        help="stitch: write so many places to join at below --out, for owners to evaluate, in place of one model.",
        rich_help_panel=NETWORKS,
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        help="gaussian_head: classes have independent coordinates (naive_bayes), one covariance (lda) or one each "
        "(qda). [default: lda]",
        rich_help_panel=NETWORKS,
    ),
]
Shrinkage = Annotated[
    float | None,
    typer.Option(
        help="How far covariances are drawn towards a round one, 0 to 1. [default: gaussian_head 0.01; "
        "residual_lda 0.1]",
        rich_help_panel=NETWORKS,
    ),
]
