"""The laws where the base is a mixture itself: a composite of other parties, or any checkpoint of such a format."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from law_checks import (
    assert_same_files,
    check_opt_out,
    check_opt_out_from_disk,
    check_order,
    check_round_trip,
    check_same_function,
    layouts_of,
    load,
    some_ids,
)
from safetensors.torch import load_file, save_file

from family_mixtures import family_base, mixture_of, written
from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.joining_language import joined_language
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.composite import open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base, open_base
from quiltwork.party.contribute import Order, contribute, text_histograms
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope
from quiltwork.training.loop import TrainingPlan

FORMATS = {"flex_olmo": "olmo2", "mixtral": "llama", "qwen2_moe": "qwen2"}
METHODS: Mapping[str, Method] = {
    "rows": MixtureOfExperts(LearnedRows()),
    "rows-all": MixtureOfExperts(LearnedRows(top_k=9)),
    "rows-bias": MixtureOfExperts(LearnedRows(bias=True)),
    "rows-weighted": MixtureOfExperts(LearnedRows(), weights={"base": 2.0}),
    "evidence": MixtureOfExperts(PrefixEvidence()),
    "evidence-top1": MixtureOfExperts(PrefixEvidence(features="tokens", floor=0.0, top_k=1)),
}
OWNERS = ("elm", "fir")
Bases = Callable[..., Base]
Parts = Callable[[str], list[Contribution]]
Publics = Callable[[str], Mapping[str, TokenHistogram]]


@pytest.fixture(scope="module")
def mixture_base(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """``mixture_base(format)``: a portable composite, three experts of which two answer, opened as a base."""

    @cache
    def build(form: str, alike: bool = False) -> Base:
        place = tmp_path_factory.mktemp(form)
        dense = family_base(FORMATS[form], place / "dense")
        return open_base(written(mixture_of(dense, top_k=2, alike=alike), dense, place / "mixture"))

    return build


@pytest.fixture(scope="module")
def parts(mixture_base: Bases, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """``parts(format)``: contributions of two owners, each a little trained beside the mixture."""

    @cache
    def build(form: str) -> tuple[Contribution, ...]:
        place = tmp_path_factory.mktemp(f"parts-{form}")
        found = []
        for owner in OWNERS:
            (place / f"{owner}.txt").write_text("\f".join(f"{owner} says {i} of {owner}" for i in range(40)))
            plan = TrainingPlan(steps=4, batch_size=4, sequence_length=32, learning_rate=1e-2)
            order = Order(party=owner, scopes=(FFNScope(bias=-0.1),), plan=plan)
            fragment = open_fragment([place / f"{owner}.txt"])
            with torch.enable_grad():
                found.append(contribute(mixture_base(form), fragment, place / owner, order, force_cpu=True))
        return tuple(found)

    return lambda form: list(build(form))


@pytest.fixture(scope="module")
def public(mixture_base: Bases) -> Publics:
    return cache(lambda form: text_histograms(mixture_base(form), ["a public text", "elm and fir say 3"] * 5))


each_form = pytest.mark.parametrize("form", FORMATS)
each_method = pytest.mark.parametrize("method", METHODS)


@each_form
@each_method
def test_opt_out_is_exact(
    method: str, form: str, mixture_base: Bases, parts: Parts, public: Publics, tmp_path: Path
) -> None:
    check_opt_out(parts(form), METHODS[method], mixture_base(form), public(form), "elm", tmp_path)
    check_opt_out_from_disk(parts(form), METHODS[method], mixture_base(form), public(form), "fir", tmp_path / "disk")


@each_form
@each_method
def test_order_and_round_trip(
    method: str, form: str, mixture_base: Bases, parts: Parts, public: Publics, tmp_path: Path
) -> None:
    base = mixture_base(form)
    check_order(list(itertools.permutations(parts(form))), METHODS[method], base, public(form), tmp_path / "order")
    composite = compose(parts(form), METHODS[method], base, public=public(form))
    assert layouts_of(composite) == (["portable", "native"] if method in ("rows", "rows-all") else ["native"])
    for layout in layouts_of(composite):
        check_round_trip(composite, layout, some_ids(base), tmp_path / layout)
        opened = open_composite(tmp_path / layout)
        opened.save(tmp_path / f"again-{layout}", layout=layout)  # type: ignore[arg-type]
        assert_same_files(tmp_path / layout, tmp_path / f"again-{layout}")


@each_form
@each_method
def test_copies_of_one_expert_are_the_dense_model(
    method: str, form: str, mixture_base: Bases, parts: Parts, public: Publics
) -> None:
    """A base whose experts are alike, and parties that add the same once more: whatever the weights, one function."""
    base = mixture_base(form, alike=True)
    composite = compose(parts(form), METHODS[method], mixture_base(form), public=public(form))
    assembly: Any = composite.assembly
    own = base.own
    assert own is not None
    alike = type(assembly)(
        body=type(assembly.body)(assembly.body.config, base.tensors, own),
        experts={party: base.ffn() for party in assembly.experts},
        router=assembly.router,
    )
    model = type(composite)(alike, composite.provenance, composite.tokenizer).model()
    check_same_function(model, base.load_model(), some_ids(base), tolerance=1e-4)


@each_form
def test_the_base_answers_where_the_posterior_says_so(
    form: str, mixture_base: Bases, parts: Parts, public: Publics
) -> None:
    """All weight on the base's slot is the base itself, its own router dividing the weight among its experts."""
    base = mixture_base(form)
    sure = MixtureOfExperts(PrefixEvidence(temperature=1e6), weights={"base": 1e9})
    model = compose(parts(form), sure, base, public=public(form)).model()
    check_same_function(model, base.load_model(), some_ids(base))
    unsure = compose(parts(form), MixtureOfExperts(PrefixEvidence(temperature=1e6)), base, public=public(form)).model()
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        check_same_function(unsure, base.load_model(), some_ids(base), tolerance=1e-3)
    model.body.model.layers[0].mlp.own.weight.data.neg_()
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        check_same_function(model, base.load_model(), some_ids(base))


