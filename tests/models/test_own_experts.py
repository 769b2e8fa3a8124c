"""Bases that are mixtures: read from what transformers itself writes, and refused where they are not plain.

The oracle is transformers' class of the format, whose checkpoints are read here, never quiltwork's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from family_mixtures import VOCABULARY, composite_model, logits, mixture_of, written
from quiltwork.errors import CheckpointError, ExportError
from quiltwork.models.assembly import Experts
from quiltwork.models.base import Base, open_base
from quiltwork.models.disassembly import disassemble
from quiltwork.models.moe_formats import FORMATS
from quiltwork.models.routers import EVIDENCE_SETTINGS, Evidence
from quiltwork.models.sources import Source
from quiltwork.models.tiny import train_tokenizer

EXPERTS, ACTIVE = 4, 2
FIELDS: dict[str, dict[str, Any]] = {
    "flex_olmo": {"num_experts": EXPERTS, "norm_topk_prob": False},
    "mixtral": {"num_local_experts": EXPERTS, "sliding_window": 9},
    "qwen2_moe": {
        "num_experts": EXPERTS,
        "norm_topk_prob": False,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 0,
    },
    "qwen3_moe": {"num_experts": EXPERTS, "norm_topk_prob": True, "moe_intermediate_size": 40, "head_dim": 16},
}
Places = Callable[[str], Path]
each_form = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """``saved(format)``: a random mixture as ``save_pretrained`` writes it."""

    @cache
    def build(form: str) -> Path:
        config = AutoConfig.for_model(
            form,
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            num_experts_per_tok=ACTIVE,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            **FIELDS[form],
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        generator = torch.Generator().manual_seed(7)
        for tensor in model.state_dict().values():
            if tensor.dim() == 1:
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
            else:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        place = tmp_path_factory.mktemp(form) / "base"
        model.save_pretrained(place)
        train_tokenizer(["a text"], VOCABULARY).save_pretrained(place)
        return place

    return build


@pytest.fixture
def copied(saved: Places, tmp_path: Path) -> Places:
    def copy(form: str) -> Path:
        shutil.copytree(saved(form), tmp_path / "copy")
        return tmp_path / "copy"

    return copy


def edit(place: Path, **changes: Any) -> Path:
    """Change fields of config.json; None removes one."""
    config = json.loads((place / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (place / "config.json").write_text(json.dumps(kept))
    return place


def edit_tensors(place: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    tensors = load_file(place / "model.safetensors")
    change(tensors)
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return place


def all_on_the_base(base: Base) -> Experts:
    """A native mixture whose evidence never speaks for the one party."""
    plain = mixture_of(base, parties=1)
    assert plain.body.own is not None
    flat = Source.of(torch.zeros(VOCABULARY))
    settings = dict.fromkeys(EVIDENCE_SETTINGS) | {
        "features": "tokens",
        "symbols": VOCABULARY,
        "separator": 0,
        "temperature": 1.0,
        "minimum_weight": 0.01,
    }
    weights = {"": 1.0, "party0": 1e-9}
    return replace(plain, router=Evidence({"party0": flat}, flat, settings, weights))


@each_form
def test_the_dense_twin_and_its_experts_are_the_mixture(form: str, saved: Places) -> None:
    base = open_base(saved(form))
    assert base.model_type == form
    assert base.own is not None
    flag = FIELDS[form].get("norm_topk_prob", True)
    assert base.own.rule == {"experts": EXPERTS, "top_k": ACTIVE, "renormalise": flag}
    whole = logits(base.load_model())
    torch.testing.assert_close(logits(composite_model(all_on_the_base(base))), whole, atol=2e-5, rtol=0)


@each_form
@pytest.mark.parametrize("top_k", [2, 3, 5])
def test_one_expert_more_is_what_transformers_computes(form: str, top_k: int, saved: Places, tmp_path: Path) -> None:
    base = open_base(saved(form))
    longer = mixture_of(base, parties=1, top_k=top_k)
    out = written(longer, base, tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(model.eval()), logits(composite_model(longer)), atol=2e-5, rtol=0)
    # every expert of the base stands where it stood
    mine, theirs = open_base(out), base
    assert mine.own is not None
    assert theirs.own is not None
    for layer in range(base.layers):
        assert torch.equal(mine.own.rows[layer].load()[:EXPERTS], theirs.own.rows[layer].load())
    for one, other in zip([mine.ffn(), *mine.own.others], [theirs.ffn(), *theirs.own.others], strict=False):
        assert all(torch.equal(one[key].load(), other[key].load()) for key in other)


@each_form
def test_what_config_json_leaves_out_is_what_the_class_assumes(form: str, copied: Places) -> None:
    """The rotary base, epsilon and heads of a mixture, and not those of the dense family that it is read as."""
    place = edit(copied(form), rope_parameters=None, rms_norm_eps=None)
    base = open_base(place)
    assumed = AutoConfig.from_pretrained(place)
    assert base.config["rms_norm_eps"] == assumed.rms_norm_eps
    longer = mixture_of(base, parties=1, top_k=2)
    config = longer.checkpoint("portable").config
    assert config["rope_theta"] == assumed.rope_parameters["rope_theta"]
    twin = composite_model(all_on_the_base(base))
    torch.testing.assert_close(logits(twin), logits(base.load_model()), atol=2e-5, rtol=0)


@each_form
def test_missing_experts_are_named(form: str, copied: Places) -> None:
    name = FORMATS[form].expert_name(1, 3, "down_proj")
    place = edit_tensors(copied(form), lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=r"missing .1., the first is '.*experts\.3\.") as caught:
        open_base(place)
    assert "not stacks" in caught.value.mend


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("qwen2_moe", {"shared_expert_intermediate_size": 24}, "'shared_expert_intermediate_size'.*nothing besides"),
        ("qwen2_moe", {"shared_expert_intermediate_size": None}, "'shared_expert_intermediate_size'.*it is 5632"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "'decoder_sparse_step'.*every layer has experts"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "'mlp_only_layers'.*every layer has experts"),
        ("mixtral", {"num_experts_per_tok": 9}, "'num_experts_per_tok'.*4 and 9"),
        ("mixtral", {"num_local_experts": 10**12}, "2 layers of 1000000000000 experts, and there are"),
        ("mixtral", {"num_hidden_layers": 10**12}, "1000000000000 layers of 4 experts, and there are"),
        ("mixtral", {"num_local_experts": 0}, "'num_local_experts'.*0 and 2"),
        ("flex_olmo", {"num_experts": "many"}, "'num_experts'.*'many'"),
        ("mixtral", {"num_local_experts": 3}, r"has shape \[4, 32\].*\[3, 32\]|tensor '.*experts\.3"),
        ("mixtral", {"intermediate_size": 56}, r"has shape \[48, 32\], and config.json says \[56, 32\]"),
    ],
)
def test_what_is_no_plain_mixture_is_refused(form: str, change: dict[str, Any], message: str, copied: Places) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_base(edit(copied(form), **change))


def test_tensors_that_no_plain_mixture_has_are_refused(copied: Places) -> None:
    strange = "model.layers.1.mlp.experts.2.up_proj.bias"
    place = edit_tensors(copied("flex_olmo"), lambda tensors: tensors.update({strange: torch.zeros(48)}))
    with pytest.raises(CheckpointError, match=r"experts\.2\.up_proj\.bias.*plain flex_olmo mixture has none"):
        open_base(place)


@each_form
def test_rows_of_another_dtype_are_refused(form: str, copied: Places) -> None:
    name = FORMATS[form].router.format(layer=1)
    # of the same size even, so that no length would tell
    place = edit_tensors(copied(form), lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()}))
    place = edit_tensors(place, lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    with pytest.raises(CheckpointError, match=r"it is BF16, and the weights are F16"):
        open_base(place)


@pytest.mark.parametrize("form", ["qwen2_moe", "qwen3_moe"])
def test_windows_of_a_mixture_are_refused(form: str, copied: Places) -> None:
    with pytest.raises(ExportError, match="'use_sliding_window' of the base"):
        open_base(edit(copied(form), use_sliding_window=True, sliding_window=5))


@each_form
def test_the_rule_is_part_of_the_base_s_name(form: str, copied: Places) -> None:
    place = copied(form)
    before = open_base(place).digest
    assert open_base(edit(place, num_experts_per_tok=1)).digest != before
    again = edit(place, num_experts_per_tok=ACTIVE)
    assert open_base(again).digest == before
    if FORMATS[form].renormalises == "flag":
        assert open_base(edit(place, norm_topk_prob=not FIELDS[form]["norm_topk_prob"])).digest != before


@pytest.mark.parametrize("layout", ["portable", "native"])
@pytest.mark.parametrize("count", [0, 1, -1, 3, 10**12, "two", None, True])
def test_a_composite_that_misstates_its_base_s_experts_is_refused(
    count: Any, layout: Any, saved: Places, tmp_path: Path
) -> None:
    base = open_base(saved("mixtral"))
    place = written(mixture_of(base, parties=1, top_k=2), base, tmp_path / "out", layout)
    config = json.loads((place / "config.json").read_text())
    told = config["quiltwork"]["own"] if layout == "portable" else config["own"]
    assert told["experts"] == EXPERTS
    disassemble(place, ("party0",))
    told["experts"] = count
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not hold what its config announces"):
        disassemble(place, ("party0",))
