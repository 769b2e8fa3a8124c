"""``quiltwork contribute moments``: where an owner's inputs lie, without any network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import listed, read_text
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, trusted
from quiltwork.errors import InvalidOption

NAME = "moments"
HELP = """Summarise your inputs, of all together or class by class: counts, means, covariances. No network, no training.

Moments of classes make a classifier in closed form (`quiltwork compose --method gaussian_head`); moments of all inputs
tell whoever composes whose inputs are whose."""
EXAMPLES = """Examples:

`quiltwork contribute moments --data scans/ --units 0..1 --class-moments pooled --party north --out release/north`

`quiltwork contribute moments --data digits.npz --units 0..1 --class-moments per_class --embedding module:layer3
--embedding-network backbone --party north --out release/north --json`"""


def run(
    data: options.Data,
    units: options.Units,
    party: options.PartyOption,
    out: options.Out,
    classes: options.Classes = None,
    outputs: Annotated[
        int | None,
        typer.Option(help="How many numbers are to be predicted, for inputs without labels. [default: as labels say]"),
    ] = None,
    task: Annotated[str, typer.Option(help="classification, or regression of numbers.")] = "classification",
    shape: options.Shape = None,
    target: options.Target = None,
    features: options.Features = None,
    size: options.Size = None,
    channels: options.Channels = None,
    embedding: options.EmbeddingText = "random:40",
    embedding_network: options.EmbeddingNetwork = None,
    inputs: options.InputsText = "1",
    class_moments: options.ClassForm = "none",
    class_noise: options.ClassNoise = None,
    guess: options.Guess = None,
    minimum_rows: options.MinimumRows = 10,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Summarise your inputs, of all together or class by class."""
    text = read_text(card, "--card") if card else ""
    whom = trusted(trust, revocations)
    opened: list[Path | None] = [*data, embedding_network]
    with options.sealed_off(opened, out, confine=confine) as sealing:
        from quiltwork.party.input_moments import MomentsOrder, contribute_moments
        from quiltwork.party.network_task import task_of

        known = tuple(listed(classes)) if classes else None
        examples = options.read_examples(
            data,
            units=units,
            task=task,
            classes=known,
            target=target,
            features=features,
            shape=options.sizes(shape, "--shape"),
            size=size,
            channels=channels,
        )
        public = read_trusted([embedding_network], whom)[0] if embedding_network else None
        spec, network = options.embedding_of(embedding, public)
        order = options.moments_order(
            spec, inputs, class_moments, class_noise, guess, minimum_rows, math.prod(examples.shape)
        )
        if order is not None and order.noisy and known is None and examples.classes is not None:
            raise InvalidOption(
                "--classes",
                why="they are not declared, and those found among your labels would leave beside the noise, unpriced",
                mend="Declare all labels that any party has, in their order.",
            )
        contribution = contribute_moments(
            examples,
            task_of(examples, known, outputs),
            out,
            party,
            order or MomentsOrder(inputs=None),
            network=network,
            licence=licence,
            card=text,
            overwrite=overwrite,
        )
    show(contribution, out, sealing, json=json)
