"""``quiltwork generate``: the same text each time, and whose expert answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from cli_runner import FAST, done, misused, refused, run

from quiltwork.evaluate.trace import token_texts
from quiltwork.models.base import open_base

PROMPT = ("--prompt", "the river", "--max-new-tokens", 8)


@pytest.mark.parametrize("method", ["learned_rows", "evidence_ffn", "evidence_full", "btm", "soup"])
def test_the_likeliest_text_is_the_same_each_time(method: str, composed: Callable[[str], Path]) -> None:
    outcome = done("generate", composed(method), *PROMPT)
    assert outcome.out.startswith("the river")
    assert len(outcome.out) > len("the river\n")
    assert done("generate", composed(method), *PROMPT).out == outcome.out


def test_a_base_generates_what_transformers_does(base: Path) -> None:
    opened = open_base(base)
    tokenizer = opened.load_tokenizer()
    ids = torch.tensor([[0, *tokenizer("the river", add_special_tokens=False)["input_ids"]]])
    sequence = opened.load_model().generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    text = tokenizer.decode(sequence[0, ids.shape[1] :], skip_special_tokens=True)
    assert done("generate", base, *PROMPT).out == f"the river{text}\n"
    assert done("generate", base, *PROMPT, "--json").json == {"prompt": "the river", "text": text, "tokens": []}


def test_sampling_follows_the_seed(composed: Callable[[str], Path]) -> None:
    def sampled(seed: int) -> str:
        return done("generate", composed("learned_rows"), *PROMPT, "--temperature", 1.5, "--seed", seed).out

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("method", ["learned_rows", "evidence_ffn", "evidence_full", "uniform_ensemble"])
def test_tokens_are_the_text_and_name_slots(method: str, composed: Callable[[str], Path]) -> None:
    options = ("--prompt", "Où est-elle ? 日本", "--max-new-tokens", 12, "--temperature", 2, "--seed", 3)
    result = done("generate", composed(method), *options, "--json").json
    assert "".join(token["text"] for token in result["tokens"]) == result["text"]
    assert 1 <= len(result["tokens"]) <= 12
    assert {token["slot"] for token in result["tokens"]} <= {"base", "ash", "birch", "cedar"}
    assert all(0 < token["weight"] <= 1 for token in result["tokens"])


def test_a_base_of_several_experts_is_one_slot(
    composed: Callable[[str], Path], fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    start = composed("learned_rows")
    owner = ("--base", start, "--data", fragments["ash"], "--party", "oak", "--out", tmp_path / "oak")
    done("contribute", "expert", *owner, *FAST)
    done("compose", tmp_path / "oak", "--base", start, "--method", "learned_rows", "--out", tmp_path / "more")
    tokens = done("generate", tmp_path / "more", *PROMPT, "--json").json["tokens"]
    assert {token["slot"] for token in tokens} == {"base"}  # four of five experts
    assert all(0.5 < token["weight"] <= 1 for token in tokens)
    assert "oak" in done("generate", tmp_path / "more", *PROMPT, "--experts").out


def test_evidence_sends_a_partys_words_to_that_party(composed: Callable[[str], Path]) -> None:
    words = "plaintiff court appeal statute counsel verdict damages clause tort bail court appeal"
    options = ("--prompt", words, "--max-new-tokens", 1, "--json")
    (token,) = done("generate", composed("evidence_full"), *options).json["tokens"]
    assert token["slot"] == "cedar"
    assert token["weight"] > 0.5


def test_experts_are_shown_with_a_legend(composed: Callable[[str], Path]) -> None:
    plain = done("generate", composed("evidence_ffn"), *PROMPT)
    shown = done("generate", composed("evidence_ffn"), *PROMPT, "--experts")
    assert "no colours are shown here: --json" in shown.err
    assert shown.out.startswith(plain.out.rstrip("\n"))
    assert shown.out.rstrip().splitlines()[-1].split() == ["base", "ash", "birch", "cedar"]


def test_a_soup_has_no_experts_to_show(composed: Callable[[str], Path]) -> None:
    assert "has no router" in done("generate", composed("soup"), *PROMPT, "--experts").err
    assert (
        done("generate", composed("soup"), *PROMPT, "--experts").out == done("generate", composed("soup"), *PROMPT).out
    )


def test_characters_of_several_tokens_come_whole(base: Path) -> None:
    tokenizer = open_base(base).load_tokenizer()
    for text in ("Où ça ? 日本語 🦆", "plain", "", "\ufffd\ufffd", "a\ufffd"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = token_texts(tokenizer, ids)
        assert "".join(pieces) == text
        assert len(pieces) == len(ids)
    pieces = token_texts(tokenizer, tokenizer("日", add_special_tokens=False)["input_ids"])
    assert pieces == ["", "", "日"]


def test_special_tokens_are_told_or_left_out(base: Path) -> None:
    tokenizer = open_base(base).load_tokenizer()
    ids = [*tokenizer("river", add_special_tokens=False)["input_ids"], 0]
    assert "".join(token_texts(tokenizer, ids)) == "river<|endoftext|>"
    assert "".join(token_texts(tokenizer, ids, skip_special=True)) == "river"


def test_wrong_options_are_wrong_usage(base: Path) -> None:
    for option in (("--max-new-tokens", 0), ("--temperature", -1)):
        misused("generate", base, "--prompt", "x", *option, names="must be positive")
    misused("generate", base, names="--prompt")


def test_a_device_that_is_not_there_is_refused(base: Path) -> None:
    refused("generate", base, *PROMPT, "--device", "abacus", names="--device 'abacus'", mend="cpu")
    refused("generate", base, *PROMPT, "--device", "meta", names="--device 'meta'", mend="cpu")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    refused("generate", tmp_path / "nowhere", *PROMPT, names=("nowhere", "no such directory"))
    refused("generate", tmp_path, *PROMPT, names="config.json")


def test_an_empty_prompt_starts_a_document(base: Path) -> None:
    assert run("generate", base, "--prompt", "", "--max-new-tokens", 3).code == 0
