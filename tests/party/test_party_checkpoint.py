"""Models tuned elsewhere: what is taken of them, held against numpy, and every checkpoint that is another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.kinds import ExpertMethod, FullExpert
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import BaseMismatch, CheckpointError, InvalidOption, MissingPart, StorageError
from quiltwork.models import sources
from quiltwork.models.base import Base, open_base
from quiltwork.party.checkpoint import Taking, contribute_checkpoint
from quiltwork.party.contribute import Order
from quiltwork.party.fragment import open_fragment
from quiltwork.privacy.events import ExactEvent

Bases = Callable[[str], Base]
Tune = Callable[..., Path]
ORDER = Order(party="ash", licence="CC0-1.0")


@pytest.fixture
def tune(tiny_base: Bases, tmp_path: Path) -> Tune:
    """``tune(words)``: a checkpoint in which the tensors whose names hold one of the words were changed."""

    def make(*words: str, family: str = "llama", name: str = "tuned", dtype: torch.dtype = torch.float32) -> Path:
        base = tiny_base(family)
        model, random = base.load_model(), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor, parameter in model.named_parameters():
                if any(word in tensor for word in words):
                    parameter.add_(torch.randn(parameter.shape, generator=random) * 0.02)
        model.to(dtype).save_pretrained(tmp_path / name)
        base.load_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def taken(base: Base, tuned: Path, scope: str, **more: Any) -> Contribution:
    options = {key: more.pop(key) for key in ("rank", "drop_rest", "dtype") if key in more}
    target = tuned.with_name(f"out-{scope}")
    return contribute_checkpoint(base, tuned, target, Taking(scope, **options), ORDER, **more)  # type: ignore[arg-type]


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    return {name: source.load().double().numpy() for name, source in open_base(path).tensors.items()}


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_a_full_difference_gives_the_tuned_model_back(tiny_base: Bases, tune: Tune, family: str) -> None:
    base, tuned = tiny_base(family), tune("", family=family)
    found = taken(base, tuned, "full")
    assert found == read(found.path)
    expected, before = tensors_of(tuned), tensors_of(base.path)
    for name, value in expected.items():
        assert np.array_equal(found.tensor(f"full.{name}").numpy(), (value - before[name]).astype(np.float32))
    model = compose([found], Alone("full"), base).model()
    for name, value in expected.items():
        np.testing.assert_allclose(model.state_dict()[name].numpy(), value, rtol=0, atol=1e-7)
    assert [(e.released, "tuned without" in e.note) for e in found.manifest.privacy] == [("full", True)]  # type: ignore[union-attr]


def test_full_differences_are_read_in_pieces_only(
    tiny_base: Bases, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    _ = base.digest

    def whole(*_: object) -> None:
        raise AssertionError("a whole tensor was read")

    monkeypatch.setattr(sources, "_tensor", whole)
    assert taken(base, tuned, "full").parts == {"full"}


def test_a_coarser_difference_and_a_coarser_checkpoint(tiny_base: Bases, tune: Tune) -> None:
    base = tiny_base("llama")
    found = taken(base, tune("mlp"), "full", dtype="BF16")
    assert {entry.dtype for entry in found.manifest.payload["full.safetensors"].tensors.values()} == {"BF16"}
    coarse = tune("mlp", name="coarse", dtype=torch.bfloat16)
    other = taken(base, coarse, "full", overwrite=True)
    name = "model.layers.0.mlp.up_proj.weight"
    expected = tensors_of(coarse)[name] - tensors_of(base.path)[name]
    assert np.array_equal(other.tensor(f"full.{name}").numpy(), expected.astype(np.float32))


def test_the_feed_forward_weights_leave_as_they_are(tiny_base: Bases, tune: Tune) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    found = taken(base, tuned, "ffn")
    expected = tensors_of(tuned)
    for layer in range(base.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            left = found.tensor(f"ffn.layers.{layer}.{role}.weight").double().numpy()
            assert np.array_equal(left, expected[f"model.layers.{layer}.mlp.{role}.weight"])
    declared = found.manifest.method.ffn  # type: ignore[union-attr]
    assert (declared.router, declared.bias, declared.anchor_share, declared.top_k) == (False, False, 0.0, None)


def test_what_else_was_tuned_is_refused_by_name_or_dropped_aloud(tiny_base: Bases, tune: Tune) -> None:
    base, tuned = tiny_base("llama"), tune("mlp", "self_attn.q_proj", "model.norm")
    with pytest.raises(
        CheckpointError, match=r"'model\.layers\.0\.self_attn\.q_proj\.weight' \(and 2 more\)"
    ) as caught:
        taken(base, tuned, "ffn")
    assert "--drop-rest" in caught.value.mend
    assert not tuned.with_name("out-ffn").exists()
    said: list[str] = []
    found = taken(base, tuned, "ffn", drop_rest=True, say=said.append)
    assert any("left out, though tuned" in line for line in said)
    assert "3 tensors outside the feed-forward blocks were left out" in found.manifest.privacy[0].note  # type: ignore[union-attr]


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_the_truncation_is_the_nearest_of_its_rank(tiny_base: Bases, tune: Tune, rank: int) -> None:
    """Against numpy's singular value decomposition (Eckart and Young 1936)."""
    base, tuned = tiny_base("olmo2"), tune("mlp", family="olmo2")
    said: list[str] = []
    found = taken(base, tuned, "lowrank", rank=rank, say=said.append)
    before, after = tensors_of(base.path), tensors_of(tuned)
    shares = found.manifest.method.lowrank.retained  # type: ignore[union-attr]
    assert len(said) == 3 * base.layers
    for layer in range(base.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            name = f"model.layers.{layer}.mlp.{role}.weight"
            change = after[name] - before[name]
            u, s, v = np.linalg.svd(change, full_matrices=False)
            nearest = (u[:, :rank] * s[:rank]) @ v[:rank]
            up, down = (found.tensor(f"lowrank.layers.{layer}.{role}.{f}").double().numpy() for f in ("up", "down"))
            np.testing.assert_allclose(up @ down, nearest, atol=1e-6 * s[0])
            assert getattr(shares[layer], role) == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum(), abs=1e-9)


