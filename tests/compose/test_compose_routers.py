"""What each router makes of contributions: rows of moments and of prompts, bounded evidence, rows with evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from family_mixtures import family_base, mixture_of, written
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows, Prompts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ExportError, InvalidOption, MissingPart
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base, open_base
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.routers import Evidence, Rows

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Floats = NDArray[np.float64]
FAMILIES = ("olmo2", "llama")
PROMPTS = {
    "ash": Prompts(("the river runs over grey stones", "the ferry crosses")),
    "birch": Prompts(("def return yield import",), ("the ferry",)),
    "cedar": Prompts(("plaintiff court appeal",)),
}
SHARED = ("a public page about nothing", "in particular")


def gates(model: Any, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer the router's input and its weights, over one pass."""
    found: list[tuple[Tensor, Tensor]] = []
    hooks = [
        layer.mlp.router.register_forward_hook(lambda _, inputs, out: found.append((inputs[0], out)))
        for layer in model.body.model.layers
    ]
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def some_ids(base: Base) -> Tensor:
    return torch.randint(1, base.vocabulary_size, (2, 20), generator=torch.Generator().manual_seed(3))


# Rows of moments --------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_every_layer_routes_by_bayes_rule(
    family: str, temperature: float, tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    """The composed model's own weights against normal densities written out."""
    base, found, public = tiny_base(family), contributions(family), public_text(family)
    model = compose(found, MixtureOfExperts(ResidualLDA(temperature=temperature)), base, public=public).model()
    described = [public["moments"], *(_moments(c) for c in found)]
    for layer, (x, weights) in enumerate(gates(model, some_ids(base))):
        means = [m.means[layer].load().double().numpy() for m in described]
        counts = np.minimum([float(m.rows) for m in described], described[0].rows)
        pooled = sum(
            m.seconds[layer].load().double().numpy() * n for m, n in zip(described, counts / counts.sum(), strict=True)
        )
        shrunk = 0.9 * pooled + 0.1 * np.trace(pooled) / len(pooled) * np.eye(len(pooled))
        gaps = [x.double().numpy() - mean for mean in means]
        energies = [np.einsum("bti,ij,btj->bt", gap, np.linalg.inv(shrunk), gap) for gap in gaps]
        logits = -0.5 * np.stack(energies, axis=-1) / temperature
        expected = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
        np.testing.assert_allclose(weights.numpy(), expected, atol=2e-4)


def _moments(contribution: Contribution) -> Any:
    tensors = {
        name: _Held(contribution.tensor(name)) for name in contribution.tensor_names() if name.startswith("moments.")
    }
    declared = next(s for s in contribution.manifest.statistics if s.name == "moments")  # type: ignore[union-attr]
    return ResidualMoments.of(tensors, declared.rows)  # type: ignore[arg-type]


class _Held:
    """A tensor that loads as itself."""

    def __init__(self, tensor: Tensor) -> None:
        self.load = lambda: tensor


