"""Transfer: a network takes up what another one knows better, and keeps what it knows itself.

    m  = 1 where the teacher is more confident than the student was, else 0
    q  = m softmax(z_t / T) + (1 - m) softmax(z_0 / T)
    L  = T^2 KL( q || softmax(z_s / T) )

with z_t the teacher's logits, z_0 those of a frozen copy of the student, z_s those of the student as it learns: the
confidence-split distillation KL-Dist+DP of K. Roth et al. 2023 (arXiv 2310.17653, "Fantastic gains and where to find
them"). Confidence is the probability of the true class where rows have labels, else the largest probability. Plain
distillation (m = 1 everywhere) overwrites what only the student knew; here rows on which it was the surer one hold it
in place.

All happens at one owner, on its own inputs. The result is a network of the same graph with other weights; normalisation
statistics stay as they are. What went in is listed with it, since the teacher's owner may leave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from quiltwork.contribution.network_graph import Graph
from quiltwork.contribution.networks import ModuleMethod, ModuleTraining, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import InvalidOption
from quiltwork.files import require_absent
from quiltwork.models.network.execution import execute
from quiltwork.models.network.network import Network
from quiltwork.models.network.opening import open_network
from quiltwork.models.network.stitched import require_one_task
from quiltwork.models.network.weights import sent_weights
from quiltwork.party.examples import Examples
from quiltwork.party.network_task import require_task
from quiltwork.party.software import versions
from quiltwork.party.steps import StepPlan, optimise
from quiltwork.privacy.events import ExactEvent

_NORM = "_native_batch_norm_legit_no_training.default"


@dataclass(frozen=True)
class TransferOrder:
    """How a student learns, and what leaves.

    Attributes:
        party: name of the owner.
        supervised: confidence by the true class; the rows need labels then.
        temperature: T, of both distributions.
        plan: steps and rates.
        licence: of the contribution.
        card: free text.

    Raises:
        InvalidOption: the temperature is not positive.
    """

    party: str
    supervised: bool = True
    temperature: float = 1.0
    plan: StepPlan = field(default_factory=lambda: StepPlan(learning_rate=1e-4))
    licence: str = "LicenseRef-unstated"
    card: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InvalidOption(
                f"temperature={self.temperature}", why="it divides logits", mend="Choose a positive number, such as 1."
            )


class Transferred(NamedTuple):
    """What a transfer gives: the new network, and the loss of every step."""

    network: Network
    losses: list[float]


def transfer_loss(
    student: Tensor, frozen: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """L of the module's docstring, the mean over rows; gradients reach the student alone.

    Args:
        student: logits ``[n, k]`` as they are now.
        frozen: logits of the student as it was.
        teacher: logits of the teacher.
        labels: int64 ``[n]``, or None for the largest probability as confidence.
        temperature: T.
    """
    surer = _confidence(teacher, labels) > _confidence(frozen, labels)
    chosen = torch.where(surer[:, None], teacher, frozen).detach()
    target = functional.log_softmax(chosen / temperature, dim=1)
    ours = functional.log_softmax(student / temperature, dim=1)
    return temperature**2 * functional.kl_div(ours, target, reduction="batchmean", log_target=True)


def _confidence(logits: Tensor, labels: Tensor | None) -> Tensor:
    shares = functional.softmax(logits.detach(), dim=1)
    return shares.amax(dim=1) if labels is None else shares.gather(1, labels[:, None])[:, 0]


def transfer(
    student: Network,
    teacher: Network,
    examples: Examples,
    order: TransferOrder,
    *,
    state: Path | None = None,
    show: bool = False,
) -> Transferred:
    """Let a student take up what a teacher knows better; nothing is written but the state.

    Args:
        student: stays as it is; a network of the same graph comes back.
        teacher: of the same task, of any graph.
        examples: the owner's inputs; labels where the order is supervised.
        order: how.
        state: file to keep the state in.
        show: a progress line on standard error.

    Raises:
        InvalidOption: networks of different tasks, or whose outputs are numbers; training that diverges.
        TaskMismatch, FragmentError: the inputs are not of the task, or have no labels.
        Interrupted: stopped by the user.
    """
    require_one_task({"student": student, "teacher": teacher})
    task = TaskReference.of(student.signature)
    if task.classes is None:
        raise InvalidOption(
            "the networks' outputs", why="they are numbers, and confidence is of classes", mend="Use classifiers."
        )
    require_task(examples, task, labelled=order.supervised)
    frozen, taught = outputs_of(student, examples), outputs_of(teacher, examples)
    labels = torch.from_numpy(examples.require_labels()) if order.supervised else None
    trained = trainable(student)

    def loss(rows: Tensor) -> Tensor:
        inputs = torch.from_numpy(np.ascontiguousarray(examples.values[rows.numpy()], dtype=np.float32))
        known = None if labels is None else labels[rows]
        return transfer_loss(run_with(student, trained, inputs), frozen[rows], taught[rows], known, order.temperature)

    said = repr((student.digest, teacher.digest, order.supervised, order.temperature)).encode()
    subject = hashlib.sha256(said + examples.values.tobytes()).hexdigest()
    plan, size = order.plan, len(examples)
    losses = optimise(trained, loss, size, plan, state=state, subject=subject, label="transfer", show=show)
    learned = {entry: tensor.detach() for entry, tensor in trained.items()}
    return Transferred(student.with_tensors(student.tensors() | learned), losses)


def outputs_of(network: Network, examples: Examples) -> Tensor:
    """Outputs float32 ``[n, k]`` of all rows."""
    with torch.inference_mode():
        found = torch.cat([network(torch.from_numpy(batch.inputs)) for batch in examples.batches()])
    return found.clone()


def trainable(network: Network) -> dict[str, Tensor]:
    """Copies of the weights that may learn, by entry: all float32 but the statistics of normalisation."""
    fixed = _statistics(network.graph)
    return {
        entry: tensor.detach().clone().requires_grad_()
        for entry, tensor in network.tensors().items()
        if tensor.dtype == torch.float32 and entry not in fixed
    }


def _statistics(graph: Graph) -> set[str]:
    """Entries that hold running means and variances."""
    nodes = [node.takes[-2:] for node in graph.nodes if node.op == _NORM]
    return {graph.tensors[name].entry for pair in nodes for name in pair if name in graph.tensors}


def run_with(network: Network, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs of a network with some of its weights, by entry, replaced."""
    values = network.start(x)
    values |= {node: tensors[t.entry] for node, t in network.graph.tensors.items() if t.entry in tensors}
    found = execute(network.steps, values, [network.graph.output], x.device)[network.graph.output]
    assert isinstance(found, Tensor)
    return found


