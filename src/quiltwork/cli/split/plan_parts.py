"""The parts of a plan of split learning: labels, parties and their components, composer, program, training.

Each is a strict schema: no key unknown, no value coerced. What holds between parts is `quiltwork.cli.split.plan`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Files = Annotated[list[str], Field(min_length=1)]
Sizes = list[Count]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Bounds: TypeAlias = Range | dict[str, Range]


class Part(BaseModel):
    """How every part of a plan is set: no key unknown, no value coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class MlpPart(Part):
    """Linear layers with rectifiers between them, on standardised columns."""

    kind: Literal["mlp"] = "mlp"
    hidden: Sizes = [32]
    width: Count = 16


class LinearPart(Part):
    """One linear map of standardised columns."""

    kind: Literal["linear"]
    width: Count = 16


class SmallCnnPart(Part):
    """Columns as a grey image: one 3 x 3 convolution, a rectifier, a linear map."""

    kind: Literal["small_cnn"]
    shape: Annotated[list[Count], Field(min_length=2, max_length=2)]
    channels: Count = 8
    width: Count = 16


class CodePart(Part):
    """A class of the party's own file, made with the number of columns and the width."""

    kind: Literal["code"]
    file: str
    name: Name
    width: Count = 16


ComponentPart: TypeAlias = Annotated[MlpPart | LinearPart | SmallCnnPart | CodePart, Field(discriminator="kind")]


class PartyPart(Part):
    """One owner: its files, which columns of them, what learns there, and what one of its rows may cost.

    Attributes:
        bounds: publicly known least and greatest value of all columns, or of each by name; columns are then scaled by
            them and not by their own mean and deviation.
        epsilon: record-level budget of what this party releases; its component is then trained at home by DP-SGD.
        delta: at which that is stated.
        clip: largest norm of one row's gradient.
    """

    files: Files
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    component: ComponentPart = MlpPart()
    bounds: Bounds | None = None
    epsilon: Annotated[float, Field(gt=0, le=64)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    clip: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("bounds")
    @classmethod
    def _ascending(cls, bounds: Bounds | None) -> Bounds | None:
        for low, high in bounds.values() if isinstance(bounds, dict) else [bounds] if bounds else []:
            if not low < high:
                raise ValueError(f"[{low:g}, {high:g}] is no range from a lower to a higher number")
        return bounds

    @model_validator(mode="after")
    def _priced(self) -> PartyPart:
        stray = sorted({"delta", "clip"} & self.model_fields_set)
        if self.epsilon is None and stray:
            raise ValueError(f"{stray[0]} says how epsilon is spent, and there is no epsilon")
        return self


class LabelsPart(Part):
    """Where the labels are, and who answers logits."""

    files: Files
    column: str
    task: Literal["classification", "regression"] = "classification"
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    party: str | None = None
    epsilon: Annotated[float, Field(gt=0, le=32)] | None = None


class ComposerPart(Part):
    """What maps activations to logits; a head for each party in isolated mode.

    Attributes:
        sum: joint mode: activations are added up, in the open or under masks, and not put side by side.
    """

    kind: Literal["mlp", "linear"] | None = None
    hidden: Sizes = [32]
    sum: Literal["open", "secure"] | None = None
    outputs: Literal["product", "mean", "median", "stacked"] | None = None
    floor: Annotated[float, Field(lt=0)] | None = None


class _Program(Part):
    """What programs share.

    Attributes:
        operands: the party of each operand, in the program's order; all parties by name, if left out.
    """

    operands: Annotated[list[str], Field(min_length=1)] | None = None

    def sizes(self, operands: int) -> tuple[int, ...]:
        """Number of symbols of each operand.

        Raises:
            ValueError: the program has not so many operands.
        """
        raise NotImplementedError


class _Spread(_Program):
    """Programs of operands with some symbols each.

    Attributes:
        symbols: their number, one for all operands or one for each.
    """

    symbols: Count | Annotated[list[Count], Field(min_length=1)]

    def sizes(self, operands: int) -> tuple[int, ...]:
        """Number of symbols of each operand."""
        found = self.symbols if isinstance(self.symbols, list) else [self.symbols] * operands
        if len(found) != operands:
            raise ValueError(f"program.symbols are of {len(found)} operands, and there are {operands}")
        return tuple(found)


class SumPart(_Spread):
    """The sum of the symbols, or its remainder."""

    kind: Literal["sum"]
    modulus: Count | None = None


class ParityPart(_Program):
    """Whether an odd number of bits is set."""

    kind: Literal["parity"]

    def sizes(self, operands: int) -> tuple[int, ...]:
        """Two for each operand."""
        return (2,) * operands


class ComparisonPart(_Spread):
    """The order of two symbols: -1, 0 or 1."""

    kind: Literal["comparison"]

    def sizes(self, operands: int) -> tuple[int, ...]:
        """Of both operands."""
        if operands != 2:
            raise ValueError(f"program.kind 'comparison' is of two operands, and there are {operands}")
        return super().sizes(operands)


class RulePart(Part):
    """Symbols that some operands may have, by party, and the outcome if all of them do."""

    when: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    then: int | str


class RulesPart(_Spread):
    """The outcome of the first rule that applies."""

    kind: Literal["rules"]
    rules: Annotated[list[RulePart], Field(min_length=1)]
    otherwise: int | str


class TablePart(_Program):
    """The outcome of every combination of symbols, as nested lists."""

    kind: Literal["table"]
    table: Annotated[list[Any], Field(min_length=1)]

    @field_validator("table")
    @classmethod
    def _whole(cls, table: list[Any]) -> list[Any]:
        unnested(table)
        return table

    def sizes(self, operands: int) -> tuple[int, ...]:
        """Lengths of the nested lists."""
        _, found = unnested(self.table)
        if len(found) != operands:
            raise ValueError(f"program.table is of {len(found)} operands, and there are {operands}")
        return found


class ProgramCodePart(_Spread):
    """A function of a file: symbols in, an outcome out.

    Attributes:
        samples: combinations that are drawn for each row where there are too many to go through.
    """

    kind: Literal["code"]
    file: str
    name: Name
    samples: Count = 256


ProgramPart: TypeAlias = Annotated[
    SumPart | ParityPart | ComparisonPart | RulesPart | TablePart | ProgramCodePart, Field(discriminator="kind")
]


class TrainingPart(Part):
    """How it is learned."""

    mode: Literal["isolated", "joint", "program"] = "isolated"
    epochs: Count = 30
    batch_size: Count = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    absence: Share = 0.0
    held_out: Share = 0.2
    precision: Literal["float32", "int8"] = "float32"
    stale: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    processes: bool = False
    timeout: Annotated[float, Field(gt=0)] = 60.0


def unnested(table: Any) -> tuple[list[int | str], tuple[int, ...]]:
    """The cells of nested lists, in the order of writing, and the lengths of the lists.

    Raises:
        ValueError: lists of one level have not one length, or a cell is neither a whole number nor text.

    >>> unnested([[0, 1], [1, "two"]])
    ([0, 1, 1, 'two'], (2, 2))
    """
    if not isinstance(table, list):
        if isinstance(table, bool) or not isinstance(table, int | str):
            raise ValueError(f"a cell is {table!r}, and whole numbers or texts are due")
        return [table], ()
    parts = [unnested(one) for one in table]
    shapes = {shape for _, shape in parts}
    if len(shapes) != 1:
        raise ValueError("its lists are empty, or not of one length")
    return [cell for cells, _ in parts for cell in cells], (len(parts), *shapes.pop())