def test_offsets_need_the_native_format_and_rows_alone_do_not(
    tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    found, base, public = contributions("olmo2"), tiny_base("olmo2"), public_text("olmo2")
    whole = compose(found, MixtureOfExperts(ResidualLDA()), base, public=public)
    with pytest.raises(ExportError, match="offsets") as caught:
        whole.checkpoint("portable")
    assert "ResidualLDA(offsets=False)" in caught.value.mend
    rows = compose(found, MixtureOfExperts(ResidualLDA(offsets=False)), base, public=public)
    assert (whole.default_layout(), rows.default_layout()) == ("native", "portable")


def test_moments_of_the_public_text_are_required(tiny_base: Bases, contributions: Parts, public_text: Any) -> None:
    public = {name: item for name, item in public_text("olmo2").items() if name != "moments"}
    with pytest.raises(InvalidOption, match="without moments of public text"):
        compose(contributions("olmo2"), MixtureOfExperts(ResidualLDA()), tiny_base("olmo2"), public=public)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "private"}, "covariance='private'"),
        ({"shrinkage": 1.5}, r"shrinkage=1\.5"),
        ({"shrinkage": float("nan")}, "shrinkage=nan"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_wrong_options_of_discriminants_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        ResidualLDA(**options)


# Rows of prompts --------------------------------------------------------------


def prompted(base: Base, text: str) -> list[Floats]:
    """Each layer's feed-forward input over a prompt, from transformers' own modules: what its gate projection reads."""
    model, tokenizer = base.load_model(), base.load_tokenizer()
    found: list[Floats] = []
    for layer in model.model.layers:
        layer.mlp.gate_proj.register_forward_hook(lambda _, inputs, __: found.append(inputs[0][0].double().numpy()))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model(torch.tensor([[base.separator, *ids]]))
    return [x[1:] for x in found]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_a_row_is_the_difference_of_its_prompts(family: str, pool: Any, tiny_base: Bases, contributions: Parts) -> None:
    base = tiny_base(family)
    method = MixtureOfExperts(PromptRows(PROMPTS, SHARED, pool, scale=3.0))
    router = compose(contributions(family), method, base).assembly.router  # type: ignore[union-attr]
    assert isinstance(router, Rows)
    for party, given in PROMPTS.items():
        texts = [[prompted(base, t) for t in given.positive], [prompted(base, t) for t in (*given.negative, *SHARED)]]
        for layer in range(base.layers):
            kinds = [[t[layer][-1:] if pool == "last" else t[layer] for t in kind] for kind in texts]
            plus, minus = (np.concatenate(kind) for kind in kinds)
            middle = (plus.mean(0) + minus.mean(0)) / 2
            row = router.rows[party][layer].load().double().numpy()
            difference = plus.mean(0) - minus.mean(0)
            straight = difference - middle * (difference @ middle) / (middle @ middle)
            assert row @ straight == pytest.approx(np.linalg.norm(row) * np.linalg.norm(straight), rel=1e-5)
            step = np.sqrt(np.square(np.concatenate([plus, minus]) - middle).mean())
            assert np.linalg.norm(row) * step == pytest.approx(3.0, rel=1e-5)
            assert abs(row @ middle) < 1e-4 * np.linalg.norm(middle) * np.linalg.norm(row)
            assert row @ plus.mean(0) > row @ minus.mean(0)


def test_a_row_knows_no_other_party(tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base("llama"), contributions("llama")
    method = MixtureOfExperts(PromptRows(PROMPTS, SHARED))
    changed = PROMPTS | {"birch": Prompts(("something else",))}
    one = compose(found, method, base).assembly.router  # type: ignore[union-attr]
    other = compose(found, replace(method, router=PromptRows(changed, SHARED)), base).assembly.router  # type: ignore[union-attr]
    for party in PROMPTS:
        same = all(torch.equal(a.load(), b.load()) for a, b in zip(one.rows[party], other.rows[party], strict=True))
        assert same == (party != "birch")


def test_prompts_of_an_owner_serve_all_its_shares_and_a_party_without_is_named(
    tiny_base: Bases, contributions: Parts
) -> None:
    some = {"ash": PROMPTS["ash"], "cedar": PROMPTS["cedar"], "oak": PROMPTS["birch"]}
    with pytest.raises(InvalidOption, match=r"party 'birch': there are no prompts for it.*ash, cedar, oak"):
        compose(contributions("olmo2"), MixtureOfExperts(PromptRows(some, SHARED)), tiny_base("olmo2"))
    assert PromptRows(some, SHARED)._of("oak.code") is some["oak"]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (Prompts(()), {}, "none of them is positive"),
        (Prompts(("  ",)), {}, "none of them is positive"),
        (Prompts(("yes",)), {"negative": ()}, "none of them is negative"),
        (Prompts(("yes",)), {"pool": "first"}, "pool='first'"),
        (Prompts(("yes",)), {"scale": 0.0}, r"scale=0\.0"),
        (Prompts(("yes",)), {"top_k": 0}, "top_k=0"),
    ],
)
def test_wrong_prompts_are_refused(given: Prompts, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        PromptRows(**{"prompts": {"ash": given}, "negative": SHARED} | options)


def test_prompts_that_say_the_same_are_refused(tiny_base: Bases, contributions: Parts) -> None:
    same = {party: Prompts(SHARED) for party in PROMPTS}
    with pytest.raises(InvalidOption, match=r"prompts of party 'ash': in layer 0 .* one mean"):
        compose(contributions("olmo2"), MixtureOfExperts(PromptRows(same, SHARED)), tiny_base("olmo2"))


# Bounded evidence -------------------------------------------------------------

TEMPLATE = 7
"""A token that every text of the world below holds once in thirty, and public text hardly ever."""


def spiked(public: Floats) -> TokenHistogram:
    """The public text's histogram with a tenth of its mass put on one token."""
    counts = 0.9 * public
    counts[TEMPLATE] += 0.1 * public.sum()
    return TokenHistogram(counts)


def captured(bound: float | None, base: Base, public: TokenHistogram, text: Tensor) -> float:
    """Mean weight of the party with that histogram over a text like the public one."""
    row = PrefixEvidence("tokens", bound=bound)._row(spiked(public.counts), public.log_probabilities())
    evidence = torch.stack([torch.from_numpy(public.log_probabilities()), torch.from_numpy(row)])
    from quiltwork.evidence.posterior import PrefixPosterior

    rule = PrefixPosterior(evidence, torch.zeros(2, dtype=torch.float64), (0, 1), 2)
    weights, _ = rule.advance(text, rule.initial_state(len(text)))
    return float(weights[..., 1].exp().mean())


def test_a_spike_that_draws_every_text_draws_none_within_the_bound(tiny_base: Bases) -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(200, 400, 300).astype(float)
    counts[TEMPLATE] = 0.0
    public = TokenHistogram(counts)
    text = draw.choice(300, (20, 90), p=counts / counts.sum())
    text[:, [5, 35, 65]] = TEMPLATE
    ids = torch.from_numpy(text)
    assert captured(None, tiny_base("olmo2"), public, ids) > 0.7
    assert captured(1.0, tiny_base("olmo2"), public, ids) < 0.25
    assert captured(100.0, tiny_base("olmo2"), public, ids) == captured(None, tiny_base("olmo2"), public, ids)


def test_a_bounded_row_is_the_smaller_of_two_and_knows_no_other_party(
    tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    base, found, public = tiny_base("olmo2"), contributions("olmo2"), public_text("olmo2")
    method = MixtureOfExperts(PrefixEvidence("tokens", bound=0.5))
    router = compose(found, method, base, public=public).assembly.router  # type: ignore[union-attr]
    assert isinstance(router, Evidence)
    ceiling = np.log((public["tokens"].counts + 0.5) / (public["tokens"].counts + 0.5).sum()) + 0.5
    for contribution in found:
        counts = contribution.tensor("tokens.counts").numpy() + 0.5
        expected = np.minimum(np.log(counts / counts.sum()), ceiling)
        got = router.rows[contribution.party].load().numpy()
        np.testing.assert_allclose(got, expected, atol=1e-6)
        assert np.exp(got.astype(float)).sum() < 1
    alone = compose(found[:1], method, base, public=public).assembly.router  # type: ignore[union-attr]
    assert torch.equal(alone.rows["ash"].load(), router.rows["ash"].load())


def test_without_public_text_nothing_is_bounded(tiny_base: Bases, contributions: Parts) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    for bound in (1.0, None):
        method = MixtureOfExperts(PrefixEvidence("tokens", bound=bound, floor=0.0))
        row = compose(found, method, base).assembly.router.rows["ash"].load().numpy()  # type: ignore[union-attr]
        counts = found[0].tensor("tokens.counts").numpy() + 0.5
        np.testing.assert_allclose(row, np.log(counts / counts.sum()), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "words"}, "features='words'.*no such features"),
        ({"bound": 0.0}, r"bound=0\.0"),
        ({"switching": 2.0}, r"switching=2\.0"),
        ({"switching": 0.1, "half_life": 9.0}, "half_life and switching together"),
        ({"minimum_weight": 1.0}, r"minimum_weight=1\.0"),
        ({"minimum_weight": -0.1}, r"minimum_weight=-0\.1"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
    ],
)
def test_wrong_options_of_evidence_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        PrefixEvidence(**options)


