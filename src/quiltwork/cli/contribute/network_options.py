"""The options that the kinds about networks share: where inputs lie, what they are, which moments leave."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.contribute.sealing import seal
from quiltwork.cli.inputs import listed, named, numbers, say
from quiltwork.errors import InvalidOption, MissingPart

if TYPE_CHECKING:
    from quiltwork.contribution.networks import TaskReference
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.evidence.clipped import ClippedGaussian
    from quiltwork.evidence.embedding import Embedding
    from quiltwork.models.network.network import Network
    from quiltwork.party.examples import Examples
    from quiltwork.party.input_moments import MomentsOrder

INPUTS = "Your inputs"
MOMENTS = "Moments of your inputs"

Data = Annotated[
    list[Path],
    typer.Option(
        help="An .npz of inputs and labels, a directory of class directories of images, or a table. Repeatable.",
        rich_help_panel=INPUTS,
    ),
]
MaybeData = Annotated[
    list[Path] | None,
    typer.Option(
        help="An .npz of inputs and labels, a directory of class directories of images, or a table. Repeatable.",
        rich_help_panel=INPUTS,
    ),
]
Target = Annotated[
    list[str] | None, typer.Option(help="Column of the labels, where the data are a table.", rich_help_panel=INPUTS)
]
Features = Annotated[
    list[str] | None,
    typer.Option(help="Columns of a table to read, separated by commas. [default: all others]", rich_help_panel=INPUTS),
]
Size = Annotated[
    str | None, typer.Option(help="Bring image files to HEIGHT,WIDTH.", metavar="H,W", rich_help_panel=INPUTS)
]
Channels = Annotated[
    int | None,
    typer.Option(help="Bring image files to 1 or 3 channels. [default: as they are]", rich_help_panel=INPUTS),
]
Units = Annotated[
    str,
    typer.Option(help="Units of raw inputs, the same for all parties; 0..1 and the like bound them."),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(help="All labels that any party has, in their order, separated by commas. [default: yours]"),
]
Shape = Annotated[
    str | None, typer.Option(help="Shape of one input, such as 1,16,16 or 20. [default: of the data]", metavar="C,H,W")
]
PartyOption = Annotated[str, typer.Option(help="Your name in the composed model: a-z, 0-9, - and _.")]
Out = Annotated[Path, typer.Option(help="Directory to write.")]
Licence = Annotated[str, typer.Option(help="Licence of the contribution (SPDX).")]
CardFile = Annotated[Path | None, typer.Option(help="File with free text for whoever composes.")]
Confine = Annotated[
    bool, typer.Option(help="Seal this process: it can open what is named here and the directory it writes to.")
]
Overwrite = Annotated[bool, typer.Option(help="Replace an existing contribution.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EmbeddingText = Annotated[
    str,
    typer.Option(
        help="Space that inputs are summarised in, the same for all parties: random:40, random:40,seed=1, identity, or "
        "module:POINT of the network given with --embedding-network.",
        rich_help_panel=MOMENTS,
    ),
]
EmbeddingNetwork = Annotated[
    Path | None, typer.Option(help="Contribution whose network embeds inputs.", rich_help_panel=MOMENTS)
]
InputsText = Annotated[
    str,
    typer.Option(
        help="Summary of all inputs: none, the number of its Gaussians, or gaussian:epsilon=1,delta=1e-6,clip=3.",
        rich_help_panel=MOMENTS,
    ),
]
ClassForm = Annotated[
    str,
    typer.Option(
        help="Summary of each class: none, pooled (one covariance) or per_class.",
        rich_help_panel=MOMENTS,
    ),
]
ClassNoise = Annotated[
    str | None,
    typer.Option(help="Noise on it: gaussian:epsilon=1,delta=1e-6,clip=3. [default: exact]", rich_help_panel=MOMENTS),
]
Guess = Annotated[
    str | None,
    typer.Option(
        help="CENTRE,SCALE of the numbers of an embedded input, for noise; from public knowledge, never your rows.",
        rich_help_panel=MOMENTS,
    ),
]
MinimumRows = Annotated[int, typer.Option(help="Groups and classes of fewer rows are not shown.")]


def sizes(text: str | None, what: str) -> tuple[int, ...] | None:
    """Whole numbers separated by commas.

    Raises:
        InvalidOption: they are none, or not positive.
    """
    if text is None:
        return None
    found = numbers(text, what)
    if any(one != int(one) or one < 1 for one in found):
        raise InvalidOption(f"{what} '{text}'", why="sizes are positive whole numbers", mend=f"Write {what} 1,16,16.")
    return tuple(int(one) for one in found)


def read_examples(
    data: Sequence[Path],
    *,
    units: str,
    task: str = "classification",
    classes: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    shape: tuple[int, ...] | None = None,
    size: str | None = None,
    channels: int | None = None,
) -> Examples:
    """The owner's inputs; raises as `quiltwork.party.images.open_examples`."""
    from quiltwork.party.images import open_examples

    pair = sizes(size, "--size")
    if pair is not None and len(pair) != 2:
        raise InvalidOption(f"--size '{size}'", why="it is not a height and a width", mend="Write --size 16,16, say.")
    return open_examples(
        data,
        units=units,
        task=task,  # type: ignore[arg-type]
        classes=classes,
        target=list(target or ()),
        features=listed(features) if features else None,
        shape=shape,
        size=None if pair is None else (pair[0], pair[1]),
        channels=channels,
    )


