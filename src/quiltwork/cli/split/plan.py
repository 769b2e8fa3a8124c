"""A plan of split learning: who holds what, what learns there, and how; a TOML file under a strict schema.

    id, align               which rows are one case
    [labels]                the labels, who holds them, whether they are randomised
    [parties.NAME]          an owner: files, columns, what learns there, a budget for each of its rows
    [composer]              what maps activations to logits, or how outputs and sums are put together
    [program]               the known program, in program mode
    [training]              mode, rounds, seeds, processes

`quiltwork.cli.split.plan_example` has every key, `quiltwork.cli.split.plan_parts` their domains; what holds between
them is judged here.

A key that is not known, of another type or outside its domain is refused by its name; no value of the plan is the
name of something to import, but for ``kind = "code"``, which runs only where the command line trusts it by name.

>>> parsed('[labels]\\nfiles = ["y.csv"]\\ncolumn = "y"\\n[parties.bank]\\nfiles = ["b.csv"]\\nhats = 1', "a plan")
Traceback (most recent call last):
quiltwork.errors.InvalidOption: a plan, key 'parties.bank.hats': Extra inputs are not permitted. Correct the key, or \
leave it out; `quiltwork split train --help` shows a plan.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from quiltwork.cli.split.plan_parts import (
    CodePart,
    ComposerPart,
    LabelsPart,
    Part,
    PartyPart,
    ProgramPart,
    RulesPart,
    TrainingPart,
)
from quiltwork.errors import InvalidOption

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED = ("composer", "labels", "program", "sum")


class Plan(Part):
    """A whole plan."""

    id: str | None = None
    align: Literal["same", "common"] = "same"
    labels: LabelsPart
    parties: Annotated[dict[str, PartyPart], Field(min_length=1)]
    composer: ComposerPart = ComposerPart()
    program: ProgramPart | None = None
    training: TrainingPart = TrainingPart()

    @field_validator("parties")
    @classmethod
    def _named_plainly(cls, parties: dict[str, PartyPart]) -> dict[str, PartyPart]:
        for name in parties:
            if not _NAME.fullmatch(name) or name in _RESERVED:
                raise ValueError(f"party '{name}' is not 1 to 64 of a-z 0-9 _ -, or is named like a part of the plan")
        return parties

    @model_validator(mode="after")
    def _fits(self) -> Plan:
        for problem in (*_of_labels(self), *_of_mode(self), *_of_sum(self), *_of_program(self), *_of_records(self)):
            raise ValueError(problem)
        return self

    @property
    def operands(self) -> tuple[str, ...]:
        """The party of each operand of the program; none where there is no program."""
        return () if self.program is None else tuple(self.program.operands or sorted(self.parties))

    @property
    def widths(self) -> dict[str, int]:
        """Widths of components, by party, sorted; in program mode one for each symbol of the party's operands."""
        if self.program is None:
            return {party: self.parties[party].component.width for party in sorted(self.parties)}
        held = list(zip(self.operands, self.program.sizes(len(self.operands)), strict=True))
        return {party: sum(size for who, size in held if who == party) for party in sorted(self.parties)}

    @property
    def masked(self) -> bool:
        """Whether the composer sees the sum of activations only, put together under masks."""
        return self.composer.sum == "secure"

    @property
    def private(self) -> bool:
        """Whether components are trained at home, with a budget for each record."""
        return any(part.epsilon is not None for part in self.parties.values())


def _of_labels(plan: Plan) -> Iterator[str]:
    labels = plan.labels
    if labels.party in plan.parties:
        yield f"labels.party '{labels.party}' has a component too; name the label party otherwise"
    if labels.party is not None and (not _NAME.fullmatch(labels.party) or labels.party in _RESERVED):
        yield f"labels.party '{labels.party}' is not 1 to 64 of a-z 0-9 _ -, or is named like a part of the plan"
    if plan.align == "common" and plan.id is None:
        yield "align = 'common' needs id, the column of row ids"
    if labels.task == "regression" and labels.epsilon is not None:
        yield "labels.epsilon is of classes; numbers are not randomised here"
    if labels.task == "regression" and labels.classes is not None:
        yield "labels.classes are of classification, and labels.task is 'regression'"


