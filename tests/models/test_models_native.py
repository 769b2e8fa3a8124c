"""The native models: caches, batches, generation, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows, Prompts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.native.ensemble import EnsembleCache, likelihood_weights

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Models = Callable[[str, str], Any]

PARTIES = ("ash", "birch", "cedar")
METHODS: dict[str, Method] = {
    "rows": MixtureOfExperts(LearnedRows(top_k=2)),
    "lda": MixtureOfExperts(ResidualLDA(temperature=4.0, top_k=2)),
    "prompts": MixtureOfExperts(PromptRows({p: Prompts((f"words of {p}",)) for p in PARTIES}, ("a page",))),
    "evidence-rows": MixtureOfExperts(
        RowsAndEvidence(LearnedRows(top_k=2), PrefixEvidence("trigrams", switching=0.05), 0.5)
    ),
    "evidence-ffn-switching": MixtureOfExperts(PrefixEvidence("trigrams", switching=0.05, bound=3.0)),
    "evidence-full-switching": MixtureOfExperts(PrefixEvidence("trigrams", switching=0.05, top_k=2), scope="full"),
    "evidence-ffn": MixtureOfExperts(PrefixEvidence()),
    "evidence-ffn-tokens": MixtureOfExperts(PrefixEvidence(features="tokens", half_life=6.0, floor=0.3, top_k=1)),
    "uniform": Ensemble("uniform"),
    "likelihood": Ensemble("likelihood", temperature=1.5),
    "likelihood-top2": Ensemble("likelihood", top_k=2),
    "evidence-full": MixtureOfExperts(PrefixEvidence(), scope="full"),
    "evidence-full-mixed": MixtureOfExperts(PrefixEvidence(top_k=4, half_life=6.0, minimum_weight=0.0), scope="full"),
}
EVIDENCE = [name for name in METHODS if name.startswith("evidence")]
ENSEMBLES = [name for name in METHODS if name.startswith(("uniform", "likelihood", "evidence-full"))]
BOTH = ("olmo2", "llama")


@pytest.fixture(scope="module")
def model_of(tiny_base: Bases, contributions: Parts, public_text: Any) -> Models:
    @cache
    def build(method: str, family: str) -> Any:
        composite = compose(contributions(family), METHODS[method], tiny_base(family), public=public_text(family))
        return composite.model()

    return build


def batch(seed: int = 0, tokens: int = 15) -> tuple[Tensor, Tensor]:
    """Three sequences, padded on the left by 0, 4 and 9 tokens."""
    ids = torch.randint(1, 300, (3, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    for row, pads in ((1, 4), (2, 9)):
        ids[row, :pads], mask[row, :pads] = 0, 0
    return ids, mask


def logs(output: Any) -> Tensor:
    return output.logits.log_softmax(-1)  # type: ignore[no-any-return]


def close(one: Tensor, other: Tensor, mask: Tensor | None = None) -> None:
    if mask is not None:
        one, other = one[mask.bool()], other[mask.bool()]
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cuts", [[15], [1] * 15, [10, 1, 4]], ids=["whole", "one-by-one", "chunks"])
@torch.no_grad()
def test_the_cache_gives_what_a_full_pass_gives(method: str, family: str, cuts: list[int], model_of: Models) -> None:
    model = model_of(method, family)
    ids, mask = batch()
    full = logs(model(input_ids=ids, attention_mask=mask, use_cache=False))
    pieces, past, start = [], None, 0
    for cut in cuts:
        end = start + cut
        output = model(input_ids=ids[:, start:end], attention_mask=mask[:, :end], past_key_values=past, use_cache=True)
        past, start = output.past_key_values, end
        pieces.append(logs(output))
    close(torch.cat(pieces, 1), full, mask)
    assert past.get_seq_length() == 15


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_padding_on_the_left_leaves_no_trace(method: str, family: str, model_of: Models) -> None:
    model = model_of(method, family)
    ids, mask = batch()
    together = logs(model(input_ids=ids, attention_mask=mask, use_cache=False))
    for row, pads in ((0, 0), (1, 4), (2, 9)):
        alone = logs(model(input_ids=ids[row : row + 1, pads:], use_cache=False))
        close(together[row, pads:], alone[0])


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generating_with_the_cache_gives_the_same_tokens(
    method: str, family: str, beams: int, model_of: Models
) -> None:
    model = model_of(method, family)
    ids, mask = batch(seed=3, tokens=11)
    options = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    with_cache = model.generate(ids, attention_mask=mask, use_cache=True, **options)
    without = model.generate(ids, attention_mask=mask, use_cache=False, **options)
    assert with_cache.shape == (3, 18)
    assert torch.equal(with_cache, without)
    single = model.generate(ids[2:, 9:], use_cache=True, **options)
    assert torch.equal(single[0, -7:], with_cache[2, -7:])


def test_the_beams_caches_are_followed(model_of: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: beam search with a cache that does not reorder its state goes elsewhere."""
    model = model_of("likelihood", "olmo2")
    ids, mask = batch(seed=3, tokens=11)
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False, "num_beams": 4, "pad_token_id": 0}
    sound = model.generate(ids, attention_mask=mask, use_cache=True, **options)
    reordered: list[list[int]] = []

    def forget(_: EnsembleCache, beams: Tensor) -> None:
        reordered.append(beams.tolist())

    monkeypatch.setattr(EnsembleCache, "reorder_cache", forget)
    broken = model.generate(ids, attention_mask=mask, use_cache=True, **options)
    assert any(beams != sorted(beams) or len(set(beams)) < len(beams) for beams in reordered)
    assert not torch.equal(sound, broken)


