"""``quiltwork contribute outputs``: how well published networks do on an owner's labelled inputs, as sums."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import read_text
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, trusted

NAME = "outputs"
HELP = """Run published networks over your labelled inputs, and state sums of products of their outputs.

From several owners' sums follow the weights of an ensemble (`quiltwork compose --method combine --weights stacked`).
Use inputs that none of the networks was trained on."""
EXAMPLES = """Example:

`quiltwork contribute outputs --network north --network south --data kept/ --party north --out release/north-outputs`"""


def run(
    network: Annotated[list[Path], typer.Option(help="Contribution that holds a network. Repeatable.")],
    data: options.Data,
    party: options.PartyOption,
    out: options.Out,
    target: options.Target = None,
    features: options.Features = None,
    size: options.Size = None,
    channels: options.Channels = None,
    correct: Annotated[bool, typer.Option(help="State how many of your inputs each network gets right.")] = True,
    minimum_rows: Annotated[int, typer.Option(help="Fewer inputs than this are refused.")] = 50,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Run published networks over your labelled inputs, and state sums of products of their outputs."""
    text = read_text(card, "--card") if card else ""
    whom = trusted(trust, revocations)
    with options.sealed_off([*network, *data], out, confine=confine) as sealing:
        from quiltwork.party.module_outputs import OutputsOrder, contribute_outputs

        published = read_trusted(network, whom)
        examples = options.examples_of_task(
            data, options.task_of_networks(published), target=target, features=features, size=size, channels=channels
        )
        order = OutputsOrder(party, correct=correct, minimum_rows=minimum_rows, licence=licence, card=text)
        contribution = contribute_outputs(published, examples, out, order, overwrite=overwrite)
    show(contribution, out, sealing, json=json)
