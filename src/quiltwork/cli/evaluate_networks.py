"""The half of ``quiltwork evaluate`` that scores composed networks on inputs with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import HeldOutPaths, read_contributions, say
from quiltwork.cli.networks import open_network

if TYPE_CHECKING:
    from quiltwork.contribution.networks import TaskReference
    from quiltwork.evaluate.scores import Scores


def score_network_models(
    models: Mapping[str, Path],
    data: HeldOutPaths,
    contributions: Sequence[Path],
    leave_one_out: Sequence[str],
    target: Sequence[str],
) -> Scores:
    """The score matrix of composed networks; the first one's task says how inputs are read.

    Raises:
        InvalidOption: the models are of different tasks, or inputs do not fit.
        FragmentError: a file cannot be used.
    """
    from quiltwork.evaluate.insight import REFERENCES
    from quiltwork.evaluate.network_scores import score_networks

    composites = {name: open_network(path) for name, path in models.items()}
    task = next(iter(composites.values())).task
    composed = [one for name, one in composites.items() if name not in REFERENCES]
    own = {m.party: m.network for one in composed for m in one.members if "module" in m.parts}
    return score_networks(
        composites,
        {name: labelled(task, paths, target) for name, paths in data.parties.items()},
        alone=own | _further(contributions),
        public={name: labelled(task, paths, target) for name, paths in data.public.items()},
        leave_one_out=leave_one_out,
        on_row=lambda row: say(f"scoring {row}"),
    )


def labelled(task: TaskReference, paths: Sequence[Path], target: Sequence[str]) -> tuple[Any, Any]:
    """Inputs and labels of some files, in the shape and the units of a task.

    Raises:
        FragmentError: a file cannot be read, has no labels, or holds what the task does not know.
    """
    from quiltwork.errors import FragmentError
    from quiltwork.party.images import open_examples

    folder = len(paths) == 1 and paths[0].is_dir() and len(task.shape) == 3
    options: dict[str, Any] = {"channels": task.shape[0], "size": task.shape[1:]} if folder else {"shape": task.shape}
    options |= {"target": tuple(target)} if target else {}
    kind: Any = "regression" if task.classes is None else "classification"
    examples = open_examples(paths, units=task.units, task=kind, classes=task.classes, **options)
    if examples.labels is None:
        raise FragmentError(
            f"'{paths[0]}'", why="it holds no labels to score against", mend="Name the column of labels: --target."
        )
    return examples.inputs(0, len(examples)), examples.labels


def _further(paths: Sequence[Path]) -> dict[str, Any]:
    """Networks of contributions, for parties that a composite does not hold."""
    from quiltwork.models.network.opening import open_network

    return {contribution.party: open_network(contribution) for contribution in read_contributions(paths)}
