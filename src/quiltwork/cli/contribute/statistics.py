"""``quiltwork contribute statistics``: regression statistics of two published networks on an owner's inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.contribute import network_options as options
from quiltwork.cli.contribute.handover import show
from quiltwork.cli.inputs import read_text
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.party.pair_noise import PairNoise

NAME = "statistics"
HELP = """Pass over your inputs through two published networks, and state sums by which they can be stitched together.

What leaves are counts, sums and Gram matrices of activations, for every pair of points; sums of several owners add up
to those of all rows. Labels are not looked at."""
EXAMPLES = """Examples:

`quiltwork contribute statistics --network north --network south --data scans/ --party north --out release/pair`

`quiltwork contribute statistics --network north --network south --data scans/ --point north=layer2 --point south=body.3
--noise gaussian:epsilon=8,delta=1e-6,clip=30 --party north --out release/pair --confine --json`"""


def run(
    network: Annotated[list[Path], typer.Option(help="Contribution that holds a network; two of them.")],
    data: options.Data,
    party: options.PartyOption,
    out: options.Out,
    point: Annotated[
        list[str] | None,
        typer.Option(help="PARTY=POINT that takes part. Repeatable. [default: candidates of each network]"),
    ] = None,
    largest_grid: Annotated[int, typer.Option(help="Pool features to at most so many cells each way; 0: never.")] = 4,
    held_out: Annotated[float, typer.Option(help="Share of rows that strengths of the ridge are chosen by.")] = 0.2,
    noise: Annotated[
        str | None, typer.Option(help="gaussian:epsilon=8,delta=1e-6,clip=30, the clip from public inputs.")
    ] = None,
    minimum_rows: Annotated[
        int | None, typer.Option(help="Fewer inputs are refused. [default: 100, and twice the widest point]")
    ] = None,
    precision: Annotated[str, typer.Option(help="In which a batch is multiplied: float64 or float32.")] = "float64",
    batch: Annotated[int, typer.Option(help="How many inputs are gone through at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the choice of held-out rows.")] = 0,
    target: options.Target = None,
    features: options.Features = None,
    size: options.Size = None,
    channels: options.Channels = None,
    licence: options.Licence = "LicenseRef-unstated",
    card: options.CardFile = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    confine: options.Confine = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """State sums by which two published networks can be stitched together."""
    text = read_text(card, "--card") if card else ""
    whom = trusted(trust, revocations)
    with options.sealed_off([*network, *data], out, confine=confine) as sealing:
        from quiltwork.party.pair_statistics import StatisticsOrder, contribute_pair_statistics

        first, second = sorted(_two(read_trusted(network, whom)), key=lambda one: one.party)
        examples = options.examples_of_task(
            data,
            options.task_of_networks([first, second]),
            labelled=False,
            target=target,
            features=features,
            size=size,
            channels=channels,
        )
        chosen = options.points_of_parties(point or [], (first.party, second.party))
        order = StatisticsOrder(
            party=party,
            points_a=chosen.get(first.party),
            points_b=chosen.get(second.party),
            largest_grid=largest_grid or None,
            held_out=held_out,
            seed=seed,
            minimum_rows=minimum_rows,
            noise=None if noise is None else _noise(noise),
            precision=precision,  # type: ignore[arg-type]
            batch=batch,
            licence=licence,
            card=text,
        )
        contribution = contribute_pair_statistics(
            first, second, examples, out, order, overwrite=overwrite, show=not json
        )
    show(contribution, out, sealing, json=json)


def _two(published: list[Contribution]) -> list[Contribution]:
    if len(published) != 2:
        raise InvalidOption(
            f"{len(published)} networks", why="statistics are of two", mend="Give --network twice, once for each."
        )
    return published


def _noise(text: str) -> PairNoise:
    from quiltwork.evidence.release import named_numbers
    from quiltwork.party.pair_noise import PairNoise

    mechanism, _, rest = text.partition(":")
    if mechanism != "gaussian":
        raise InvalidOption(
            f"--noise '{text}'",
            why="statistics of a pair leave under Gaussian noise, or exactly",
            mend="Write gaussian:epsilon=8,delta=1e-6,clip=30, say.",
        )
    given = named_numbers(text, rest, {"epsilon": None, "delta": None, "clip": None})
    return PairNoise(given["epsilon"], given["delta"], given["clip"])
