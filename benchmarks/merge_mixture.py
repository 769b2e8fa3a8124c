"""A mixture of three 0.5 GB experts, put together by links and by copying, beside mergekit-moe.

    python benchmarks/merge_mixture.py --work DIR --mergekit ENV/bin/mergekit-moe --json OUT

One base and three experts of it (Llama, bfloat16, 268.5 million parameters each) are made on the spot; an expert is the
base with noise on its feed-forward weights, once as a whole checkpoint, as mergekit takes it, and once as a
contribution. What is timed is the command, start of the interpreter included:

    moe_link   compose with a pool that knows the parts; remove a party; add it again       (native layout)
    moe_copy   compose without a pool, every byte read, hashed and written; beside copying the result's bytes
    mergekit   mergekit-moe with random gates, whose output is as large

Wall and processor time of each, the best of several; every run writes a new directory. Python may keep the bytecode of
every command, as an installed package has it. With ``--old PYTHON``, an interpreter with transformers 4.57, the outputs
are loaded there, and missing and unexpected tensors are counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quiltwork.contribution.kinds import ExpertMethod, FFNExpert
from quiltwork.contribution.manifest import BaseReference
from quiltwork.contribution.store import Draft, write
from quiltwork.models.base import Base, open_base
from quiltwork.privacy.events import ExactEvent

PARTIES = ("ash", "birch", "cedar")
SIZES = {"vocab_size": 16384, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 14}
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
_LOAD = """
import json, sys
from transformers import AutoModelForCausalLM
_, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
print(json.dumps({k: len(info[k]) for k in ("missing_keys", "unexpected_keys")}))
"""


def make_base(place: Path, sizes: Mapping[str, int] = SIZES) -> Base:
    """A Llama checkpoint with random weights and a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if not (place / "tokenizer.json").exists():
        torch.manual_seed(0)
        heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
        config = LlamaConfig(**sizes, **heads, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(place)
        words = {f"w{number}": number for number in range(sizes["vocab_size"])}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w0", eos_token="w0").save_pretrained(place)
    return open_base(place)


def make_expert(base: Base, party: str, place: Path) -> None:
    """An expert as a contribution ``PLACE/party`` and as a checkpoint ``PLACE/party-whole``."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(sum(party.encode()))
    whole = {name: source.load() for name, source in base.tensors.items()}
    part: dict[str, Any] = {}
    for (layer, role), source in base.ffn().items():
        tensor = source.load()
        tensor += (0.01 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        whole[base.family.ffn_name(layer, role)] = tensor
        part[f"ffn.layers.{layer}.{role}.weight"] = tensor
    for layer in range(base.layers):
        part[f"ffn.layers.{layer}.router.weight"] = torch.randn(base.hidden_size, generator=generator).bfloat16()
    shutil.copytree(base.path, place / f"{party}-whole", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(whole, place / f"{party}-whole" / "model.safetensors", metadata={"format": "pt"})
    shapes = {"layers": base.layers, "hidden_size": base.hidden_size, "intermediate_size": base.intermediate_size}
    expert = FFNExpert(**shapes, anchor_share=1.0, router=True, bias=False)
    reference = BaseReference(
        digest=base.digest,
        family=base.model_type,
        vocabulary_size=base.vocabulary_size,
        tokenizer=base.tokenizer_digest,
    )
    draft = Draft(
        party=party,
        base=reference,
        method=ExpertMethod(ffn=expert),
        tensors=part,
        licence="CC0-1.0",
        privacy=[ExactEvent(released="ffn")],
    )
    write(place / party, draft)


def make_inputs(place: Path, sizes: Mapping[str, int] = SIZES) -> Base:
    """Base, contributions and whole experts below a directory, where they are not there yet."""
    base = make_base(place / "base", sizes)
    for party in PARTIES:
        if not (place / party).exists():
            make_expert(base, party, place)
    return base


def timed(command: Sequence[object], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """Wall and processor seconds of a command that must succeed."""
    environment = {**os.environ, **BYTECODE, **(environment or {})}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": wall, "cpu_seconds": cpu}


def best(runs: int, once: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """The least of each figure over several runs."""
    found = [once(number) for number in range(runs)]
    return {name: min(one[name] for one in found) for name in found[0]}


def quiltwork(*arguments: object) -> list[object]:
    """The command line in this interpreter."""
    return [sys.executable, "-m", "quiltwork", *arguments]


def measure_links(place: Path, runs: int) -> dict[str, Any]:
    """Compose from a warm pool, remove and add."""
    pool, out = place / "pool", place / "linked"
    options = ("--method", "learned_rows", "--layout", "native", "--base", place / "base", "--pool", pool)
    parts = [place / party for party in PARTIES]
    _fresh(pool, out)
    cold = timed(quiltwork("compose", *parts, *options, "--out", out / "cold"))
    composed = best(runs, lambda n: timed(quiltwork("compose", *parts, *options, "--out", out / f"composed{n}")))
    less, more = out / "composed0", out / "removed0"
    removed = best(runs, lambda n: timed(quiltwork("remove", less, "--party", "birch", "--out", out / f"removed{n}")))
    adding = ("add", more, place / "birch", "--pool", pool, "--out")
    added = best(runs, lambda n: timed(quiltwork(*adding, out / f"added{n}")))
    same = _content(out / "added0") == _content(out / "composed0") == _content(out / "cold")
    return {
        "seconds": max(one["seconds"] for one in (composed, removed, added)),
        "compose": composed,
        "remove": removed,
        "add": added,
        "compose_into_empty_pool": cold,
        "bytes_written": sum(p.stat().st_size for p in (out / "composed0").iterdir() if p.stat().st_nlink == 1),
        "same_bytes": same,
    }


def measure_copies(place: Path, runs: int) -> dict[str, Any]:
    """Compose without a pool, beside copying as many bytes."""
    out = place / "copied"
    _fresh(out)
    options = ("--method", "learned_rows", "--base", place / "base")
    parts = [place / party for party in PARTIES]

    def compose(number: int) -> dict[str, float]:
        _fresh(out / f"{number - 1}")
        return timed(quiltwork("compose", *parts, *options, "--out", out / f"{number}"))

    def copy(number: int) -> dict[str, float]:
        _fresh(out / f"plain{number - 1}")
        return timed(["cp", "-r", out / f"{runs - 1}", out / f"plain{number}"])

    composed, copied = best(runs, compose), best(runs, copy)
    hashed = {"seconds": min(hashing(out / f"{runs - 1}") for _ in range(runs))}
    return {
        "ratio_to_copy": composed["seconds"] / copied["seconds"],
        "ratio_to_hash_and_copy": composed["seconds"] / (copied["seconds"] + hashed["seconds"]),
        "compose": composed,
        "copy": copied,
        "hash": hashed,
        "bytes": sum(path.stat().st_size for path in (out / f"{runs - 1}").iterdir()),
    }


def hashing(directory: Path) -> float:
    """Seconds to hash every file of a directory once, two at a time, which is the least that any check costs."""

    def digest(path: Path) -> bytes:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(digest, sorted(directory.iterdir())))
    return time.perf_counter() - start


def measure_mergekit(place: Path, command: Path, runs: int) -> dict[str, Any]:
    """mergekit-moe with random gates."""
    out = place / "mergekit"
    _fresh(out)
    out.mkdir()
    recipe = {
        "base_model": str(place / "base"),
        "gate_mode": "random",
        "dtype": "bfloat16",
        "experts": [{"source_model": str(place / f"{party}-whole"), "positive_prompts": [party]} for party in PARTIES],
    }
    (out / "recipe.yml").write_text(json.dumps(recipe))

    def once(number: int) -> dict[str, float]:
        _fresh(out / f"{number - 1}")
        return timed([command, out / "recipe.yml", out / f"{number}", "--random-seed", 1], {"HF_HUB_OFFLINE": "1"})

    found = best(runs, once)
    return found | {"bytes": sum(p.stat().st_size for p in (out / f"{runs - 1}").iterdir())}


def loaded(interpreter: Path, checkpoint: Path) -> dict[str, int]:
    """How many tensors another version of transformers misses in a checkpoint, and how many it has no place for."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [str(interpreter), "-c", _LOAD, str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure_mixture(place: Path, mergekit: Path | None, old: Path | None, runs: int) -> dict[str, Any]:
    """All figures; see the module's docstring."""
    place.mkdir(parents=True, exist_ok=True)
    make_inputs(place)
    result: dict[str, Any] = {"moe_link": measure_links(place, runs), "moe_copy": measure_copies(place, runs)}
    if mergekit is not None:
        result["mergekit_moe"] = measure_mergekit(place, mergekit, runs)
    if old is not None:
        result["loaded_in_transformers_4"] = {"quiltwork": loaded(old, place / "copied" / f"{runs - 1}")}
        if mergekit is not None:
            found = loaded(old, place / "mergekit" / f"{runs - 1}")
            result["loaded_in_transformers_4"]["mergekit_moe"] = found
    return result


def _fresh(*places: Path) -> None:
    for path in places:
        shutil.rmtree(path, ignore_errors=True)


def _content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="directory for 10 GB of files")
    parser.add_argument("--mergekit", type=Path, help="the command mergekit-moe of its own environment")
    parser.add_argument("--old", type=Path, help="a Python with transformers 4.57")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure_mixture(arguments.work, arguments.mergekit, arguments.old, arguments.runs)
    result["machine"] = {"cores": os.cpu_count(), "numpy": np.__version__, "torch": torch.__version__}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
