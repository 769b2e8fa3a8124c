"""One draft of each kind about networks: a linear model of four pixels, and what is said about it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quiltwork.contribution.network_graph import Graph, GraphNode, GraphTensor, PointRecord, Signature
from quiltwork.contribution.networks import (
    ClassMomentsStatistic,
    InputsStatistic,
    ModuleMethod,
    ModuleReference,
    ModuleTraining,
    MomentsMethod,
    OutputsMethod,
    TaskReference,
)
from quiltwork.contribution.pair_layout import PairPoint
from quiltwork.contribution.stitching import (
    NetworkPoint,
    SpliceRecord,
    StitchesMethod,
    StitchStatisticsMethod,
    StitchTraining,
)
from quiltwork.contribution.store import Draft
from quiltwork.evidence.embedding import IdentityEmbedding, RandomEmbedding
from quiltwork.privacy.events import ExactEvent, GaussianEvent

SIGNATURE = Signature(shape=(1, 2, 2), units="0..1", mean=(0.5,), std=(0.25,), classes=("no", "yes"), outputs=2)
TASK = TaskReference.of(SIGNATURE)
A, B = (ModuleReference(party=name, digest="sha256:" + digit * 64) for name, digit in (("acme", "a"), ("beta", "b")))


def exact(*names: str) -> tuple[ExactEvent, ...]:
    return tuple(ExactEvent(released=name, unit="row") for name in names)


def module_method(**changes: Any) -> ModuleMethod:
    nodes = (
        GraphNode(name="flat", op="view.default", args=({"node": "x"}, [-1, 4])),
        GraphNode(name="y", op="addmm.default", args=({"node": "b"}, {"node": "flat"}, {"node": "w"})),
    )
    tensors = {
        "w": GraphTensor(entry="head.weight", dtype="float32", shape=(4, 2)),
        "b": GraphTensor(entry="head.bias", dtype="float32", shape=(2,)),
        "steps": GraphTensor(entry="steps", dtype="int64", shape=(1,)),
    }
    fields: dict[str, Any] = {
        "network": A.digest,
        "signature": SIGNATURE,
        "graph": Graph(nodes=nodes, tensors=tensors, input="x", output="y"),
        "points": (PointRecord(name="flatten", node="flat", form="vector", shape=(4,), cut=True),),
        "training": ModuleTraining(rows=100, note="SGD", accuracy=0.9, loss=0.25, held_out_rows=20),
    }
    return ModuleMethod(**{**fields, **changes})


def module_draft(**changes: Any) -> Draft:
    random = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "party": "acme",
        "task": TASK,
        "method": module_method(),
        "tensors": {
            "module.head.weight": random.normal(size=(4, 2)).astype(np.float32),
            "module.head.bias": np.zeros(2, dtype=np.float32),
            "module.steps": np.array([3.0]),
            "inputs.counts": np.array([60.0, 40.0]),
            "inputs.means": random.normal(size=(2, 3)),
            "inputs.covariances": np.stack([np.eye(3)] * 2),
        },
        "statistics": (InputsStatistic(embedding=RandomEmbedding(dimension=3), components=2, minimum_rows=10),),
        "privacy": exact("module", "inputs", "training"),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


def moments_draft(**changes: Any) -> Draft:
    fields: dict[str, Any] = {
        "party": "acme",
        "task": TASK,
        "method": MomentsMethod(),
        "tensors": {
            "classes.counts": np.array([60.0, 0.0]),
            "classes.means": np.array([[0.5] * 4, [0.0] * 4]),
            "classes.covariances": np.eye(4),
        },
        "statistics": (ClassMomentsStatistic(embedding=IdentityEmbedding(), form="pooled", minimum_rows=10),),
        "privacy": (GaussianEvent(released="classes", unit="row", sigma=8.0, sensitivity=2.0),),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


def outputs_draft(**changes: Any) -> Draft:
    fields: dict[str, Any] = {
        "party": "acme",
        "task": TASK,
        "method": OutputsMethod(networks=(A, B), rows=50, correct=True),
        "tensors": {
            "outputs.gram": np.array([[40.0, 35.0], [35.0, 42.0]]),
            "outputs.cross": np.array([38.0, 36.0]),
            "outputs.target": np.array([50.0]),
            "outputs.correct": np.array([45.0, 41.0]),
        },
        "privacy": exact("outputs"),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


def pair_method(**changes: Any) -> StitchStatisticsMethod:
    fields: dict[str, Any] = {
        "a": A,
        "b": B,
        "points_a": (PairPoint(name="stem", channels=3, height=2, width=2),),
        "points_b": (PairPoint(name="body", channels=2, height=1, width=1),),
        "held_out": True,
        "rows": 120,
        "minimum_rows": 100,
        "seed": 0,
        "software": {"numpy": "2.1"},
    }
    return StitchStatisticsMethod(**{**fields, **changes})


def filled(method: Any) -> dict[str, Any]:
    """Ones of the shapes and the first dtype that a method asks for."""
    (part,) = method.parts()
    types = {"F64": np.float64, "F32": np.float32}
    return {
        name: np.ones(need.shape, types[need.dtypes[0]]) * (1 + math.prod(need.shape))
        for name, need in part.required.items()
    }


def pair_draft(**changes: Any) -> Draft:
    method = pair_method()
    fields: dict[str, Any] = {
        "party": "acme",
        "task": TASK,
        "method": method,
        "tensors": filled(method),
        "privacy": exact("pair"),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


def stitches_method(**changes: Any) -> StitchesMethod:
    stem, body = NetworkPoint(network=0, point="stem", channels=3), NetworkPoint(network=1, point="body", channels=2)
    fields: dict[str, Any] = {
        "networks": (A, B),
        "splices": (
            SpliceRecord(into=stem, sources=(body,), mode="average"),
            SpliceRecord(into=body, sources=(stem,), mode="average"),
        ),
        "rests_on": ("sha256:" + "c" * 64,),
        "training": StitchTraining(
            loss="task", rows=100, steps=10, batch_size=8, learning_rate=1e-3, seed=0, loss_first=2.0, loss_last=0.5,
            software={"torch": "2.8"},
        ),
    }  # fmt: skip
    return StitchesMethod(**{**fields, **changes})


def stitches_draft(**changes: Any) -> Draft:
    method = stitches_method()
    fields: dict[str, Any] = {
        "party": "beta",
        "task": TASK,
        "method": method,
        "tensors": filled(method),
        "privacy": exact("stitches", "training"),
        "licence": "CC-BY-4.0",
    }
    return Draft(**{**fields, **changes})


DRAFTS = {
    "module": module_draft,
    "moments": moments_draft,
    "outputs": outputs_draft,
    "stitch_statistics": pair_draft,
    "stitches": stitches_draft,
}
