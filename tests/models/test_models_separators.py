"""The separator that the tokenizer's files state is the one that the loaded tokenizer has, or they state none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from quiltwork.models.base import Base
from quiltwork.models.json_files import read_json
from quiltwork.models.separators import stated_separator
from quiltwork.models.tokenizer_files import load_tokenizer, separator_id

_TOKEN = {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
MODELS: dict[str, Callable[[], Tokenizer]] = {
    "in the vocabulary": lambda: Tokenizer(models.WordLevel({"a": 0, "<s>": 1, "</s>": 2}, unk_token="a")),
    "in a list": lambda: Tokenizer(models.Unigram([("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0)], 0)),
    "added": lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "both": {"bos_token": "<s>", "eos_token": "</s>"},
    "only an end": {"eos_token": "</s>"},
    "no beginning": {"bos_token": None, "eos_token": "</s>"},
    "an object": {"bos_token": {"content": "<s>", **_TOKEN}, "eos_token": "</s>"},
    "an unknown one": {"bos_token": "<new>", "eos_token": "</s>"},
}
MAPS: dict[str, dict[str, Any] | None] = {
    "no map": None,
    "the same": {"bos_token": "<s>", "eos_token": "</s>"},
    "another": {"bos_token": "</s>"},
}


def directory(place: Path, model: str, config: str, special: str) -> dict[str, Any]:
    """A tokenizer's directory; the content of its files."""
    tokenizer = MODELS[model]()
    if model == "added":
        tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps(CONFIGS[config]))
    if MAPS[special] is not None:
        (place / "special_tokens_map.json").write_text(json.dumps(MAPS[special]))
    return {path.name: read_json(path) for path in place.iterdir()}


@pytest.mark.parametrize("special", MAPS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("model", MODELS)
def test_what_the_files_state_is_what_the_tokenizer_has(model: str, config: str, special: str, tmp_path: Path) -> None:
    stated = stated_separator(directory(tmp_path, model, config, special))
    loaded = load_tokenizer(tmp_path)
    assert stated in (None, separator_id(loaded))
    # and they leave it open only where they are at odds, or where a token has no number
    if config != "an unknown one" and special in ("no map", "the same"):
        assert stated is not None


def test_files_at_odds_leave_it_open(tmp_path: Path) -> None:
    assert stated_separator(directory(tmp_path, "added", "both", "another")) is None
    assert stated_separator({}) is None
    assert stated_separator({"tokenizer_config.json": {"bos_token": "<s>"}}) is None


@pytest.mark.parametrize("family", ["olmo2", "llama"])
def test_a_base_has_the_separator_of_its_tokenizer(family: str, tiny_base: Callable[[str], Base]) -> None:
    base = tiny_base(family)
    assert base.separator == separator_id(base.load_tokenizer())


def test_a_base_whose_files_are_at_odds_asks_the_tokenizer(tiny_base: Callable[[str], Base], tmp_path: Path) -> None:
    base = tiny_base("llama")
    directory(tmp_path, "added", "both", "another")
    odd = Base(tmp_path, base.config, base.family, base.tensors)
    assert odd.separator == separator_id(load_tokenizer(tmp_path)) == 2
