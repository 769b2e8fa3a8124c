"""Every family, in every layout: the export is the composite, and identical experts are the dense model.

The oracle is transformers' own class of the format on one side, the dense model on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from family_mixtures import composite_model, family_base, logits, mixture_of, written
from quiltwork.errors import ExportError
from quiltwork.models.assembly import Experts
from quiltwork.models.base import Base
from quiltwork.models.families import FAMILIES
from quiltwork.models.register import register

Bases = Callable[..., Base]
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    @cache
    def build(family: str, tie: bool) -> Base:
        return family_base(family, tmp_path_factory.mktemp(f"{family}-{tie}") / "base", tie=tie)

    return build


def load(place: Path) -> Any:
    """A checkpoint as any user loads it; every key finds its place."""
    register()
    model, info = AutoModelForCausalLM.from_pretrained(place, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {sorted(info[kind])}"
    return model.eval()


def routers(family: str) -> list[dict[str, Any]]:
    """All experts active or some of them, rescaled or not, as far as the format can say it."""
    found = [{"top_k": k, "renormalise": flag} for k in (None, 2, 1) for flag in (True, False)]
    always = FAMILIES[family].moe.renormalises == "always"
    return [r for r in found if not (always and r["top_k"] and not r["renormalise"])]


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_is_the_composite(family: str, tie: bool, base_of: Bases, tmp_path: Path) -> None:
    base = base_of(family, tie)
    for number, router in enumerate(routers(family)):
        assembly = mixture_of(base, **router)
        expected = logits(composite_model(assembly))
        model = load(written(assembly, base, tmp_path / f"portable{number}"))
        assert type(model).__name__ == base.family.moe.architecture
        torch.testing.assert_close(logits(model), expected, **TOLERANCE)
        assert (expected - logits(base.load_model())).abs().max() > 0.1, "the experts must matter"
    native = load(written(assembly, base, tmp_path / "native", "native"))
    assert torch.equal(logits(native), expected)


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("top_k", [None, 2])
def test_identical_experts_are_the_dense_model(
    top_k: int | None, family: str, tie: bool, base_of: Bases, tmp_path: Path
) -> None:
    base = base_of(family, tie)
    alike = mixture_of(base, alike=True, top_k=top_k)
    dense = logits(base.load_model())
    torch.testing.assert_close(logits(composite_model(alike)), dense, **TOLERANCE)
    torch.testing.assert_close(logits(load(written(alike, base, tmp_path / "out"))), dense, **TOLERANCE)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.pre_norm])
def test_without_renormalisation_a_pre_norm_model_loses_scale(family: str, base_of: Bases, tmp_path: Path) -> None:
    """Weights of two experts out of three sum to less than one, and no norm follows that would cancel it."""
    base = base_of(family, False)
    lossy = mixture_of(base, alike=True, top_k=2, renormalise=False)
    dense = logits(base.load_model())
    assert (logits(composite_model(lossy)) - dense).abs().max() > 0.01
    if base.family.moe.renormalises == "always":
        with pytest.raises(ExportError, match="always rescales them to sum to one") as caught:
            lossy.checkpoint("portable")
        assert "renormalise=True" in caught.value.mend
    else:
        exported = load(written(lossy, base, tmp_path / "out"))
        assert (logits(exported) - dense).abs().max() > 0.01
        assert exported.config.norm_topk_prob is False


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.moe.renormalises == "flag"])
def test_the_flag_says_that_some_experts_are_rescaled(family: str, base_of: Bases) -> None:
    def flag(assembly: Experts) -> Any:
        return assembly.checkpoint("portable").config["norm_topk_prob"]

    base = base_of(family, False)
    assert flag(mixture_of(base, top_k=2)) is True
    assert flag(mixture_of(base, top_k=2, renormalise=False)) is False
