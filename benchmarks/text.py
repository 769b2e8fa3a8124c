"""Language-model experts from several owners: every method beside its rivals, on any folder of text domains.

    python benchmarks/text.py --data DIR --public a,b,c --parties d,e,... --seeds 3 --json OUT

DIR holds ``<domain>.txt.gz``: UTF-8 text, documents separated by form feeds. Two regimes:

* far:  the base has seen the public domains only;
* near: the base has also seen a small share (8 %) of each party's kind of text, which no party then trains on.

In each regime and for each seed: a tiny base is trained from scratch; every party contributes an ffn expert, a full
expert and a token histogram; all methods are composed and scored in bits per byte on held-out documents. The rivals run
in the same process: the base, each party alone, the uniform soup, the uniform ensemble, BTM (an ensemble weighted by
the likelihood of the prefix, which runs every model), and a dense model trained on the pooled private and public text
for as many steps as all parties together. Evidence routes by bigrams unless the row says tokens; rows ending in
``_eps1`` and ``_eps8`` route by token histograms released under differential privacy (Gaussian noise, one document as
unit, delta 1e-6).

Trained parts are kept under --work, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEST_CHARACTERS = 8000
NEAR_SHARE = 0.08
DELTA = 1e-6


@dataclass(frozen=True)
class Settings:
    """What one benchmark does; written into its result."""

    data: str
    public: tuple[str, ...]
    parties: tuple[str, ...]
    base_steps: int
    steps: int
    base_rate: float
    rate_far: float
    rate_near: float
    batch_size: int
    sequence_length: int
    vocabulary: int
    test_bytes: int
    anchor_share: float
    work: str

    @property
    def domains(self) -> tuple[str, ...]:
        return self.public + self.parties


def party_name(domain: str) -> str:
    return domain.lower().replace(" ", "-")


def documents(settings: Settings, domain: str) -> list[str]:
    with gzip.open(Path(settings.data) / f"{domain}.txt.gz", "rt", encoding="utf-8") as file:
        return [text for text in file.read().split("\f") if text.strip()]


def split(settings: Settings, domain: str) -> tuple[list[str], list[str]]:
    """Training and held-out documents; of the latter the first characters of each, up to the byte budget."""
    from quiltwork.party.fragment import is_held_out

    everything = documents(settings, domain)
    train = [text for text in everything if not is_held_out(text, 0.1)]
    test: list[str] = []
    size = 0
    for text in (t for t in everything if is_held_out(t, 0.1)):
        if size >= settings.test_bytes:
            break
        test.append(text[:TEST_CHARACTERS])
        size += len(test[-1].encode())
    return train, test


def base_text(settings: Settings, regime: str) -> list[str]:
    from quiltwork.party.fragment import is_held_out

    texts = [text for d in settings.public for text in split(settings, d)[0]]
    if regime == "near":
        for domain in settings.parties:
            texts += [t for t in split(settings, domain)[0] if is_held_out(t, NEAR_SHARE, "near")]
    return texts


def party_text(settings: Settings, domain: str, regime: str) -> list[str]:
    from quiltwork.party.fragment import is_held_out

    train = split(settings, domain)[0]
    return train if regime == "far" else [t for t in train if not is_held_out(t, NEAR_SHARE, "near")]


def plan(settings: Settings, *, steps: int, rate: float, seed: int) -> Any:
    from quiltwork.training.loop import TrainingPlan

    return TrainingPlan(
        steps=steps,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        learning_rate=rate,
        seed=seed,
    )


def place(settings: Settings, regime: str, seed: int) -> Path:
    return Path(settings.work) / f"{regime}-{seed}"


def train_base(settings: Settings, regime: str, seed: int) -> Path:
    """The tiny base of one regime and seed."""
    from quiltwork.files import new_directory
    from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
    from quiltwork.party.contribute import block_stream, tokenised
    from quiltwork.training.loop import train

    target = place(settings, regime, seed) / "base"
    if target.exists():
        return target
    texts = base_text(settings, regime)
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    size = TinySize(vocabulary=len(tokenizer), positions=max(512, settings.sequence_length))
    model = tiny_model("olmo2", size, seed=seed)
    steps = plan(settings, steps=settings.base_steps, rate=settings.base_rate, seed=seed)
    train(model, block_stream(partial(tokenised, texts, tokenizer), steps, 0), steps, label=f"{regime}-{seed} base")
    with new_directory(target) as partial_directory:
        model.save_pretrained(partial_directory)
        tokenizer.save_pretrained(partial_directory)
    return target


def train_party(settings: Settings, regime: str, seed: int, domain: str) -> None:
    """One party's contribution: both scopes and the exact histogram."""
    from quiltwork.files import write_file
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import Order, contribute
    from quiltwork.party.fragment import open_fragment
    from quiltwork.party.scopes import FFNScope, FullScope

    here = place(settings, regime, seed)
    name = party_name(domain)
    if (here / "contributions" / name).exists():
        return
    fragment = write_file(here / "fragments" / f"{name}.txt", "\f".join(party_text(settings, domain, regime)))
    rate = settings.rate_far if regime == "far" else settings.rate_near
    order = Order(
        party=name,
        scopes=(FFNScope(anchor_share=settings.anchor_share), FullScope()),
        plan=plan(settings, steps=settings.steps, rate=rate, seed=seed),
    )
    began = time.monotonic()
    contribute(open_base(here / "base"), open_fragment([fragment]), here / "contributions" / name, order)
    write_file(here / "seconds" / f"{name}.json", json.dumps(time.monotonic() - began))


