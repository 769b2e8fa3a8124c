"""Configs that say more than what a model is, and models that do not answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quiltwork.errors import CheckpointError
from quiltwork.models import base as base_module
from quiltwork.models.base import open_base
from quiltwork.models.plain import plain_config, require_known
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.models.tokenizer_files import load_tokenizer

IDS = torch.arange(5)[None]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["a page about nothing in particular"] * 4, 264)
    size = TinySize(vocabulary=len(tokenizer), hidden=8, intermediate=12, layers=1, heads=2, positions=32)
    tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def edited(path: Path, name: str, change: Callable[[Any], object]) -> Path:
    value = json.loads((path / name).read_text())
    change(value)
    (path / name).write_text(json.dumps(value))
    return path


@pytest.mark.parametrize(
    "stranger",
    [
        # libraries fetch what these name, and run it
        {"attn_implementation": "stranger/kernel"},
        {"_attn_implementation": "stranger/kernel:run"},
        {"experts_implementation": "stranger/experts"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"auto_map": {"AutoModelForCausalLM": "stranger/model--code.Model"}},
        # these change what a call returns, how text is sampled, or how much memory a config takes
        {"return_dict": False},
        {"output_attentions": True},
        {"top_k": True},
        {"num_labels": 10**9},
        {"layer_types": ["sliding_attention"]},
    ],
    ids=str,
)
def test_fields_that_decide_nothing_are_not_read(checkpoint: Path, stranger: dict[str, Any]) -> None:
    with torch.no_grad():
        due = open_base(checkpoint).load_model()(input_ids=IDS).logits
        model = open_base(edited(checkpoint, "config.json", lambda config: config.update(stranger))).load_model()
        assert torch.equal(model(input_ids=IDS).logits, due)
    assert not stranger.keys() & plain_config(stranger).keys()


def test_a_stretched_model_is_that_of_transformers_where_its_length_stands_beside(checkpoint: Path) -> None:
    rotary = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
    rotary |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 2000}
    stretched = {"rope_parameters": rotary, "original_max_position_embeddings": 8}
    edited(checkpoint, "config.json", lambda config: config.update(stretched))
    with torch.no_grad():
        due = AutoModelForCausalLM.from_pretrained(checkpoint)(input_ids=IDS).logits
        assert torch.equal(open_base(checkpoint).load_model()(input_ids=IDS).logits, due)
        edited(checkpoint, "config.json", lambda config: config.pop("original_max_position_embeddings"))
        assert not torch.equal(open_base(checkpoint).load_model()(input_ids=IDS).logits, due)


def test_a_reader_of_every_field_asks_for_the_stranger_s_kernel(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what is guarded against happens without the guard."""
    monkeypatch.setattr(base_module, "plain_config", dict)
    stranger = {"attn_implementation": "stranger/kernel"}
    base = open_base(edited(checkpoint, "config.json", lambda config: config.update(stranger)))
    with pytest.raises(CheckpointError, match="kernels"):
        base.load_model()


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate_size": 2**31},
        {"vocab_size": 2**40},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 10**6},
        {"num_key_value_heads": 10**6},
        {"hidden_size": True},
        {"num_key_value_heads": 2.0},
        {"head_dim": 10**9},
        {"head_dim": "8", "num_attention_heads": 2**45},
    ],
    ids=str,
)
def test_sizes_that_the_tensors_do_not_have_are_refused_before_anything_is_built(
    checkpoint: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match="config"):
        open_base(edited(checkpoint, "config.json", lambda config: config.update(change)))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
        {"rms_norm_eps": -1e5},
        {"hidden_act": "os.system"},
        {"use_cache": "x", "pad_token_id": 10**9},
    ],
    ids=str,
)
def test_a_config_of_which_no_model_comes_is_refused(checkpoint: Path, change: dict[str, Any]) -> None:
    base = open_base(edited(checkpoint, "config.json", lambda config: config.update(change)))
    with pytest.raises(CheckpointError, match=r"makes no model|not finite"):
        base.load_model()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_model_whose_answers_are_not_finite_is_refused(checkpoint: Path, value: float) -> None:
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"][:] = value
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not finite"):
        open_base(checkpoint).load_model()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", lambda value: value["model"]["vocab"].update({"a": "1"})),
        ("tokenizer.json", lambda value: value.pop("added_tokens")),
        ("tokenizer.json", lambda value: value["added_tokens"][0].update(content="x" * 10**6)),
        ("tokenizer_config.json", lambda value: value.update(eos_token=["x"])),
        ("tokenizer_config.json", lambda value: value.update(model_max_length=[1])),
        ("tokenizer_config.json", lambda value: value.update(eos_token="x" * 2**21)),
    ],
)
def test_a_tokenizer_that_reads_no_text_is_refused(
    checkpoint: Path, name: str, change: Callable[[Any], object]
) -> None:
    with pytest.raises(CheckpointError, match="token"):
        load_tokenizer(edited(checkpoint, name, change))


def test_tokens_that_the_model_does_not_know_are_refused(checkpoint: Path) -> None:
    model = open_base(checkpoint).load_model()
    known = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    require_known(known - 1, model, "the tokenizer")
    with pytest.raises(CheckpointError, match=f"token {known}, and the model knows {known}"):
        require_known(known, model, "the tokenizer")


def test_a_row_beyond_a_tensor_is_no_part_of_the_next_one(checkpoint: Path) -> None:
    tensors = open_base(checkpoint).tensors
    row = tensors["model.embed_tokens.weight"]
    torch.testing.assert_close(row.row(3).load(), row.load()[3], atol=0, rtol=0)
    with pytest.raises(ValueError, match="row 10000 of a tensor of shape"):
        row.row(10_000)
