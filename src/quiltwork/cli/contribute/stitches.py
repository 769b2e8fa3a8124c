"""``quiltwork contribute stitches``: adapters between published networks, trained on an owner's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import pair_of, read_text
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.models.network.splices import Splice

NAME = "stitches"
HELP = """Train the adapters that join published networks, on your inputs, here. The networks stay as they are.

Adapters start from another owner's, from regression statistics, or from a regression on your own inputs; what leaves
are their weights. An interrupted run goes on when the same command is given again."""
EXAMPLES = """Examples:

`quiltwork contribute stitches --network north --network south --points layer2,body.3 --data scans/ --party north
--out release/stitches`

`quiltwork contribute stitches --network north --network south --start stitches-of-north --loss penultimate
--data scans/ --party south --out release/stitches --confine --json`"""


def run(
    network: Annotated[list[Path], typer.Option(help="Contribution that holds a network. Repeatable.")],
    data: options.Data,
    party: options.PartyOption,
    out: options.Out,
    pair: Annotated[
        str | None, typer.Option(help="PARTY,PARTY to join. [default: the two networks, by name of party]")
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(help="POINT,POINT of that pair. Repeatable. [default: those of --start]"),
    ] = None,
    mode: Annotated[str, typer.Option(help="average, or replace, what the point has of its own.")] = "average",
    both: Annotated[bool, typer.Option("--both/--one-way", help="Both ways, or the first into the second.")] = True,
    statistics: Annotated[
        list[Path] | None, typer.Option(help="Contribution of statistics to start from. Repeatable.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Contribution of stitches to go on from.")] = None,
    loss: Annotated[str, typer.Option(help="task, by labels, or penultimate, without any.")] = "task",
    steps: Annotated[int, typer.Option(help="How many optimiser steps are taken.")] = 300,
    batch_size: Annotated[int, typer.Option(help="How many inputs a step sees.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At the first step; it falls to zero.")] = 1e-3,
    weight_decay: Annotated[
        float, typer.Option(help="How strongly the optimiser (AdamW) draws weights to zero.")
    ] = 0.0,
    double: Annotated[bool, typer.Option(help="Train on plain and stitched activations side by side.")] = True,
    losses: Annotated[bool, typer.Option(help="State first and last training loss.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the order of inputs.")] = 0,
    target: options.Target = None,
    features: options.Features = None,
    size: options.Size = None,
    channels: options.Channels = None,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    state: Annotated[Path | None, typer.Option(help="Where training keeps its state. [default: OUT.state]")] = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Train the adapters that join published networks, on your inputs, here."""
    text = read_text(card, "--card") if card else ""
    whom = trusted(trust, revocations)
    opened: list[Path | None] = [*network, *data, *(statistics or []), start]
    with options.sealed_off(opened, out, confine=confine) as sealing:
        from quiltwork.party.steps import StepPlan
        from quiltwork.party.stitch_training import StitchOrder, contribute_stitches

        published, sums = read_trusted(network, whom), read_trusted(statistics or [], whom)
        examples = options.examples_of_task(
            data,
            options.task_of_networks(published),
            labelled=loss == "task",
            target=target,
            features=features,
            size=size,
            channels=channels,
        )
        order = StitchOrder(
            party=party,
            splices=[] if start else _splices(_parties(pair, published), points or [], mode, both=both),
            loss=loss,  # type: ignore[arg-type]
            plan=StepPlan(
                steps=steps, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed
            ),
            double=double,
            report_losses=losses,
            licence=licence,
            card=text,
        )
        contribution = contribute_stitches(
            published,
            examples,
            out,
            order,
            statistics=sums,
            start=read_trusted([start], whom)[0] if start else None,
            state=state or out.with_name(out.name + ".state"),
            overwrite=overwrite,
            show=not json,
        )
    show(contribution, out, sealing, json=json)


def _parties(pair: str | None, published: Sequence[Contribution]) -> tuple[str, str]:
    """The pair that is joined; its order is that of points."""
    named = pair_of(pair, "--pair")
    known = sorted(one.party for one in published)
    if named is None and len(known) == 2:
        return known[0], known[1]
    if named is None or not set(named) <= set(known) or named[0] == named[1]:
        raise InvalidOption(
            f"--pair '{pair}'" if pair else "the networks",
            why="which two are joined is not told",
            mend=f"Write --pair ONE,OTHER with two of {', '.join(known)}.",
        )
    return named


def _splices(parties: tuple[str, str], points: Sequence[str], mode: str, *, both: bool) -> tuple[Splice, ...]:
    from quiltwork.models.network.splices import Splice
    from quiltwork.models.network.splices import pair as both_ways

    if not points:
        raise InvalidOption(
            "the points",
            why="none are named",
            mend="Write --points A,B; compose --method stitch ranks them by the statistics of owners.",
        )
    named = [found for text in points if (found := pair_of(text, "--points"))]
    places = [tuple(zip(parties, names, strict=True)) for names in named]
    if both:
        return tuple(splice for one, other in places for splice in both_ways(one, other, mode))  # type: ignore[arg-type]
    return tuple(Splice(other, (one,), mode) for one, other in places)  # type: ignore[arg-type]
