"""compose() checks in full before it builds: every refusal names the offending part."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.compose.statistics import histogram_of
from quiltwork.contribution.kinds import (
    BigramHistogramStatistic,
    ExpertMethod,
    StatisticsMethod,
    TokenHistogramStatistic,
)
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import (
    AlteredContribution,
    BaseMismatch,
    DuplicateParty,
    InvalidOption,
    MissingPart,
    TensorMismatch,
    TokenizerMismatch,
)
from quiltwork.models.base import Base
from quiltwork.privacy.events import ExactEvent

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
RELEASED = ("ffn", "full", "tokens", "bigrams", "trigrams", "moments", "training")
EVENTS = tuple(ExactEvent(released=part) for part in RELEASED)
ROWS, EVIDENCE = MixtureOfExperts(LearnedRows()), MixtureOfExperts(PrefixEvidence(floor=0.0))


def draft_of(contribution: Contribution, **changes: Any) -> Draft:
    """The release as a draft again, fields replaced; tensors may be changed by name (None leaves one out)."""
    manifest = contribution.manifest
    tensors: dict[str, Any] = {name: contribution.tensor(name) for name in contribution.tensor_names()}
    tensors |= changes.pop("tensors", {})
    fields = {
        "party": manifest.party,
        "base": manifest.base,
        "method": manifest.method,
        "tensors": {name: tensor for name, tensor in tensors.items() if tensor is not None},
        "licence": manifest.licence,
        "training": manifest.training,
        "statistics": manifest.statistics,
        "privacy": EVENTS,
    }
    return Draft(**fields | changes)


@pytest.fixture
def hostile(contributions: Parts, tmp_path: Path) -> Callable[..., list[Contribution]]:
    """Three contributions, birch's with something changed: a sound directory that does not belong."""

    def build(family: str = "olmo2", **changes: Any) -> list[Contribution]:
        ash, birch, cedar = contributions(family)
        write(tmp_path / "hostile", draft_of(birch, **changes))
        return [ash, read(tmp_path / "hostile"), cedar]

    return build


def only(contribution: Contribution, *parts: str) -> dict[str, Any]:
    """Changes that leave ``parts`` and drop the rest."""
    names = contribution.tensor_names()
    method = contribution.manifest.method
    assert isinstance(method, ExpertMethod)
    weights = {part: getattr(method, part) if part in parts else None for part in ("ffn", "full")}
    statistics = {"tokens": TokenHistogramStatistic(), "bigrams": BigramHistogramStatistic(cells=2**16)}
    return {
        "method": ExpertMethod(**weights) if any(weights.values()) else StatisticsMethod(),
        "statistics": tuple(statistics[part] for part in parts if part in statistics),
        "tensors": {name: None for name in names if name.split(".")[0] not in parts},
        "training": contribution.manifest.training if any(weights.values()) else None,
    }


# Another base, tokenizer or vocabulary.


