"""The run directory: what a plan's training leaves, written whole or not at all.

    plan.toml            the plan, byte for byte
    run.json             what predicting needs beside tensors: columns, classes, prior, scale of numbers, scores
    components/NAME.safetensors    each party's component: it belongs to that party
    learners/NUMBER.safetensors    what the composer learned, in the order of run.json's ``learners``
    records.json         the session's facts (`quiltwork.audit.facts`): words, bytes, digests, dependencies, events
    certificate.json     which guarantees are held and which are not, computed from the records
    losses.json          of each round, by whose they are
    stacked.safetensors  composer.outputs "stacked": outputs of held-out rows, and labels, that weights are fitted to
    tape/NAME.down, NAME.up        --tape: every message of each party, for replay
    released.json        labels as they were randomised, where the plan asks for it

The directory is readable by its owner alone. A component's parameters are a function of private rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from quiltwork.cli.split.build import component
from quiltwork.cli.split.modes import head, mode
from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.stacked import read_stacked
from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.models.split.saving import load_component, save_component
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.mode import Mode
from quiltwork.session.split.one_process import as_one

PLAN, RUN, RECORDS, CERTIFICATE, LOSSES = "plan.toml", "run.json", "records.json", "certificate.json", "losses.json"


class RunNote(BaseModel):
    """``run.json``.

    Attributes:
        plan: SHA-256 of the plan's bytes.
        columns: by party, in the order of the fit.
        classes: in the order of their codes; None for numbers.
        prior: class probabilities that a product of experts counts once.
        centre, scale: numbers are standardised by.
        learners: names of what the composer learned, in order.
        cases: number of rows, and of those held out.
        scores: accuracy, or R squared, on held-out rows; by "composed" and, in isolated mode, by party.
        save_every: rounds between the states that were kept; 0 for none.
        resumed: the round from which training last went on; 0 where it was never broken off.
        stacked: SHA-256 of the outputs that weights are fitted to; None where there are none.
        away: parties on machines of their own, whose components stayed there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    plan: str
    columns: dict[str, tuple[str, ...]]
    classes: tuple[str, ...] | None
    prior: tuple[float, ...]
    centre: float
    scale: float
    learners: tuple[str, ...]
    cases: tuple[int, int]
    scores: dict[str, float]
    save_every: int
    resumed: int
    stacked: str | None
    away: tuple[str, ...]


def write_run(
    place: Path,
    plan_bytes: bytes,
    note: RunNote,
    learned: tuple[Mapping[str, Component | Path], Mapping[str, Component]],
    documents: Mapping[str, str],
) -> None:
    """Fill a directory; ``learned`` are the parties' components, or files that they wrote, and the mode's learners."""
    (place / PLAN).write_bytes(plan_bytes)
    (place / RUN).write_text(note.model_dump_json(indent=1))
    for party, one in learned[0].items():
        target = component_file(place, party)
        if isinstance(one, Path):
            target.parent.mkdir(exist_ok=True)
            one.rename(target)
        else:
            save_component(one, target)
    for number, name in enumerate(note.learners):
        save_component(learned[1][name], place / "learners" / f"{number}.safetensors")
    for name, document in documents.items():
        (place / name).write_text(document)


def plan_digest(plan_bytes: bytes) -> str:
    """SHA-256 of a plan's bytes."""
    return hashlib.sha256(plan_bytes).hexdigest()


def read_note(run: Path, plan_bytes: bytes) -> RunNote:
    """``run.json`` of a run of this plan.

    Raises:
        InvalidOption: there is none, it is damaged, or it is of another plan.
    """
    note = _read(run)
    if note.plan != plan_digest(plan_bytes):
        raise InvalidOption(
            f"run '{run}'", why="it was trained by another plan", mend=f"Use the plan that it holds: {run / PLAN}."
        )
    return note


def _read(run: Path) -> RunNote:
    try:
        return RunNote.model_validate_json((run / RUN).read_bytes())
    except (OSError, ValidationError) as error:
        why = "it holds no run.json" if isinstance(error, OSError) else "its run.json was not written here"
        raise InvalidOption(
            f"run '{run}'", why=why, mend="Name a directory that `quiltwork split train` wrote."
        ) from None


def read_document(run: Path, name: str) -> str:
    """A text of a run.

    Raises:
        InvalidOption: it is not there, or no text.
    """
    try:
        return (run / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise InvalidOption(
            f"'{run / name}'", why="it is not there, or damaged", mend="Name a directory that was written whole."
        ) from None


def restored_mode(run: Path, plan: Plan, note: RunNote, root: Path, trusted: Collection[str]) -> Mode:
    """The mode as it was after the last round.

    Raises:
        InvalidOption: a state is missing or of another module, or a program's code is not trusted.
    """
    found = mode(plan, torch.tensor(note.prior, dtype=torch.float64), root, trusted)
    for number, name in enumerate(note.learners):
        load_component(found.learners()[name], run / "learners" / f"{number}.safetensors")
    if note.stacked is not None and isinstance(found, Isolated):
        found.composition = read_stacked(run, note.stacked, classes=note.classes is not None)
    return found


def restored_component(
    run: Path, plan: Plan, note: RunNote, party: str, root: Path, trusted: Collection[str]
) -> Component:
    """A party's component as it was after the last round; one that was trained at home with its head.

    Raises:
        InvalidOption: its state is missing or of another module, or its code is not trusted.
    """
    names = note.columns[party]
    found = component(plan, party, names, torch.zeros(1, len(names)), root, trusted)
    if plan.private:
        found = as_one(found, head(plan, party, len(note.prior)))
    place = component_file(run, party)
    if party in note.away and not place.exists():
        raise InvalidOption(
            f"the component of party '{party}'",
            why="it stayed at its owner",
            mend=f"Ask for its file, and put it at {place}.",
        )
    load_component(found, place)
    return found


def component_file(run: Path, party: str) -> Path:
    """Where a run directory has a party's component."""
    return run / "components" / f"{party}.safetensors"
