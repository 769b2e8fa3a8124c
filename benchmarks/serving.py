"""What a composed model costs to run: tokens a second beside the dense base and beside running all models.

    python benchmarks/serving.py --json benchmarks/results/serving.json

A base with random weights, three parties whose feed-forwards and whole models differ from it, and texts of tokens that
only one party uses, so that evidence is sure of its author. Two kinds of batches: *one author*, all rows are of one
party; *mixed*, rows of all parties in turn. Prefill reads a prompt at once; decode goes on token by token with the
key-value cache, over the same given tokens for all systems. Systems take turns within each repeat; a figure is the
median over repeats of the process's CPU time, on one thread.

    dense        the base in plain transformers
    evidence_ffn experts chosen by evidence, one active a token, native
    evidence_full whole models chosen by evidence, one active, native
    rows_k1, rows_all  learned rows, native; the same with ``_portable``: the written checkpoint in plain transformers
    ensemble     all models run, predictions averaged
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
from quiltwork.contribution.kinds import ExpertMethod, FFNExpert, FullExpert, TokenHistogramStatistic
from quiltwork.contribution.manifest import BaseReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.models.base import Base, open_base
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.privacy.events import ExactEvent

PARTIES = ("ash", "birch", "cedar")
ROLES = ("gate_proj", "up_proj", "down_proj")
ONE = PrefixEvidence(features="tokens", floor=0.0, top_k=1)
SYSTEMS: Mapping[str, tuple[Method, bool]] = {
    "evidence_ffn": (MixtureOfExperts(ONE), False),
    "evidence_full": (MixtureOfExperts(ONE, scope="full"), False),
    "rows_k1": (MixtureOfExperts(LearnedRows(top_k=1)), False),
    "rows_all": (MixtureOfExperts(LearnedRows()), False),
    "rows_k1_portable": (MixtureOfExperts(LearnedRows(top_k=1)), True),
    "rows_all_portable": (MixtureOfExperts(LearnedRows()), True),
    "ensemble": (Ensemble(weighting="uniform"), False),
}
ACTIVE = ("evidence_ffn", "evidence_full", "rows_k1", "rows_k1_portable")
"""Systems with one expert a token."""
GOAL = 1.3


@dataclass(frozen=True)
class Size:
    """Of the models, and of the texts: tokens of a prompt, and how many follow one by one."""

    hidden: int
    intermediate: int
    layers: int
    prompt: int
    steps: int
    vocabulary: int = 4096
    positions: int = 512


SIZES = {"small": Size(256, 1024, 4, 128, 32), "large": Size(512, 2048, 8, 32, 16)}


def make_base(place: Path, size: Size) -> Base:
    """Random weights; the tokenizer has fewer tokens than the model has rows for."""
    tokenizer = train_tokenizer(["a page about nothing in particular"] * 4, 300)
    tiny = TinySize(size.vocabulary, size.hidden, size.intermediate, size.layers, 8, size.positions)
    tiny_model("olmo2", tiny, seed=0, tie=False).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return open_base(place)


def own_tokens(party: int, size: Size) -> np.ndarray:
    """The tokens of the vocabulary that only this party uses."""
    width = size.vocabulary // (1 + len(PARTIES))
    return np.arange((1 + party) * width, (2 + party) * width)


def contribution(place: Path, party: int, base: Base, size: Size) -> Contribution:
    """Weights moved at random by a hundredth; a histogram of the party's own tokens."""
    random = np.random.default_rng(party)
    method = ExpertMethod(
        ffn=FFNExpert(
            layers=size.layers,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            anchor_share=0.5,
            router=True,
            bias=False,
        ),
        full=FullExpert(),
    )
    tensors: dict[str, Any] = {}
    for layer in range(size.layers):
        for role in ROLES:
            weight = base.tensors[base.family.ffn_name(layer, role)].load().float().numpy()
            moved = weight + random.normal(scale=0.01, size=weight.shape)
            tensors[f"ffn.layers.{layer}.{role}.weight"] = moved.astype(np.float32)
        tensors[f"ffn.layers.{layer}.router.weight"] = random.normal(size=size.hidden).astype(np.float32)
    for name, source in base.tensors.items():
        tensors[f"full.{name}"] = random.normal(scale=0.01, size=source.shape).astype(np.float32)
    counts = np.zeros(size.vocabulary)
    counts[own_tokens(party, size)] = 100.0
    tensors["tokens.counts"] = counts
    reference = BaseReference(
        digest=base.digest,
        family=base.family.name,
        vocabulary_size=base.vocabulary_size,
        tokenizer=base.tokenizer_digest,
    )
    draft = Draft(
        party=PARTIES[party],
        base=reference,
        method=method,
        tensors=tensors,
        statistics=(TokenHistogramStatistic(),),
        privacy=tuple(ExactEvent(released=name) for name in ("ffn", "full", "tokens")),
        licence="CC0-1.0",
    )
    return write(place / PARTIES[party], draft)