def train_pooled(settings: Settings, regime: str, seed: int) -> None:
    """A dense model on everybody's text together, for as many steps as all parties together."""
    from quiltwork.files import new_directory
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import block_stream, tokenised
    from quiltwork.training.loop import train

    here = place(settings, regime, seed)
    if (here / "pooled").exists():
        return
    base = open_base(here / "base")
    tokenizer = base.load_tokenizer()
    texts = [t for d in settings.public for t in split(settings, d)[0]]
    texts += [t for d in settings.parties for t in party_text(settings, d, regime)]
    # the stream's shuffle buffer is smaller than the pool: domain after domain, it would never reach the last ones
    random.Random(seed).shuffle(texts)
    rate = settings.rate_far if regime == "far" else settings.rate_near
    steps = plan(settings, steps=settings.steps * len(settings.parties), rate=rate, seed=seed)
    model = base.load_model()
    result = train(
        model, block_stream(partial(tokenised, texts, tokenizer), steps, 0), steps, label=f"{regime}-{seed} pooled"
    )
    with new_directory(here / "pooled") as partial_directory:
        model.save_pretrained(partial_directory)
        tokenizer.save_pretrained(partial_directory)
        (partial_directory / "seconds.json").write_text(json.dumps(result.seconds))


def private_rows(composite: Any, settings: Settings, regime: str, seed: int, epsilon: float) -> Any:
    """The same composite, routed by token histograms with Gaussian noise."""
    import numpy as np
    import torch

    from quiltwork.evidence.release import gaussian
    from quiltwork.models.base import load_tokenizer
    from quiltwork.models.sources import Source
    from quiltwork.party.contribute import tokenised

    here = place(settings, regime, seed)
    tokenizer = load_tokenizer(here / "base")
    rows = {}
    for domain in settings.parties:
        ids = tokenised(party_text(settings, domain, regime), tokenizer)
        # a seeded generator, so that the benchmark repeats; a real release never uses one
        noise = np.random.default_rng([seed, int(epsilon), settings.parties.index(domain)])
        histogram, _ = gaussian(ids, len(tokenizer), epsilon, DELTA, rng=noise)
        rows[party_name(domain)] = Source.of(torch.from_numpy(histogram.log_probabilities()).float())
    assembly = composite.assembly
    holder = "router" if hasattr(assembly, "router") else "weighting"
    evidence = replace(getattr(assembly, holder), rows=rows)
    return replace(composite, assembly=replace(assembly, **{holder: evidence}))


def methods(parties: int) -> dict[str, Any]:
    """Every composition by the name of its row."""
    from quiltwork.compose.ensemble import Ensemble
    from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
    from quiltwork.compose.soup import Soup

    return {
        "soup": Soup(),
        "uniform_ensemble": Ensemble("uniform"),
        "btm": Ensemble("likelihood"),
        "learned_rows": MixtureOfExperts(LearnedRows()),
        "learned_rows_k2": MixtureOfExperts(LearnedRows(top_k=2)),
        "evidence_ffn": MixtureOfExperts(PrefixEvidence()),
        "evidence_full": MixtureOfExperts(PrefixEvidence(), scope="full"),
        "evidence_full_k2": MixtureOfExperts(PrefixEvidence(top_k=2), scope="full"),
        "evidence_full_k2_t2": MixtureOfExperts(PrefixEvidence(top_k=2, temperature=2.0), scope="full"),
        "evidence_full_all_t4": MixtureOfExperts(PrefixEvidence(top_k=1 + parties, temperature=4.0), scope="full"),
        "evidence_ffn_tokens": MixtureOfExperts(PrefixEvidence(features="tokens")),
        "evidence_full_tokens": MixtureOfExperts(PrefixEvidence(features="tokens"), scope="full"),
    }


