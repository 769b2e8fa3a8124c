"""From the words of a plan to modules: a closed list, and a party's own class where the command line trusts it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from torch import Tensor, nn

from quiltwork.cli.split.own_code import own_code
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.plan_parts import Bounds, CodePart, ComposerPart, LinearPart, MlpPart, SmallCnnPart
from quiltwork.errors import InvalidOption
from quiltwork.models.split.composers import Concatenated, Standardised, Summed, mlp


class Grey(nn.Module):
    """Columns ``[b, h * w]`` as images ``[b, 1, h, w]``."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, rows: Tensor) -> Tensor:
        """One channel."""
        return rows.reshape(len(rows), 1, *self.shape)


class Bounded(nn.Module):
    """Columns from publicly known ranges to -1 ... 1; what lies outside is put at the nearest end.

    Constants of the plan, and no buffers: nothing in them is taken from rows.

    Args:
        low: least value of each column.
        high: greatest value of each column.
    """

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        self.low, self.high = tuple(low), tuple(high)

    def forward(self, rows: Tensor) -> Tensor:
        """Scaled columns ``[b, p]``."""
        low, high = rows.new_tensor(self.low), rows.new_tensor(self.high)
        return (2 * (rows - low) / (high - low) - 1).clamp(-1, 1)


def component(
    plan: Plan, party: str, columns: Sequence[str], train: Tensor, root: Path, trusted: Collection[str]
) -> Callable[[], nn.Module]:
    """What builds a party's module; its initial values are drawn when it is called.

    Args:
        plan: whose.
        party: whose it is.
        columns: their names.
        train: float32 ``[n, p]``, the party's training rows, for the scales of its columns where it has no bounds.
        root: the plan's directory.
        trusted: parties whose own code may run.

    Raises:
        InvalidOption: an image of another size, bounds of other columns, or code that is not trusted or not there.
    """
    part, width, count = plan.parties[party].component, plan.widths[party], len(columns)
    bounded = _bounded(plan.parties[party].bounds, party, columns)

    def scaled() -> nn.Module:
        return Standardised(train) if bounded is None else bounded

    match part:
        case MlpPart():
            return lambda: nn.Sequential(scaled(), *mlp(count, width, part.hidden))
        case LinearPart():
            return lambda: nn.Sequential(scaled(), *mlp(count, width, []))
        case SmallCnnPart():
            _require_image(part, party, count)
            return lambda: nn.Sequential(
                scaled(),
                Grey(part.shape),
                nn.Conv2d(1, part.channels, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(part.channels * count, width),
            )
        case CodePart():
            own = _own_module(part, party, count, width, root, trusted)
            return own if bounded is None else lambda: nn.Sequential(bounded, own())


def composer(part: ComposerPart, widths: Sequence[int], outputs: int) -> nn.Module:
    """The joint composer; a multilayer perceptron of activations side by side unless the plan says otherwise."""
    hidden = [] if part.kind == "linear" else part.hidden
    if part.sum is not None:
        return Summed(mlp(widths[0], outputs, hidden))
    return Concatenated(mlp(sum(widths), outputs, hidden))


def head(part: ComposerPart, width: int, outputs: int) -> nn.Module:
    """A head of isolated mode; a multilayer perceptron unless the plan says otherwise."""
    return mlp(width, outputs, [] if part.kind == "linear" else part.hidden)


def _bounded(bounds: Bounds | None, party: str, columns: Sequence[str]) -> Bounded | None:
    """The scaling by a plan's bounds; None where it has none."""
    if bounds is None:
        return None
    ranges = bounds if isinstance(bounds, dict) else dict.fromkeys(columns, bounds)
    if strange := sorted(set(ranges) ^ set(columns)):
        raise InvalidOption(
            f"parties.{party}.bounds",
            why=f"column '{strange[0]}' has {'no bounds' if strange[0] in columns else 'bounds and is not there'}",
            mend="Give one range for all columns, or one for each by name.",
        )
    return Bounded([ranges[name][0] for name in columns], [ranges[name][1] for name in columns])


def _require_image(part: SmallCnnPart, party: str, columns: int) -> None:
    height, width = part.shape
    if height * width != columns:
        raise InvalidOption(
            f"parties.{party}.component.shape",
            why=f"an image of {height} x {width} has {height * width} pixels, and the party has {columns} columns",
            mend="Correct the shape, or name the columns.",
        )


def _own_module(
    part: CodePart, party: str, columns: int, width: int, root: Path, trusted: Collection[str]
) -> Callable[[], nn.Module]:
    place = f"the code of party '{party}', {part.name} of '{part.file}'"
    found = own_code(place, root / part.file, part.name, party, trusted)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise InvalidOption(place, why="it is no PyTorch module", mend="Name a class that derives from nn.Module.")
    return lambda: found(columns, width)
