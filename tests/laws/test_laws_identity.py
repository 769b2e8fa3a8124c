"""Law 3: copies of one model compose to that model's function.

Where the base is a slot of its own, copies of the base give the base, and k copies of a party give what one copy with
weight k gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from law_checks import (
    FAMILIES,
    METHODS,
    Public,
    check_same_function,
    layouts_of,
    load,
    renamed,
    some_ids,
    without_difference,
)

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.base import Base

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Publics = Callable[[str], Public]
Copies = Callable[[str], list[Contribution]]


@pytest.fixture(scope="module")
def idle(tiny_base: Bases, contributions: Parts, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Three parties whose experts are the base itself, with routers and histograms of their own."""
    built: dict[str, list[Contribution]] = {}

    def build(family: str) -> list[Contribution]:
        if family not in built:
            place = tmp_path_factory.mktemp(f"idle-{family}")
            built[family] = [
                renamed(c, c.party, place / c.party, tensors=without_difference(c, tiny_base(family)))
                for c in contributions(family)
            ]
        return built[family]

    return build


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_copies_of_the_base_give_the_base(
    method: str, family: str, tiny_base: Bases, idle: Copies, public_text: Publics, tmp_path: Path
) -> None:
    base = tiny_base(family)
    composite = compose(idle(family), METHODS[method], base, public=public_text(family))
    check_same_function(composite.model(), base.load_model(), some_ids(base))
    for layout in layouts_of(composite):
        composite.save(tmp_path / layout, layout=layout)  # type: ignore[arg-type]
        check_same_function(load(tmp_path / layout), base.load_model(), some_ids(base))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_soup_of_copies_is_the_model_copied(
    family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    base, one = tiny_base(family), contributions(family)[0]
    copies = [one, renamed(one, "bark", tmp_path / "bark"), renamed(one, "bough", tmp_path / "bough")]
    alone = compose([one], Alone("full"), base).model()
    check_same_function(compose(copies, Soup(weights={"bark": 0.3}), base).model(), alone, some_ids(base))
    check_same_function(compose([one], Soup(), base).model(), alone, some_ids(base), tolerance=0.0)
    with pytest.raises(AssertionError):
        check_same_function(base.load_model(), alone, some_ids(base))


_SPLIT: Mapping[str, Callable[[dict[str, float]], Method]] = {
    "uniform": lambda w: Ensemble("uniform", weights=w),
    "likelihood": lambda w: Ensemble("likelihood", weights=w),
    "rows": lambda w: MixtureOfExperts(LearnedRows(), weights=w),
    "evidence-ffn": lambda w: MixtureOfExperts(PrefixEvidence(minimum_weight=0.0), weights=w),
    "evidence-full": lambda w: MixtureOfExperts(
        PrefixEvidence(minimum_weight=0.0, top_k=9, half_life=7.0, floor=0.1), scope="full", weights=w
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", _SPLIT)
def test_two_copies_are_one_with_twice_the_weight(
    method: str, family: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    base, found, public = tiny_base(family), contributions(family)[:2], public_text(family)
    copies = [*found, renamed(found[0], "bark", tmp_path / "bark")]
    twice = compose(copies, _SPLIT[method]({}), base, public=public).model()
    heavy = compose(found, _SPLIT[method]({"ash": 2.0}), base, public=public).model()
    plain = compose(found, _SPLIT[method]({}), base, public=public).model()
    check_same_function(twice, heavy, some_ids(base))
    with pytest.raises(AssertionError):
        check_same_function(twice, plain, some_ids(base), tolerance=1e-4)


@pytest.mark.parametrize("scope", ["full", "ffn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_alone_is_the_base_where_nothing_was_learned(family: str, scope: str, tiny_base: Bases, idle: Copies) -> None:
    base = tiny_base(family)
    alone = compose(idle(family)[:1], Alone(scope), base)  # type: ignore[arg-type]
    check_same_function(alone.model(), base.load_model(), some_ids(base), tolerance=0.0)


# Negative controls.


def test_the_check_refuses_weights_that_do_not_sum_to_one(tiny_base: Bases, idle: Copies) -> None:
    # in a pre-norm family the scale of the experts' output matters; without renormalisation two of four lose share
    base = tiny_base("llama")
    lossy = MixtureOfExperts(LearnedRows(top_k=2, renormalise=False))
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        check_same_function(compose(idle("llama"), lossy, base).model(), base.load_model(), some_ids(base))


def test_the_check_refuses_a_soup_whose_shares_do_not_sum_to_one(
    tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    base, one = tiny_base("olmo2"), contributions("olmo2")[0]
    twin = renamed(one, "bark", tmp_path / "bark")
    composite = compose([one, twin], Soup(), base)
    doubled = replace(
        composite.assembly.checkpoint("native"),
        shards={
            "model.safetensors": {
                name: source.derive(lambda t, b=base.tensors[name]: b.load() + 2 * (t - b.load()))
                for name, source in composite.assembly.checkpoint("native").tensors().items()
            }
        },
    )
    model = compose([one], Alone("full"), base).model()
    check_same_function(composite.model(), model, some_ids(base))
    broken = composite.model()
    broken.load_state_dict({n: s.load() for n, s in doubled.tensors().items()}, strict=False)
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        check_same_function(broken, model, some_ids(base))