def test_a_full_rank_truncation_composes_to_the_tuned_model(tiny_base: Bases, tune: Tune) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    model = compose([taken(base, tuned, "lowrank", rank=32)], Alone("ffn"), base).model()
    for name, value in tensors_of(tuned).items():
        np.testing.assert_allclose(model.state_dict()[name].numpy(), value, rtol=0, atol=3e-7)


def test_negative_control_a_truncation_is_not_the_tuned_model(tiny_base: Bases, tune: Tune) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    model = compose([taken(base, tuned, "lowrank", rank=4)], Alone("ffn"), base).model()
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.abs(model.state_dict()[name].numpy() - tensors_of(tuned)[name]).max() > 1e-3


def test_histograms_of_its_text_make_it_fit_for_evidence_and_no_row_for_rows(
    tiny_base: Bases, tune: Tune, fragments: Mapping[str, Path]
) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    found = taken(base, tuned, "ffn", fragment=open_fragment([fragments["ash"]]))
    assert found.parts == {"ffn", "tokens", "bigrams"}
    assert {e.released for e in found.manifest.privacy} == {"ffn", "tokens", "bigrams"}
    compose([found], MixtureOfExperts(PrefixEvidence(floor=0.0)), base)
    with pytest.raises(MissingPart, match=r"'ash'.*trained without router rows"):
        compose([found], MixtureOfExperts(LearnedRows()), base)


# contributions of one's own -------------------------------------------


