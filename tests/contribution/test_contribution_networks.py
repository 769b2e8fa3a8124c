"""The kinds about networks: what each requires, written out by hand, and what contradicts itself is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import contribution_networks as drafts
import numpy as np
import pytest
from contribution_networks import A, B
from pydantic import ValidationError

from quiltwork.contribution.declared import needs_of, releases
from quiltwork.contribution.describe import describe
from quiltwork.contribution.manifest import MANIFESTS
from quiltwork.contribution.network_graph import Graph, GraphNode, GraphTensor
from quiltwork.contribution.networks import (
    ClassMomentsStatistic,
    InputsStatistic,
    OutputsMethod,
    TaskReference,
)
from quiltwork.contribution.pair_layout import PairPoint
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.stitching import NetworkPoint, SpliceRecord
from quiltwork.contribution.store import read, write
from quiltwork.errors import ContributionError, MalformedContribution
from quiltwork.evidence.embedding import IdentityEmbedding, ModuleEmbedding, RandomEmbedding
from quiltwork.privacy.events import ExactEvent

Forge = Callable[..., None]
KINDS = sorted(drafts.DRAFTS)


@pytest.fixture(params=KINDS)
def sealed(request: pytest.FixtureRequest, tmp_path: Path) -> Contribution:
    return write(tmp_path / request.param, drafts.DRAFTS[request.param]())


def shapes(manifest: Any) -> dict[str, tuple[int, ...]]:
    return {name: need.shape for name, need in needs_of(manifest).items() if need is not None}


# What each kind requires


def test_every_kind_is_read_as_it_was_written(sealed: Contribution) -> None:
    again, draft = read(sealed.path), drafts.DRAFTS[sealed.kind]()
    assert again == sealed
    assert isinstance(again.manifest, MANIFESTS[sealed.kind])
    assert again.manifest.method == draft.method
    assert set(again.tensor_names()) == set(draft.tensors)
    for name, value in draft.tensors.items():
        assert np.array_equal(again.tensor(name).numpy(), value)


def test_the_same_draft_has_the_same_bytes(sealed: Contribution, tmp_path: Path) -> None:
    twin = write(tmp_path / "twin", drafts.DRAFTS[sealed.kind]())
    for file in sorted(sealed.path.iterdir()):
        assert file.read_bytes() == (twin.path / file.name).read_bytes()


def test_shapes_that_docs_format_lists(tmp_path: Path) -> None:
    found = {kind: shapes(write(tmp_path / kind, make()).manifest) for kind, make in drafts.DRAFTS.items()}
    assert found["module"] == {
        "module.head.weight": (4, 2),
        "module.head.bias": (2,),
        "module.steps": (1,),
        "inputs.counts": (2,),
        "inputs.means": (2, 3),
        "inputs.covariances": (2, 3, 3),
    }
    assert found["moments"] == {"classes.counts": (2,), "classes.means": (2, 4), "classes.covariances": (4, 4)}
    assert found["outputs"] == {
        "outputs.gram": (2, 2),
        "outputs.cross": (2,),
        "outputs.target": (1,),
        "outputs.correct": (2,),
    }
    assert found["stitches"] == {
        "stitches.0.0.weight": (3, 2),
        "stitches.0.0.bias": (3,),
        "stitches.1.0.weight": (2, 3),
        "stitches.1.0.bias": (2,),
    }
    assert found["stitch_statistics"]["pair.train.count"] == (1,)
    assert {name.split(".")[1] for name in found["stitch_statistics"]} == {"train", "held_out"}


def test_weights_are_single_precision_and_whole_numbers_travel_as_double() -> None:
    (part,) = drafts.module_method().parts()
    assert part.required is not None
    assert {name: need.dtypes for name, need in part.required.items()} == {
        "module.head.weight": ("F32",),
        "module.head.bias": ("F32",),
        "module.steps": ("F64",),
    }


def test_moments_of_each_class_have_a_covariance_each() -> None:
    statistic = ClassMomentsStatistic(embedding=RandomEmbedding(dimension=5), form="per_class", minimum_rows=2)
    part = statistic.part(drafts.TASK)
    assert part.required is not None
    assert part.required["classes.covariances"].shape == (2, 5, 5)


def test_what_the_kinds_are_about_and_what_needs_an_event(tmp_path: Path) -> None:
    found = {kind: write(tmp_path / kind, make()).manifest for kind, make in drafts.DRAFTS.items()}
    assert {kind: manifest.method.about for kind, manifest in found.items()} == {  # type: ignore[union-attr]
        "module": (),
        "moments": (),
        "outputs": (A, B),
        "stitch_statistics": (A, B),
        "stitches": (A, B),
    }
    assert {kind: releases(manifest) for kind, manifest in found.items()} == {
        "module": ("module", "inputs", "training"),
        "moments": ("classes",),
        "outputs": ("outputs",),
        "stitch_statistics": ("pair",),
        "stitches": ("stitches", "training"),
    }
    assert {manifest.protects for manifest in found.values()} == {"row"}


def test_a_graph_is_described_by_its_operators(tmp_path: Path) -> None:
    summary = describe(write(tmp_path / "x", drafts.module_draft()))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["method"]["graph"] == {"nodes": 2, "operators": {"addmm.default": 1, "view.default": 1}}
    assert summary["task"]["classes"] == ["no", "yes"]


# What contradicts itself


@pytest.mark.parametrize("kind", KINDS)
def test_what_leaves_without_an_event_is_refused(tmp_path: Path, kind: str) -> None:
    draft = drafts.DRAFTS[kind]()
    for event in draft.privacy:
        rest = tuple(one for one in draft.privacy if one is not event)
        with pytest.raises(MalformedContribution, match=f"'{event.released}': it leaves the party"):
            write(tmp_path / "x", drafts.DRAFTS[kind](privacy=rest))
    document = tuple(ExactEvent(released=event.released) for event in draft.privacy)
    with pytest.raises(MalformedContribution, match="is a row"):
        write(tmp_path / "x", drafts.DRAFTS[kind](privacy=document))


def test_figures_that_are_not_told_need_no_event(tmp_path: Path) -> None:
    silent = drafts.module_method(training=None)
    assert write(tmp_path / "x", drafts.module_draft(method=silent, privacy=drafts.exact("module", "inputs")))
    training = drafts.stitches_method().training.model_copy(update={"loss_first": None, "loss_last": None})
    quiet = drafts.stitches_method(training=training)
    assert write(tmp_path / "y", drafts.stitches_draft(method=quiet, privacy=drafts.exact("stitches")))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shape": (2, 2)}, "two sides"),
        ({"shape": ()}, "at least 1"),
        ({"shape": (1, 2**13, 2**13)}, "more than"),
        ({"shape": (0,)}, "greater than or equal to 1"),
        ({"outputs": 3}, "2 classes and 3 outputs"),
        ({"classes": ("no", "no")}, "named twice"),
        ({"classes": ("no",), "outputs": 1}, "at least 2"),
        ({"classes": ("no", "y\u202es")}, "does not show"),
        ({"units": ""}, "at least 1"),
        ({"units": "\x1b[2J"}, "control character"),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(changes: dict[str, Any], why: str) -> None:
    fields = {"shape": (1, 2, 2), "units": "0..1", "classes": ("no", "yes"), "outputs": 2}
    assert TaskReference(**fields)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=why):
        TaskReference(**(fields | changes))  # type: ignore[arg-type]


NUMBERS = TaskReference(shape=(1, 2, 2), units="0..1", classes=None, outputs=2)
WIDE = InputsStatistic(embedding=RandomEmbedding(dimension=4096), components=64)
LARGE = TaskReference(shape=(3, 224, 224), units="0..1", classes=("no", "yes"), outputs=2)


@pytest.mark.parametrize(
    ("kind", "changes", "why"),
    [
        ("module", {"task": NUMBERS}, "signature and the task differ"),
        ("module", {"task": None}, "task"),
        ("module", {"statistics": (WIDE,)}, "inputs.covariances would hold"),
        ("moments", {"statistics": (), "tensors": {}}, "holds nothing"),
        ("moments", {"task": NUMBERS}, "of classes, and the outputs are numbers"),
        ("moments", {"task": LARGE}, "classes.covariances would hold"),
        ("moments", {"statistics": (*drafts.moments_draft().statistics,) * 2}, "declared twice"),
        ("outputs", {"task": NUMBERS}, "not right or wrong"),
        ("outputs", {"statistics": drafts.moments_draft().statistics}, "statistics"),
        ("stitches", {"table": "TABLE"}, "table"),
    ],
)
def test_drafts_that_do_not_fit_together(tmp_path: Path, kind: str, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedContribution, match=why):
        write(tmp_path / "x", drafts.DRAFTS[kind](**changes))
    assert not any(tmp_path.iterdir())


def point(network: int = 0, name: str = "stem", channels: int = 3) -> NetworkPoint:
    return NetworkPoint(network=network, point=name, channels=channels)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: drafts.pair_method(b=A), "named twice|two networks of one party"),
        (lambda: drafts.pair_method(rows=99), "fewer than the declared minimum"),
        (lambda: drafts.pair_method(points_a=drafts.pair_method().points_a * 2), "named once"),
        (lambda: drafts.pair_method(points_b=()), "at least 1"),
        (lambda: drafts.pair_method(points_a=tuple(wide(i) for i in range(17))), "channels"),
        (lambda: drafts.stitches_method(networks=(A, A)), "named twice"),
        (lambda: drafts.stitches_method(networks=(A,)), "not among the 1"),
        (lambda: drafts.stitches_method(splices=drafts.stitches_method().splices[:1] * 2), "spliced into twice"),
        (lambda: drafts.stitches_method(rests_on=("c",)), "rests_on"),
        (lambda: SpliceRecord(into=point(), sources=(), mode="average"), "at least 1"),
        (lambda: SpliceRecord(into=point(), sources=(point(1),), mode="sum"), "mode"),
        (lambda: drafts.stitches_method(splices=(huge(),)), r"stitches\.0\.0\.weight would hold"),
        (lambda: OutputsMethod(networks=(A, A), rows=1, correct=False), "named twice"),
        (lambda: OutputsMethod(networks=(), rows=1, correct=False), "at least 1"),
        (lambda: drafts.module_method(graph=heavy()), "would hold"),
    ],
)
def test_methods_outside_their_domain_are_refused(make: Callable[[], Any], why: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=why):
        make().parts()


def wide(number: int) -> PairPoint:
    return PairPoint(name=f"p{number}", channels=4096, height=1, width=1)


def huge() -> SpliceRecord:
    return SpliceRecord(into=point(0, "a", 2**16), sources=(point(1, "b", 2**16),), mode="replace")


def heavy() -> Graph:
    """A network that declares more weights than are ever read."""
    tensors = {f"w{i}": GraphTensor(entry=f"w{i}", dtype="float32", shape=(2**20, 2**9)) for i in range(3)}
    return Graph(nodes=(GraphNode(name="y", op="relu.default", args=({"node": "x"},)),), tensors=tensors,
                 input="x", output="y")  # fmt: skip


# Forged fields


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def run(fields: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        target: Any = fields
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        target[int(last) if isinstance(target, list) else last] = value

    return run


@pytest.mark.parametrize(
    ("kind", "path", "value", "why"),
    [
        ("module", "method/graph/nodes/0/op", "os.system('x')", "method.graph.nodes.0.op"),
        ("module", "method/graph/nodes/0/args/0/node", "y", "no earlier node"),
        ("module", "method/graph/tensors/w/shape", [4, 3], r"module\.head\.weight.*shape"),
        ("module", "method/graph/tensors/w/shape", [2**40, 2**40], "would hold"),
        ("module", "method/graph/tensors/w/entry", "../w", "entry"),
        ("module", "method/graph/output", "z", "the output is no node"),
        ("module", "method/signature/units", "0..255", "signature and the task differ"),
        ("module", "method/network", "sha256:0", "method.network"),
        ("module", "method/points/0/shape", [4, 4], "is a vector"),
        ("module", "method/training/accuracy", 1.5, "accuracy"),
        ("module", "statistics/0/components", 3, r"inputs\.counts.*shape"),
        ("module", "statistics/0/embedding/kind", "pickle", "embedding"),
        ("module", "statistics/0/embedding/dimension", 2**20, "dimension"),
        ("moments", "statistics/0/form", "per_class", r"classes\.covariances.*shape"),
        ("moments", "statistics/0/minimum_rows", 0, "minimum_rows"),
        ("moments", "task/shape", [1, 2, 3], r"classes\.means.*shape"),
        ("outputs", "method/networks/0/digest", "sha256:x", "digest"),
        ("outputs", "method/networks/0/party", "../x", "party"),
        ("outputs", "method/correct", False, r"outputs\.correct.*no part"),
        ("outputs", "method/rows", 0, "rows"),
        ("stitch_statistics", "method/points_a/0/channels", 4, "shape"),
        ("stitch_statistics", "method/points_a/0/channels", 2**40, "channels"),
        ("stitch_statistics", "method/held_out", False, "no part"),
        ("stitch_statistics", "method/minimum_rows", 200, "fewer than the declared minimum"),
        ("stitches", "method/splices/0/into/channels", 5, r"stitches\.0\.0\..*shape"),
        ("stitches", "method/splices/0/into/network", 7, "not among the 2"),
        ("stitches", "method/splices/0/mode", "exec", "mode"),
        ("stitches", "method/training/loss", "any", "loss"),
    ],
)
def test_forged_fields_are_refused_by_name(
    tmp_path: Path, forge: Forge, kind: str, path: str, value: object, why: str
) -> None:
    sealed = write(tmp_path / "x", drafts.DRAFTS[kind]())
    forge(sealed.path)
    assert read(sealed.path) == sealed
    forge(sealed.path, edit(path, value))
    with pytest.raises(MalformedContribution, match=why):
        read(sealed.path)


def test_every_changed_byte_is_refused(sealed: Contribution) -> None:
    for file in sorted(sealed.path.iterdir()):
        data = file.read_bytes()
        for place in range(0, len(data), 37):
            changed = bytearray(data)
            changed[place] ^= 1 << (place % 8)
            file.write_bytes(changed)
            with pytest.raises(ContributionError):
                read(sealed.path)
        file.write_bytes(data)
    assert read(sealed.path) == sealed


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("outputs.correct", np.array([51.0, 0.0]), "outside"),
        ("outputs.target", np.array([-1.0]), "outside"),
        ("outputs.gram", np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN"),
        ("outputs.cross", np.array([1.0, np.inf]), "NaN or an infinity"),
    ],
)
def test_values_outside_their_domain_are_not_written(tmp_path: Path, name: str, value: Any, why: str) -> None:
    tensors = {**drafts.outputs_draft().tensors, name: value}
    with pytest.raises(MalformedContribution, match=why):
        write(tmp_path / "x", drafts.outputs_draft(tensors=tensors))
    assert not any(tmp_path.iterdir())


def test_features_of_a_public_module_are_an_embedding(tmp_path: Path) -> None:
    embedding = ModuleEmbedding(party="acme", digest=A.digest, point="stem", dimension=4)
    statistic = ClassMomentsStatistic(embedding=embedding, form="pooled", minimum_rows=10)
    found = read(write(tmp_path / "x", drafts.moments_draft(statistics=(statistic,))).path)
    assert found.manifest.statistics[0].embedding == embedding  # type: ignore[union-attr]
    assert IdentityEmbedding() != embedding