@each_form
def test_the_base_s_number_of_active_experts_is_kept_unless_said_otherwise(
    form: str, mixture_base: Bases, parts: Parts
) -> None:
    def config(**options: Any) -> Mapping[str, Any]:
        method = MixtureOfExperts(LearnedRows(**options))
        return compose(parts(form), method, mixture_base(form)).checkpoint("portable").config

    assert config()["num_experts_per_tok"] == 2
    assert config(top_k=4)["num_experts_per_tok"] == 4
    assert config(top_k=99)["num_experts_per_tok"] == 5


@each_form
def test_a_composite_is_extended_and_extended_again(
    form: str, mixture_base: Bases, parts: Parts, tmp_path: Path
) -> None:
    """compose -> portable -> base -> contribute -> compose, twice; transformers' class computes the same each time."""
    base = mixture_base(form)
    first = compose(parts(form)[:1], MixtureOfExperts(LearnedRows()), base)
    first.save(tmp_path / "first", layout="portable")
    longer = open_base(tmp_path / "first")
    assert longer.own is not None
    assert longer.own.count == 4
    (tmp_path / "text.txt").write_text("\f".join(f"a later owner writes {i}" for i in range(40)))
    plan = TrainingPlan(steps=3, batch_size=4, sequence_length=32, learning_rate=1e-2)
    order = Order(party="gum", scopes=(FFNScope(),), plan=plan)
    later = contribute(longer, open_fragment([tmp_path / "text.txt"]), tmp_path / "gum", order, force_cpu=True)
    assert later.manifest.base.digest == longer.digest  # type: ignore[union-attr]
    second = compose([later], MixtureOfExperts(LearnedRows()), longer)
    second.save(tmp_path / "second", layout="portable")
    plain = load(tmp_path / "second")
    assert type(plain).__name__ == longer.family.moe.architecture
    check_same_function(plain, second.model(), some_ids(base), tolerance=5e-6)
    with pytest.raises(AssertionError):
        check_same_function(plain, load(tmp_path / "first"), some_ids(base), tolerance=1e-4)
    third = open_base(tmp_path / "second")
    assert third.own is not None
    assert (third.own.count, third.own.top_k) == (5, 2)
    # what was trained beside one base does not fit the other
    with pytest.raises(Exception, match="made from base"):
        compose([later], MixtureOfExperts(LearnedRows()), third)


