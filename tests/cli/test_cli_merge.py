"""``quiltwork merge`` against float64 sums of what safetensors reads; every refusal names its part."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import done, files, refused
from safetensors.torch import load_file, save_file

from quiltwork.compose.checkpoints import Merge
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base, open_base

Edit = Callable[[dict[str, torch.Tensor]], Any]


def edited(source: Path, target: Path, edit: Edit) -> Path:
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    edit(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def moved(seed: int, dtype: torch.dtype) -> Edit:
    """Every tensor a little elsewhere."""

    def move(tensors: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in tensors.items():
            tensors[name] = (tensor + 0.1 * torch.randn(tensor.shape, generator=generator)).to(dtype)

    return move


KINDS = [("olmo2", torch.float32), ("llama", torch.bfloat16), ("llama", torch.float16)]
"""Tied and untied, of each width."""


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def models(
    request: pytest.FixtureRequest, tiny_base: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A base and three models moved from it, in one dtype."""
    family, dtype = request.param
    place = tmp_path_factory.mktemp("models")
    seeds = {"base": 9, "alder": 0, "beech": 1, "cherry": 2}
    return {name: edited(tiny_base(family).path, place / name, moved(seed, dtype)) for name, seed in seeds.items()}


def in_float64(models: Mapping[str, Path]) -> dict[str, dict[str, torch.Tensor]]:
    tensors = {name: load_file(path / "model.safetensors") for name, path in models.items()}
    return {name: {key: tensor.double() for key, tensor in table.items()} for name, table in tensors.items()}


