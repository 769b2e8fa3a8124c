"""The posterior over parties against a token-by-token recurrence in float64 numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.gaussian import GaussianSummary
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.posterior import PrefixPosterior, posterior

V = 17


def histograms(seed: int, parties: int = 3, vocabulary: int = V) -> list[TokenHistogram]:
    draw = np.random.default_rng(seed)
    return [TokenHistogram(draw.integers(0, 40, vocabulary).astype(float)) for _ in range(parties)]


def tokens(seed: int, batch: int, length: int, vocabulary: int = V) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, vocabulary, (batch, length)))


def run(rule: PrefixPosterior, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return rule.advance(ids, rule.initial_state(len(ids)), mask)[0]


def brute(rule: PrefixPosterior, ids: torch.Tensor, mask: torch.Tensor | None = None) -> NDArray[np.float64]:
    """One token at a time, no blocks, nothing subtracted."""
    table = rule.log_likelihood.double().numpy() / rule.temperature
    prior, slot = rule.log_prior.double().numpy(), np.array(rule.slot)
    fade = 1.0 if rule.half_life is None else 2.0 ** (-1 / rule.half_life)
    out = np.full((*ids.shape, rule.slots), -np.inf)
    for b, row in enumerate(ids.numpy()):
        score = np.zeros(len(slot))
        for t, token in enumerate(row):
            if mask is None or mask[b, t]:
                score = fade * score + table[:, token]
            logits = prior + score
            logits = logits - np.logaddexp.reduce(logits)
            for s in set(rule.slot):
                out[b, t, s] = np.logaddexp.reduce(logits[slot == s])
    return out


def assert_same(got: torch.Tensor, expected: NDArray[np.float64] | torch.Tensor, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got.numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(0, 40),
    st.booleans(),
    st.one_of(st.none(), st.floats(-2, 2)),
    st.one_of(st.none(), st.floats(0.05, 1000)),
    st.floats(0.3, 5),
    st.booleans(),
)
def test_weights_are_those_of_the_recurrence(
    seed: int,
    parties: int,
    length: int,
    public: bool,
    floor: float | None,
    half_life: float | None,
    temperature: float,
    masked: bool,
) -> None:
    draw = np.random.default_rng(seed)
    rule = PrefixPosterior.from_histograms(
        histograms(seed, parties),
        public=histograms(seed + 1, 1)[0] if public else None,
        floor=floor,
        prior=draw.uniform(0.1, 3, parties + 1).tolist(),
        temperature=temperature,
        half_life=half_life,
    )
    ids = tokens(seed, 2, length)
    mask = torch.from_numpy(draw.random((2, length)) < 0.7) if masked else None
    got = run(rule, ids, mask)
    assert got.dtype == torch.float32
    assert got.shape == (2, length, parties + 1)
    assert_same(got, brute(rule, ids, mask))
    assert_same(got.double().exp().sum(dim=-1), np.ones((2, length)))


@pytest.mark.parametrize("half_life", [None, 3.0, 5000.0])
def test_twenty_thousand_tokens_keep_their_precision(half_life: float | None) -> None:
    close = np.random.default_rng(0).integers(900, 1100, (3, V)).astype(float)
    rule = PrefixPosterior.from_histograms(
        [TokenHistogram(row) for row in close], floor=0.0, half_life=half_life, temperature=4.0
    )
    ids = tokens(1, 1, 20_000)
    assert_same(run(rule, ids), brute(rule, ids), 1e-6)


def test_negative_control_a_float32_sum_is_off_after_twenty_thousand_tokens() -> None:
    close = np.random.default_rng(0).integers(900, 1100, (3, V)).astype(float)
    rule = PrefixPosterior.from_histograms([TokenHistogram(row) for row in close], floor=0.0, temperature=4.0)
    ids = tokens(1, 1, 20_000)
    naive = (rule.log_likelihood.float()[:, ids[0]].T / 4).cumsum(dim=0) + rule.log_prior.float()
    weights = torch.log_softmax(naive, dim=-1).numpy()
    assert np.abs(weights[-1] - brute(rule, ids)[0, -1]).max() > 1e-4


@pytest.mark.parametrize("half_life", [None, 7.0])
def test_a_float32_state_kept_relative_is_good_over_long_texts(half_life: float | None) -> None:
    close = np.random.default_rng(0).integers(900, 1100, (3, V)).astype(float)
    rule = PrefixPosterior.from_histograms([TokenHistogram(row) for row in close], floor=0.0, half_life=half_life)
    ids = tokens(1, 1, 20_000)
    got, state = rule.advance(ids, rule.initial_state(1).float())
    assert state.dtype == torch.float32
    assert_same(got, brute(rule, ids), 3e-2)


@pytest.mark.parametrize("half_life", [None, 11.0])
@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=25)
def test_any_chunks_give_what_one_call_gives(
    half_life: float | None, sizes: list[int], seed: int, masked: bool
) -> None:
    rule = PrefixPosterior.from_histograms(histograms(seed), floor=0.1, half_life=half_life)
    ids = tokens(seed, 2, sum(sizes))
    mask = torch.from_numpy(np.random.default_rng(seed).random(ids.shape) < 0.8) if masked else None
    state, pieces, start = rule.initial_state(2), [], 0
    for size in sizes:
        part = slice(start, start + size)
        piece, state = rule.advance(ids[:, part], state, None if mask is None else mask[:, part])
        pieces.append(piece)
        start += size
    assert_same(torch.cat(pieces, dim=1), run(rule, ids, mask))


def test_token_by_token_gives_what_one_call_gives() -> None:
    rule = PrefixPosterior.from_histograms(histograms(3), floor=0.1, half_life=20.0)
    ids = tokens(3, 1, 600)
    state, pieces = rule.initial_state(1), []
    for t in range(600):
        piece, state = rule.advance(ids[:, t : t + 1], state)
        pieces.append(piece)
    assert_same(torch.cat(pieces, dim=1), run(rule, ids))


@pytest.mark.parametrize("half_life", [None, 9.0])
def test_it_is_causal_and_takes_in_the_present_token(half_life: float | None) -> None:
    rule = PrefixPosterior.from_histograms(histograms(4), floor=0.0, half_life=half_life)
    ids = tokens(4, 1, 400)
    changed = ids.clone()
    changed[0, 300] = (changed[0, 300] + 1) % V
    first, second = run(rule, ids), run(rule, changed)
    assert torch.equal(first[:, :300], second[:, :300])
    assert not torch.allclose(first[:, 300], second[:, 300])


@pytest.mark.parametrize("half_life", [None, 4.0])
def test_padding_neither_adds_nor_fades_wherever_it_stands(half_life: float | None) -> None:
    rule = PrefixPosterior.from_histograms(histograms(5), floor=0.0, half_life=half_life)
    ids = tokens(5, 1, 20)
    plain = run(rule, ids)
    for pad in (0, V - 1, -100, 10**9):
        padded = torch.cat([torch.full((1, 7), pad), ids[:, :9], torch.full((1, 5), pad), ids[:, 9:]], dim=1)
        mask = torch.tensor([[0] * 7 + [1] * 9 + [0] * 5 + [1] * 11])
        got = run(rule, padded, mask)
        assert_same(got[:, 7:16], plain[:, :9])
        assert_same(got[:, 21:], plain[:, 9:])
        assert_same(got[:, 16:21], plain[:, 8:9].expand(1, 5, -1))
        assert_same(got[:, :7].exp(), torch.full((1, 7, 4), 0.25))


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    rule = PrefixPosterior.from_histograms(histograms(6), half_life=5.0)
    ids = tokens(6, 3, 300)
    together = run(rule, ids)
    for row in range(3):
        assert_same(together[row : row + 1], run(rule, ids[row : row + 1]))


@pytest.mark.parametrize("half_life", [None, 6.0])
@pytest.mark.parametrize("dropped", [1, 2, 3])
@pytest.mark.parametrize("prior", [None, [0.5, 1.0, 2.0, 4.0]])
def test_opt_out_is_exact(half_life: float | None, dropped: int, prior: list[float] | None) -> None:
    parties, public = histograms(7), histograms(8, 1)[0]
    options = {"public": public, "floor": 0.2, "half_life": half_life, "temperature": 1.5}
    whole = PrefixPosterior.from_histograms(parties, prior=prior, **options)  # type: ignore[arg-type]
    kept = [p for p in range(3) if p + 1 != dropped]
    weights = None if prior is None else [prior[0], *(prior[p + 1] for p in kept)]
    rest = [parties[p] for p in kept]
    without = PrefixPosterior.from_histograms(rest, prior=weights, **options)  # type: ignore[arg-type]
    left = whole.select([0, *(p + 1 for p in kept)])
    assert torch.equal(left.log_likelihood, without.log_likelihood)
    assert torch.equal(left.log_prior, without.log_prior)
    assert (left.slot, left.slots) == (without.slot, without.slots)
    ids = tokens(7, 2, 500)
    assert torch.equal(run(left, ids), run(without, ids))
    assert not torch.equal(run(whole, ids)[..., :3], run(without, ids)), "the party did count"


def test_dropping_the_base_leaves_its_slot_without_weight() -> None:
    parties = histograms(9)
    whole = PrefixPosterior.from_histograms(parties, floor=0.0)
    alone = whole.select([3, 1, 1])
    assert (alone.slot, alone.slots) == ((1, 2), 3)
    weights = run(alone, tokens(9, 1, 10))
    assert (weights[..., 0] == -math.inf).all()
    assert torch.equal(weights, run(PrefixPosterior.from_histograms([parties[0], parties[2]]), tokens(9, 1, 10)))


@given(st.permutations(range(4)), st.integers(0, 100))
@settings(deadline=None, max_examples=20)
def test_the_order_of_parties_does_not_matter(order: list[int], seed: int) -> None:
    parties, ids = histograms(seed, 4), tokens(seed, 1, 30)
    plain = run(PrefixPosterior.from_histograms(parties, floor=0.0), ids)
    permuted = run(PrefixPosterior.from_histograms([parties[p] for p in order], floor=0.0), ids)
    assert_same(permuted, plain[..., [0, *(p + 1 for p in order)]])


def test_a_slots_prior_is_shared_by_its_hypotheses() -> None:
    public = histograms(2, 1)[0]
    rule = PrefixPosterior.from_histograms(histograms(1, 2), public=public, floor=0.0, prior=[3, 1, 2])
    assert rule.slot == (0, 0, 1, 2)
    assert rule.log_prior.exp().tolist() == pytest.approx([1.5, 1.5, 1, 2])
    unseen = run(rule, tokens(0, 1, 1), torch.zeros(1, 1, dtype=torch.bool))
    assert unseen.exp()[0, 0].tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 3])


def test_a_party_with_prior_zero_never_speaks() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1), floor=0.0, prior=[1, 0, 1, 1])
    weights = run(rule, tokens(1, 1, 300))
    assert (weights[..., 1] == -math.inf).all()
    assert not weights.isnan().any()


def test_text_from_nowhere_goes_to_the_base_and_a_larger_floor_asks_more() -> None:
    peaked = [TokenHistogram(np.where(np.arange(V) == favourite, 1000.0, 1.0)) for favourite in (0, 1)]
    alien, home = torch.full((1, 5), 9), torch.full((1, 5), 0)
    rule = PrefixPosterior.from_histograms(peaked, floor=0.0)
    assert rule.log_likelihood[0].tolist() == pytest.approx([-math.log(V)] * V)
    assert run(rule, alien)[0, -1].exp()[0] > 0.99
    assert run(rule, home)[0, -1].exp()[1] > 0.99
    trust = [
        run(PrefixPosterior.from_histograms(peaked, floor=floor), home)[0, -1, 1].item() for floor in (-2.0, 0.0, 2.9)
    ]
    assert trust == sorted(trust, reverse=True)
    # negative control: with nobody to say "none of us", some party takes any text
    assert run(PrefixPosterior.from_histograms(peaked), alien)[0, -1].exp()[1:].sum() == pytest.approx(1)


def test_forgetting_follows_a_change_of_domain() -> None:
    peaked = [TokenHistogram(np.where(np.arange(V) == favourite, 50.0, 20.0)) for favourite in (0, 1)]
    ids = torch.tensor([[0] * 400 + [1] * 60])
    fading = run(PrefixPosterior.from_histograms(peaked, half_life=20.0), ids)[0].exp()
    lasting = run(PrefixPosterior.from_histograms(peaked), ids)[0].exp()
    assert fading[399, 1] > 0.9 < fading[-1, 2]
    assert lasting[-1, 1] > 0.9, "negative control: without forgetting the first domain keeps the weight"


def test_a_higher_temperature_is_less_sure() -> None:
    ids = tokens(3, 1, 20)
    sure, unsure = (
        run(PrefixPosterior.from_histograms(histograms(3), temperature=temperature), ids)[0, -1].exp().max()
        for temperature in (1.0, 10.0)
    )
    assert sure > unsure


def test_no_tokens_change_nothing() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1))
    state = rule.initial_state(2) + 1
    weights, after = rule.advance(torch.zeros(2, 0, dtype=torch.int64), state)
    assert weights.shape == (2, 0, 4)
    assert torch.equal(after, state)


def test_a_float32_table_and_int32_ids_serve_as_well() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1), floor=0.0)
    narrow = PrefixPosterior(rule.log_likelihood.float(), rule.log_prior.float(), rule.slot, rule.slots)
    ids = tokens(1, 1, 100)
    assert_same(run(narrow, ids.int()), run(rule, ids), 1e-4)


def test_the_state_is_float64_and_moves_with_the_device() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1))
    assert rule.initial_state(3).dtype == torch.float64
    assert rule.initial_state(3).shape == (3, 3)
    assert torch.equal(rule.to("cpu").log_likelihood, rule.log_likelihood)
    assert rule.to("meta").log_likelihood.device.type == "meta"
    assert rule.to("meta").log_prior.dtype == torch.float64


@pytest.mark.parametrize("wrong", [-1, V, 10**9])
def test_ids_outside_the_vocabulary_are_refused(wrong: int) -> None:
    rule = PrefixPosterior.from_histograms(histograms(1))
    ids = torch.tensor([[0, wrong]])
    with pytest.raises(InvalidOption, match=rf"ids: one is outside 0..{V - 1}.*mask padding"):
        run(rule, ids)
    with pytest.raises(InvalidOption, match="ids"):
        run(rule, ids, torch.tensor([[False, True]]))
    run(rule, ids, torch.tensor([[True, False]]))


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1))
    ids, state = tokens(1, 2, 4), rule.initial_state(2)
    with pytest.raises(InvalidOption, match=r"ids: it has shape \(4,\)"):
        rule.advance(ids[0], state)
    with pytest.raises(InvalidOption, match=r"ids: .*float"):
        rule.advance(ids.float(), state)
    with pytest.raises(InvalidOption, match=r"state: it has shape \(3, 3\)"):
        rule.advance(ids, rule.initial_state(3))
    with pytest.raises(InvalidOption, match=r"mask: it has shape \(2, 3\)"):
        rule.advance(ids, state, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"half_life": -1.0}, "half_life=-1.0"),
        ({"half_life": math.nan}, "half_life=nan"),
        ({"smoothing": 0.0}, "smoothing=0.0"),
        ({"floor": math.nan}, "floor=nan"),
        ({"floor": -math.inf}, "floor=-inf"),
        ({"prior": [1.0, 1.0]}, "prior: it must hold 4 finite weights"),
        ({"prior": [1.0, 1.0, -1.0, 1.0]}, "prior: it must hold 4 finite weights"),
        ({"prior": [1.0, 0.0, 0.0, 0.0]}, "no hypothesis possible"),
    ],
)
def test_options_outside_their_domain_are_refused(options: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        PrefixPosterior.from_histograms(histograms(1), **options)  # type: ignore[arg-type]


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InvalidOption, match="vocabularies of different sizes, 17, 17, 17, 5"):
        PrefixPosterior.from_histograms([*histograms(1), *histograms(1, 1, 5)])
    with pytest.raises(InvalidOption, match="histograms: there are none"):
        PrefixPosterior.from_histograms([], floor=0.0)
    table, prior = torch.zeros(2, V), torch.zeros(2)
    with pytest.raises(InvalidOption, match=r"slot 2: slots are 0\.\.1"):
        PrefixPosterior(table, prior, (0, 2), 2)
    with pytest.raises(InvalidOption, match="log_likelihood"):
        PrefixPosterior(table, prior, (0, 1, 1), 2)
    with pytest.raises(InvalidOption, match="log_prior"):
        PrefixPosterior(table, prior[:1], (0, 1), 2)
    with pytest.raises(InvalidOption, match="hypotheses: there are none"):
        PrefixPosterior(table[:0], prior[:0], (), 1)


def test_selecting_nothing_or_nobody_is_refused() -> None:
    rule = PrefixPosterior.from_histograms(histograms(1))
    for empty in ([], [0]):
        with pytest.raises(InvalidOption, match=r"slots \[.*leave no hypothesis"):
            rule.select(empty)
    silent = PrefixPosterior.from_histograms(histograms(1), prior=[0, 0, 1, 1])
    with pytest.raises(InvalidOption, match=r"slots \[1\]: they leave no hypothesis of positive prior weight"):
        silent.select([1])
    assert not run(silent.select([1, 2]), tokens(1, 1, 5)).isnan().any()
    with pytest.raises(InvalidOption, match=r"slot 4: slots are 0\.\.3"):
        rule.select([1, 4])


@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=50)
def test_the_posterior_of_single_inputs_is_bayes_rule(seed: int, hypotheses: int, with_floor: bool) -> None:
    draw = np.random.default_rng(seed)
    densities = draw.normal(size=(6, hypotheses)) * 5
    prior = draw.normal(size=hypotheses)
    slot = draw.integers(0, 3, hypotheses).tolist()
    floor = -1.5 if with_floor else None
    got = posterior(densities, prior, slot, slots=3, floor=floor).numpy()
    joint = np.exp(densities + prior)
    expected = np.zeros((6, 3))
    for h, s in enumerate(slot):
        expected[:, s] += joint[:, h]
    if with_floor:
        expected[:, 0] += math.exp(-1.5)
    np.testing.assert_allclose(np.exp(got), expected / expected.sum(axis=1, keepdims=True), atol=1e-12)


def test_gaussian_evidence_sends_inputs_home_and_far_inputs_to_the_base() -> None:
    draw = np.random.default_rng(0)
    centres = [np.array([0.0, 0.0]), np.array([8.0, 0.0])]
    summaries = [GaussianSummary.from_rows(draw.normal(size=(200, 2)) + centre) for centre in centres]
    probes = np.array([[0.0, 0.0], [8.0, 0.0], [500.0, 500.0]])
    densities = np.stack([summary.log_density(probes) for summary in summaries], axis=1)
    weights = posterior(densities, [0.0, 0.0], [1, 2], floor=-30.0).exp()
    assert weights.shape == (3, 3)
    assert weights.argmax(dim=1).tolist() == [1, 2, 0]
    assert weights[2, 0] > 0.999
    # negative control: without a floor the far input goes to somebody, surely and wrongly
    assert posterior(densities, [0.0, 0.0], [1, 2]).exp()[2, 1:].max() > 0.999


def test_densities_far_under_the_smallest_float_still_compare() -> None:
    weights = posterior(torch.tensor([[-1e6, -1e6 - 1]]), [0.0, 0.0], [0, 1])
    assert weights.exp()[0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])


def test_an_input_that_nobody_can_explain_needs_a_floor() -> None:
    nowhere = torch.full((1, 2), -math.inf)
    with pytest.raises(InvalidOption, match=r"no finite density.*Give a floor"):
        posterior(nowhere, [0.0, 0.0], [1, 2])
    assert posterior(nowhere, [0.0, 0.0], [1, 2], floor=-5.0)[0].tolist() == [0.0, -math.inf, -math.inf]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_densities_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(InvalidOption, match="log_densities"):
        posterior(torch.tensor([[0.0, value]]), [0.0, 0.0], [1, 2], floor=0.0)


def test_single_inputs_refuse_what_does_not_fit() -> None:
    with pytest.raises(InvalidOption, match="log_densities: it has shape"):
        posterior(torch.zeros(2, 3), [0.0, 0.0], [1, 2])
    with pytest.raises(InvalidOption, match="log_prior: it has shape"):
        posterior(torch.zeros(2, 2), [0.0], [1, 2])
    with pytest.raises(InvalidOption, match="slot 2"):
        posterior(torch.zeros(2, 2), [0.0, 0.0], [1, 2], slots=2)
    with pytest.raises(InvalidOption, match="floor=nan"):
        posterior(torch.zeros(2, 2), [0.0, 0.0], [1, 2], floor=math.nan)