@each_form
@pytest.mark.parametrize("layout", ["portable", "native"])
def test_parties_come_and_go_and_the_base_stays_one_file(
    layout: str, form: str, mixture_base: Bases, parts: Parts, tmp_path: Path
) -> None:
    base, (elm, fir), method = mixture_base(form), parts(form), METHODS["rows"]
    compose([elm, fir], method, base).save(tmp_path / "both", layout=layout)  # type: ignore[arg-type]
    compose([elm], method, base).save(tmp_path / "one", layout=layout)  # type: ignore[arg-type]
    joined = joined_language(open_composite(tmp_path / "one"), [fir])
    joined.save(tmp_path / "joined", layout=layout)  # type: ignore[arg-type]
    open_composite(tmp_path / "both").without("fir").save(tmp_path / "left", layout=layout)  # type: ignore[arg-type]
    assert_same_files(tmp_path / "joined", tmp_path / "both")
    assert_same_files(tmp_path / "left", tmp_path / "one")
    for one, other in (("joined", "one"), ("left", "both")):
        assert (tmp_path / one / "shared.safetensors").samefile(tmp_path / other / "shared.safetensors")


@each_form
def test_alone_is_the_dense_model_around_one_expert(form: str, mixture_base: Bases, parts: Parts) -> None:
    base, one = mixture_base(form), parts(form)[0]
    model = compose([one], Alone("ffn"), base).model()
    assert type(model).__name__ == base.family.architecture
    weight = model.model.layers[1].mlp.up_proj.weight
    assert torch.equal(weight, one.tensor("ffn.layers.1.up_proj.weight"))


@pytest.mark.parametrize("method", [MixtureOfExperts(RowsAndEvidence())], ids=lambda m: m.name)
def test_routers_that_know_no_other_rows_are_refused(
    method: Method, mixture_base: Bases, parts: Parts, public: Publics
) -> None:
    with pytest.raises(CheckpointError, match="it is a mixture of 3 experts, and this method takes a dense") as caught:
        compose(parts("mixtral"), method, mixture_base("mixtral"), public=public("mixtral"))
    assert "LearnedRows or PrefixEvidence" in caught.value.mend


def test_whole_models_of_a_mixture_are_not_to_be_had(mixture_base: Bases, parts: Parts) -> None:
    with pytest.raises(Exception, match=r"holds no|without|'full'"):
        compose(parts("mixtral"), Ensemble("uniform"), mixture_base("mixtral"))


# The identity of a mixture.


@each_form
def test_experts_rows_and_rule_name_the_base(form: str, mixture_base: Bases, tmp_path: Path) -> None:
    base = mixture_base(form)
    shutil.copytree(base.path, tmp_path / "copy")
    assert open_base(tmp_path / "copy").digest == base.digest
    for file in ("router.safetensors", "expert-party1.safetensors", "shared.safetensors"):
        place = tmp_path / "copy" / file
        place.chmod(0o644)
        before = place.read_bytes()
        tensors = load_file(place)
        next(iter(tensors.values())).view(-1)[0] += 1
        save_file(tensors, place, {"format": "pt"})
        assert open_base(tmp_path / "copy").digest != base.digest, file
        place.write_bytes(before)
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").chmod(0o644)
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 1}))
    assert open_base(tmp_path / "copy").digest != base.digest
