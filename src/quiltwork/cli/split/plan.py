"""A plan of split learning: who holds what, what learns there, and how; a TOML file under a strict schema.

    id = "case"                                column of row ids in every file; left out, rows are taken in their order
    align = "same"                             or "common": the cases that all have, by private set intersection

    [labels]
    files = ["labels.csv"]                     paths are relative to the plan's directory
    column = "default"
    task = "classification"                    or "regression"
    party = "registry"                         who answers logits; left out, the composer does
    epsilon = 3.0                              labels are randomised once before the first round; left out, they are not

    [parties.bank]
    files = ["bank.csv"]
    columns = ["income", "debt"]               left out, all but the id
    component = { kind = "mlp", hidden = [32], width = 16 }

    [composer]
    kind = "mlp"                               or "linear"; a head for each party in isolated mode
    outputs = "product"                        isolated: product, mean or median

    [training]
    mode = "isolated"                          or "joint"
    epochs = 30
    processes = true                           a sealed process for each party; left out, all live in one
    timeout = 60.0                             seconds that a party's process may be silent

A key that is not known, of another type or outside its domain is refused by its name; no value of the plan is the
name of something to import, but for ``kind = "code"``, which runs only where the command line trusts it by party.

>>> parsed('[labels]\\nfiles = ["y.csv"]\\ncolumn = "y"\\n[parties.bank]\\nfiles = ["b.csv"]\\nhats = 1', "a plan")
Traceback (most recent call last):
quiltwork.errors.InvalidOption: a plan, key 'parties.bank.hats': Extra inputs are not permitted. Correct the key, or \
leave it out; `quiltwork split train --help` shows a plan.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quiltwork.errors import InvalidOption

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Files = Annotated[list[str], Field(min_length=1)]
Sizes = list[Count]


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
    name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
    width: Count = 16


ComponentPart: TypeAlias = Annotated[MlpPart | LinearPart | SmallCnnPart | CodePart, Field(discriminator="kind")]


class PartyPart(Part):
    """One owner: its files, which columns of them, and what learns there."""

    files: Files
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    component: ComponentPart = MlpPart()


class LabelsPart(Part):
    """Where the labels are, and who answers logits."""

    files: Files
    column: str
    task: Literal["classification", "regression"] = "classification"
    classes: Annotated[list[str], Field(min_length=2)] | None = None
    party: str | None = None
    epsilon: Annotated[float, Field(gt=0, le=32)] | None = None


class ComposerPart(Part):
    """What maps activations to logits; a head for each party in isolated mode."""

    kind: Literal["mlp", "linear"] | None = None
    hidden: Sizes = [32]
    outputs: Literal["product", "mean", "median"] | None = None
    floor: Annotated[float, Field(lt=0)] | None = None


class TrainingPart(Part):
    """How it is learned."""

    mode: Literal["isolated", "joint"] = "isolated"
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


class Plan(Part):
    """A whole plan."""

    id: str | None = None
    align: Literal["same", "common"] = "same"
    labels: LabelsPart
    parties: Annotated[dict[str, PartyPart], Field(min_length=1)]
    composer: ComposerPart = ComposerPart()
    training: TrainingPart = TrainingPart()

    @field_validator("parties")
    @classmethod
    def _named_plainly(cls, parties: dict[str, PartyPart]) -> dict[str, PartyPart]:
        for name in parties:
            if not _NAME.fullmatch(name) or name in ("composer", "labels"):
                raise ValueError(f"party '{name}' is not 1 to 64 of a-z 0-9 _ -, or is named like a part of the plan")
        return parties

    @model_validator(mode="after")
    def _fits(self) -> Plan:
        if self.labels.party in self.parties:
            raise ValueError(f"labels.party '{self.labels.party}' has a component too; name the label party otherwise")
        if self.training.processes and self.labels.party:
            raise ValueError("training.processes has the labels at the composer; leave labels.party out")
        if self.align == "common" and self.id is None:
            raise ValueError("align = 'common' needs id, the column of row ids")
        if self.training.mode == "joint" and (self.composer.outputs or self.composer.floor):
            raise ValueError("composer.outputs and composer.floor are of isolated mode")
        if self.labels.task == "regression" and self.labels.epsilon is not None:
            raise ValueError("labels.epsilon is of classes; numbers are not randomised here")
        if self.labels.task == "regression" and self.composer.outputs == "product":
            raise ValueError("composer.outputs 'product' is of classes; choose mean or median")
        return self

    @property
    def widths(self) -> dict[str, int]:
        """Widths of activations, by party, sorted."""
        return {party: self.parties[party].component.width for party in sorted(self.parties)}


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        InvalidOption: it cannot be read, is not TOML, or a key breaks the schema; the key is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidOption(
            f"plan '{path}'", why=f"it cannot be read ({why})", mend="Name a readable TOML file."
        ) from None
    return parsed(text, f"plan '{path}'")


def parsed(text: str, place: str) -> Plan:
    """The plan in a text; ``place`` is how an error names it.

    Raises:
        InvalidOption: as `read_plan`.
    """
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidOption(place, why=f"it is not TOML: {error}", mend="Correct the line.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(step) for step in first["loc"])
        raise InvalidOption(
            f"{place}, key '{key}'" if key else place,
            why=first["msg"].removeprefix("Value error, "),
            mend="Correct the key, or leave it out; `quiltwork split train --help` shows a plan.",
        ) from None
