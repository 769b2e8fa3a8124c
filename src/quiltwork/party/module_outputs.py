"""How well the outputs of published networks fit an owner's labels: a few sums, from which others find weights.

With probabilities (or numbers) p_m of network m at a row and its label y, one-hot for classes, over all rows::

    gram[m, l] = sum p_m . p_l        cross[m] = sum p_m . y        target = sum |y|^2

The squared error of any weighted mean of the networks (Brier's score, for classes) is target - 2 w'cross + w'gram w.
Sums of several owners add up to those of all rows. They should be over rows that none of the networks was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from quiltwork.contribution.manifest import stated
from quiltwork.contribution.networks import ModuleReference, OutputsMethod, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import TaskMismatch
from quiltwork.files import require_absent
from quiltwork.models.network.network import Network
from quiltwork.models.network.opening import open_network
from quiltwork.party.examples import Batch, Examples
from quiltwork.party.network_task import require_rows, require_task
from quiltwork.privacy.events import ExactEvent

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OutputsOrder:
    """What leaves.

    Attributes:
        party: the owner's name.
        correct: whether to tell how many rows each network gets right; for classes only.
        minimum_rows: fewer are refused.
        licence: of the contribution.
        card: free text.
    """

    party: str
    correct: bool = True
    minimum_rows: int = 50
    licence: str = "LicenseRef-unstated"
    card: str = ""


def contribute_outputs(
    published: Sequence[Contribution],
    examples: Examples,
    target: str | Path,
    order: OutputsOrder,
    *,
    overwrite: bool = False,
) -> Contribution:
    """Run published networks over an owner's labelled inputs and write the sums.

    Args:
        published: contributions of kind ``module``, of one task; taken in the order of their parties' names.
        examples: labelled, best rows that no network was trained on.
        target: directory to make.
        order: what leaves.
        overwrite: replace an existing contribution.

    Raises:
        TaskMismatch: networks or inputs are of different tasks.
        FragmentError: there are too few rows, or no labels.
        MissingPart: a contribution holds no network.
        ContributionError: a network is not the one that its contribution declares.
        MalformedContribution: two are of one party.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    members = sorted(published, key=lambda one: one.party)
    networks = [open_network(one) for one in members]
    task = _one_task(members, networks)
    require_task(examples, task, labelled=True)
    require_rows(examples, order.minimum_rows, "sums")
    correct = order.correct and task.classes is not None
    draft = Draft(
        party=order.party,
        task=task,
        method=stated(
            OutputsMethod,
            networks=tuple(
                ModuleReference(party=one.party, digest=network.digest)
                for one, network in zip(members, networks, strict=True)
            ),
            rows=len(examples),
            correct=correct,
        ),
        tensors={f"outputs.{name}": array for name, array in output_sums(networks, examples, correct=correct).items()},
        privacy=(ExactEvent(released="outputs", unit="row", note="sums over rows, without noise"),),
        licence=order.licence,
        card=order.card,
    )
    return write(target, draft, overwrite=overwrite)


def output_sums(networks: Sequence[Network], examples: Examples, *, correct: bool) -> dict[str, Array]:
    """``gram`` [M, M], ``cross`` [M], ``target`` [1] and, if asked for, ``correct`` [M]; nothing is written."""
    members = len(networks)
    gram, cross, target, right = np.zeros((members, members)), np.zeros(members), np.zeros(1), np.zeros(members)
    with torch.inference_mode():
        for batch in examples.batches():
            due = _targets(batch, examples)
            outputs = np.stack([_outputs(network, batch, examples) for network in networks])
            gram += np.einsum("mnk,lnk->ml", outputs, outputs)
            cross += np.einsum("mnk,nk->m", outputs, due)
            target += np.square(due).sum()
            right += (outputs.argmax(axis=2) == due.argmax(axis=1)).sum(axis=1)
    found = {"gram": gram, "cross": cross, "target": target}
    return found | {"correct": right} if correct else found


def _outputs(network: Network, batch: Batch, examples: Examples) -> Array:
    """Probabilities of classes, or numbers, float64 ``[n, k]``."""
    outputs = network(torch.from_numpy(batch.inputs)).double()
    return np.asarray((outputs if examples.classes is None else functional.softmax(outputs, dim=1)).numpy())


def _targets(batch: Batch, examples: Examples) -> Array:
    """Labels as numbers ``[n, k]``: one-hot for classes."""
    assert batch.labels is not None
    if examples.classes is None:
        return np.asarray(batch.labels, dtype=np.float64)
    return np.eye(len(examples.classes))[batch.labels]


def _one_task(members: Sequence[Contribution], networks: Sequence[Network]) -> TaskReference:
    first = TaskReference.of(networks[0].signature)
    for member, network in zip(members, networks, strict=True):
        if TaskReference.of(network.signature) != first:
            raise TaskMismatch(
                f"the network of party '{member.party}'",
                why=f"its task is not that of party '{members[0].party}'",
                mend="Take networks of the same inputs, units, classes and outputs.",
            )
    return first