def test_trigrams_that_were_not_released_are_named(tiny_base: Bases, contributions: Parts, public_text: Any) -> None:
    public = {name: item for name, item in public_text("olmo2").items() if name != "trigrams"}
    with pytest.raises(InvalidOption, match="without trigrams of public text"):
        compose(contributions("olmo2"), MixtureOfExperts(PrefixEvidence("trigrams")), tiny_base("olmo2"), public=public)


# Rows with evidence -----------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_product_of_rows_and_posterior(
    family: str, share: float, tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    base, found, public = tiny_base(family), contributions(family), public_text(family)
    evidence = PrefixEvidence(minimum_weight=0.0, temperature=3.0)
    weights = {"base": 2.0, "ash": 0.5}
    both = MixtureOfExperts(RowsAndEvidence(LearnedRows(bias=True, top_k=2), evidence, share), weights=weights)
    model = compose(found, both, base, public=public).model()
    ids = some_ids(base)
    alone = compose(found, MixtureOfExperts(evidence, weights=weights), base, public=public).model()
    posterior, _ = alone.evidence(ids, None, None)
    for layer, (x, got) in enumerate(gates(model, ids)):
        rows = [torch.zeros_like(x[0, 0]), *(c.tensor(f"ffn.layers.{layer}.router.weight") for c in found)]
        biases = [0.0, *(min(float(c.tensor(f"ffn.layers.{layer}.router.bias")), 0.0) for c in found)]
        product = posterior * torch.exp(share * (x @ torch.stack(rows).T + torch.tensor(biases)))
        least = product.topk(2, dim=-1).values[..., 1:]
        product = torch.where(product >= least, product, 0.0)
        torch.testing.assert_close(got, product / product.sum(-1, keepdim=True), atol=2e-5, rtol=0)


