"""Inputs of an owner held against the task of networks: same shape, same units, same classes in the same order."""

from __future__ import annotations

from quiltwork.contribution.manifest import stated
from quiltwork.contribution.networks import TaskReference
from quiltwork.errors import FragmentError, TaskMismatch
from quiltwork.party.examples import Examples


def task_of(examples: Examples, classes: tuple[str, ...] | None = None, outputs: int | None = None) -> TaskReference:
    """The task that inputs are of.

    Args:
        examples: their labels say what comes out.
        classes: what comes out, for inputs without labels.
        outputs: likewise, for numbers.

    Raises:
        FragmentError: they have no labels, and neither classes nor outputs are given.
        MalformedContribution: a class is named twice, say.
    """
    if examples.labels is not None:
        classes, outputs = examples.classes, examples.outputs
    elif classes is not None:
        outputs = len(classes)
    if outputs is None:
        examples.require_labels()
    return stated(TaskReference, shape=examples.shape, units=examples.units, classes=classes, outputs=outputs)


def require_task(examples: Examples, task: TaskReference, *, labelled: bool) -> None:
    """Refuse inputs that are not of a task.

    Args:
        examples: the owner's inputs.
        task: what networks take and give.
        labelled: whether labels are needed, and must be those of the task.

    Raises:
        TaskMismatch: shape, units, classes or outputs differ.
        FragmentError: labels are needed, and there are none.
    """
    pairs: list[tuple[str, object, object]] = [
        ("shape", examples.shape, task.shape),
        ("units", examples.units, task.units),
    ]
    if labelled:
        own = task_of(examples)
        pairs += [("classes", own.classes, task.classes), ("outputs", own.outputs, task.outputs)]
    for what, own_value, due in pairs:
        if own_value != due:
            raise TaskMismatch(
                f"the {what} of {examples.place}",
                why=f"it is {own_value}, and that of the task is {due}"[:500],
                mend="Bring the inputs into the form of the task, and declare its units and classes.",
            )


def require_rows(examples: Examples, minimum: int, what: str) -> None:
    """Refuse sums over few rows, which show them.

    Raises:
        FragmentError: there are fewer than ``minimum``.
    """
    if len(examples) < minimum:
        raise FragmentError(
            examples.place,
            why=f"it has {len(examples)} rows, and {what} of fewer than {minimum} would show them",
            mend="Give more rows, or leave this out.",
        )
