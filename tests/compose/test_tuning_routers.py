"""Tuning rows that were computed, rows beside evidence, and rows beside those of a base that is a mixture itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tuning_checks import check_only, public_texts

from family_mixtures import family_base, mixture_of, written
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.tuning import TuningPlan, tune
from quiltwork.composite import Composite, open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.base import Base, open_base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope
from quiltwork.training.loop import TrainingPlan

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]

TRAINING = TrainingPlan(steps=4, batch_size=4, sequence_length=24, learning_rate=2e-2)
ROUTER = (".mlp.router.",)


@pytest.mark.parametrize("method", [ResidualLDA(), ResidualLDA(offsets=False), RowsAndEvidence()], ids=lambda m: m.name)
def test_computed_rows_and_rows_beside_evidence_are_tuned(
    method: Any, tiny_base: Bases, contributions: Parts, public_text: Any, fragments: dict[str, Path], tmp_path: Path
) -> None:
    base = tiny_base("olmo2")
    before = compose(contributions("olmo2"), MixtureOfExperts(method), base, public=public_text("olmo2"))
    after = tuned(before, base, fragments, "router")
    check_only(before, after, ROUTER)
    after.save(tmp_path / "tuned", layout="native")
    opened = open_composite(tmp_path / "tuned")
    left, right = (c.assembly.checkpoint("native").tensors() for c in (after, opened))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name].load(), right[name].load()) for name in left)


def tuned(before: Composite, base: Base, fragments: dict[str, Path], what: Any) -> Composite:
    texts = public_texts(fragments)
    return tune(before, base.load_tokenizer(), texts, TuningPlan(what, TRAINING), force_cpu=True)


@pytest.fixture(scope="module")
def beside_a_mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Contribution]:
    """A base of three experts, and an owner's expert that was trained beside it."""
    place = tmp_path_factory.mktemp("mixture")
    dense = family_base("olmo2", place / "dense")
    base = open_base(written(mixture_of(dense, top_k=2), dense, place / "base"))
    (place / "elm.txt").write_text("\f".join(f"elm says {i} of elm" for i in range(40)))
    plan = TrainingPlan(steps=3, batch_size=4, sequence_length=32, learning_rate=1e-2)
    order = Order(party="elm", scopes=(FFNScope(),), plan=plan)
    with torch.enable_grad():
        return base, contribute(base, open_fragment([place / "elm.txt"]), place / "elm", order, force_cpu=True)


@pytest.mark.parametrize(("what", "parts"), [("router", ROUTER), ("anchor", (".mlp.experts.base",))])
def test_of_a_base_that_is_a_mixture_rows_stay_and_all_experts_are_the_anchor(
    what: str, parts: tuple[str, ...], beside_a_mixture: tuple[Base, Contribution], fragments: dict[str, Path]
) -> None:
    base, contribution = beside_a_mixture
    method: Method = MixtureOfExperts(LearnedRows(top_k=9))
    before = compose([contribution], method, base)
    after = tuned(before, base, fragments, what)
    check_only(before, after, parts)
    left, right = (c.assembly.checkpoint("native").tensors() for c in (before, after))
    for name in left:
        one, other = left[name].load(), right[name].load()
        if name.endswith(".mlp.router.weight"):
            assert torch.equal(one[:3], other[:3])
            assert torch.equal(one[3], other[3]) == (what == "anchor")
        if ".mlp.experts.base" in name:
            assert torch.equal(one, other) == (what == "router")
