"""Where an owner's inputs lie: Gaussians of embedded inputs, of all together or class by class, exact or under noise.

    inputs  ->  embedding (declared, the same for all owners)  ->  counts, means, covariances  ->  what leaves

No input leaves. Exact moments have no bound, which their event says; a group or class of few rows is never shown. Where
inputs and classes both leave exactly, the moments of inputs are over the rows of the classes that are shown: else the
difference of the two would be the rows that are not.

Under noise (`ClippedGaussian`) each statistic is one priced event, and the guess of where embedded inputs lie must come
from public knowledge. Inputs are embedded one by one then, since the network of a module's embedding may be a
stranger's and mix the rows of a batch, and the price is that of rows that do not know of each other.

>>> examples = Examples("memory", np.random.default_rng(0).random((50, 4)), "0..1")
>>> found = summarise(examples, MomentsOrder(embedding=IdentityEmbedding()))
>>> sorted(found.tensors), found.events[0].mechanism
(['inputs.counts', 'inputs.covariances', 'inputs.means'], 'exact')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quiltwork.contribution.manifest import stated
from quiltwork.contribution.networks import (
    ClassMomentsStatistic,
    InputsStatistic,
    MomentsMethod,
    NetworkStatistic,
    TaskReference,
)
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import InvalidOption, TaskMismatch
from quiltwork.evidence.class_moments import MINIMUM_ROWS, ClassMoments, Form, class_labels
from quiltwork.evidence.class_release import release_class_moments
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.embedding import Embedding, IdentityEmbedding, ModuleEmbedding, RandomEmbedding
from quiltwork.evidence.moments_release import release_covariates
from quiltwork.files import require_absent
from quiltwork.models.network.embedder import embedder
from quiltwork.models.network.network import Network
from quiltwork.party.examples import Examples
from quiltwork.party.network_task import require_task
from quiltwork.privacy.events import Event, ExactEvent

__all__ = ["IdentityEmbedding", "ModuleEmbedding", "Moments", "MomentsOrder", "RandomEmbedding", "contribute_moments"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MomentsOrder:
    """Which moments leave.

    Attributes:
        embedding: of the inputs.
        inputs: number of Gaussians of all inputs together, a rule of noise (one Gaussian), or None.
        classes: Gaussians of each class: with one covariance for all (``"pooled"``) or one each, or None.
        classes_noise: a rule of noise for them; None: exact.
        minimum_rows: a group or class of fewer rows is not shown.
        seed: of the groups.
    """

    embedding: Embedding = field(default_factory=RandomEmbedding)
    inputs: int | ClippedGaussian | None = 1
    classes: Form | None = None
    classes_noise: ClippedGaussian | None = None
    minimum_rows: int = MINIMUM_ROWS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minimum_rows < 2:
            raise InvalidOption(
                f"minimum_rows={self.minimum_rows}", why="a group of one row shows it", mend="Choose 10, say."
            )
        if self.classes_noise is not None and self.classes is None:
            raise InvalidOption("classes_noise", why="no moments of classes are asked for", mend="Name their form.")
        if self.classes not in (None, "pooled", "per_class"):
            raise InvalidOption(f"classes={self.classes!r}", why="it is no form", mend="pooled or per_class.")

    @property
    def noisy(self) -> bool:
        """Whether anything leaves under noise."""
        return isinstance(self.inputs, ClippedGaussian) or self.classes_noise is not None


class Moments(NamedTuple):
    """What was summarised, ready to leave.

    Attributes:
        statistics: their declarations.
        tensors: by their full names.
        events: what they cost.
    """

    statistics: tuple[NetworkStatistic, ...]
    tensors: Mapping[str, Array]
    events: tuple[Event, ...]


def contribute_moments(
    examples: Examples,
    task: TaskReference,
    target: str | Path,
    party: str,
    order: MomentsOrder,
    *,
    network: Network | None = None,
    licence: str = "LicenseRef-unstated",
    card: str = "",
    overwrite: bool = False,
) -> Contribution:
    """Summarise an owner's inputs and write the contribution: no network, no training.

    Args:
        examples: the owner's inputs.
        task: what all owners agree on; `quiltwork.party.network_task.task_of` for that of labelled inputs.
        target: directory to make.
        party: the owner's name.
        order: what leaves.
        network: the public network of a module's embedding.
        licence: of the contribution.
        card: free text.
        overwrite: replace an existing contribution.

    Raises:
        TaskMismatch: the inputs are not of the task.
        FragmentError: labels are needed and missing.
        InvalidOption: nothing is asked for, there are too few rows, or the embedding's network is another.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    require_task(examples, task, labelled=order.classes is not None)
    found = summarise(examples, order, network)
    draft = Draft(
        party=party,
        task=task,
        method=MomentsMethod(),
        tensors=found.tensors,
        statistics=found.statistics,
        privacy=found.events,
        licence=licence,
        card=card,
    )
    return write(target, draft, overwrite=overwrite)


