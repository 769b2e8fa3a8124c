"""Parties with networks of their own for tests of composition: small nets on 6 x 6 images, statistics, contributions.

Nothing here trains: weights come from seeds, which is all that laws of composing need. ``release`` writes what a party
hands over, as its owner's side would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quiltwork.contribution.networks import (
    ClassMomentsStatistic,
    InputsStatistic,
    ModuleMethod,
    ModuleReference,
    MomentsMethod,
    OutputsMethod,
    TaskReference,
)
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.stitching import NetworkPoint, SpliceRecord, StitchesMethod, StitchTraining
from quiltwork.contribution.store import Draft, write
from quiltwork.evidence.class_moments import ClassMoments
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.embedding import Embedding, RandomEmbedding, embed
from quiltwork.models.network.capture import capture
from quiltwork.models.network.network import Network, Signature
from quiltwork.models.network.weights import sent_weights
from quiltwork.party.examples import Examples
from quiltwork.party.pair_statistics import StatisticsOrder, contribute_pair_statistics
from quiltwork.privacy.events import ExactEvent

PARTIES = ("ash", "birch", "cedar")
SHAPE = (1, 6, 6)
CLASSES = ("no", "maybe", "yes")
EMBEDDING = RandomEmbedding(dimension=5, seed=3)
CENTRE = {"ash": 0.2, "birch": 0.5, "cedar": 0.8}
"""Where a party's pixels lie."""


class Convolutional(nn.Module):
    """Two convolutions with batch normalisation, and a head."""

    def __init__(self, width: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 5, 3, stride=2, padding=1), nn.ReLU())
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(self.second(self.first(x))))


class Dense(nn.Module):
    """A multilayer perceptron."""

    def __init__(self, width: int = 7, outputs: int = 3) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.GELU())
        self.deep = nn.Sequential(nn.Linear(width, 6), nn.Tanh())
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.hidden(x)))


ARCHITECTURES = {"ash": Convolutional, "birch": Dense, "cedar": Convolutional}


def signature(classes: Sequence[str] | None = CLASSES, outputs: int = 3, **changes: Any) -> Signature:
    """What goes in and comes out."""
    fields = {"shape": SHAPE, "units": "0..1", "mean": (0.5,), "std": (0.25,), "outputs": outputs}
    return Signature(**fields | {"classes": None if classes is None else tuple(classes)} | changes)


@cache
def network(
    party: str, seed: int | None = None, *, classes: tuple[str, ...] | None = CLASSES, **changes: Any
) -> Network:
    """A party's network, with weights from a seed and statistics of batches that a training would have left."""
    torch.manual_seed(PARTIES.index(party) if seed is None else seed)
    said = signature(classes, **changes)
    module = ARCHITECTURES[party](outputs=said.outputs)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 3
    return capture(module.eval(), torch.zeros(1, *SHAPE), signature=said)


def inputs(party: str | None = None, rows: int = 60, seed: int = 0) -> np.ndarray:
    """Raw images, float32; of a party, those about its own brightness."""
    rng = np.random.default_rng([seed, 9 if party is None else PARTIES.index(party)])
    centre = 0.5 if party is None else CENTRE[party]
    return np.clip(centre + 0.2 * rng.normal(size=(rows, *SHAPE)), 0, 1).astype(np.float32)


def labels(party: str, rows: int = 60) -> np.ndarray:
    """Class codes of a party's images."""
    return np.random.default_rng(PARTIES.index(party)).integers(0, len(CLASSES), size=rows)


def reference(party: str, one: Network) -> ModuleReference:
    """How others speak of a party's network."""
    return ModuleReference(party=party, digest=one.digest)


