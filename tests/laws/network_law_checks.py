"""The laws of composing networks as functions that raise AssertionError, and the methods that must keep them.

Each check takes what it judges, so that the tests can hand it a deliberately broken method and see it refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from law_checks import assert_same_files

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.method import compose
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.network_soup import NetworkSoup
from quiltwork.compose.networks import NetworkMethod
from quiltwork.compose.reopen import open_network_composite
from quiltwork.compose.stitch import Stitch
from quiltwork.composite import NetworkComposite
from quiltwork.contribution.sealed import Contribution

METHODS: Mapping[str, NetworkMethod] = {
    "alone": NetworkAlone("birch"),
    "combine": Combine(),
    "combine-weighted": Combine(weights={"ash": 2.5}),
    "combine-logit": Combine("logit"),
    "combine-rank": Combine("rank"),
    "combine-median": Combine("median"),
    "combine-evidence": Combine(weights="evidence"),
    "combine-evidence-classes": Combine(
        weights="evidence", evidence=Evidence(of="classes", prior="rows", floor=30.0, temperature=2.0)
    ),
    "combine-stacked": Combine(weights="stacked"),
    "stitch": Stitch(),
    "stitch-logit": Stitch(rule="logit", mode="replace"),
    "stitch-evidence": Stitch(weights="evidence"),
    "stitch-pair": Stitch(pair=("birch", "ash"), points=("deep", "first"), ridge=0.01),
    "stitch-one-way": Stitch(pair=("ash", "cedar"), both=False),
    "head-lda": GaussianHead(),
    "head-qda": GaussianHead("qda", shrinkage=0.1),
    "head-bayes": GaussianHead("naive_bayes"),
}
"""Methods for networks of several architectures."""

OF_ONE_GRAPH: Mapping[str, NetworkMethod] = {"soup": NetworkSoup(), "soup-weighted": NetworkSoup({"ash": 3.0})}
"""Methods that need networks of one architecture."""

Composer = Callable[[Sequence[Contribution], NetworkMethod], NetworkComposite]


def same_outputs(one: NetworkComposite, other: NetworkComposite) -> bool:
    """Bit for bit, over images that belong to nobody in particular."""
    return np.array_equal(one.outputs(parties.inputs()), other.outputs(parties.inputs()))


def check_opt_out(
    contributions: Sequence[Contribution], method: NetworkMethod, party: str, place: Path, composer: Composer = compose
) -> None:
    """compose(S).without(p) == compose(S - {p}), byte for byte and output for output, in memory and from disk."""
    whole = composer(contributions, method)
    rest = compose([c for c in contributions if c.party != party], method)
    left = whole.without(party)
    assert same_outputs(left, rest), "the outputs differ"
    whole.save(place / "whole")
    rest.save(place / "rest")
    left.save(place / "without")
    assert_same_files(place / "without", place / "rest")
    opened = open_network_composite(place / "whole").without(party)
    opened.save(place / "removed")
    assert_same_files(place / "removed", place / "rest")
    assert same_outputs(opened, rest), "the outputs differ"


def check_order(
    contributions: Sequence[Contribution], method: NetworkMethod, place: Path, composer: Composer = compose
) -> None:
    """Composing a permutation of S gives the same bytes and the same outputs."""
    backwards = contributions[::-1]
    first = composer(contributions, method)
    first.save(place / "0")
    for number, permutation in enumerate([backwards, [*backwards[1:], backwards[0]]], start=1):
        composite = composer(permutation, method)
        composite.save(place / str(number))
        assert_same_files(place / "0", place / str(number))
        assert same_outputs(first, composite), "the outputs differ"


def check_identity(contributions: Sequence[Contribution], method: NetworkMethod, tolerance: float) -> None:
    """Composing copies of one network gives that network's probabilities."""
    x = parties.inputs()
    composed = compose(contributions, method).predict_proba(x)
    alone = compose(contributions, NetworkAlone(contributions[0].party)).predict_proba(x)
    gap = np.abs(composed - alone).max()
    assert gap <= tolerance, f"the functions differ by {gap}"


def check_round_trip(composite: NetworkComposite, place: Path) -> None:
    """The saved composite predicts what the one in memory does, to the last bit, and saves as the same bytes."""
    composite.save(place / "saved")
    opened = open_network_composite(place / "saved")
    assert same_outputs(composite, opened), "the outputs differ"
    opened.save(place / "again")
    assert_same_files(place / "saved", place / "again")


def check_export(composite: NetworkComposite, place: Path, form: str) -> None:
    """The exported file computes what the composite does, for batches of several sizes (law 6)."""
    path = composite.export(place / f"model.{form}", form)  # type: ignore[arg-type]
    for rows in (1, 5):
        x = parties.inputs(rows=rows, seed=rows)
        found = _run_pt2(path, x) if form == "pt2" else _run_onnx(path, x)
        gap = np.abs(found - composite.outputs(x)).max()
        assert gap < 1e-4, f"the outputs differ by {gap}"


def _run_pt2(path: Path, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(x)).double().numpy()


def _run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]
