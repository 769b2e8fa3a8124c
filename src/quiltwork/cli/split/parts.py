"""From the words of a plan to modules: a closed list, and a party's own class where the command line trusts it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from torch import Tensor, nn

from quiltwork.cli.split.plan import CodePart, ComponentPart, ComposerPart, LinearPart, MlpPart, SmallCnnPart
from quiltwork.errors import InvalidOption
from quiltwork.models.split.composers import Concatenated, Standardised, mlp


class Grey(nn.Module):
    """Columns ``[b, h * w]`` as images ``[b, 1, h, w]``."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, rows: Tensor) -> Tensor:
        """One channel."""
        return rows.reshape(len(rows), 1, *self.shape)


def component(
    part: ComponentPart, party: str, train: Tensor, root: Path, trusted: Collection[str]
) -> Callable[[], nn.Module]:
    """What builds a party's module; its initial values are drawn when it is called.

    Args:
        part: of the plan.
        party: whose it is.
        train: float32 ``[n, p]``, the party's training rows, for the scales of its columns.
        root: the plan's directory.
        trusted: parties whose own code may run.

    Raises:
        InvalidOption: an image of another size, or code that is not trusted or not there.
    """
    columns = train.shape[1]
    match part:
        case MlpPart():
            return lambda: nn.Sequential(Standardised(train), *mlp(columns, part.width, part.hidden))
        case LinearPart():
            return lambda: nn.Sequential(Standardised(train), *mlp(columns, part.width, []))
        case SmallCnnPart():
            _require_image(part, party, columns)
            return lambda: nn.Sequential(
                Standardised(train),
                Grey(part.shape),
                nn.Conv2d(1, part.channels, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(part.channels * columns, part.width),
            )
        case CodePart():
            return _own_code(part, party, columns, root, trusted)


def composer(part: ComposerPart, widths: Sequence[int], outputs: int) -> nn.Module:
    """The joint composer; a multilayer perceptron unless the plan says otherwise."""
    return Concatenated(mlp(sum(widths), outputs, [] if part.kind == "linear" else part.hidden))


def head(part: ComposerPart, width: int, outputs: int) -> nn.Module:
    """A head of isolated mode; linear unless the plan says otherwise."""
    return mlp(width, outputs, part.hidden) if part.kind == "mlp" else nn.Linear(width, outputs)


def _require_image(part: SmallCnnPart, party: str, columns: int) -> None:
    height, width = part.shape
    if height * width != columns:
        raise InvalidOption(
            f"parties.{party}.component.shape",
            why=f"an image of {height} x {width} has {height * width} pixels, and the party has {columns} columns",
            mend="Correct the shape, or name the columns.",
        )


def _own_code(
    part: CodePart, party: str, columns: int, root: Path, trusted: Collection[str]
) -> Callable[[], nn.Module]:
    place = f"the code of party '{party}', {part.name} of '{part.file}'"
    if party not in trusted:
        raise InvalidOption(
            place,
            why="a plan is data, and does not run code by itself",
            mend=f"Read the file; then say --trust-code {party}. Trust your own party's only.",
        )
    path = (root / part.file).resolve()
    spec = importlib.util.spec_from_file_location(f"quiltwork_plan_{party.replace('-', '_')}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise InvalidOption(place, why="there is no such Python file", mend="Correct the path.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found = getattr(module, part.name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise InvalidOption(place, why="it is no PyTorch module", mend="Name a class that derives from nn.Module.")
    return lambda: found(columns, part.width)