@pytest.mark.parametrize("method", ["rows", "evidence-ffn", "evidence-full", "likelihood"])
@torch.no_grad()
def test_labels_give_the_mean_loss_and_logits_to_keep_the_tail(method: str, model_of: Models) -> None:
    model = model_of(method, "olmo2")
    ids, _ = batch()
    whole = model(input_ids=ids[:1], labels=ids[:1], use_cache=False)
    expected = functional.cross_entropy(whole.logits[0, :-1], ids[0, 1:])
    assert float(whole.loss) == pytest.approx(float(expected), rel=1e-5)
    close(logs(model(input_ids=ids[:1], logits_to_keep=2, use_cache=False)), logs(whole)[:, -2:])
    close(logs(model(input_ids=ids[:1], logits_to_keep=2, use_cache=True)), logs(whole)[:, -2:])


# Only the selected members run.


def counted(model: Any) -> list[list[int]]:
    """The number of tokens of every call, by member."""
    calls: list[list[int]] = [[] for _ in model.members.values()]
    for number, member in enumerate(model.members.values()):
        inner = member.forward

        def count(*args: Any, number: int = number, inner: Any = inner, **kwargs: Any) -> Any:
            calls[number].append(kwargs["input_ids"].numel())
            return inner(*args, **kwargs)

        member.forward = count
    return calls


@pytest.fixture
def own_model(tiny_base: Bases, contributions: Parts, public_text: Any) -> Callable[[str], Any]:
    def build(method: str) -> Any:
        composite = compose(contributions("olmo2"), METHODS[method], tiny_base("olmo2"), public=public_text("olmo2"))
        return composite.model()

    return build


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("party", [1, 2, 3])
@torch.no_grad()
def test_only_selected_members_run(
    party: int, use_cache: bool, own_model: Callable[[str], Any], tiny_base: Bases, fragments: Any
) -> None:
    model = own_model("evidence-full")
    calls = counted(model)
    text = list(fragments.values())[party - 1].read_text().split("\f")[3]
    ids = torch.tensor([[0, *tiny_base("olmo2").load_tokenizer()(text)["input_ids"]]])
    weights, _ = model.evidence(ids, None, None)
    selected = set((weights[0] > 0).any(0).nonzero().squeeze(-1).tolist())
    assert party in selected
    assert len(selected) < 4
    model(input_ids=ids, use_cache=use_cache)
    assert {number for number, lengths in enumerate(calls) if lengths} == selected
    if not use_cache:
        for number in selected:
            assert calls[number] == [int((weights[0, :, number] > 0).nonzero().max()) + 1]


