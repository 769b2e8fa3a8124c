"""The base's digest: what changes it, what does not; and bases that are refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.models.base import Base, open_base, rope, tensor_digest
from quiltwork.models.sources import Source, open_file, total_size
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.models.tokenizer_files import load_tokenizer

Bases = Callable[[str], Base]
BOTH = ("olmo2", "llama")


@pytest.fixture(params=BOTH)
def copied(request: pytest.FixtureRequest, tiny_base: Bases, tmp_path: Path) -> Base:
    """A base of our own, to be damaged."""
    shutil.copytree(tiny_base(request.param).path, tmp_path / "base")
    return open_base(tmp_path / "base")


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_tensors(base: Base, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(base.path / "model.safetensors")
    change(tensors)
    save_file(tensors, base.path / "model.safetensors", {"format": "pt"})


def test_sizes_and_shapes(tiny_base: Bases) -> None:
    base = tiny_base("olmo2")
    assert (base.layers, base.hidden_size, base.intermediate_size, base.vocabulary_size) == (2, 32, 48, 300)
    assert base.dtype == "F32"
    assert base.torch_dtype == torch.float32
    assert base.separator == 0
    assert len(base.ffn()) == 6
    assert len(base.body()) + 6 == len(base.tensors)
    assert not any(".mlp." in name for name in base.body())


def test_a_copy_has_the_same_digest(copied: Base, tiny_base: Bases) -> None:
    assert copied.digest == tiny_base(copied.family.name).digest
    assert copied.digest.startswith("sha256:")
    assert copied.digest != tiny_base("llama" if copied.family.name == "olmo2" else "olmo2").digest


def test_one_bit_of_any_tensor_changes_the_digest(copied: Base) -> None:
    before = copied.digest
    for name in copied.tensors:

        def flip(tensors: dict[str, torch.Tensor], name: str = name) -> None:
            flat = tensors[name].view(-1).view(torch.uint8)
            flat[0] ^= 1

        edit_tensors(copied, flip)
        assert open_base(copied.path).digest != before, name
        edit_tensors(copied, flip)
    assert open_base(copied.path).digest == before


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": 1e-5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10001.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        {"hidden_act": "gelu"},
    ],
    ids=str,
)
def test_what_decides_the_function_changes_the_digest(copied: Base, change: dict[str, Any]) -> None:
    edit_json(copied.path / "config.json", lambda config: config.update(change))
    assert open_base(copied.path).digest != copied.digest


def test_the_tokenizer_changes_the_digest(copied: Base) -> None:
    before = copied.digest
    edit_json(copied.path / "tokenizer.json", lambda value: value["model"]["merges"].pop())
    assert open_base(copied.path).digest != before


def test_a_respelt_tokenizer_file_does_not(copied: Base) -> None:
    before = copied.digest
    edit_json(copied.path / "tokenizer.json", lambda _: None)
    assert open_base(copied.path).digest == before


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(transformers_version="4.40.0", _name_or_path="/elsewhere", torch_dtype="float32"),
        lambda c: c.pop("transformers_version", None),
        lambda c: c.update(rope_theta=c.pop("rope_parameters")["rope_theta"]),
        lambda c: c.update(rope_theta=10000, rope_scaling=None, rope_parameters=None),
        lambda c: (c.pop("rope_parameters", None), c.pop("rope_theta", None)),
        lambda c: c.pop("hidden_act"),
        lambda c: c.pop("num_key_value_heads"),
        lambda c: c.pop("head_dim", None),
        lambda c: (c.pop("attention_bias", None), c.pop("mlp_bias", None)),
    ],
)
def test_the_writer_s_version_and_spelling_do_not(copied: Base, change: Callable[[dict[str, Any]], object]) -> None:
    edit_json(copied.path / "config.json", change)
    assert open_base(copied.path).digest == copied.digest


def test_both_spellings_of_scaled_rotary_positions_agree() -> None:
    scaling = {"factor": 4.0}
    old = {"rope_theta": 500000, "rope_scaling": {"type": "linear", **scaling}}
    new = {"rope_parameters": {"rope_type": "linear", "rope_theta": 500000.0, **scaling}}
    assert rope(old) == rope(new)
    assert rope(new) != rope({"rope_parameters": {**new["rope_parameters"], "factor": 8.0}})
    assert rope({}) == {"rope_theta": 10000.0, "rope_type": "default"}


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": 5},
        {"rope_scaling": ["linear"]},
        {"rope_theta": None},
        {"rope_theta": "10000"},
        {"rope_theta": 10**400},
        {"rope_parameters": {"rope_theta": True}},
    ],
    ids=str,
)
def test_rotary_settings_that_are_none_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="rotary settings"):
        rope(config)


def test_the_trained_length_of_a_stretched_model_counts_where_it_stands_beside() -> None:
    inside = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32}
    assert rope({"rope_parameters": inside, "original_max_position_embeddings": 16}) == inside | {
        "original_max_position_embeddings": 16
    }
    plain = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
    assert rope({"rope_parameters": plain, "original_max_position_embeddings": 16}) == plain


def test_sharding_does_not_change_the_digest(copied: Base, tmp_path: Path) -> None:
    copied.load_model().save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    for path in copied.path.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "sharded")
    sharded = open_base(tmp_path / "sharded")
    assert len(list(sharded.path.glob("model-*.safetensors"))) > 1
    assert sharded.digest == copied.digest


def test_tensor_digest_is_over_the_elements() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    digest = tensor_digest(Source.of(tensor))
    assert digest == "sha256:" + hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    assert digest == tensor_digest(Source.of(tensor.T.contiguous().T))
    assert digest != tensor_digest(Source.of(tensor + 1))
    assert digest != tensor_digest(Source.of(tensor.bfloat16()))
    assert tensor_digest(Source.of(torch.zeros(0))) == "sha256:" + hashlib.sha256(b"").hexdigest()


# Refusals.


def test_any_missing_tensor_is_refused_by_name(copied: Base) -> None:
    for name in copied.tensors:
        kept = load_file(copied.path / "model.safetensors")
        edit_tensors(copied, lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(CheckpointError, match=f"tensors are missing .1., the first is '{name}'"):
            open_base(copied.path)
        save_file(kept, copied.path / "model.safetensors", {"format": "pt"})
    open_base(copied.path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_file_cut_short_is_refused(copied: Base, keep: int) -> None:
    data = (copied.path / "model.safetensors").read_bytes()
    (copied.path / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*cannot be read as safetensors") as caught:
        open_base(copied.path)
    assert "cut short" in caught.value.mend


def test_pickled_weights_are_not_read(copied: Base) -> None:
    (copied.path / "model.safetensors").rename(copied.path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor an index") as caught:
        open_base(copied.path)
    assert "other formats can run code" in caught.value.mend


def test_an_index_that_lies_is_refused(copied: Base) -> None:
    (copied.path / "model.safetensors").rename(copied.path / "one.safetensors")
    names = dict.fromkeys(copied.tensors, "one.safetensors")
    index = copied.path / "model.safetensors.index.json"
    for file in ("other.safetensors", "../base/one.safetensors"):
        index.write_text(json.dumps({"weight_map": names | {"model.norm.weight": file}}))
        with pytest.raises(CheckpointError, match=r"other\.safetensors|tensor 'model\.norm\.weight'"):
            open_base(copied.path)
    index.write_text(json.dumps({"weight_map": names | {"model.stranger.weight": "one.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"tensor 'model\.stranger\.weight'.*it is not"):
        open_base(copied.path)
    for broken in ([], {"a": 5}, "one.safetensors"):
        index.write_text(json.dumps({"weight_map": broken}))
        with pytest.raises(CheckpointError):
            open_base(copied.path)


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads"])
@pytest.mark.parametrize("value", [None, "two", 0])
def test_a_config_without_sizes_is_refused(copied: Base, field: str, value: Any) -> None:
    edit_json(copied.path / "config.json", lambda config: config.update({field: value}))
    with pytest.raises(CheckpointError, match=f"config field '{field}'"):
        open_base(copied.path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff\xfe", b"null"])
def test_a_config_that_is_no_json_object_is_refused(copied: Base, text: bytes) -> None:
    (copied.path / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_base(copied.path)


def test_an_unknown_family_is_refused(copied: Base) -> None:
    edit_json(copied.path / "config.json", lambda config: config.update(model_type="gpt2"))
    with pytest.raises(CheckpointError, match=r"model_type 'gpt2' in '.*config\.json'") as caught:
        open_base(copied.path)
    assert "olmo2, llama" in caught.value.mend


def test_a_place_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such directory"):
        open_base(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"it is no checkpoint: it holds no config\.json"):
        open_base(tmp_path)


def test_a_quantised_tensor_is_refused(tmp_path: Path) -> None:
    save_file({"packed": torch.zeros(3, dtype=torch.int8)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor 'packed'.*I8 is not a floating-point type"):
        open_file(tmp_path / "x.safetensors")


def test_a_checkpoint_without_tokenizer_is_refused(copied: Base) -> None:
    for path in copied.path.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        _ = open_base(copied.path).tokenizer_digest
    with pytest.raises(CheckpointError, match="tokenizer in"):
        load_tokenizer(copied.path)


def test_a_tokenizer_needs_a_token_before_documents(copied: Base) -> None:
    def strip(settings: dict[str, Any]) -> None:
        for name in ("bos_token", "eos_token"):
            settings.pop(name, None)

    edit_json(copied.path / "tokenizer_config.json", strip)
    (copied.path / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="neither a BOS nor an EOS token"):
        load_tokenizer(copied.path)


# Sources and the tiny base.


def test_sources_load_when_asked(tmp_path: Path) -> None:
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2).bfloat16()}, tmp_path / "x.safetensors")
    table = open_file(tmp_path / "x.safetensors")
    assert {name: (s.dtype, s.shape, s.size) for name, s in table.items()} == {
        "a": ("F32", (2, 3), 6),
        "b": ("BF16", (2,), 2),
    }
    assert torch.equal(table["a"].derive(lambda t: t * 2).load(), torch.arange(6.0).reshape(2, 3) * 2)
    assert total_size([table, {"c": Source.of(torch.zeros(4))}]) == 12


def test_the_tiny_model_is_determined_by_its_seed() -> None:
    size = TinySize(300, 32, 48, 1, 4, 64)
    states = [tiny_model("olmo2", size, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["model.embed_tokens.weight"], states[2]["model.embed_tokens.weight"])


def test_there_is_no_tiny_model_of_other_families() -> None:
    with pytest.raises(InvalidOption, match="family 'gpt2'"):
        tiny_model("gpt2", TinySize(), seed=0)


def test_the_tiny_tokenizer_encodes_any_text() -> None:
    tokenizer = train_tokenizer(["some words", "more words"], 300)
    for text in ("words", "ünïcödé 文字 🎉", "a\nb\tc", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