def score(settings: Settings, regime: str, seed: int) -> dict[str, Any]:
    """All rows of one regime and seed."""
    from quiltwork.compose.alone import Alone
    from quiltwork.compose.method import compose
    from quiltwork.contribution.store import read
    from quiltwork.evaluate.matrix import HeldOut, run
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import text_histograms

    here = place(settings, regime, seed)
    base = open_base(here / "base")
    tokenizer = base.load_tokenizer()
    contributions = [read(here / "contributions" / party_name(d)) for d in settings.parties]
    public = text_histograms(base, [t for d in settings.public for t in split(settings, d)[0]])
    held_out = HeldOut(
        {party_name(d): split(settings, d)[1] for d in settings.domains},
        tuple(party_name(d) for d in settings.parties),
        max_length=settings.sequence_length,
    )
    training = sum(json.loads((here / "seconds" / f"{c.party}.json").read_text()) for c in contributions) / 2
    composites = {
        name: compose(contributions, m, base, public=public) for name, m in methods(len(settings.parties)).items()
    }
    for name in ("evidence_ffn", "evidence_full"):
        for epsilon in (1, 8):
            composites[f"{name}_eps{epsilon}"] = private_rows(
                composites[f"{name}_tokens"], settings, regime, seed, epsilon
            )
    builders: dict[str, Any] = {"base": (base.load_model, 0.0)}
    builders |= {name: (composite.model, training) for name, composite in composites.items()}
    pooled = open_base(here / "pooled")
    builders["pooled"] = (pooled.load_model, json.loads((here / "pooled" / "seconds.json").read_text()))
    builders |= {f"alone:{c.party}": (compose([c], Alone(), base).model, training) for c in contributions}
    rows = {}
    for name, (build, seconds) in builders.items():
        print(f"{regime}-{seed}: scoring {name}", file=sys.stderr, flush=True)
        row = run(build(), tokenizer, held_out, prefix=base.separator).row
        rows[name] = {
            "bpb": {d: cell.value for d, cell in row.domains.items()},
            "active_params": row.active_params,
            "total_params": row.total_params,
            "seconds": round(seconds + row.seconds, 1),
        }
    return rows


def one(settings: Settings, regime: str, seed: int) -> tuple[str, int, dict[str, Any]]:
    """Train what is missing, then score, for one regime and seed."""
    import torch

    torch.set_num_threads(1)
    train_base(settings, regime, seed)
    for domain in settings.parties:
        train_party(settings, regime, seed, domain)
    train_pooled(settings, regime, seed)
    return regime, seed, score(settings, regime, seed)


