"""Each trap of the export, with a deliberately wrong row of the table that must fail.

A wrong row is made with ``dataclasses.replace``; the assembly reads its family from the table, so the table is patched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from family_mixtures import FIELDS, SIZE, composite_model, family_base, logits, mixture_of, written
from quiltwork.compose.parts import body
from quiltwork.errors import CheckpointError, ExportError
from quiltwork.models.base import Base, open_base
from quiltwork.models.families import FAMILIES, Family
from quiltwork.models.tiny import tiny_model

Bases = Callable[..., Base]
_SIZES = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    @cache
    def build(family: str) -> Base:
        return family_base(family, tmp_path_factory.mktemp(family) / "base")

    return build


def altered(base: Base, change: Callable[[dict[str, Any]], Any]) -> Base:
    """The same base after a change to its config.json, in place."""
    config = json.loads((base.path / "config.json").read_text())
    change(config)
    (base.path / "config.json").write_text(json.dumps(config))
    return open_base(base.path)


def put_in_table(monkeypatch: pytest.MonkeyPatch, row: Family) -> None:
    monkeypatch.setitem(FAMILIES, row.name, row)  # type: ignore[arg-type]


def plain(place: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(place).eval()


def differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) > 1e-3


def assumed(model_type: str) -> dict[str, Any]:
    """What transformers' config class assumes for the fields that the sizes do not decide."""
    config = AutoConfig.for_model(model_type)
    return {name: value for name, value in config.to_dict().items() if name not in _SIZES}


# What classes assume.


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_s_defaults_are_those_of_the_class(family: str) -> None:
    config = AutoConfig.for_model(family)
    for name, value in FAMILIES[family].complete(dict.fromkeys(_SIZES, 4) | {"num_hidden_layers": 4}).items():
        if name not in _SIZES | {"num_key_value_heads", "head_dim", "sliding_window", "layer_types"}:
            assert getattr(config, name) == value, name
    table = dict(FAMILIES[family].defaults)
    heads = table["num_key_value_heads"]
    assert config.num_key_value_heads == (config.num_attention_heads if heads is None else heads)
    if "head_dim" in table:
        usual = config.hidden_size // config.num_attention_heads
        assert config.head_dim == (usual if table["head_dim"] is None else table["head_dim"])
    if family == "mistral":
        assert config.sliding_window == table["sliding_window"]
    assert config.default_theta == 10000.0, "what models.base.rope assumes for every family"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_field_is_left_to_a_format_that_assumes_otherwise(family: str) -> None:
    """Every field of both classes whose defaults differ is one that is written."""
    dense, mixed = assumed(family), assumed(FAMILIES[family].moe.model_type)
    said = {name for name, _ in FAMILIES[family].defaults} | FAMILIES[family].moe.fields
    said |= {"rope_parameters", "model_type", "layer_types", "transformers_version"}
    different = {name for name in dense.keys() & mixed.keys() if dense[name] != mixed[name]}
    assert different <= said, different - said
    if family != "qwen2":  # whose classes agree in everything
        assert different & {name for name, _ in FAMILIES[family].defaults}


@pytest.mark.parametrize("form", {family.moe.model_type: family.moe for family in FAMILIES.values()}.values(), ids=str)
def test_a_format_s_defaults_are_those_of_its_class(form: Any) -> None:
    config = AutoConfig.for_model(form.model_type)
    for name, value in form.defaults:
        if name == "rope_theta":
            assert config.default_theta == value
        elif name == "num_key_value_heads" and value is None:
            assert config.num_key_value_heads == config.num_attention_heads
        elif name == "head_dim":
            assert getattr(config, name, None) == value
        else:
            assert getattr(config, name) == value, name