def test_another_base_is_refused(hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    reference = contributions("olmo2")[1].manifest.base.model_copy(update={"digest": "sha256:" + "7" * 64})
    with pytest.raises(
        BaseMismatch, match=r"party 'birch'.*made from base sha256:77777.*this base is sha256:"
    ) as caught:
        compose(hostile(base=reference), Soup(), tiny_base("olmo2"))
    assert "base it was made from" in caught.value.mend


def test_a_contribution_to_the_other_family_is_refused(contributions: Parts, tiny_base: Bases) -> None:
    with pytest.raises(BaseMismatch, match="party 'ash'"):
        compose(contributions("llama"), Soup(), tiny_base("olmo2"))


def test_another_tokenizer_is_refused(hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    reference = contributions("olmo2")[1].manifest.base.model_copy(update={"tokenizer": "sha256:" + "7" * 64})
    with pytest.raises(TokenizerMismatch, match=r"party 'birch': .*another tokenizer or vocabulary") as caught:
        compose(hostile(base=reference), Soup(), tiny_base("olmo2"))
    assert "different text" in caught.value.mend


def test_another_vocabulary_is_refused(hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    birch = contributions("olmo2")[1]
    reference = birch.manifest.base.model_copy(update={"vocabulary_size": 301})
    changed = only(birch, "ffn", "full") | {"base": reference}
    with pytest.raises(TokenizerMismatch, match=r"party 'birch'.*\(301 tokens.*than the base \(300"):
        compose(hostile(**changed), Soup(), tiny_base("olmo2"))


# Tensors.

NORM = "full.model.norm.weight"
GATE = "ffn.layers.1.gate_proj.weight"


def test_a_missing_tensor_is_refused(hostile: Any, tiny_base: Bases) -> None:
    with pytest.raises(TensorMismatch, match=rf"tensor '{NORM}' of party 'birch': it is missing"):
        compose(hostile(tensors={NORM: None}), Soup(), tiny_base("olmo2"))


def test_an_extra_tensor_is_refused(hostile: Any, tiny_base: Bases) -> None:
    extra = {"full.model.layers.7.mlp.up_proj.weight": torch.zeros(48, 32)}
    with pytest.raises(TensorMismatch, match=r"full\.model\.layers\.7\.mlp\.up_proj\.weight' of party 'birch'"):
        compose(hostile(tensors=extra), Ensemble(), tiny_base("olmo2"))


def test_a_tied_tensor_stored_twice_is_refused(hostile: Any, tiny_base: Bases) -> None:
    tied = {"full.lm_head.weight": torch.zeros(300, 32)}
    with pytest.raises(TensorMismatch, match=r"'full\.lm_head\.weight' of party 'birch'.*tied tensor is stored once"):
        compose(hostile(tensors=tied), Soup(), tiny_base("olmo2"))


def test_a_mis_shaped_tensor_is_refused(hostile: Any, tiny_base: Bases) -> None:
    with pytest.raises(TensorMismatch, match=rf"'{NORM}' of party 'birch': it has shape \[31\].*base's is \[32\]"):
        compose(hostile(tensors={NORM: torch.zeros(31)}), Soup(), tiny_base("olmo2"))


def test_a_transposed_tensor_is_refused(hostile: Any, tiny_base: Bases) -> None:
    name = "full.model.layers.0.mlp.down_proj.weight"
    with pytest.raises(TensorMismatch, match=rf"'{name}' .*shape \[48, 32\], and the base's is \[32, 48\]"):
        compose(hostile(tensors={name: torch.zeros(48, 32)}), Soup(), tiny_base("olmo2"))


@pytest.mark.parametrize(
    ("layers", "message"), [(1, r"layers\.1\.gate_proj\.weight'.*missing"), (3, r"layers\.2\..*belongs to a layer")]
)
def test_experts_of_other_depth_are_refused(
    layers: int, message: str, hostile: Any, contributions: Parts, tiny_base: Bases
) -> None:
    birch = contributions("olmo2")[1]
    method = birch.manifest.method
    assert isinstance(method, ExpertMethod)
    assert method.ffn is not None
    changed = method.ffn.model_copy(update={"layers": layers})
    tensors = {name: birch.tensor(name.replace("layers.2", "layers.1")) for name in changed.required_tensors()} | {
        name: None for name in birch.tensor_names("ffn.") if name not in changed.required_tensors()
    }
    found = hostile(method=method.model_copy(update={"ffn": changed}), tensors=tensors)
    with pytest.raises(TensorMismatch, match=message):
        compose(found, ROWS, tiny_base("olmo2"))


def test_experts_of_other_width_are_refused(hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    birch = contributions("olmo2")[1]
    method = birch.manifest.method
    assert isinstance(method, ExpertMethod)
    assert method.ffn is not None
    changed = method.ffn.model_copy(update={"intermediate_size": 56})
    tensors = {name: torch.zeros(need.shape) for name, need in changed.required_tensors().items()}
    found = hostile(method=method.model_copy(update={"ffn": changed}), tensors=tensors)
    with pytest.raises(TensorMismatch, match=r"'ffn\.layers\.0\.gate_proj\.weight' of party 'birch'.*\[56, 32\]"):
        compose(found, EVIDENCE, tiny_base("olmo2"))


@pytest.mark.parametrize("name", [GATE, "ffn.layers.0.router.weight", "ffn.layers.1.router.bias"])
def test_experts_of_another_dtype_are_refused(name: str, hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    changed = {name: contributions("olmo2")[1].tensor(name).double()}
    with pytest.raises(TensorMismatch, match=rf"'{name}' of party 'birch': it has dtype F64"):
        compose(hostile(tensors=changed), ROWS, tiny_base("olmo2"))


def test_differences_may_be_coarser_than_the_base(hostile: Any, contributions: Parts, tiny_base: Bases) -> None:
    birch = contributions("olmo2")[1]
    coarse = {name: birch.tensor(name).bfloat16() for name in birch.tensor_names("full.")}
    model = compose(hostile(tensors=coarse), Soup(), tiny_base("olmo2")).model()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_file_changed_after_reading_is_refused_when_used(
    contributions: Parts, tiny_base: Bases, tmp_path: Path
) -> None:
    write(tmp_path / "ash", draft_of(contributions("olmo2")[0]))
    ash = read(tmp_path / "ash")
    composite = compose([ash], Soup(), tiny_base("olmo2"))
    data = bytearray((ash.path / "full.safetensors").read_bytes())
    data[-3] ^= 1
    (ash.path / "full.safetensors").write_bytes(bytes(data))
    with pytest.raises(AlteredContribution, match="of party 'ash'"):
        composite.save(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ash"]


# Parties and parts.


def test_two_contributions_of_one_party_are_refused(hostile: Any, tiny_base: Bases) -> None:
    with pytest.raises(DuplicateParty, match=r"party 'ash': two contributions carry its name \(sha256:.*and sha256:"):
        compose(hostile(party="ash"), Soup(), tiny_base("olmo2"))


def test_a_party_called_base_is_refused(hostile: Any, tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match=r"party 'base': .*stands for the base model"):
        compose(hostile(party="base"), Soup(), tiny_base("olmo2"))


@pytest.mark.parametrize(
    ("parts", "method", "missing"),
    [
        (("ffn",), Soup(), "full"),
        (("ffn",), Ensemble(), "full"),
        (("full",), ROWS, "ffn"),
        (("ffn", "tokens"), EVIDENCE, "bigrams"),
        (("ffn", "bigrams"), MixtureOfExperts(PrefixEvidence(features="tokens", floor=0.0)), "tokens"),
        (("ffn", "bigrams"), MixtureOfExperts(PrefixEvidence(floor=0.0), scope="full"), "full"),
        (("tokens",), Alone("ffn"), "ffn"),
    ],
    ids=str,
)
def test_a_missing_part_is_refused(
    parts: tuple[str, ...], method: Method, missing: str, hostile: Any, contributions: Parts, tiny_base: Bases
) -> None:
    found = hostile(**only(contributions("olmo2")[1], *parts))
    with pytest.raises(MissingPart, match=rf"party 'birch': method {method.name} needs the part '{missing}', and it "):
        compose(found, method, tiny_base("olmo2"))


@pytest.mark.parametrize("features", ["bigrams", "tokens"])
def test_evidence_needs_only_the_histogram_that_it_reads(
    features: Any, hostile: Any, contributions: Parts, tiny_base: Bases
) -> None:
    found = hostile(**only(contributions("olmo2")[1], "ffn", features))
    compose(found, MixtureOfExperts(PrefixEvidence(features=features, floor=0.0)), tiny_base("olmo2")).model()


@pytest.mark.parametrize(
    ("change", "router"), [({"router": False, "bias": False}, LearnedRows()), ({"bias": False}, LearnedRows(bias=True))]
)
def test_rows_that_were_not_learned_are_refused(
    change: dict[str, Any], router: LearnedRows, hostile: Any, contributions: Parts, tiny_base: Bases
) -> None:
    birch = contributions("olmo2")[1]
    method = birch.manifest.method
    assert isinstance(method, ExpertMethod)
    assert method.ffn is not None
    changed = method.ffn.model_copy(update=change)
    dropped = {name: None for name in birch.tensor_names("ffn.") if name not in changed.required_tensors()}
    found = hostile(method=method.model_copy(update={"ffn": changed}), tensors=dropped)
    with pytest.raises(MissingPart, match=r"party 'birch': it was trained without router (rows|biases)") as caught:
        compose(found, MixtureOfExperts(router), tiny_base("olmo2"))
    assert "PrefixEvidence" in caught.value.mend


def test_nothing_to_compose_is_refused(tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match="an empty list: there is nothing to compose"):
        compose([], Soup(), tiny_base("olmo2"))


def test_several_models_are_not_alone(contributions: Parts, tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match="3 contributions: a model alone is of one party"):
        compose(contributions("olmo2"), Alone(), tiny_base("olmo2"))


# Names and weights.

ALL: tuple[Callable[..., Method], ...] = (Soup, Ensemble, lambda **o: MixtureOfExperts(LearnedRows(), **o))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("option", [{"include": ("ash", "oak")}, {"weights": {"oak": 1.0}}])
def test_unknown_names_are_refused(
    make: Callable[..., Method], option: dict[str, Any], contributions: Parts, tiny_base: Bases
) -> None:
    with pytest.raises(InvalidOption, match=r"party 'oak': no contribution of that party.*ash, birch, cedar"):
        compose(contributions("olmo2"), make(**option), tiny_base("olmo2"))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_weights_are_positive_numbers(
    make: Callable[..., Method], weight: float, contributions: Parts, tiny_base: Bases
) -> None:
    with pytest.raises(InvalidOption, match=f"weight {weight} of 'birch'") as caught:
        compose(contributions("olmo2"), make(weights={"birch": weight}), tiny_base("olmo2"))
    assert "include=" in caught.value.mend


def test_weights_have_a_sum(contributions: Parts, tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match="their sum, by which they are divided, is no number"):
        compose(contributions("olmo2"), Soup(weights={"ash": 1e308, "birch": 1e308}), tiny_base("olmo2"))


def test_a_soup_gives_the_base_no_weight(contributions: Parts, tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match="a weight of 'base'"):
        compose(contributions("olmo2"), Soup(weights={"base": 1.0}), tiny_base("olmo2"))


@pytest.mark.parametrize("make", ALL)
def test_including_nobody_is_refused(make: Callable[..., Method], contributions: Parts, tiny_base: Bases) -> None:
    with pytest.raises(InvalidOption, match="nobody would take part"):
        compose(contributions("olmo2"), make(include=()), tiny_base("olmo2"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble("median"), "weighting='median'"),  # type: ignore[arg-type]
        (lambda: Ensemble(temperature=0.0), "temperature=0.0"),
        (lambda: Ensemble(temperature=float("inf")), "temperature=inf"),
        (lambda: Ensemble(top_k=0), "top_k=0"),
        (lambda: LearnedRows(top_k=0), "top_k=0"),
        (lambda: PrefixEvidence(features="words"), "features='words'"),  # type: ignore[arg-type]
        (lambda: PrefixEvidence(temperature=-1.0), "temperature=-1.0"),
        (lambda: PrefixEvidence(half_life=0.0), "half_life=0.0"),
        (lambda: PrefixEvidence(minimum_weight=1.0), "minimum_weight=1.0"),
        (lambda: PrefixEvidence(top_k=0), "top_k=0"),
        (lambda: PrefixEvidence(smoothing=0.0), "smoothing=0.0"),
        (lambda: PrefixEvidence(smoothing=float("inf")), "smoothing=inf"),
        (lambda: MixtureOfExperts(scope="body"), "scope='body'"),  # type: ignore[arg-type]
        (lambda: MixtureOfExperts(LearnedRows(), scope="full"), "learned rows with full experts"),
    ],
)
def test_options_outside_their_domain_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        make()


# Public text.


@pytest.fixture
def public(contributions: Parts, tmp_path: Path) -> Contribution:
    cedar = contributions("olmo2")[2]
    return write(tmp_path / "public", draft_of(cedar, party="public", **only(cedar, "tokens", "bigrams")))


def test_evidence_without_public_text_needs_a_floor(contributions: Parts, tiny_base: Bases, public_text: Any) -> None:
    with pytest.raises(
        InvalidOption, match="without bigrams of public text: nothing would speak for the base"
    ) as caught:
        compose(contributions("olmo2"), MixtureOfExperts(PrefixEvidence()), tiny_base("olmo2"))
    assert "floor" in caught.value.mend
    tokens_only = {"tokens": public_text("olmo2")["tokens"]}
    with pytest.raises(InvalidOption, match="without bigrams"):
        compose(contributions("olmo2"), MixtureOfExperts(PrefixEvidence()), tiny_base("olmo2"), public=tokens_only)


def test_public_text_may_come_as_a_contribution(
    contributions: Parts, tiny_base: Bases, public: Contribution, tmp_path: Path
) -> None:
    method = MixtureOfExperts(PrefixEvidence())
    histograms = {part: histogram_of(public, part) for part in ("tokens", "bigrams")}
    compose(contributions("olmo2"), method, tiny_base("olmo2"), public=public).save(tmp_path / "one")
    compose(contributions("olmo2"), method, tiny_base("olmo2"), public=histograms).save(tmp_path / "other")
    for name in ("router.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_public_text_of_another_base_is_refused(
    contributions: Parts, tiny_base: Bases, public: Contribution, tmp_path: Path
) -> None:
    with pytest.raises(BaseMismatch, match="party 'public'"):
        compose(contributions("llama"), MixtureOfExperts(PrefixEvidence()), tiny_base("llama"), public=public)


def test_histograms_of_other_lengths_are_refused(
    hostile: Any, contributions: Parts, tiny_base: Bases, public_text: Any
) -> None:
    birch = contributions("olmo2")[1]
    short = {"bigrams.counts": np.ones(256)}
    statistics = tuple(
        BigramHistogramStatistic(cells=256) if isinstance(s, BigramHistogramStatistic) else s
        for s in birch.manifest.statistics  # type: ignore[union-attr]
    )
    found = hostile(tensors=short, statistics=statistics)
    assert birch.party == "birch"
    with pytest.raises(TensorMismatch, match="histogram of birch: it has 256 cells, and that of ash has 65536"):
        compose(found, EVIDENCE, tiny_base("olmo2"))


def test_a_histogram_that_is_not_there_is_refused(hostile: Any, contributions: Parts) -> None:
    found = hostile(**only(contributions("olmo2")[1], "ffn"))
    with pytest.raises(MissingPart, match="party 'birch': it holds no histogram of tokens"):
        histogram_of(found[1], "tokens")


def test_a_sound_set_is_not_refused(contributions: Parts, tiny_base: Bases, hostile: Any) -> None:
    """The control of this file: the same path with nothing changed."""
    compose(hostile(), Soup(), tiny_base("olmo2")).model()