def systems(place: Path, size: Size, wanted: list[str]) -> dict[str, PreTrainedModel]:
    """Every system, loaded."""
    base = make_base(place / "base", size)
    parts = [contribution(place, party, base, size) for party in range(len(PARTIES))]
    found = {"dense": AutoModelForCausalLM.from_pretrained(place / "base").eval()}
    for name in wanted:
        method, portable = SYSTEMS[name]
        composite = compose(parts, method, base)
        if portable:
            composite.save(place / name, layout="portable")
            found[name] = AutoModelForCausalLM.from_pretrained(place / name).eval()
        else:
            found[name] = composite.model()
    return found


def texts(size: Size, batch: int, length: int, mixed: bool) -> torch.Tensor:
    """Token ids ``[batch, length]``."""
    random = np.random.default_rng(7)
    rows = [random.choice(own_tokens(i % len(PARTIES) if mixed else 0, size), length) for i in range(batch)]
    return torch.from_numpy(np.stack(rows)).long()


@torch.no_grad()
def serve(model: PreTrainedModel, ids: torch.Tensor, prompt: int) -> tuple[float, float]:
    """CPU seconds of the prompt, and of going on token by token."""
    began = time.process_time()
    cache = model(input_ids=ids[:, :prompt], use_cache=True, logits_to_keep=1).past_key_values
    between = time.process_time()
    for place in range(prompt, ids.shape[1]):
        cache = model(
            input_ids=ids[:, place : place + 1], past_key_values=cache, use_cache=True, logits_to_keep=1
        ).past_key_values
    return between - began, time.process_time() - between


def measure(models: Mapping[str, PreTrainedModel], ids: torch.Tensor, prompt: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each system, and their ratio to the dense model's within the same repeat."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for repeat in range(-1, repeats):
        for name, model in models.items():
            taken = serve(model, ids, prompt)
            if repeat >= 0:  # the first round warms up
                seconds[name].append(taken)
    found: dict[str, Any] = {}
    steps = ids.shape[1] - prompt
    for name, runs in seconds.items():
        for place, (phase, tokens) in enumerate((("prefill", ids.shape[0] * prompt), ("decode", ids.shape[0] * steps))):
            ratios = [run[place] / dense[place] for run, dense in zip(runs, seconds["dense"], strict=True)]
            found.setdefault(name, {})[phase] = {
                "tokens_a_second": round(tokens / statistics.median(run[place] for run in runs), 1),
                "times_dense": round(statistics.median(ratios), 3),
            }
    return found


def page(result: dict[str, Any]) -> str:
    lines = [
        "# Serving",
        "",
        f"Tokens a second of CPU time on one thread, and how many times the dense base's time: median of "
        f"{result['repeats']} repeats, systems in turn. A prompt, then tokens one by one with the key-value cache; "
        f"three parties, float32. {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "With one expert active and one author, a batch reads the weights of one expert, as the dense model does. In a "
        "*mixed* batch of few tokens each author's expert is read for a few of them, which costs as many reads.",
        "",
    ]
    for name, batches in result["sizes"].items():
        size = SIZES[name]
        shape = f"Hidden {size.hidden}, feed-forward {size.intermediate}, {size.layers} layers"
        lines += [f"## {shape}; prompts of {size.prompt}, {size.steps} steps", ""]
        labels = list(batches)
        lines += ["| system | " + " | ".join(f"{label} {phase}" for label in labels for phase in PHASES) + " |"]
        lines += ["|---" * (1 + len(labels) * len(PHASES)) + "|"]
        for system in batches[labels[0]]:
            cells = [batches[label][system][phase] for label in labels for phase in PHASES]
            lines += [
                f"| {system} | "
                + " | ".join(f"{c['tokens_a_second']:.0f} ({c['times_dense']:.2f}x)" for c in cells)
                + " |"
            ]
        lines += [""]
    return "\n".join(lines)


PHASES = ("prefill", "decode")
BATCHES: Mapping[str, tuple[int, bool]] = {
    "batch 1": (1, False),
    "batch 8, one author": (8, False),
    "batch 8, mixed": (8, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"repeats": options.repeats, "sizes": {}}
    for name in options.sizes:
        size = SIZES[name]
        with tempfile.TemporaryDirectory() as place:
            models = systems(Path(place), size, options.systems)
            for label, (batch, mixed) in BATCHES.items():
                ids = texts(size, batch, size.prompt + size.steps, mixed)
                found = measure(models, ids, size.prompt, options.repeats)
                result["sizes"].setdefault(name, {})[label] = found
                print(name, label, file=sys.stderr, flush=True)
    print(page(result))
    if options.json:
        options.json.write_text(json.dumps(result | {"shapes": {n: asdict(SIZES[n]) for n in options.sizes}}, indent=1))
        options.json.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