def combine(settings: Settings, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """R: means and standard deviations over seeds."""
    table: dict[str, Any] = {}
    for name in runs[0]:
        domains = {}
        for domain in runs[0][name]["bpb"]:
            values = [run[name]["bpb"][domain] for run in runs]
            std = statistics.stdev(values) if len(values) > 1 else None
            domains[domain] = {"bpb": statistics.fmean(values), "bpb_std": std}
        table[name] = {
            "domains": domains,
            "active_params": statistics.fmean(run[name]["active_params"] for run in runs),
            "total_params": runs[0][name]["total_params"],
            "seconds": statistics.fmean(run[name]["seconds"] for run in runs),
        }
        for label, chosen in groups(settings).items():
            means = [statistics.fmean(run[name]["bpb"][d] for d in chosen) for run in runs]
            table[name][f"mean_{label}"] = statistics.fmean(means)
            table[name][f"mean_{label}_std"] = statistics.stdev(means) if len(means) > 1 else None
    return {"methods": table, "seeds": len(runs)}


def groups(settings: Settings) -> dict[str, list[str]]:
    private = [party_name(d) for d in settings.parties]
    public = [party_name(d) for d in settings.public]
    return {"private": private, "public": public, "all": public + private}


def targets(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that the project set out to reach, and whether it did."""

    def mean(regime: str, name: str, label: str) -> float:
        return float(result[regime]["methods"][name][f"mean_{label}"])

    def ratio(regime: str, one: str, other: str, label: str) -> float:
        return mean(regime, one, label) / mean(regime, other, label) - 1

    checks: dict[str, dict[str, Any]] = {}

    def add(name: str, value: float, limit: float) -> None:
        checks[name] = {"value": value, "limit": limit, "reached": value <= limit}

    if "far" in result:
        add(
            "far: evidence_ffn against learned_rows, private",
            ratio("far", "evidence_ffn", "learned_rows", "private"),
            -0.20,
        )
        add("far: evidence_full against btm, private", ratio("far", "evidence_full", "btm", "private"), 0.02)
        add("far: evidence_full against base, public", ratio("far", "evidence_full", "base", "public"), 0.01)
        add("far: evidence_ffn against base, public", ratio("far", "evidence_ffn", "base", "public"), 0.01)
        add("far: evidence_full against pooled, all domains", ratio("far", "evidence_full", "pooled", "all"), 0.0)
    if "near" in result:
        add(
            "near: evidence_ffn against learned_rows, private",
            ratio("near", "evidence_ffn", "learned_rows", "private"),
            0.0,
        )
        add("near: evidence_full against btm, private", ratio("near", "evidence_full", "btm", "private"), 0.02)
    return checks


def markdown(settings: Settings, result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Text: experts of several owners, composed",
        "",
        f"Bits per byte on held-out text, mean over {result['seeds']} seed(s) ± standard deviation; lower is better.",
        f"Machine: {result['machine']}. Command: `{result['command']}`.",
        f"Base: {settings.base_steps} steps; each party: {settings.steps} steps a scope of {settings.batch_size} x "
        f"{settings.sequence_length} tokens; pooled: {settings.steps * len(settings.parties)} steps.",
    ]
    for regime in ("far", "near"):
        if regime not in result:
            continue
        lines += [
            "",
            f"## {regime} regime",
            "",
            "| model | private | public | all | active | total | seconds |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, row in result[regime]["methods"].items():
            cells = [_pm(row[f"mean_{label}"], row[f"mean_{label}_std"]) for label in ("private", "public", "all")]
            sizes = f"{row['active_params'] / 1e6:.2f} M | {row['total_params'] / 1e6:.2f} M | {row['seconds']:.0f}"
            lines.append(f"| {name} | {' | '.join(cells)} | {sizes} |")
        lines += ["", "By domain:", ""]
        names = list(result[regime]["methods"]["base"]["domains"])
        lines += ["| model | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for name, row in result[regime]["methods"].items():
            lines.append(f"| {name} | " + " | ".join(f"{row['domains'][d]['bpb']:.3f}" for d in names) + " |")
    lines += ["", "## What was to be reached", "", "| figure | measured | at most | reached |", "|---|---|---|---|"]
    for name, check in result["targets"].items():
        lines.append(
            f"| {name} | {check['value']:+.1%} | {check['limit']:+.1%} | {'yes' if check['reached'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def _pm(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {std:.3f}" if std is not None else "")


def parse(argv: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of <domain>.txt.gz")
    parser.add_argument("--public", required=True, help="public domains, separated by commas")
    parser.add_argument("--parties", required=True, help="private domains, one a party, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--regimes", default="far,near")
    parser.add_argument("--json", required=True, help="file for the result; a table is written beside it")
    parser.add_argument("--work", default=".bench/text", help="where trained parts are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--base-rate", type=float, default=3e-3)
    parser.add_argument("--rate-far", type=float, default=2e-3)
    parser.add_argument("--rate-near", type=float, default=1.5e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=192)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--test-bytes", type=int, default=40_000, help="held-out bytes a domain, about")
    parser.add_argument("--anchor-share", type=float, default=0.5)
    given = parser.parse_args(argv)
    names = {f: getattr(given, f) for f in Settings.__dataclass_fields__ if f not in ("public", "parties")}
    settings = Settings(public=tuple(given.public.split(",")), parties=tuple(given.parties.split(",")), **names)
    return settings, given


def main(argv: list[str] | None = None) -> None:
    settings, given = parse(argv)
    regimes = given.regimes.split(",")
    began = time.monotonic()
    jobs = [(settings, regime, seed) for seed in range(given.seeds) for regime in regimes]
    runs: dict[str, dict[int, dict[str, Any]]] = {regime: {} for regime in regimes}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        for regime, seed, rows in pool.map(one, *zip(*jobs, strict=True)):
            runs[regime][seed] = rows
    from quiltwork.evaluate.matrix import machine
    from quiltwork.files import write_file

    result: dict[str, Any] = {r: combine(settings, [rows for _, rows in sorted(runs[r].items())]) for r in regimes}
    shown = list(argv if argv is not None else sys.argv[1:])
    if "--data" in shown:
        shown[shown.index("--data") + 1] = "DIR"
    result |= {
        "machine": machine(),
        "command": "python benchmarks/text.py " + " ".join(shown),
        "seeds": given.seeds,
        "seconds": round(time.monotonic() - began),
        "targets": targets(result),
    }
    write_file(Path(given.json), json.dumps(result, indent=1) + "\n")
    page = write_file(Path(given.json).with_suffix(".md"), markdown(settings, result))
    print(page.read_text())


if __name__ == "__main__":
    main()