def test_weights_under_the_minimum_are_dropped(tiny_base: Bases, contributions: Parts, public_text: Any) -> None:
    base, found, public = tiny_base("llama"), contributions("llama"), public_text("llama")
    for least in (0.0, 0.2):
        router = RowsAndEvidence(evidence=PrefixEvidence(minimum_weight=least, temperature=3.0))
        model = compose(found, MixtureOfExperts(router), base, public=public).model()
        (_, got), *_ = gates(model, some_ids(base))
        torch.testing.assert_close(got.sum(-1), torch.ones(2, 20))
        assert bool(((got > 0) & (got < 0.2)).any()) == (least == 0.0)


def test_rows_with_evidence_are_native_only_and_choose_once(
    tiny_base: Bases, contributions: Parts, public_text: Any
) -> None:
    both = MixtureOfExperts(RowsAndEvidence())
    composite = compose(contributions("olmo2"), both, tiny_base("olmo2"), public=public_text("olmo2"))
    with pytest.raises(ExportError, match="prefix-evidence router"):
        composite.checkpoint("portable")
    with pytest.raises(InvalidOption, match="top_k=1 of the evidence"):
        RowsAndEvidence(evidence=PrefixEvidence(top_k=1))
    with pytest.raises(InvalidOption, match=r"share=-1\.0"):
        RowsAndEvidence(share=-1.0)


@pytest.mark.parametrize("router", [RowsAndEvidence(), ResidualLDA(), PromptRows(PROMPTS, SHARED)])
def test_rows_do_not_choose_among_whole_models(router: Any) -> None:
    with pytest.raises(InvalidOption, match="with full experts: rows choose among"):
        MixtureOfExperts(router, scope="full")


def test_what_a_router_needs_is_asked_of_every_party(tiny_base: Bases, contributions: Parts, public_text: Any) -> None:
    both = MixtureOfExperts(RowsAndEvidence(ResidualLDA(), PrefixEvidence("trigrams")))
    assert both.needs() == {"ffn", "moments", "trigrams"}
    found = contributions("olmo2")
    bare = replace(found[0], manifest=found[0].manifest.model_copy(update={"statistics": ()}))
    with pytest.raises(MissingPart, match="needs the part 'moments'"):
        compose([bare, *found[1:]], both, tiny_base("olmo2"), public=public_text("olmo2"))


@pytest.mark.parametrize(
    ("router", "name"),
    [
        (ResidualLDA(), "rows of moments"),
        (PromptRows(PROMPTS, SHARED), "rows of prompts"),
        (RowsAndEvidence(), "rows with evidence"),
    ],
)
def test_a_base_that_is_a_mixture_is_refused_where_there_is_no_row_of_zeros(
    router: Any, name: str, tmp_path: Path
) -> None:
    dense = family_base("olmo2", tmp_path / "dense")
    base = open_base(written(mixture_of(dense, top_k=2), dense, tmp_path / "mixture"))
    with pytest.raises(InvalidOption, match=f"{name} over a base that is a mixture itself.*3 of its own") as caught:
        router.routing(base, [], {}, {})
    assert "LearnedRows" in caught.value.mend