@pytest.mark.parametrize("family", ["olmo2", "llama", "mistral"])
def test_trap_of_the_norm_s_epsilon(
    family: str, base_of: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Olmo2 assumes 1e-5 and FlexOlmo 1e-6, Llama and Mistral 1e-6 and Mixtral 1e-5."""
    base = family_base(family, tmp_path / "base")
    base = altered(base, lambda config: config.pop("rms_norm_eps"))
    due = AutoConfig.from_pretrained(base.path).rms_norm_eps
    assert AutoConfig.from_pretrained(written(mixture_of(base), base, tmp_path / "right")).rms_norm_eps == due
    row = FAMILIES[family]
    put_in_table(monkeypatch, replace(row, defaults=tuple(d for d in row.defaults if d[0] != "rms_norm_eps")))
    base = open_base(base.path)
    assert AutoConfig.from_pretrained(written(mixture_of(base), base, tmp_path / "wrong")).rms_norm_eps != due


_SCALED = [
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0},
    {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "rope_theta": 700.0, "factor": 4.0, "original_max_position_embeddings": 32},
]


@pytest.mark.parametrize("settings", _SCALED, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trap_of_rotary_positions(settings: dict[str, Any], family: str, tmp_path: Path) -> None:
    base = family_base(family, tmp_path / "base", rope_parameters=settings)
    assembly = mixture_of(base)
    out = written(assembly, base, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == settings["rope_theta"]
    assert config["rope_parameters"] == settings
    if settings["rope_type"] == "default":
        assert config.get("rope_scaling") is None
    else:
        assert config["rope_scaling"] == {name: v for name, v in settings.items() if name != "rope_theta"}
    expected = logits(composite_model(assembly))
    torch.testing.assert_close(logits(plain(out)), expected, atol=2e-5, rtol=0)
    # without both fields the class assumes its own base, which changes what the model computes
    for name in ("rope_theta", "rope_parameters", "rope_scaling"):
        config.pop(name, None)
    (out / "config.json").write_text(json.dumps(config))
    assert differs(logits(plain(out)), expected)


@pytest.mark.parametrize("family", ["llama", "mistral", "olmo2"])
def test_trap_of_a_rotary_base_that_is_left_out(family: str, tmp_path: Path) -> None:
    """Dense classes assume 10000; Mixtral's assumes a million and FlexOlmo's half of that."""
    base = altered(family_base(family, tmp_path / "base"), lambda config: config.pop("rope_parameters"))
    out = written(mixture_of(base), base, tmp_path / "out")
    assert AutoConfig.from_pretrained(out).rope_parameters["rope_theta"] == 10000.0
    assert AutoConfig.for_model(FAMILIES[family].moe.model_type).rope_parameters["rope_theta"] > 10000.0


# Tensors and widths.


def test_trap_of_the_shared_expert(base_of: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2-MoE asks for a shared expert; of width zero it adds nothing, but its tensors must be there."""
    base = base_of("qwen2")
    out = written(mixture_of(base), base, tmp_path / "right")
    config = json.loads((out / "config.json").read_text())
    assert config["shared_expert_intermediate_size"] == 0
    assert (config["decoder_sparse_step"], config["mlp_only_layers"]) == (1, [])
    assert config["moe_intermediate_size"] == config["intermediate_size"] == SIZE.intermediate
    with safe_open(out / "router.safetensors", "pt") as file:
        found = {name: tuple(file.get_tensor(name).shape) for name in file.keys() if ".1.mlp.shared" in name}  # noqa: SIM118
    assert found == {
        "model.layers.1.mlp.shared_expert.gate_proj.weight": (0, 32),
        "model.layers.1.mlp.shared_expert.up_proj.weight": (0, 32),
        "model.layers.1.mlp.shared_expert.down_proj.weight": (32, 0),
        "model.layers.1.mlp.shared_expert_gate.weight": (1, 32),
    }
    _, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    row = FAMILIES["qwen2"]
    put_in_table(monkeypatch, replace(row, moe=replace(row.moe, idle=())))
    _, info = AutoModelForCausalLM.from_pretrained(
        written(mixture_of(base), base, tmp_path / "wrong"), output_loading_info=True
    )
    assert len(info["missing_keys"]) == 4 * SIZE.layers


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_trap_of_the_experts_width(
    family: str, base_of: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(family)
    out = written(mixture_of(base), base, tmp_path / "right")
    assert AutoConfig.from_pretrained(out).moe_intermediate_size == SIZE.intermediate
    row = FAMILIES[family]
    put_in_table(monkeypatch, replace(row, moe=replace(row.moe, width_field=None)))
    with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
        AutoModelForCausalLM.from_pretrained(written(mixture_of(base), base, tmp_path / "wrong"))


def test_trap_of_biases_in_attention(base_of: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2 has biases on queries, keys and values, and none on the output; config.json does not say so."""
    base = base_of("qwen2")
    assert "model.layers.0.self_attn.q_proj.bias" in base.tensors
    assert "model.layers.0.self_attn.o_proj.bias" not in base.tensors
    assert set(base.family.tensor_names(base.config)) == set(base.tensors)
    row = FAMILIES["qwen2"]
    put_in_table(monkeypatch, replace(row, biases=()))
    assert set(open_base(base.path).family.tensor_names(base.config)) < set(base.tensors)
    dropped = replace(
        mixture_of(base), body=replace(body(base), tensors={n: s for n, s in base.tensors.items() if "bias" not in n})
    )
    _, info = AutoModelForCausalLM.from_pretrained(written(dropped, base, tmp_path / "out"), output_loading_info=True)
    assert len(info["missing_keys"]) == 3 * SIZE.layers


def test_trap_of_the_width_of_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3 assumes heads of 128, whatever the width; Qwen3-MoE assumes hidden / heads."""
    base = altered(family_base("qwen3", tmp_path / "base", head_dim=128), lambda config: config.pop("head_dim"))
    assembly = mixture_of(base)
    assert base.config["head_dim"] == 128
    right = plain(written(assembly, base, tmp_path / "right"))
    torch.testing.assert_close(logits(right), logits(composite_model(assembly)), atol=2e-5, rtol=0)
    row = FAMILIES["qwen3"]
    put_in_table(monkeypatch, replace(row, defaults=tuple(d for d in row.defaults if d[0] != "head_dim")))
    with pytest.raises(CheckpointError, match=r"q_proj.*has shape \[512, 32\], and config.json says \[32, 32\]"):
        open_base(base.path)


def test_trap_of_norms_of_heads(base_of: Bases) -> None:
    base = base_of("qwen3")
    assert base.tensors["model.layers.0.self_attn.q_norm.weight"].shape == (FIELDS["qwen3"]["head_dim"],)
    assert set(base.family.tensor_names(base.config)) == set(base.tensors)
    assert set(replace(base.family, norms=FAMILIES["llama"].norms).tensor_names(base.config)) < set(base.tensors)


# Windows.


def test_trap_of_mistral_s_window(base_of: Bases, tmp_path: Path) -> None:
    base = base_of("mistral")
    assembly = mixture_of(base)
    out = written(assembly, base, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert config["sliding_window"] == 9
    expected = logits(composite_model(assembly))
    torch.testing.assert_close(logits(plain(out)), expected, atol=2e-5, rtol=0)
    (out / "config.json").write_text(json.dumps(config | {"sliding_window": None}))
    assert differs(logits(plain(out)), expected)


@pytest.mark.parametrize("stated", [True, False])
def test_mistral_s_window_names_the_base(stated: bool, tmp_path: Path) -> None:
    """4096 where config.json is silent, and none where it says null."""
    base = family_base("mistral", tmp_path / "base", sliding_window=4096)
    before = base.digest
    change = {"sliding_window": 4096} if stated else {}
    silent = altered(base, lambda config: (config.pop("sliding_window"), config.update(change)))
    assert silent.config["sliding_window"] == 4096
    assert silent.digest == before
    assert altered(base, lambda config: config.update(sliding_window=None)).digest != before


def test_a_mistral_of_which_some_layers_have_no_window_is_another_model(tmp_path: Path) -> None:
    """transformers makes a Ministral model of it; Mistral's class would give all layers the window."""
    mixed = ["full_attention", "sliding_attention", "sliding_attention"]
    base = family_base("mistral", tmp_path / "base", sliding_window=3)
    base = altered(base, lambda config: config.update(layer_types=["sliding_attention"] * len(mixed)))
    due = logits(plain(base.path))
    torch.testing.assert_close(logits(base.load_model()), due, atol=0, rtol=0)
    with pytest.raises(CheckpointError, match="Ministral"):
        altered(base, lambda config: config.update(layer_types=mixed))
    assert differs(logits(plain(base.path)), due)
    unbounded = altered(base, lambda config: config.update(layer_types=["full_attention"] * 3, sliding_window=None))
    assert differs(logits(unbounded.load_model()), due)


def test_a_window_that_llama_does_not_read_never_reaches_mixtral(tmp_path: Path) -> None:
    base = family_base("llama", tmp_path / "base")
    before = base.digest
    base = altered(base, lambda config: config.update(sliding_window=3))
    assembly = mixture_of(base)
    out = written(assembly, base, tmp_path / "out")
    assert AutoConfig.from_pretrained(out).sliding_window is None
    torch.testing.assert_close(logits(plain(out)), logits(composite_model(assembly)), atol=2e-5, rtol=0)
    assert base.digest == before


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_in_some_layers_fit_the_native_format_only(family: str, tmp_path: Path) -> None:
    base = family_base(family, tmp_path / "base", use_sliding_window=True, sliding_window=5, max_window_layers=1)
    assert base.config["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention"]
    with pytest.raises(ExportError, match=r"'use_sliding_window' of the base: the classes of the .* otherwise"):
        mixture_of(base).checkpoint("portable")
    alike = mixture_of(base, alike=True)
    dense = logits(base.load_model())
    torch.testing.assert_close(logits(composite_model(alike)), dense, atol=2e-5, rtol=0)
    open_windows = altered(base, lambda config: config.update(use_sliding_window=False, layer_types=None))
    assert differs(logits(composite_model(mixture_of(open_windows, alike=True))), dense)
    assert open_windows.digest != base.digest


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_windows_that_no_layer_has_do_not_matter(family: str, tmp_path: Path) -> None:
    """Released configs state a window and switch it off, or let it begin above the last layer."""
    base = family_base(family, tmp_path / "base")
    before = base.digest
    for change in (
        {"sliding_window": 131072, "use_sliding_window": False},
        {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 28},
    ):
        same = altered(base, lambda config, change=change: (config.pop("layer_types", None), config.update(change)))
        assert same.digest == before
        config = same.family.moe.config(body(same).config, experts=3, top_k=2, renormalise=True)
        assert (config["use_sliding_window"], config["sliding_window"]) == (False, None)


# Mixtures as such.


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_format_overwrites_comes_back(family: str, base_of: Bases) -> None:
    row = FAMILIES[family]
    dense = dict(body(base_of(family)).config)
    mixed = row.moe.config(dense, experts=3, top_k=2, renormalise=True)
    assert row.moe.dense_config(mixed) == dense
    assert json.loads(json.dumps(mixed)) == mixed
    with pytest.raises(KeyError):
        row.moe.dense_config({name: value for name, value in mixed.items() if name != "quiltwork"})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_belongs_to_a_mixture_is_not_read_from_a_dense_config(family: str, tmp_path: Path) -> None:
    base = family_base(family, tmp_path / "base")
    before = base.digest
    stray = {"num_experts": 9, "num_local_experts": 9, "num_experts_per_tok": 5, "norm_topk_prob": True}
    base = altered(base, lambda config: config.update(stray))
    assert base.digest == before
    mixed = mixture_of(base).checkpoint("portable").config
    assert mixed[base.family.moe.count_field] == 3
    assert mixed["num_experts_per_tok"] == 3


def test_the_families_are_told_by_name(tmp_path: Path) -> None:
    base = family_base("qwen2", tmp_path / "base")
    with pytest.raises(CheckpointError, match="model_type 'gpt_oss'") as caught:
        altered(base, lambda config: config.update(model_type="gpt_oss"))
    assert "olmo2, llama, mistral, qwen2, qwen3" in caught.value.mend
    assert "flex_olmo, mixtral, qwen2_moe, qwen3_moe" in caught.value.mend


@pytest.mark.parametrize("family", FAMILIES)
def test_there_is_a_tiny_model_of_every_family(family: str) -> None:
    assert type(tiny_model(family, SIZE, seed=0)).__name__ == FAMILIES[family].architecture