def examples_of_task(data: Sequence[Path], task: TaskReference, *, labelled: bool = True, **options: Any) -> Examples:
    """The owner's inputs as a published network's task has them: its units, classes and shape."""
    kind = "classification" if task.classes is not None or not labelled else "regression"
    return read_examples(
        data, units=task.units, task=kind, classes=task.classes, shape=_reshaped(data, task.shape), **options
    )


def task_of_networks(published: Sequence[Contribution]) -> TaskReference:
    """The task of the first of some published networks.

    Raises:
        MissingPart: it is no contribution of a network.
    """
    from quiltwork.contribution.network_manifests import ModuleManifest

    first = published[0].manifest
    if not isinstance(first, ModuleManifest):
        raise MissingPart(
            "part 'module'",
            why=f"the contribution '{published[0].path}' is of kind '{first.kind}'",
            mend="Give contributions that quiltwork contribute module wrote.",
        )
    return first.task


def points_of_parties(arguments: Sequence[str], parties: Sequence[str]) -> dict[str, list[str]]:
    """``PARTY=POINT`` arguments, by party.

    Raises:
        InvalidOption: one names no party of these.
    """
    found: dict[str, list[str]] = {}
    for argument in arguments:
        party, point = named(argument, "--point")
        if party not in parties:
            raise InvalidOption(
                f"--point {argument}", why=f"no network is of party '{party}'", mend=f"One of {', '.join(parties)}."
            )
        found.setdefault(party, []).append(point)
    return found


def _reshaped(data: Sequence[Path], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape for files of vectors; images have their own."""
    return None if len(data) == 1 and (data[0].is_dir() or data[0].suffix.lower() == ".npz") else shape


def moments_order(
    embedding: Embedding,
    inputs: str,
    classes: str,
    classes_noise: str | None,
    guess: str | None,
    minimum_rows: int,
    numbers_of_input: int,
) -> MomentsOrder | None:
    """Which moments leave, or None if none do."""
    from quiltwork.evidence.embedding import width
    from quiltwork.party.input_moments import MomentsOrder

    if inputs == classes == "none":
        return None
    d = width(embedding, numbers_of_input)
    return MomentsOrder(
        embedding=embedding,
        inputs=_inputs(inputs, guess, d),
        classes=None if classes == "none" else classes,  # type: ignore[arg-type]
        classes_noise=None if classes_noise is None else _rule(classes_noise, guess, d),
        minimum_rows=minimum_rows,
    )


def _inputs(text: str, guess: str | None, d: int) -> int | ClippedGaussian | None:
    if text == "none":
        return None
    if ":" in text:
        return _rule(text, guess, d)
    if not text.isdigit():
        raise InvalidOption(
            f"--inputs '{text}'", why="it is no such summary", mend="none, a number, or gaussian:epsilon=1,delta=1e-6."
        )
    return int(text)


def _rule(text: str, guess: str | None, d: int) -> ClippedGaussian:
    import numpy as np

    from quiltwork.evidence.clipped import ClippedGaussian

    pair = [] if guess is None else numbers(guess, "--guess")
    if len(pair) != 2:
        raise InvalidOption(
            "--guess", why="noise needs one centre and one scale", mend="Write --guess 0,0.5, from public knowledge."
        )
    return ClippedGaussian.from_text(text, np.full(d, pair[0]), np.full(d, pair[1]))


def embedding_of(text: str, network: Contribution | None) -> tuple[Embedding, Network | None]:
    """The embedding that ``random:40``, ``identity`` or ``module:POINT`` spells, and its network.

    Raises:
        InvalidOption: the text spells none, or the network is missing.
    """
    from quiltwork.evidence.embedding import IdentityEmbedding, ModuleEmbedding
    from quiltwork.models.network.opening import open_network

    kind, _, rest = text.partition(":")
    if kind == "identity" and not rest:
        return IdentityEmbedding(), None
    if kind == "random":
        return _random(text, rest), None
    if kind != "module" or not rest or network is None:
        raise InvalidOption(
            f"--embedding '{text}'",
            why="it is no embedding, or the network for it is not given",
            mend="random:40, identity, or module:POINT with --embedding-network DIRECTORY.",
        )
    opened = open_network(network)
    width = opened.point(rest).channels
    return ModuleEmbedding(party=network.party, digest=opened.digest, point=rest, dimension=width), opened


def _random(text: str, rest: str) -> Embedding:
    from quiltwork.evidence.embedding import RandomEmbedding

    first, _, seed = (rest or "40").partition(",seed=")
    try:
        return RandomEmbedding(dimension=int(first), seed=int(seed or "0"))
    except ValueError:
        raise InvalidOption(
            f"--embedding '{text}'", why="it is no random projection", mend="random:40 or random:40,seed=1, say."
        ) from None


@contextmanager
def sealed_off(read: Sequence[Path | None], out: Path, *, confine: bool) -> Iterator[str]:
    """Seal the process where asked to, give it a scratch directory, and quieten torch's notes on itself."""
    scratch = out.with_name(f".{out.name}.scratch")
    try:
        level = _sealed([path for path in read if path is not None], out, scratch) if confine else "off"
        say(f"confinement: {level}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield level
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sealed(read: Sequence[Path], out: Path, scratch: Path) -> str:
    """Seal, after the imports that look for temporary directories or start threads."""
    import torch._dynamo
    import torch.export  # noqa: F401

    return seal(read, out, scratch)