@torch.no_grad()
def test_a_member_that_was_not_selected_catches_up_when_it_is(
    own_model: Callable[[str], Any], tiny_base: Bases, fragments: Any
) -> None:
    model = own_model("evidence-full")
    model.evidence.settings["half_life"] = 4.0
    calls = counted(model)
    tokenizer = tiny_base("olmo2").load_tokenizer()
    texts = [fragments[party].read_text().split("\f")[5] for party in ("ash", "birch")]
    ids = torch.tensor([[token for text in texts for token in tokenizer(text)["input_ids"]]])
    full = logs(model(input_ids=ids, use_cache=False))
    for lengths in calls:
        lengths.clear()
    past, pieces = None, []
    for token in ids[0].split(1):
        output = model(input_ids=token[None], past_key_values=past, use_cache=True)
        past = output.past_key_values
        pieces.append(logs(output))
    close(torch.cat(pieces, 1), full)
    selected = model.evidence(ids, None, None)[0][0] > 0
    late = [m for m in range(4) if selected[:, m].any() and int(selected[:, m].nonzero().min()) > 5]
    assert late, "the second text must call in a member that the first did not"
    for member in late:
        places = selected[:, member].nonzero().squeeze(-1).tolist()
        assert calls[member][0] == places[0] + 1, "it reads in one call what it had not seen"
        assert sum(calls[member]) == places[-1] + 1


@torch.no_grad()
def test_uniform_and_likelihood_run_every_member(own_model: Callable[[str], Any]) -> None:
    for method in ("uniform", "likelihood"):
        model = own_model(method)
        calls = counted(model)
        model(input_ids=batch()[0][:1], use_cache=False)
        assert calls == [[15]] * 4


# Weights against brute force.


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_likelihood_weights_are_bayes(top_k: int | None) -> None:
    scores = torch.tensor([[-3.0, -2.5, -4.0], [-30.0, -1.0, -31.0]], dtype=torch.float64)
    prior = torch.tensor([0.2, 0.5, 3.0], dtype=torch.float64)
    found = likelihood_weights(scores, prior.log(), 2.0, top_k).exp().numpy()
    for row, weights in zip(scores.tolist(), found, strict=True):
        raw = [p * np.exp(s / 2.0) for p, s in zip(prior.tolist(), row, strict=True)]
        kept = sorted(range(3), key=lambda m, raw=raw: -raw[m])[: top_k or 3]
        expected = [raw[m] / sum(raw[k] for k in kept) if m in kept else 0.0 for m in range(3)]
        np.testing.assert_allclose(weights, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "method",
    [
        Ensemble("uniform"),
        Ensemble("uniform", weights={"ash": 3.0, "base": 0.5}),
        Ensemble("likelihood"),
        Ensemble("likelihood", temperature=3.0, weights={"cedar": 4.0}),
        Ensemble("likelihood", top_k=2, temperature=0.7, weights={"ash": 1.1, "birch": 1.3, "cedar": 0.9}),
    ],
    ids=str,
)
@torch.no_grad()
def test_the_ensemble_is_the_mixture_of_its_members(method: Ensemble, tiny_base: Bases, contributions: Parts) -> None:
    model = compose(contributions("llama"), method, tiny_base("llama")).model()
    ids = batch()[0][:1]
    members = [m(ids).logits[0].double().softmax(-1).numpy() for m in model.members.values()]
    prior = [method.weights.get(name, 1.0) for name in ("base", "ash", "birch", "cedar")]
    found = model(input_ids=ids, use_cache=False).logits[0].double().exp().numpy()
    for t in range(ids.shape[1]):
        raw = []
        for member, weight in zip(members, prior, strict=True):
            likelihood = np.prod([member[s, ids[0, s + 1]] for s in range(t)])
            raw.append(weight * (likelihood ** (1 / method.temperature) if method.weighting == "likelihood" else 1.0))
        if method.top_k is not None:
            least = sorted(raw)[-method.top_k]
            raw = [r if r >= least else 0.0 for r in raw]
        expected = sum(r / sum(raw) * member[t] for r, member in zip(raw, members, strict=True))
        np.testing.assert_allclose(found[t], expected, rtol=2e-4)


