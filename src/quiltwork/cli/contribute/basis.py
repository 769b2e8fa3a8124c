"""``quiltwork contribute basis``: principal components of public inputs, for all owners to summarise theirs in."""

from __future__ import annotations

from typing import Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import read_text

NAME = "basis"
HELP = """Publish principal components of public inputs as a network of one layer, that owners summarise inputs in.

Never of an owner's own inputs: the directions show them. Each owner then gives this contribution to `quiltwork
contribute moments`, and whoever composes gives it too."""
EXAMPLES = """Examples:

`quiltwork contribute basis --data public.npz --units 0..1 --dimension 40 --party public --out basis`

`quiltwork contribute moments --data scans/ --units 0..1 --embedding module:basis --embedding-network basis
--party north --out release/moments`"""


def run(
    data: options.Data,
    units: options.Units,
    party: options.PartyOption,
    out: options.Out,
    dimension: Annotated[int, typer.Option(help="How many principal components are published.")] = 40,
    target: options.Target = None,
    features: options.Features = None,
    shape: options.Shape = None,
    size: options.Size = None,
    channels: options.Channels = None,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Publish principal components of public inputs, that owners summarise inputs in."""
    text = read_text(card, "--card") if card else ""
    with options.sealed_off(list(data), out, confine=confine) as sealing:
        from quiltwork.party.basis import contribute_basis

        public = options.read_examples(
            data,
            units=units,
            target=target,
            features=features,
            shape=options.sizes(shape, "--shape"),
            size=size,
            channels=channels,
        )
        contribution = contribute_basis(public, out, party, dimension, licence=licence, card=text, overwrite=overwrite)
    show(contribution, out, sealing, json=json)