def contribute_transfer(
    student: Contribution,
    teacher: Contribution,
    examples: Examples,
    target: str | Path,
    order: TransferOrder,
    *,
    state: Path | None = None,
    overwrite: bool = False,
    show: bool = False,
) -> Contribution:
    """Transfer between published networks, and write the new one.

    Args:
        student: kind ``module``.
        teacher: kind ``module``, of the same task.
        examples: the owner's inputs.
        target: directory to make.
        order: how.
        state: file to keep the state in; removed when done.
        overwrite: replace an existing contribution.
        show: a progress line on standard error.

    Raises:
        ContributionError: a network is not the one that its contribution declares.
        InvalidOption, TaskMismatch, FragmentError, Interrupted: as `transfer`.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    made = transfer(open_network(student), open_network(teacher), examples, order, state=state, show=show).network
    training = ModuleTraining(
        rows=len(examples),
        note=f"confidence-split distillation (arXiv 2310.17653) of the network of party '{teacher.party}' into that of "
        f"party '{student.party}', {'with' if order.supervised else 'without'} labels, {order.plan.steps} steps",
        software=versions("quiltwork", "numpy", "torch"),
    )
    draft = Draft(
        party=order.party,
        method=ModuleMethod(
            network=made.digest,
            signature=made.signature,
            graph=made.graph,
            points=tuple(made.points.values()),
            training=training,
            rests_on=_grounds(student, teacher),
        ),
        tensors={f"module.{name}": tensor for name, tensor in sent_weights(made.tensors()).items()},
        licence=order.licence,
        task=TaskReference.of(made.signature),
        privacy=(ExactEvent(released="module", unit="row", note="weights, trained without noise"),),
        card=order.card,
    )
    contribution = write(target, draft, overwrite=overwrite)
    if state is not None:
        state.unlink(missing_ok=True)
    return contribution


def _grounds(*taken: Contribution) -> tuple[str, ...]:
    """Contributions whose numbers went in, and what those went on from. The student's own is one: whoever composes has
    it too, and it stands in again when the teacher leaves."""
    methods = [one.manifest.method for one in taken]
    further = (method.rests_on for method in methods if isinstance(method, ModuleMethod))
    return tuple(sorted({one.digest for one in taken}.union(*further)))