@pytest.mark.parametrize("method", ["evidence-full", "evidence-full-mixed"])
@torch.no_grad()
def test_evidence_weighs_the_members(method: str, model_of: Models) -> None:
    model = model_of(method, "olmo2")
    ids = batch()[0][:1]
    weights, _ = model.evidence(ids, None, None)
    mixed = sum(
        weights[..., m, None] * member(ids).logits.softmax(-1) for m, member in enumerate(model.members.values())
    )
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits.exp(), mixed, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_evidence_weighs_the_experts_in_every_layer(model_of: Models) -> None:
    model = model_of("evidence-ffn", "olmo2")
    ids = batch()[0][:1]
    expected, _ = model.evidence(ids, None, None)
    passes: list[tuple[Tensor, Tensor]] = []
    banks = [layer.mlp for layer in model.body.model.layers]

    def note(_: Any, args: Any, output: Tensor) -> None:
        passes.append((args[0], output))

    hooks = [bank.register_forward_hook(note) for bank in banks]
    model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    for bank, (x, y) in zip(banks, passes, strict=True):
        dense = sum(expected[..., e, None] * expert(x) for e, expert in enumerate(bank.experts.values()))
        torch.testing.assert_close(y, dense, atol=1e-6, rtol=1e-4)
    assert model.mixing.weights is None


# Refusals.


def foreign_cache(model: Any) -> DynamicCache:
    config = model.config.text_config
    past = DynamicCache(config=config)
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        past.update(torch.zeros(1, heads, 3, size), torch.zeros(1, heads, 3, size), layer)
    return past


@pytest.mark.parametrize("method", [*EVIDENCE, "uniform", "likelihood"])
def test_a_foreign_cache_with_tokens_is_refused_and_an_empty_one_is_not(method: str, model_of: Models) -> None:
    model = model_of(method, "olmo2")
    with pytest.raises(InvalidOption, match="DynamicCache that already holds tokens") as caught:
        model(input_ids=torch.tensor([[5]]), past_key_values=foreign_cache(model), use_cache=True)
    assert "empty cache" in caught.value.mend
    model(input_ids=torch.tensor([[5]]), past_key_values=DynamicCache(config=model.config.text_config))


@pytest.mark.parametrize("method", [*EVIDENCE, "uniform", "likelihood"])
def test_embeddings_instead_of_tokens_are_refused(method: str, model_of: Models) -> None:
    with pytest.raises(InvalidOption, match=r"inputs_embeds: .*read.* token ids"):
        model_of(method, "olmo2")(inputs_embeds=torch.zeros(1, 2, 32))


def test_a_router_of_rows_takes_embeddings(model_of: Models) -> None:
    model = model_of("rows", "olmo2")
    ids = batch()[0][:1]
    embedded = model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=False)
    close(logs(embedded), logs(model(input_ids=ids, use_cache=False)))


@pytest.mark.parametrize("method", [*EVIDENCE, "uniform", "likelihood"])
def test_rewinding_the_cache_is_refused(method: str, model_of: Models) -> None:
    past = model_of(method, "olmo2")(input_ids=torch.tensor([[5, 6]]), use_cache=True).past_key_values
    with pytest.raises(InvalidOption, match="cannot be rewound") as caught:
        past.crop(1)
    assert "assisted" in caught.value.mend


@pytest.mark.parametrize("method", ["evidence-ffn", "likelihood", "evidence-full"])
@torch.no_grad()
def test_caches_repeat_and_select_sequences(method: str, model_of: Models) -> None:
    model = model_of(method, "olmo2")
    ids = batch()[0][:2]
    follow = torch.tensor([[9], [9], [9], [9]])
    past = model(input_ids=ids, use_cache=True).past_key_values
    past.batch_repeat_interleave(2)
    repeated = logs(model(input_ids=follow, past_key_values=past, use_cache=True))
    direct = logs(model(input_ids=torch.cat([ids, follow[:2]], 1), use_cache=False))[:, -1]
    close(repeated[:, -1], direct[[0, 0, 1, 1]])
    past.batch_select_indices(torch.tensor([3, 0]))
    kept = logs(model(input_ids=torch.tensor([[8], [8]]), past_key_values=past, use_cache=True))
    longer = torch.cat([ids, follow[:2], torch.tensor([[8], [8]])], 1)
    close(kept[:, -1], logs(model(input_ids=longer, use_cache=False))[[1, 0], -1])
