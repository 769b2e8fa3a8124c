"""Experts of several owners, composed in every way, beside their rivals, on any folder of text domains.

    python benchmarks/text.py --data DIR --public a,b,c --parties d,e,... --seeds 5 --json OUT

DIR holds ``<domain>.txt.gz``: UTF-8 text, documents separated by form feeds. Two regimes:

* far:  the base has seen the public domains only;
* near: the base has also seen a small share (8 %) of each party's kind of text, which no party then trains on.

In each regime and for each seed: a tiny base is trained from scratch; every party contributes an ffn expert, a full
expert and its statistics, and by ``--sections scopes`` also low-rank, narrow and LoRA experts; all methods are composed
and scored in bits per byte on held-out documents. The rivals run in the same process: the base, each party alone, the
uniform soup, task arithmetic, TIES, DARE, BTX, the uniform ensemble, BTM (an ensemble weighted by the likelihood of the
prefix, which runs every model), and a dense model trained on the pooled private and public text for as many steps as
all parties together. Evidence routes by bigrams unless the row says otherwise; rows ending in ``_eps1`` and ``_eps8``
route by token histograms released under differential privacy (Gaussian noise, one document as unit, delta 1e-6).

Sections: ``methods`` (the main rows), ``routers`` (the other routers and weight-space baselines), ``tuned``,
``scopes``, ``growth`` (2 to 16 owners), ``coming`` (a later owner, a leaver), ``change`` (documents that change
domain). All but the first and ``tuned`` are of the far regime alone, each for as many seeds as ``--seeds-of`` says.

Trained parts and scored rows are kept under --work, so an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from text_page import combine, page, targets, tree_spread
from text_parts import Settings
from text_run import ROWS, TREES, Bench, kept, train_main

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

NEAR = ("methods", "tuned")
"""Sections of the near regime."""
SECTIONS = ("methods", "routers", "tuned", "scopes", "growth", "coming", "change")


def one(settings: Settings, regime: str, seed: int, sections: Sequence[str]) -> tuple[str, int, dict[str, Any]]:
    """Train what is missing, then score the sections, for one regime and seed."""
    import torch

    from quiltwork.files import write_file

    torch.set_num_threads(1)
    train_main(settings, regime, seed)
    bench = Bench(settings, regime, seed)
    found: dict[str, Any] = {}
    for section in sections:
        if section in ROWS:
            found.setdefault("rows", {}).update(ROWS[section](bench))
            continue
        kept = bench.here / "rows" / f"section-{section}.json"
        if not kept.exists():
            write_file(kept, json.dumps(TREES[section](bench)))
        found[section] = json.loads(kept.read_text())
    return regime, seed, found


def jobs(given: argparse.Namespace) -> Iterator[tuple[str, int, list[str]]]:
    """(regime, seed, sections) of every run."""
    seeds_of = {
        name: int(count) for name, _, count in (part.partition("=") for part in given.seeds_of.split(",") if part)
    }
    for seed in range(given.seeds):
        for regime in given.regimes.split(","):
            if seed >= seeds_of.get(regime, given.seeds):
                continue
            wanted = [s for s in given.sections.split(",") if regime == "far" or s in NEAR]
            yield regime, seed, [s for s in wanted if seed < seeds_of.get(s, given.seeds)]


def parse(argv: list[str] | None = None) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of <domain>.txt.gz")
    parser.add_argument("--public", required=True, help="public domains, separated by commas")
    parser.add_argument("--parties", required=True, help="private domains, one a party, separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seeds-of", default="", help="fewer seeds of a section or regime: growth=1,near=3")
    parser.add_argument("--regimes", default="far,near")
    parser.add_argument("--sections", default=",".join(SECTIONS))
    parser.add_argument("--json", required=True, help="file for the result; a table is written beside it")
    parser.add_argument("--work", default=".bench/text", help="where trained parts and scored rows are kept")
    parser.add_argument("--rows", default="", help="of the section methods only these rows; all if left out")
    parser.add_argument("--kept", action="store_true", help="score nothing: a page of what an earlier run has scored")
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
    parser.add_argument("--pooled-seeds", type=int, default=3, help="seeds with a pooled model, the longest training")
    parser.add_argument("--rank", type=int, default=16, help="of low-rank and LoRA experts")
    parser.add_argument("--width", type=int, default=96, help="of narrow experts")
    given = parser.parse_args(argv)
    several = ("public", "parties", "rows")
    lists = {name: tuple(part for part in getattr(given, name).split(",") if part) for name in several}
    names = {name: getattr(given, name) for name in Settings.__dataclass_fields__ if name not in several}
    settings = Settings(**lists, **names)
    return settings, given


def main(argv: list[str] | None = None) -> None:
    settings, given = parse(argv)
    began = time.monotonic()
    found: dict[str, dict[int, dict[str, Any]]] = {}
    runs = list(jobs(given)) if not given.kept else []
    for regime in given.regimes.split(",") if given.kept else ():
        found[regime] = {seed: kept(settings, regime, seed) for seed in range(given.seeds)}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one, settings, *run) for run in runs]
        for regime, seed, result in (future.result() for future in waiting):
            found.setdefault(regime, {})[seed] = result
    from quiltwork.evaluate.matrix import machine
    from quiltwork.files import write_file

    result = assembled(settings, found) | {
        "machine": machine(),
        "command": "python benchmarks/text.py " + " ".join(shown(argv if argv is not None else sys.argv[1:])),
        "seeds": given.seeds,
        "seconds": round(time.monotonic() - began),
    }
    result["targets"] = targets(result)
    write_file(Path(given.json), json.dumps(result, indent=1) + "\n")
    print(write_file(Path(given.json).with_suffix(".md"), page(settings, result)).read_text())


def assembled(settings: Settings, found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Means and spreads over the seeds of every section."""
    result: dict[str, Any] = {}
    for regime, seeds in found.items():
        several = [one for _, one in sorted(seeds.items())]
        if rows := [one["rows"] for one in several if "rows" in one]:
            result[regime] = combine(settings, rows)
        for section in TREES:
            if parts := [one[section] for one in several if section in one]:
                result[section] = tree_spread(parts)
    return result


def shown(argv: Sequence[str]) -> list[str]:
    """The command without the places of this machine."""
    words = list(argv)
    for option in ("--data", "--work"):
        if option in words:
            words[words.index(option) + 1] = "DIR"
    return words


if __name__ == "__main__":
    main()