def statistics(
    party: str, parts: Sequence[str], embedding: Embedding = EMBEDDING, form: str = "per_class"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Declared statistics of a party's images, and their tensors."""
    if not parts:
        return (), {}
    rows, declared, tensors = embed(embedding, inputs(party).reshape(60, -1)), [], {}
    if "inputs" in parts:
        summary = CovariateSummary.from_rows(rows, components=2, minimum_rows=5)
        declared.append(InputsStatistic(embedding=embedding, components=len(summary.parts), minimum_rows=5))
        tensors |= {f"inputs.{name}": array for name, array in summary.arrays().items()}
    if "classes" in parts:
        moments = ClassMoments.from_rows(rows, labels(party), len(CLASSES), form=form, minimum_rows=5)
        declared.append(ClassMomentsStatistic(embedding=embedding, form=form, minimum_rows=5))
        tensors |= {f"classes.{name}": array for name, array in moments.arrays().items()}
    return tuple(declared), {name: np.asarray(array, dtype=np.float64) for name, array in tensors.items()}


def release(
    place: Path,
    party: str,
    *,
    one: Network | None = None,
    parts: Sequence[str] = (),
    embedding: Embedding = EMBEDDING,
    form: str = "per_class",
    task: TaskReference | None = None,
    rests_on: Sequence[Contribution] = (),
) -> Contribution:
    """A contribution of kind ``module`` with statistics, or of kind ``moments`` where there is no network."""
    declared, tensors = statistics(party, parts, embedding, form)
    tensors = {name: torch.tensor(array) for name, array in tensors.items()}
    if one is None:
        return _write(place, party, MomentsMethod(), tensors, task or TaskReference.of(signature()), declared)
    method = ModuleMethod(
        network=one.digest,
        signature=one.signature,
        graph=one.graph,
        points=tuple(one.points.values()),
        rests_on=tuple(sorted(c.digest for c in rests_on)),
    )
    tensors |= {f"module.{name}": tensor for name, tensor in sent_weights(one.tensors()).items()}
    return _write(
        place, party, method, tensors, TaskReference.of(one.signature), declared, tag="again" if rests_on else ""
    )


def release_statistics(place: Path, party: str, declared: Sequence[Any], tensors: Mapping[str, Any]) -> Contribution:
    """A contribution of kind ``moments`` with statistics as they are."""
    found = {name: torch.tensor(array) for name, array in tensors.items()}
    return _write(place, party, MomentsMethod(), found, TaskReference.of(signature()), declared)


def release_class_moments(place: Path, party: str, rows: np.ndarray, embedding: Embedding) -> Contribution:
    """A contribution of kind ``moments``: a party's rows in an embedding that was computed elsewhere, by class."""
    moments = ClassMoments.from_rows(rows, labels(party), len(CLASSES), form="per_class", minimum_rows=5)
    declared = ClassMomentsStatistic(embedding=embedding, form="per_class", minimum_rows=5)
    tensors = {f"classes.{name}": np.asarray(array, dtype=np.float64) for name, array in moments.arrays().items()}
    return release_statistics(place, party, (declared,), tensors)


def release_outputs(place: Path, party: str, networks: Mapping[str, Network]) -> Contribution:
    """How everybody's outputs fit a party's rows."""
    x, y = torch.from_numpy(inputs(party, seed=5)), np.eye(len(CLASSES))[labels(party)]
    with torch.no_grad():
        found = np.stack([one(x).double().softmax(1).numpy() for one in networks.values()])
    sums = {"gram": np.einsum("mik,nik->mn", found, found), "cross": np.einsum("mik,ik->m", found, y)}
    sums["target"] = np.array([(y**2).sum()])
    method = OutputsMethod(
        networks=tuple(reference(name, one) for name, one in networks.items()), rows=len(x), correct=False
    )
    tensors = {f"outputs.{name}": torch.tensor(array) for name, array in sums.items()}
    return _write(place, party, method, tensors, TaskReference.of(signature()), ())


def release_pair(
    place: Path, party: str, a: Contribution, b: Contribution, seed: int = 0, held_out: float = 0.3
) -> Contribution:
    """Sums over the activations of two networks on a party's images."""
    examples = Examples(f"images of {party}", inputs(party, rows=500, seed=seed), "0..1")
    order = StatisticsOrder(party=party, held_out=held_out, licence=f"LicenseRef-{party}")
    return contribute_pair_statistics(a, b, examples, place / f"{party}-pair-{a.party}-{b.party}", order)


def release_stitches(
    place: Path,
    party: str,
    networks: Mapping[str, Network],
    points: Mapping[str, str],
    rests_on: Sequence[Contribution] = (),
    seed: int = 0,
) -> Contribution:
    """Adapters both ways between two networks, as training would have left them."""
    generator = torch.Generator().manual_seed(seed)
    (one, other), tensors = tuple(networks), {}
    places = [
        NetworkPoint(network=k, point=points[name], channels=networks[name].point(points[name]).channels)
        for k, name in enumerate((one, other))
    ]
    splices = [SpliceRecord(into=into, sources=(source,), mode="average") for into, source in (places, places[::-1])]
    for number, splice in enumerate(splices):
        shape = (splice.into.channels, splice.sources[0].channels)
        tensors[f"stitches.{number}.0.weight"] = torch.randn(shape, generator=generator) / shape[1] ** 0.5
        tensors[f"stitches.{number}.0.bias"] = 0.1 * torch.randn(shape[:1], generator=generator)
    method = StitchesMethod(
        networks=tuple(reference(name, network) for name, network in networks.items()),
        splices=tuple(splices),
        rests_on=tuple(sorted(c.digest for c in rests_on)),
        training=StitchTraining(
            loss="task", rows=200, steps=10, batch_size=20, learning_rate=0.01, seed=seed, software={}
        ),
    )
    return _write(place, party, method, tensors, TaskReference.of(networks[one].signature), (), tag=str(seed))


def _write(
    place: Path,
    party: str,
    method: Any,
    tensors: Mapping[str, Tensor],
    task: TaskReference,
    declared: Sequence[Any],
    tag: str = "",
) -> Contribution:
    parts = sorted({name.partition(".")[0] for name in tensors})
    draft = Draft(
        party=party,
        method=method,
        tensors=tensors,
        task=task,
        statistics=tuple(declared),
        privacy=tuple(ExactEvent(released=part, unit="row") for part in parts),
        licence=f"LicenseRef-{party}",
    )
    return write(place / f"{party}-{method.kind}-{'-'.join(parts)}{tag}", draft)
