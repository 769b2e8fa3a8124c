"""The export recipe, trap by trap: what a dense Olmo2 or Llama must say as a FlexOlmo or Mixtral checkpoint."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoTokenizer,
    FlexOlmoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralForCausalLM,
)

from family_mixtures import mixture_of, written
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.composite import Composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError, ExportError
from quiltwork.models.base import Base, open_base
from quiltwork.models.checkpoint import portable_config, tokenizer_config
from quiltwork.models.families import FAMILIES, ROLES, family_of
from quiltwork.models.moe_formats import FORMATS

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
BOTH = ("olmo2", "llama")


def rows(**options: Any) -> MixtureOfExperts:
    return MixtureOfExperts(LearnedRows(**options))


def exported(composite: Composite, place: Path) -> dict[str, Any]:
    composite.save(place, layout="portable")
    return json.loads((place / "config.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", BOTH)
def test_model_type_class_and_count(family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    config = exported(compose(contributions(family), rows(top_k=2), tiny_base(family)), tmp_path / "out")
    expected = {
        "olmo2": ("flex_olmo", "FlexOlmoForCausalLM", "num_experts"),
        "llama": ("mixtral", "MixtralForCausalLM", "num_local_experts"),
    }[family]
    assert (config["model_type"], config["architectures"]) == (expected[0], [expected[1]])
    assert config[expected[2]] == 4
    assert config["num_experts_per_tok"] == 2


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("top_k", [1, 3, 4, 9, None])
def test_k_is_at_most_the_number_of_experts(
    top_k: int | None, family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    config = exported(compose(contributions(family), rows(top_k=top_k), tiny_base(family)), tmp_path / "out")
    assert config["num_experts_per_tok"] == min(top_k or 4, 4)


@pytest.mark.parametrize(("top_k", "renormalise", "flag"), [(2, True, True), (2, False, False), (None, True, False)])
def test_flex_olmo_says_whether_it_renormalises(
    top_k: int | None, renormalise: bool, flag: bool, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    method = rows(top_k=top_k, renormalise=renormalise)
    config = exported(compose(contributions("olmo2"), method, tiny_base("olmo2")), tmp_path / "out")
    assert config["norm_topk_prob"] is flag


def test_mixtral_has_no_flag_and_no_sliding_window(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    config = exported(compose(contributions("llama"), rows(), tiny_base("llama")), tmp_path / "out")
    assert "norm_topk_prob" not in config
    assert "sliding_window" not in config
    assert config["router_jitter_noise"] == 0.0


@pytest.mark.parametrize("family", BOTH)
def test_fields_that_changed_their_name_are_written_both_ways(
    family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    config = exported(compose(contributions(family), rows(), tiny_base(family)), tmp_path / "out")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert "transformers_version" not in config
    assert "_name_or_path" not in config
    assert config["output_router_logits"] is False


def _altered_base(base: Base, place: Path, change: Callable[[dict[str, Any]], None]) -> Base:
    shutil.copytree(base.path, place)
    config = json.loads((place / "config.json").read_text())
    change(config)
    (place / "config.json").write_text(json.dumps(config))
    return open_base(place)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 0.3},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0}},
        {"max_position_embeddings": 64},
    ],
)
def test_numbers_that_decide_the_function_reach_the_export(
    change: dict[str, Any], family: str, tiny_base: Bases, tmp_path: Path
) -> None:
    base = _altered_base(tiny_base(family), tmp_path / "base", lambda config: config.update(change))
    out = written(mixture_of(base), base, tmp_path / "out")
    plain = {"olmo2": FlexOlmoForCausalLM, "llama": MixtralForCausalLM}[family].from_pretrained(out).eval()
    ids = torch.arange(1, 31)[None]
    with torch.no_grad():
        changed = plain(ids).logits
        native = Composite(mixture_of(base), None, None).model()(ids).logits  # type: ignore[arg-type]
        before = Composite(mixture_of(tiny_base(family)), None, None).model()(ids).logits  # type: ignore[arg-type]
    torch.testing.assert_close(changed, native, atol=5e-6, rtol=0)
    if "max_position_embeddings" not in change:
        assert not torch.allclose(changed, before, atol=1e-4)
    assert plain.config.max_position_embeddings == base.config["max_position_embeddings"]


@pytest.mark.parametrize("family", BOTH)
def test_fields_that_the_base_leaves_to_defaults_keep_the_base_s_defaults(
    family: str, tiny_base: Bases, tmp_path: Path
) -> None:
    """FlexOlmo and Mixtral have other defaults than Olmo2 and Llama (eps, heads, rope, special tokens)."""
    left_out = ("rms_norm_eps", "num_key_value_heads", "rope_parameters", "rope_theta", "hidden_act", "attention_bias")

    def strip(config: dict[str, Any]) -> None:
        for name in (*left_out, "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "head_dim"):
            config.pop(name, None)

    base = _altered_base(tiny_base(family), tmp_path / "base", strip)
    dense = AutoConfig.from_pretrained(base.path)
    mixed = AutoConfig.from_pretrained(written(mixture_of(base), base, tmp_path / "out"))
    for name in ("rms_norm_eps", "num_key_value_heads", "hidden_act", "max_position_embeddings", "rope_parameters"):
        assert getattr(mixed, name) == getattr(dense, name), name
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
        assert getattr(mixed, name) == getattr(dense, name), name


def test_llama3_rope_and_grouped_heads_reach_mixtral(tmp_path: Path, tiny_base: Bases) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
        rope_parameters=scaling,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    tiny_base("llama").load_tokenizer().save_pretrained(tmp_path / "base")
    base = open_base(tmp_path / "base")
    assembly = mixture_of(base, top_k=2)
    out = written(assembly, base, tmp_path / "out")
    written_config = json.loads((out / "config.json").read_text())
    assert written_config["rope_scaling"]["rope_type"] == "llama3"
    assert written_config["rope_parameters"] == scaling
    ids = torch.randint(1, 300, (2, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = MixtralForCausalLM.from_pretrained(out).eval()(ids).logits
        native = Composite(assembly, None, None).model()(ids).logits  # type: ignore[arg-type]
    torch.testing.assert_close(plain, native, atol=5e-6, rtol=0)


def test_tied_embeddings_are_stored_once(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    for family, tied in (("olmo2", True), ("llama", False)):
        compose(contributions(family), rows(), tiny_base(family)).save(tmp_path / family, layout="portable")
        index = json.loads((tmp_path / family / "model.safetensors.index.json").read_text())
        assert ("lm_head.weight" in index["weight_map"]) is not tied


@pytest.mark.parametrize("family", BOTH)
def test_names_on_disk_are_per_expert_and_one_shard_a_party(
    family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    found = contributions(family)
    compose(found, rows(), tiny_base(family)).save(tmp_path / "out", layout="portable")
    template = {
        "olmo2": "model.layers.{l}.mlp.experts.{e}.{r}.weight",
        "llama": "model.layers.{l}.block_sparse_moe.experts.{e}.{r}.weight",
    }[family]
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"} if family == "llama" else {r: r for r in ROLES}
    for number, contribution in enumerate(found):
        with safe_open(tmp_path / "out" / f"expert-{contribution.party}.safetensors", "pt") as file:
            expected = {
                template.format(l=layer, e=number + 1, r=names[role]): f"ffn.layers.{layer}.{role}.weight"
                for layer in range(2)
                for role in ROLES
            }
            assert set(file.keys()) == set(expected)
            assert file.metadata() == {"format": "pt"}
            for name, original in expected.items():
                assert torch.equal(file.get_tensor(name), contribution.tensor(original))
    gate = {"olmo2": "model.layers.0.mlp.gate.weight", "llama": "model.layers.0.block_sparse_moe.gate.weight"}[family]
    with safe_open(tmp_path / "out" / "router.safetensors", "pt") as file:
        stacked = file.get_tensor(gate)
    assert torch.equal(stacked[0], torch.zeros(32))
    for number, contribution in enumerate(found):
        assert torch.equal(stacked[1 + number], contribution.tensor("ffn.layers.0.router.weight"))


def test_the_index_is_true(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    compose(contributions("olmo2"), rows(), tiny_base("olmo2")).save(tmp_path / "out", layout="portable")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    total = 0
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                assert index["weight_map"].pop(name) == path.name
                total += file.get_tensor(name).nbytes
    assert index["weight_map"] == {}
    assert index["metadata"]["total_size"] == total


def test_files_have_ordinary_permissions(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    ordinary = stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    compose(contributions("olmo2"), rows(), tiny_base("olmo2")).save(tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        due = 0o444 if path.suffix == ".safetensors" else ordinary  # shards may be shared by links
        assert stat.S_IMODE(path.stat().st_mode) == due, path.name


@pytest.mark.parametrize("before", [{}, {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}])
def test_the_tokenizer_class_is_one_that_every_version_has(before: dict[str, Any]) -> None:
    after = tokenizer_config(before | {"eos_token": "x", "name_or_path": "/private/place"})
    assert after == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "x"}
    assert tokenizer_config({"tokenizer_class": "GPT2Tokenizer"}) == {"tokenizer_class": "GPT2Tokenizer"}


def test_the_exported_tokenizer_is_the_base_s(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    compose(contributions("olmo2"), rows(), tiny_base("olmo2")).save(tmp_path / "out")
    text = "the ferry crosses; def return: plaintiff 42 ünï"
    one, other = AutoTokenizer.from_pretrained(tmp_path / "out"), tiny_base("olmo2").load_tokenizer()
    assert one(text)["input_ids"] == other(text)["input_ids"]
    assert one.eos_token_id == other.eos_token_id == 0


def test_no_file_names_a_path_or_a_time(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    base = tiny_base("olmo2")
    compose(contributions("olmo2"), rows(), base).save(tmp_path / "out")
    text = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert str(base.path).encode() not in text
    assert str(tmp_path).encode() not in text


# Refusals name the nearest choice.


def biased_llama(field: str, tokenizer_of: Base, place: Path) -> Base:
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, **{field: True})
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer_of.load_tokenizer().save_pretrained(place)
    return open_base(place)


def test_a_llama_with_attention_biases_does_not_fit_mixtral(tiny_base: Bases, tmp_path: Path) -> None:
    base = biased_llama("attention_bias", tiny_base("llama"), tmp_path / "base")
    with pytest.raises(ExportError, match="'attention_bias' of the base: the mixtral format has no tensors") as caught:
        mixture_of(base).checkpoint("portable")
    assert "native" in caught.value.mend
    composite = Composite(mixture_of(base), None, None)  # type: ignore[arg-type]
    assert composite.default_layout() == "native"
    composite.model()


@pytest.mark.parametrize("layout", ["portable", "native"])
def test_a_llama_with_feed_forward_biases_has_no_ffn_experts(layout: str, tiny_base: Bases, tmp_path: Path) -> None:
    base = biased_llama("mlp_bias", tiny_base("llama"), tmp_path / "base")
    with pytest.raises(ExportError, match=r"'mlp_bias' of the base: an ffn expert holds .* no biases") as caught:
        mixture_of(base).checkpoint(layout)  # type: ignore[arg-type]
    assert "scope='full'" in caught.value.mend


def test_mixtral_always_renormalises(tiny_base: Bases) -> None:
    lossy = mixture_of(tiny_base("llama"), top_k=2, renormalise=False)
    with pytest.raises(ExportError, match="the mixtral format always rescales") as caught:
        lossy.checkpoint("portable")
    assert "renormalise=True" in caught.value.mend
    mixture_of(tiny_base("llama"), top_k=3, renormalise=False).checkpoint("portable")


@pytest.mark.parametrize("family", BOTH)
def test_routers_that_rows_cannot_hold_are_refused(
    family: str, tiny_base: Bases, contributions: Parts, public_text: Any, tmp_path: Path
) -> None:
    base, found, public = tiny_base(family), contributions(family), public_text(family)
    moe = FAMILIES[family].moe.model_type
    cases = [
        (MixtureOfExperts(PrefixEvidence()), f"prefix-evidence router in a {moe} checkpoint", "LearnedRows"),
        (
            MixtureOfExperts(LearnedRows(bias=True)),
            f"biases, offsets or unequal weights in a {moe}",
            "LearnedRows(bias=False)",
        ),
        (MixtureOfExperts(LearnedRows(), weights={"ash": 2.0}), f"unequal weights in a {moe}", "equal weights"),
        (Ensemble("uniform"), "ensemble of whole models in a portable", "LearnedRows"),
        (MixtureOfExperts(PrefixEvidence(), scope="full"), "ensemble of whole models in a portable", "Soup"),
    ]
    for method, message, nearest in cases:
        composite = compose(found, method, base, public=public)
        with pytest.raises(ExportError, match=message.replace("(", r"\(")) as caught:
            composite.save(tmp_path / "out", layout="portable")
        assert nearest in caught.value.mend
        assert composite.default_layout() == "native"
        assert not (tmp_path / "out").exists()


def test_equal_weights_that_are_not_one_still_fit(tiny_base: Bases, contributions: Parts) -> None:
    equal = MixtureOfExperts(LearnedRows(), weights=dict.fromkeys(("base", "ash", "birch", "cedar"), 3.0))
    assert compose(contributions("olmo2"), equal, tiny_base("olmo2")).default_layout() == "portable"


@pytest.mark.parametrize("config", [{"model_type": "gpt2"}, {"model_type": None}, {}])
def test_an_unknown_family_is_refused_by_name(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"model_type .*does not know this family") as caught:
        family_of(config)
    assert all(name in caught.value.mend for name in [*FAMILIES, *FORMATS])


@pytest.mark.parametrize("family", FAMILIES)
def test_tensor_names_are_those_that_transformers_writes(family: str, tiny_base: Bases) -> None:
    base = tiny_base(family)
    assert sorted(base.family.tensor_names(base.config)) == sorted(base.tensors)


def test_the_dense_config_is_the_inverse_of_the_mixture_s(tiny_base: Bases) -> None:
    for family in FAMILIES.values():
        dense = portable_config(tiny_base(family.name).config, "F32")
        mixed = family.moe.config(dense, experts=3, top_k=2, renormalise=True)
        assert family.moe.dense_config(mixed) == dense