def summarise(examples: Examples, order: MomentsOrder, network: Network | None = None) -> Moments:
    """The statistics that an order asks for; nothing is written.

    Raises:
        FragmentError: as `contribute_moments`.
        InvalidOption: likewise.
        TaskMismatch: classes are asked for, and labels are numbers.
    """
    if order.inputs is None and order.classes is None:
        raise InvalidOption("the moments", why="neither of inputs nor of classes are asked for", mend="Name one.")
    rows = embedded(examples, order.embedding, network, batch=1 if order.noisy else 256)
    found = []
    if order.classes is not None:
        found.append(_classes(rows, examples, order, order.classes))
    if order.inputs is not None:
        found.insert(0, _inputs(_shown(rows, examples, order), order))
    tensors = {name: array for one in found for name, array in one.tensors.items()}
    statistics = tuple(statistic for one in found for statistic in one.statistics)
    return Moments(statistics, tensors, tuple(event for one in found for event in one.events))


def embedded(examples: Examples, spec: Embedding, network: Network | None = None, batch: int = 256) -> Array:
    """Inputs in an embedding, float64 ``[n, d]``.

    Raises:
        InvalidOption: as `quiltwork.models.network.embedder.embedder`.
    """
    module = embedder(spec, examples.shape, network)
    with torch.inference_mode():
        blocks = [module(torch.from_numpy(one.inputs)).numpy() for one in examples.batches(batch)]
    return np.concatenate(blocks).astype(np.float64, copy=False)


def _shown(rows: Array, examples: Examples, order: MomentsOrder) -> Array:
    """The rows of inputs that moments of inputs may be over."""
    if order.classes is None or order.classes_noise is not None or isinstance(order.inputs, ClippedGaussian):
        return rows
    labels = class_labels(examples.require_labels(), len(rows), len(examples.classes or ()))
    return rows[(np.bincount(labels) >= order.minimum_rows)[labels]]


def _inputs(rows: Array, order: MomentsOrder) -> Moments:
    if isinstance(order.inputs, ClippedGaussian):
        summary, events = release_covariates(rows, order.inputs, released="inputs")
        least = 1
    else:
        count = 1 if order.inputs is None else order.inputs
        summary = CovariateSummary.from_rows(rows, count, order.seed, minimum_rows=order.minimum_rows)
        least = order.minimum_rows
        events = (_exact("inputs", f"of groups of {least} rows or more"),)
    statistic = stated(InputsStatistic, embedding=order.embedding, components=len(summary.parts), minimum_rows=least)
    return Moments((statistic,), _named("inputs", summary.arrays()), events)


def _classes(rows: Array, examples: Examples, order: MomentsOrder, form: Form) -> Moments:
    labels = examples.require_labels()
    if examples.classes is None:
        raise TaskMismatch(
            f"the labels of {examples.place}",
            why="they are numbers, and moments are of classes",
            mend="Leave them out.",
        )
    least, count, rule = order.minimum_rows, len(examples.classes), order.classes_noise
    if rule is None:
        moments = ClassMoments.from_rows(rows, labels, count, form, minimum_rows=least)
        events: tuple[Event, ...] = (_exact("classes", f"of classes of {least} rows or more"),)
    else:
        moments, events = release_class_moments(rows, labels, count, rule, form, minimum_rows=least)
    statistic = stated(ClassMomentsStatistic, embedding=order.embedding, form=form, minimum_rows=least)
    return Moments((statistic,), _named("classes", moments.arrays()), events)


def _exact(released: str, note: str) -> ExactEvent:
    return ExactEvent(released=released, unit="row", note=f"moments {note}, without noise")


def _named(part: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{part}.{name}": array for name, array in arrays.items()}