def test_a_contribution_is_made_smaller_and_keeps_rows_and_statistics(
    tiny_base: Bases, contributions: Callable[[str], list[Contribution]], tmp_path: Path
) -> None:
    base, own = tiny_base("llama"), contributions("llama")[0]
    found = contribute_checkpoint(base, own.path, tmp_path / "small", Taking("lowrank", rank=4), ORDER)
    assert found.parts == own.parts - {"ffn", "full"} | {"lowrank"}
    sizes = [c.manifest.payload[f"{part}.safetensors"].bytes for c, part in ((found, "lowrank"), (own, "ffn"))]
    assert sizes[0] < sizes[1] / 2
    for name in own.tensor_names():
        if ".router." in name or name.partition(".")[0] not in ("ffn", "full"):
            assert torch.equal(found.tensor(name.replace("ffn.", "lowrank.")), own.tensor(name))
    assert found.manifest.training == own.manifest.training  # type: ignore[union-attr]
    declared, before = found.manifest.method.lowrank, own.manifest.method.ffn  # type: ignore[union-attr]
    assert (declared.anchor_share, declared.router, declared.bias) == (before.anchor_share, True, True)
    compose([found], MixtureOfExperts(LearnedRows(bias=True)), base).model()


def test_a_whole_model_gives_its_blocks_once_the_rest_is_dropped(
    tiny_base: Bases, contributions: Callable[[str], list[Contribution]], tmp_path: Path
) -> None:
    base, both = tiny_base("llama"), contributions("llama")[0]
    stated = both.manifest
    own = write(
        tmp_path / "full",
        Draft(
            party="ash",
            base=stated.base,  # type: ignore[union-attr]
            method=ExpertMethod(full=FullExpert()),
            tensors={name: both.tensor(name) for name in both.tensor_names("full.")},
            licence="CC0-1.0",
            privacy=[ExactEvent(released="full")],
        ),
    )
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' \(and \d+ more\)"):
        contribute_checkpoint(base, own.path, tmp_path / "x", Taking("ffn"), ORDER)
    found = contribute_checkpoint(base, own.path, tmp_path / "ffn", Taking("ffn", drop_rest=True), ORDER)
    whole = compose([own], Alone("full"), base).model().state_dict()
    for layer in range(base.layers):
        name = f"layers.{layer}.up_proj.weight"
        assert torch.equal(found.tensor(f"ffn.{name}"), whole[f"model.layers.{layer}.mlp.up_proj.weight"])


# refusals -------------------------------------------------------------


def edited(path: Path, **fields: Any) -> Path:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | fields))
    return path


def test_another_model_is_refused_by_what_differs(tiny_base: Bases, tune: Tune) -> None:
    base = tiny_base("llama")
    for change, words in (
        ({"rms_norm_eps": 1e-3}, r"config field 'rms_norm_eps'.*it is 0\.001, and of the base 1e-06"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, r"config field 'rope'"),
    ):
        with pytest.raises(CheckpointError, match=words):
            taken(base, edited(tune("mlp", name=f"x{len(words)}"), **change), "full")
    with pytest.raises(CheckpointError, match=r"config field 'model_type'.*'olmo2'"):
        taken(base, tiny_base("olmo2").path, "full", overwrite=True)


def test_options_that_cannot_be_are_refused_and_nothing_is_written(
    tiny_base: Bases, tune: Tune, contributions: Callable[[str], list[Contribution]], fragments: Mapping[str, Path]
) -> None:
    base, tuned = tiny_base("llama"), tune("mlp")
    with pytest.raises(InvalidOption, match="scope 'lora'"):
        taken(base, tuned, "lora")
    with pytest.raises(InvalidOption, match="rank=33: the smaller side"):
        taken(base, tuned, "lowrank", rank=33)
    with pytest.raises(InvalidOption, match="rank=0"):
        taken(base, tuned, "lowrank", rank=0)
    assert not [p for p in tuned.parent.iterdir() if p.name.startswith("out")]
    own = contributions("llama")[0].path
    target = tuned.with_name("y")
    with pytest.raises(InvalidOption, match="it has statistics already"):
        contribute_checkpoint(base, own, target, Taking("ffn"), ORDER, fragment=open_fragment([fragments["ash"]]))
    with pytest.raises(BaseMismatch, match="made from base"):
        contribute_checkpoint(tiny_base("olmo2"), own, target, Taking("ffn"), ORDER)
    target.mkdir()
    with pytest.raises(StorageError, match="already there"):
        contribute_checkpoint(base, tuned, target, Taking("ffn"), ORDER)
