"""The owner's verb for networks: a trained module becomes data, is compared with itself, and leaves.

    module in evaluation mode  ->  capture  ->  graph, weights, points  ->  one contribution directory

No input leaves. Weights that were trained without noise have no bound, which their event says; figures on held-out rows
are functions of private rows and have an event of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from quiltwork.contribution.manifest import stated
from quiltwork.contribution.network_graph import Form, Signature
from quiltwork.contribution.networks import ModuleMethod, ModuleTraining, TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import InvalidOption
from quiltwork.files import require_absent
from quiltwork.models.network.capture import capture
from quiltwork.models.network.network import Network
from quiltwork.models.network.weights import sent_weights
from quiltwork.party.examples import Examples, bounds_of
from quiltwork.party.input_moments import Moments, MomentsOrder, summarise
from quiltwork.party.network_task import require_rows, require_task
from quiltwork.party.software import versions
from quiltwork.privacy.events import Event, ExactEvent

MINIMUM_ROWS = 20
"""Rows behind a figure at least."""

_NO_MOMENTS = Moments((), {}, ())


@dataclass(frozen=True)
class ModuleOrder:
    """What leaves with a network, and what is said of it.

    Attributes:
        party: the owner's name.
        points: names of submodules whose output others may read or replace; None takes all that every path passes.
        forms: how a point's axes are read, where that cannot be seen.
        leading: tokens before those of the image, by point, where their number does not show it.
        moments: of the owner's inputs, or None.
        rows: how many rows the module was trained on; None keeps it.
        note: how it was trained, in words.
        privacy: by which mechanism the weights were made; empty says without noise.
        licence: of the contribution.
        card: free text.
        role: whether it is a network to compose, or one that only moments are taken by.
    """

    party: str
    points: Sequence[str] | None = None
    forms: Mapping[str, Form] = field(default_factory=dict)
    leading: Mapping[str, int] = field(default_factory=dict)
    moments: MomentsOrder | None = None
    rows: int | None = None
    note: str = ""
    privacy: tuple[Event, ...] = ()
    licence: str = "LicenseRef-unstated"
    card: str = ""
    role: Literal["predicts", "embeds"] = "predicts"


def contribute_module(
    module: nn.Module,
    signature: Signature,
    target: str | Path,
    order: ModuleOrder,
    *,
    examples: Examples | None = None,
    held_out: Examples | None = None,
    overwrite: bool = False,
) -> Contribution:
    """Capture a trained module and write the contribution.

    Args:
        module: in evaluation mode; takes inputs normalised as the signature says.
        signature: what goes in and comes out.
        target: directory to make.
        order: what leaves with it.
        examples: the owner's inputs, by which points are told apart and of which moments are taken; without them
            inputs are drawn at random from the interval of the units.
        held_out: labelled inputs that it was not trained on; accuracy and loss on them are stated.
        overwrite: replace an existing contribution.

    Raises:
        InvalidOption: the module is in training mode, not deterministic, or not of the signature; moments without
            inputs.
        ExportError: the module cannot become data.
        TaskMismatch: inputs are not of the signature's task.
        FragmentError: too few rows, or no labels where they are needed.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    network = captured(module, signature, order, examples)
    moments = _moments(order, network, examples)
    training, events = _training(order, network, held_out)
    method = stated(
        ModuleMethod,
        network=network.digest,
        signature=signature,
        graph=network.graph,
        points=tuple(network.points.values()),
        role=order.role,
        training=training,
    )
    return write(target, _draft(order, method, network, moments, events), overwrite=overwrite)


def captured(module: nn.Module, signature: Signature, order: ModuleOrder, examples: Examples | None) -> Network:
    """The module as a network; nothing is written.

    Raises:
        InvalidOption, ExportError, TaskMismatch: as `contribute_module`.
    """
    if examples is not None:
        require_task(examples, TaskReference.of(signature), labelled=False)
    example = _drawn(signature) if examples is None else torch.from_numpy(examples.inputs(0, 8))
    return capture(module, example, signature=signature, points=order.points, forms=order.forms, leading=order.leading)


def _drawn(signature: Signature) -> Tensor:
    """Eight inputs from the interval of the units, or around the mean where they state none."""
    least, most = bounds_of(signature.units)
    noise = np.random.default_rng(0)
    if np.isfinite(least + most):
        values = noise.uniform(least, most, size=(8, *signature.shape))
    else:
        axes = (len(signature.mean), *[1] * (len(signature.shape) - 1))
        mean, std = (np.reshape(each, axes) for each in (signature.mean, signature.std))
        values = mean + std * noise.standard_normal((8, *signature.shape))
    return torch.from_numpy(values.astype(np.float32))


def _moments(order: ModuleOrder, network: Network, examples: Examples | None) -> Moments:
    if order.moments is None:
        return _NO_MOMENTS
    if examples is None:
        raise InvalidOption("moments", why="there are no inputs to take them of", mend="Give the owner's inputs.")
    require_task(examples, TaskReference.of(network.signature), labelled=order.moments.classes is not None)
    return summarise(examples, order.moments, network)


def _training(
    order: ModuleOrder, network: Network, held_out: Examples | None
) -> tuple[ModuleTraining, tuple[Event, ...]]:
    software = versions("quiltwork", "torch")
    if held_out is None:
        return stated(ModuleTraining, rows=order.rows, note=order.note, software=software), ()
    require_rows(held_out, MINIMUM_ROWS, "figures")
    accuracy, loss = figures(network, held_out)
    told = stated(
        ModuleTraining,
        rows=order.rows,
        note=order.note,
        accuracy=accuracy,
        loss=loss,
        held_out_rows=len(held_out),
        software=software,
    )
    return told, (ExactEvent(released="training", unit="row", note="means over held-out rows, without noise"),)


def figures(network: Network, held_out: Examples) -> tuple[float | None, float]:
    """Accuracy and mean negative log-likelihood in nats of classes; None and mean squared error of numbers.

    Raises:
        TaskMismatch: the inputs are not of the network's task.
        FragmentError: they have no labels.
    """
    require_task(held_out, TaskReference.of(network.signature), labelled=True)
    right, lost = 0, 0.0
    with torch.inference_mode():
        for inputs, labels in held_out.batches():
            assert labels is not None
            outputs, due = network(torch.from_numpy(inputs)).double(), torch.from_numpy(labels)
            if held_out.classes is None:
                lost += float((outputs - due).square().mean(dim=1).sum())
            else:
                lost += float(functional.cross_entropy(outputs, due, reduction="sum"))
                right += int((outputs.argmax(dim=1) == due).sum())
    count = len(held_out)
    return (None if held_out.classes is None else right / count), lost / count


def _draft(
    order: ModuleOrder, method: ModuleMethod, network: Network, moments: Moments, events: tuple[Event, ...]
) -> Draft:
    weights = {f"module.{name}": tensor for name, tensor in sent_weights(network.tensors()).items()}
    made = order.privacy or (ExactEvent(released="module", unit="row", note="weights, trained without noise"),)
    return Draft(
        party=order.party,
        task=TaskReference.of(network.signature),
        method=method,
        tensors=weights | dict(moments.tensors),
        statistics=moments.statistics,
        privacy=(*made, *moments.events, *events),
        licence=order.licence,
        card=order.card,
    )
