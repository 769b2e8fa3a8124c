"""``quiltwork contribute module``: an owner's trained network, as data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import listed, numbers, read_text
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.network_graph import Signature
    from quiltwork.party.examples import Examples

NAME = "module"
HELP = """Publish a network that you trained: a graph over a closed list of operators, and its weights. No code leaves.

Any PyTorch module that torch.export can follow will do. With your inputs beside it, moments of them leave too, which
lets whoever composes tell whose inputs are whose."""
EXAMPLES = """Examples:

`quiltwork contribute module --module model.py:build --weights w.safetensors --shape 1,16,16 --units 0..1 --mean 0.5
--std 0.25 --classes normal,pneumonia --party north --out release/north`

`quiltwork contribute module --module model.pt2 --data scans/ --held-out kept/ --units 0..1 --inputs 1 --point layer2
--point layer3 --party north --out release/north --confine --json`"""


def run(
    module: Annotated[str, typer.Option(help="FILE.pt2, or FILE.py:FUNCTION that gives it in evaluation mode.")],
    units: options.Units,
    party: options.PartyOption,
    out: options.Out,
    weights: Annotated[
        Path | None, typer.Option(help="File of the network's weights (its state dict), as safetensors.")
    ] = None,
    shape: options.Shape = None,
    classes: options.Classes = None,
    outputs: Annotated[
        int | None, typer.Option(help="How many numbers it predicts, where it has no classes. [default: as it gives]")
    ] = None,
    mean: Annotated[str, typer.Option(help="Subtracted from raw inputs, one or one a channel.")] = "0",
    std: Annotated[str, typer.Option(help="What is divided by afterwards, likewise.")] = "1",
    point: Annotated[
        list[str] | None,
        typer.Option(help="Submodule that others may stitch at. Repeatable. [default: all that every path passes]"),
    ] = None,
    embeds: Annotated[
        bool, typer.Option("--embeds", help="It is for taking moments by, public features say, and predicts nothing.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(help="State how many inputs it was trained on. [default: not stated]")
    ] = None,
    note: Annotated[str, typer.Option(help="State how it was trained, in words.")] = "",
    data: options.MaybeData = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled inputs to state accuracy and loss on. Repeatable.", rich_help_panel=options.INPUTS),
    ] = None,
    target: options.Target = None,
    features: options.Features = None,
    size: options.Size = None,
    channels: options.Channels = None,
    embedding: options.EmbeddingText = "random:40",
    inputs: options.InputsText = "none",
    class_moments: options.ClassForm = "none",
    class_noise: options.ClassNoise = None,
    guess: options.Guess = None,
    minimum_rows: options.MinimumRows = 10,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Publish a network that you trained, as data."""
    from quiltwork.party.module_source import source_file

    text = read_text(card, "--card") if card else ""
    opened = [source_file(module), weights, *(data or []), *(held_out or [])]
    with options.sealed_off(opened, out, confine=confine) as sealing:
        from quiltwork.party.module import ModuleOrder, contribute_module
        from quiltwork.party.module_source import load_module

        def read(paths: list[Path] | None) -> Examples | None:
            if not paths:
                return None
            return options.read_examples(
                paths,
                units=units,
                task="classification" if outputs is None else "regression",
                classes=listed(classes) if classes else None,
                target=target,
                features=features,
                shape=options.sizes(shape, "--shape"),
                size=size,
                channels=channels,
            )

        examples, kept = read(data), read(held_out)
        signature = _signature(examples or kept, shape, units, classes, outputs, mean, std)
        spec, _ = options.embedding_of(embedding, None)
        order = ModuleOrder(
            party=party,
            points=point,
            role="embeds" if embeds else "predicts",
            moments=options.moments_order(
                spec, inputs, class_moments, class_noise, guess, minimum_rows, math.prod(signature.shape)
            ),
            rows=rows,
            note=note,
            licence=licence,
            card=text,
        )
        contribution = contribute_module(
            load_module(module, weights), signature, out, order, examples=examples, held_out=kept, overwrite=overwrite
        )
    show(contribution, out, sealing, json=json)


def _signature(
    examples: Examples | None,
    shape: str | None,
    units: str,
    classes: list[str] | None,
    outputs: int | None,
    mean: str,
    std: str,
) -> Signature:
    """What the network takes and gives, as stated or as the data show."""
    from pydantic import ValidationError

    from quiltwork.contribution.network_graph import Signature

    known = tuple(listed(classes)) if classes else None if examples is None or outputs else examples.classes
    due = options.sizes(shape, "--shape") or (None if examples is None else examples.shape)
    if due is None:
        raise InvalidOption("the network's inputs", why="their shape is not stated", mend="Give --shape or --data.")
    if known is None and outputs is None:
        raise InvalidOption(
            "the network's outputs", why="they are not stated", mend="Give --classes, --outputs or labelled --data."
        )
    try:
        return Signature(
            shape=due,
            units=units,
            mean=tuple(numbers(mean, "--mean")),
            std=tuple(numbers(std, "--std")),
            classes=known,
            outputs=len(known) if known else outputs or 0,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise InvalidOption(
            "the network's signature", why=first["msg"].removeprefix("Value error, "), mend="Correct the options."
        ) from error
