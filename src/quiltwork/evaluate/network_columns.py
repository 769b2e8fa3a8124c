"""Held-out inputs of networks, checked: what could make a score silently wrong is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.contribution.networks import TaskReference
from quiltwork.errors import InvalidOption

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Column:
    """Inputs float32 ``[n, *shape]`` and truth: codes int64 ``[n]``, or numbers float64 ``[n, q]``."""

    inputs: NDArray[np.float32]
    truth: NDArray[Any]


def columns_of(given: Mapping[str, tuple[ArrayLike, ArrayLike]], task: TaskReference) -> dict[str, Column]:
    """The rows of every name, checked.

    Args:
        given: raw inputs ``[n, *shape]`` and labels: names of classes, codes from 0 on, or numbers.
        task: what the models are for.

    Raises:
        InvalidOption: there are none, inputs of another shape or not finite, or labels that the task does not know.
    """
    if not given:
        raise InvalidOption("held-out inputs", why="there are none", mend="Give at least one party's.")
    return {name: _column(name, *rows, task) for name, rows in given.items()}


def _column(name: str, inputs: ArrayLike, labels: ArrayLike, task: TaskReference) -> Column:
    x = np.ascontiguousarray(inputs, dtype=np.float32)
    if x.shape[1:] != tuple(task.shape) or not len(x):
        raise _refused(name, f"they have shape {list(x.shape)}, and the task's are [n, *{list(task.shape)}]")
    if not np.isfinite(x).all():
        raise _refused(name, "an input is not finite")
    truth = _numbers(name, labels, task) if task.classes is None else _codes(name, np.asarray(labels), task.classes)
    if len(truth) != len(x):
        raise _refused(name, f"there are {len(x)} inputs and {len(truth)} labels")
    return Column(x, truth)


def _codes(name: str, labels: NDArray[Any], classes: tuple[str, ...]) -> NDArray[np.int64]:
    if labels.ndim != 1:
        raise _refused(name, f"labels have shape {list(labels.shape)}, and classes are one an input")
    if labels.dtype.kind in "iu":
        if len(labels) and not ((labels >= 0) & (labels < len(classes))).all():
            raise _refused(name, f"a label is no code from 0 to {len(classes) - 1}")
        return labels.astype(np.int64)
    known = {label: code for code, label in enumerate(classes)}
    if strangers := sorted({str(label) for label in labels.tolist()} - set(known)):
        raise _refused(name, f"the models know no class {strangers[0]!r}")
    return np.array([known[str(label)] for label in labels.tolist()], dtype=np.int64)


def _numbers(name: str, labels: ArrayLike, task: TaskReference) -> Array:
    numbers = np.asarray(labels, dtype=np.float64)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or numbers.shape[1] != task.outputs or not np.isfinite(numbers).all():
        raise _refused(name, f"labels are not {task.outputs} finite numbers an input")
    return numbers


def _refused(name: str, why: str) -> InvalidOption:
    return InvalidOption(
        f"held-out inputs of '{name}'", why=why, mend="Give raw inputs and labels as the task has them."
    )
