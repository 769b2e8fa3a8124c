"""``quiltwork contribute transfer``: an owner's network takes up what another's knows better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import read_text
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, trusted

NAME = "transfer"
HELP = """Let your network take up what a published one knows better, on your inputs, here.

Where the teacher is the surer of the two it is followed, elsewhere your network is held where it was. What leaves is a
new network of the same graph, which names the contributions that it rests on. An interrupted run goes on when the same
command is given again."""
EXAMPLES = """Examples:

`quiltwork contribute transfer --student north --teacher south --data scans/ --party north --out release/taught`

`quiltwork contribute transfer --student north --teacher south --data unlabelled.npz --no-labels --party north
--out release/taught --confine --json`"""


def run(
    student: Annotated[Path, typer.Option(help="Contribution that holds the network to teach.")],
    teacher: Annotated[Path, typer.Option(help="Contribution whose network teaches.")],
    data: options.Data,
    party: options.PartyOption,
    out: options.Out,
    labels: Annotated[
        bool, typer.Option(help="Surer of the true class; else of the likeliest, which is much worse.")
    ] = True,
    temperature: Annotated[float, typer.Option(help="Divides both networks' logits.")] = 1.0,
    steps: Annotated[int, typer.Option(help="How many optimiser steps are taken.")] = 300,
    batch_size: Annotated[int, typer.Option(help="How many inputs a step sees.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="At the first step; it falls to zero.")] = 1e-4,
    weight_decay: Annotated[
        float, typer.Option(help="How strongly the optimiser (AdamW) draws weights to zero.")
    ] = 0.0,
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
    """Let your network take up what a published one knows better, on your inputs, here."""
    text = read_text(card, "--card") if card else ""
    whom = trusted(trust, revocations)
    with options.sealed_off([student, teacher, *data], out, confine=confine) as sealing:
        from quiltwork.party.steps import StepPlan
        from quiltwork.party.transfer import TransferOrder, contribute_transfer

        taught, teaching = read_trusted([student, teacher], whom)
        task, _ = (options.task_of_networks([one]) for one in (taught, teaching))
        examples = options.examples_of_task(
            data, task, labelled=labels, target=target, features=features, size=size, channels=channels
        )
        plan = StepPlan(
            steps=steps, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed
        )
        contribution = contribute_transfer(
            taught,
            teaching,
            examples,
            out,
            TransferOrder(party, supervised=labels, temperature=temperature, plan=plan, licence=licence, card=text),
            state=state or out.with_name(out.name + ".state"),
            overwrite=overwrite,
            show=not json,
        )
    show(contribution, out, sealing, json=json)