def assert_close(merged: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Equal to the float64 result rounded once, but for what lies within 1e-6 of a tie."""
    found = load_file(merged / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        right = expected[name].to(tensor.dtype)
        assert (tensor != right).float().mean() < 2e-3, name
        assert torch.allclose(tensor.double(), expected[name], rtol=1.01 * torch.finfo(tensor.dtype).eps, atol=1e-6), (
            name
        )


# What comes out.


def test_the_weighted_mean(models: dict[str, Path], tmp_path: Path) -> None:
    three = [models[name] for name in ("beech", "cherry", "alder")]
    done("merge", *three, "--weight", "alder=2", "--weight", f"{models['cherry']}=0.5", "--out", tmp_path / "out")
    values = in_float64(models)
    expected = {
        name: (2 * values["alder"][name] + values["beech"][name] + 0.5 * values["cherry"][name]) / 3.5
        for name in values["alder"]
    }
    assert_close(tmp_path / "out", expected)


def test_differences_from_a_base(models: dict[str, Path], tmp_path: Path) -> None:
    two = (models["alder"], models["beech"])
    options = ("--base", models["base"], "--scale", 0.618033, "--weight", "beech=-0.577215")
    done("merge", *two, *options, "--out", tmp_path / "out")
    values = in_float64(models)
    expected = {
        name: base + 0.618033 * ((values["alder"][name] - base) - 0.577215 * (values["beech"][name] - base))
        for name, base in values["base"].items()
    }
    assert_close(tmp_path / "out", expected)


def test_the_order_of_models_does_not_matter_and_the_bytes_are_the_same_again(
    models: dict[str, Path], tmp_path: Path
) -> None:
    three = [models[name] for name in ("alder", "beech", "cherry")]
    done("merge", *three, "--out", tmp_path / "a")
    done("merge", *reversed(three), "--out", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_copies_of_a_model_merge_to_the_model(models: dict[str, Path], tmp_path: Path) -> None:
    copies = [shutil.copytree(models["alder"], tmp_path / name) for name in ("a", "b", "c")]
    done("merge", *copies, "--out", tmp_path / "mean")
    done("merge", *copies, "--base", models["alder"], "--scale", 0.3, "--out", tmp_path / "moved")
    before = load_file(models["alder"] / "model.safetensors")
    for out in ("mean", "moved"):
        for name, tensor in load_file(tmp_path / out / "model.safetensors").items():
            assert torch.equal(tensor, before[name]), name


def test_it_loads_in_transformers_and_merges_again(models: dict[str, Path], tmp_path: Path) -> None:
    done("merge", models["alder"], models["beech"], "--out", tmp_path / "once")
    model = open_base(tmp_path / "once").load_model()
    written = load_file(tmp_path / "once" / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in written.items())
    done("merge", tmp_path / "once", models["cherry"], "--out", tmp_path / "twice")


def test_the_record_names_every_model_by_the_digest_that_it_has_everywhere(
    models: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ("--base", models["base"], "--weight", "beech=3", "--out", tmp_path / "out", "--json")
    told = done("merge", models["alder"], models["beech"], *arguments).json
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert told == record | {"path": str(tmp_path / "out")}
    assert record["base"] == open_base(models["base"]).digest
    assert record["models"] == [
        {"name": name, "digest": open_base(models[name]).digest, "weight": weight}
        for name, weight in (("alder", 1.0), ("beech", 3.0))
    ]
    there = files(tmp_path / "out")
    assert set(record["files"]) == set(there) - {"merge.json"}
    assert record["files"]["model.safetensors"]["bytes"] == len(there["model.safetensors"])
    assert str(tmp_path) not in json.dumps(record)


# What is refused.


@pytest.fixture
def pair(models: dict[str, Path], tmp_path: Path) -> Callable[[Edit], tuple[Path, Path]]:
    return lambda edit: (models["alder"], edited(models["beech"], tmp_path / "odd", edit))


def retyped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()


def reshaped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.cat([tensors["model.norm.weight"]] * 2)


def added(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.stranger.weight"] = torch.zeros(2, dtype=tensors["model.norm.weight"].dtype)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (added, ("tensor 'model.stranger.weight' of 'odd'", "'alder' does not hold it")),
        (reshaped, ("tensor 'model.norm.weight' of 'odd'", "has shape [64], and [32] in 'alder'")),
        (retyped, ("tensor 'model.norm.weight' of 'odd'", "F64")),
        (lambda tensors: tensors.pop("model.norm.weight"), ("odd", "model.norm.weight")),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    edit: Edit, names: tuple[str, ...], pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path
) -> None:
    refused("merge", *pair(edit), "--out", tmp_path / "out", names=names)
    assert not (tmp_path / "out").exists()


def test_an_extra_tensor_of_the_first_is_missing_in_the_other(
    pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path
) -> None:
    one, odd = pair(added)
    names = ("tensor 'model.stranger.weight' of 'alder'", "is missing")
    refused("merge", one, "--base", odd, "--out", tmp_path / "out", names=names)


@pytest.mark.parametrize(
    ("field", "value", "names"),
    [
        ("rms_norm_eps", 0.5, ("config field 'rms_norm_eps' of 'odd'", "0.5")),
        ("num_attention_heads", 2, ("tensor 'model.layers.0.self_attn.", "of checkpoint", "odd'", "config.json says")),
        ("vocab_size", 7, ("tensor 'model.embed_tokens.weight' of checkpoint", "odd'", "config.json says [7, 32]")),
        ("rope_theta", 17.0, ("rotary settings of 'odd'", "17.0")),
        ("model_type", "gpt2", ("model_type 'gpt2'", "olmo2, llama")),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    field: str, value: Any, names: tuple[str, ...], pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path
) -> None:
    one, odd = pair(lambda tensors: None)
    config = json.loads((odd / "config.json").read_text())
    config.pop("rope_parameters", None)
    (odd / "config.json").write_text(json.dumps({**config, "rope_theta": 10000.0, field: value}))
    refused("merge", one, odd, "--out", tmp_path / "out", names=names)


def test_another_number_of_layers_is_refused(pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path) -> None:
    one, odd = pair(lambda tensors: None)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    refused("merge", one, odd, "--out", tmp_path / "out", names=("config field 'num_hidden_layers' of 'odd'", "1"))


def test_a_tied_head_beside_an_untied_one_is_refused(pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path) -> None:
    one, odd = pair(lambda tensors: tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"].clone()))
    config = json.loads((odd / "config.json").read_text())
    tied = not config.get("tie_word_embeddings", False)
    (odd / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    words = ("tensor 'lm_head.weight' of 'odd'", "ties its head to its embedding", "has a head of its own")
    refused("merge", one, odd, "--out", tmp_path / "out", names=words)


def test_another_tokenizer_is_refused(pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path) -> None:
    one, odd = pair(lambda tensors: None)
    tokenizer = json.loads((odd / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].pop()
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused("merge", one, odd, "--out", tmp_path / "out", names=("tokenizer.json of 'odd'", "'alder'"))


def test_other_families_and_mixtures_are_refused(
    tiny_base: Callable[[str], Base], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    olmo, llama = tiny_base("olmo2").path, tiny_base("llama").path
    refused("merge", olmo, llama, "--out", tmp_path / "out", names=("family", "olmo2", "llama"))
    mixture = composed("learned_rows")
    refused("merge", olmo, mixture, "--out", tmp_path / "out", names=("'learned_rows'", "mixture of experts"))


def test_weights_that_are_not_safetensors_are_refused(
    pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path
) -> None:
    one, odd = pair(lambda tensors: None)
    (odd / "model.safetensors").rename(odd / "pytorch_model.bin")
    refused("merge", one, odd, "--out", tmp_path / "out", names=("odd", "neither model.safetensors nor an index"))


def test_numbers_that_are_not_finite_are_refused(pair: Callable[[Edit], tuple[Path, Path]], tmp_path: Path) -> None:
    one, odd = pair(lambda tensors: tensors["model.norm.weight"].__setitem__(3, float("inf")))
    names = ("tensor 'model.norm.weight' of the merged model", "NaN or an infinity")
    refused("merge", one, odd, "--out", tmp_path / "out", names=names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--weight", "oak=1"), ("weight of 'oak'", "alder, beech")),
        (("--weight", "alder=0"), ("weight 0.0 of 'alder'", "above zero")),
        (("--weight", "alder=1e308", "--weight", "beech=1e308"), ("weights that sum to inf", "no number")),
        (("--weight", "alder=nan"), ("weight nan of 'alder'", "above zero")),
        (("--weight", "alder"), ("--weight 'alder'",)),
        (("--scale", "0.5"), ("scale 0.5", "from a base")),
    ],
)
def test_options_out_of_their_domain_are_refused(
    options: tuple[str, ...], names: tuple[str, ...], models: dict[str, Path], tmp_path: Path
) -> None:
    refused("merge", models["alder"], models["beech"], *options, "--out", tmp_path / "out", names=names)


def test_a_target_that_exists_stays_unless_asked(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    arguments = ("merge", models["alder"], models["beech"], "--out", tmp_path / "out")
    refused(*arguments, names="already there")
    done(*arguments, "--overwrite")
    assert (tmp_path / "out" / "merge.json").is_file()


def test_one_model_or_one_name_twice_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    refused("merge", models["alder"], "--out", tmp_path / "out", names="nothing to merge")
    refused("merge", models["alder"], models["alder"], "--out", tmp_path / "out", names="'alder' too")
    with pytest.raises(InvalidOption, match="scale nan"):
        Merge({"a": open_base(models["alder"])}, base=open_base(models["base"]), scale=float("nan"))


def test_a_composed_model_is_not_merged_without_its_parties(
    composed: Callable[[str], Path], base: Path, tmp_path: Path
) -> None:
    soup, out = composed("soup"), ("--out", tmp_path / "out")
    refused("merge", soup, base, *out, names=("'soup'", "composed of contributions"), mend="quiltwork compose")
    refused("merge", base, "--base", soup, *out, names=("'the base'", "composed of contributions"))


# Interruptions.


def test_a_full_disk_leaves_nothing(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiltwork.streaming.writing._write_all", partial(full, [0]))
    arguments = ("merge", models["alder"], models["beech"], "--out", tmp_path / "out")
    refused(*arguments, names="no space is left")
    assert list(tmp_path.iterdir()) == []


def full(calls: list[int], file: Any, piece: Any) -> None:
    calls[0] += 1
    if calls[0] > 7:
        raise OSError(28, "No space left on device")
    file.write(piece)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_kill_in_the_middle_leaves_no_target(how: signal.Signals, models: dict[str, Path], tmp_path: Path) -> None:
    """A writer that waits after its first tensor, killed there: only a file system that was not told can be dirty."""
    arguments = ["merge", str(models["alder"]), str(models["beech"]), "--out", str(tmp_path / "out")]
    code = f"""
import signal, sys, time
import quiltwork.streaming.writing as writing
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
inner, calls = writing._write_all, []
def slow(file, piece):
    inner(file, piece)
    calls.append(1)
    if len(calls) == 5:
        print("there", flush=True)
        time.sleep(60)
writing._write_all = slow
from quiltwork.cli.app import main
sys.argv = ["quiltwork", *{arguments!r}]
main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(how)
    assert process.wait() != 0
    process.stdout.close()
    left = [path.name for path in tmp_path.iterdir()]
    assert "out" not in left
    if how == signal.SIGINT:
        assert left == []
    # what a kill left behind does not stand in the way of the next run
    done(*arguments)