def _of_mode(plan: Plan) -> Iterator[str]:
    composer, mode = plan.composer, plan.training.mode
    if mode != "isolated" and (composer.outputs or composer.floor):
        yield "composer.outputs and composer.floor are of isolated mode"
    learned = sorted({"kind", "hidden"} & composer.model_fields_set)
    if mode == "program" and learned:
        yield f"composer.{learned[0]} says what the composer learns, and in program mode it learns nothing"
    if composer.kind == "linear" and "hidden" in learned:
        yield "composer.hidden are layers of kind 'mlp', and composer.kind is 'linear'"
    if composer.floor is not None and (plan.labels.task == "regression" or composer.outputs not in (None, "product")):
        yield "composer.floor is of outputs 'product', of classes"
    if plan.labels.task == "regression" and composer.outputs == "product":
        yield "composer.outputs 'product' is of classes; choose mean or median"
    if composer.outputs == "stacked":
        if plan.training.held_out == 0:
            yield "composer.outputs 'stacked' is fitted to rows held out, and training.held_out is 0"
        if plan.labels.party or plan.labels.epsilon is not None:
            yield (
                "composer.outputs 'stacked' is fitted by the composer to true labels, "
                "which labels.party or labels.epsilon keeps from it"
            )


def _of_sum(plan: Plan) -> Iterator[str]:
    if plan.composer.sum is None:
        return
    how = plan.training
    if how.mode != "joint":
        yield "composer.sum is of joint mode"
        return
    widths = sorted(set(plan.widths.values()))
    if len(widths) > 1:
        yield f"composer.sum adds activations up, and their widths are {widths}: give all one width"
    if not plan.masked:
        return
    if len(plan.parties) < 3:
        yield "composer.sum 'secure' needs three parties: each of two learns the other's activation from the sum"
    if how.absence or how.stale or how.precision != "float32":
        yield "composer.sum 'secure' is of all parties, round by round: training.absence, stale and precision are not"


def _of_program(plan: Plan) -> Iterator[str]:
    if (plan.training.mode == "program") != (plan.program is not None):
        yield "training.mode 'program' and the part program go together"
    if plan.program is None:
        return
    if plan.labels.task == "regression":
        yield "a program's outcomes are classes; labels.task cannot be 'regression'"
    if sorted(set(plan.operands)) != sorted(plan.parties):
        parties = ", ".join(sorted(plan.parties))
        yield f"program.operands are of {', '.join(plan.operands)}, and the parties are {parties}"
        return
    widths = plan.widths  # raises where sizes and operands do not fit
    for party, part in plan.parties.items():
        stated = part.component.width if "width" in part.component.model_fields_set else widths[party]
        if stated != widths[party]:
            yield f"parties.{party}.component.width is {stated}, and its symbols are {widths[party]}"
    if isinstance(plan.program, RulesPart):
        if len(set(plan.operands)) < len(plan.operands):
            yield "program.rules name operands by party, so a party holds one operand"
        strange = sorted({party for rule in plan.program.rules for party in rule.when} - set(plan.operands))
        if strange:
            yield f"program.rules name '{strange[0]}', and the operands are of {', '.join(plan.operands)}"


def _of_records(plan: Plan) -> Iterator[str]:
    """What a budget for each record presumes."""
    if not plan.private:
        return
    silent = sorted(party for party, part in plan.parties.items() if part.epsilon is None)
    bare = sorted(
        party
        for party, part in plan.parties.items()
        if part.bounds is None and not isinstance(part.component, CodePart)
    )
    if plan.training.mode != "isolated":
        yield (
            f"parties.epsilon is of isolated mode: in {plan.training.mode} mode a row's activations cross and its loss "
            "spans several parties, and clipping at one of them bounds nothing"
        )
    if silent:
        yield f"parties.{silent[0]}.epsilon is missing: a case lies at every party, and has a bound if all have one"
    if plan.labels.epsilon is None:
        yield (
            "parties.epsilon needs labels.epsilon: parties that train at home are given the labels of all rows, which "
            "a budget for rows does not keep from them"
        )
    if bare:
        yield (
            f"parties.{bare[0]}.bounds are missing: parties.epsilon does not cover means and deviations of rows, so "
            "columns are scaled by what is publicly known of them"
        )
    if plan.training.absence or plan.training.stale or plan.training.precision != "float32":
        yield "training.absence, stale and precision are of rounds over the channel, and parties.epsilon has none"


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
