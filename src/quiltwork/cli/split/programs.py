"""The program of a plan: built from its words, and judged before anything is trained.

    sum, parity, comparison, rules, table    data; gone through exactly
    code                                     a function of a file, run only where the command line trusts "program"

A function is called once for every combination of symbols. Where there are too many of them it is run on samples, and
then the plan says what it can put out: labels.classes. Outcomes are the labels' words: 3 is "3".

What the outcome leaves open of the symbols (`quiltwork.session.split.identifiable`) and what cotangents tell
(`quiltwork.session.split.program_leak`) follows from the program alone, so it is said before the first round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.cli.inputs import say
from quiltwork.cli.split.own_code import own_code
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.plan_parts import (
    ComparisonPart,
    ParityPart,
    ProgramCodePart,
    RulesPart,
    SumPart,
    TablePart,
    unnested,
)
from quiltwork.errors import InvalidOption
from quiltwork.session.split.identifiable import identified
from quiltwork.session.split.program import Program, Programmed
from quiltwork.session.split.program_leak import leaks
from quiltwork.session.split.program_sampling import Sampled
from quiltwork.session.split.programs import MOST_CELLS, Fold, comparison, lookup_of, parity, rules, tabulated, total
from quiltwork.session.split.run import SplitRun

TRUSTED = "program"
"""What --trust-code calls the program's code; no party may be called so."""


def program(plan: Plan, root: Path, trusted: Collection[str]) -> Program:
    """The program of a plan.

    Raises:
        InvalidOption: it cannot be gone through, its code is not trusted or fails, or the plan has none.
    """
    sizes = () if plan.program is None else plan.program.sizes(len(plan.operands))
    match plan.program:
        case SumPart() as part:
            return total(sizes, part.modulus)
        case ParityPart():
            return parity(len(sizes))
        case ComparisonPart():
            return comparison(*sizes)
        case RulesPart() as part:
            ordered = [({plan.operands.index(p): s for p, s in rule.when.items()}, rule.then) for rule in part.rules]
            return rules(sizes, ordered, part.otherwise)
        case TablePart() as part:
            return lookup_of(unnested(part.table)[0], sizes)
        case ProgramCodePart() as part:
            return _of_code(part, sizes, plan.labels.classes, root, trusted)
    raise InvalidOption("the program", why="the plan has none", mend="Give the part program.")


def with_outcomes(plan: Plan, root: Path, trusted: Collection[str]) -> Plan:
    """A plan whose classes are the outcomes of its program, in their order; any other plan as it is.

    Raises:
        InvalidOption: as `program`; or the plan states other classes, or two outcomes are one word.
    """
    if plan.program is None:
        return plan
    words = [str(outcome) for outcome in program(plan, root, trusted).outcomes]
    stated = plan.labels.classes
    if stated is not None and sorted(stated) != sorted(words):
        raise InvalidOption(
            "labels.classes",
            why=f"they are not the {len(words)} outcomes of the program, which begin {', '.join(words[:5])}",
            mend="Leave them out: the program says what can come out.",
        )
    if len(set(words)) < len(words) or len(words) < 2:
        raise InvalidOption(
            f"the {len(words)} outcomes of the program",
            why="there are not two, or two of them are one word",
            mend="Give it outcomes that differ in writing.",
        )
    return plan.model_copy(update={"labels": plan.labels.model_copy(update={"classes": words})})


def note_openings(run: SplitRun) -> None:
    """Say, and put among the warnings of a run, what its program leaves open and what its cotangents tell."""
    if not isinstance(run.mode, Programmed):
        return
    if isinstance(run.mode.program, Fold):
        identified(run)
        told = zip(run.mode.operands, leaks(run.mode.program), strict=True)
        run.warnings += [f"party '{party}', {leak}" for party, leak in told]
    else:
        run.warnings.append(
            "the program is run on samples: what its outcome leaves open of the symbols, and what zeros of cotangents "
            "tell, was not searched"
        )
    for warning in run.warnings:
        say(f"noticed: {warning}")


def _of_code(
    part: ProgramCodePart, sizes: tuple[int, ...], classes: list[str] | None, root: Path, trusted: Collection[str]
) -> Program:
    place = f"the code of the program, {part.name} of '{part.file}'"
    found = own_code(place, root / part.file, part.name, TRUSTED, trusted)
    if not callable(found):
        raise InvalidOption(place, why="it is no function", mend="Name a function of as many symbols as operands.")
    if math.prod(sizes) <= MOST_CELLS:
        if "samples" in part.model_fields_set:
            raise InvalidOption(
                "program.samples",
                why=f"the program has {math.prod(sizes)} combinations of symbols, and goes through them all",
                mend="Leave it out.",
            )
        return tabulated(found, sizes)
    if classes is None:
        raise InvalidOption(
            "labels.classes",
            why=f"the program has {math.prod(sizes)} combinations of symbols, too many to find out what it puts out",
            mend="Declare its outcomes, in writing.",
        )
    return Sampled(_numbered(found, classes, place), sizes, tuple(classes), part.samples)


def _numbered(f: Callable[..., Hashable], outcomes: list[str], place: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The function on many combinations at once, as numbers of outcomes."""
    number = {outcome: at for at, outcome in enumerate(outcomes)}

    def runs(symbols: NDArray[np.int64]) -> NDArray[np.int64]:
        # a batch has the same combination many times
        distinct, inverse = np.unique(symbols, axis=0, return_inverse=True)
        found = [str(f(*map(int, cell))) for cell in distinct]
        strange = next((word for word in found if word not in number), None)
        if strange is not None:
            raise InvalidOption(
                place, why=f"it put out '{strange[:64]}', which labels.classes has not", mend="Declare all outcomes."
            )
        return np.array([number[word] for word in found], dtype=np.int64)[inverse.reshape(-1)]

    return runs
