"""Screening: how often is a planted harm found, and how often is an honest owner blamed?

    python benchmarks/screening.py --json benchmarks/results/screening.json

Consortia of four owners on tiny models (``tests/evaluate/screen_plants.py``; the seeds here are none that the tests
use, and no limit was chosen by looking at them), honest or with one harm planted, are screened as they would be
composed: evidence over ffn experts, evidence over whole models, learned rows; and by weights and histograms alone. An
honest consortium shows false blame, a planted one whether the culprit is called *look* or *harmful*, and who else is.

Further plants, beside those of the tests: a histogram made up of others' commonest symbols that keeps its owner's own
counts, a flat one, a router row that attracts everything, one matrix times 20. Then honest odd ones: two experts of one
owner, a whole expert beside low-rank ones, two owners and a single one, with and without scaled weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "evaluate"))

import numpy as np
import torch
from screen_plants import (
    HELD_OUT,
    OWNERS,
    VICTIM,
    World,
    copied,
    greedy,
    label_noise,
    scaled,
    texts,
)
from transformers.utils import logging

from quiltwork.compose.method import Method
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen import screen
from quiltwork.party.scopes import LowRankScope

FAMILIES = ("llama", "olmo2", "qwen3")
METHODS: dict[str, Method | None] = {
    "evidence_ffn": MixtureOfExperts(PrefixEvidence()),
    "evidence_full": MixtureOfExperts(PrefixEvidence(), scope="full"),
    "learned_rows": MixtureOfExperts(LearnedRows()),
    "weights only": None,
}
Plant = Callable[[World], Contribution]
Case = tuple[str, list[Contribution], set[str], HeldOut]
"""A name, who takes part, the culprits among them, and texts."""


def greedy_with_own(world: World) -> Contribution:
    """Others' commonest symbols as often as they have them, on top of its own counts."""
    made, own = greedy(world, 1.0), world.honest[VICTIM]
    return world.altered(made, lambda n, t: t + own.tensor(n) if n.endswith(".counts") else t)


def flat(world: World) -> Contribution:
    """Every symbol as often as every other, as many as there were."""
    return world.altered(
        world.honest[VICTIM], lambda n, t: torch.full_like(t, float(t.mean())) if n.endswith(".counts") else t
    )


def attracting_row(world: World) -> Contribution:
    """Router rows that are the sum of everybody's, times 20."""

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        rows = [c.tensor(name) for c in world.honest.values()] if name.endswith("router.weight") else []
        return 20.0 * torch.stack(rows).sum(0) if rows else tensor

    return world.altered(world.honest[VICTIM], change)


def one_matrix(world: World) -> Contribution:
    """One matrix of each expert times 20."""
    names = ("ffn.layers.1.up_proj.weight", "full.model.layers.1.mlp.up_proj.weight")
    return world.altered(world.honest[VICTIM], lambda n, t: t * 20 if n in names else t)


WEIGHTS: dict[str, Plant] = {
    "weights times 10": lambda w: scaled(w, 10.0),
    "weights times 100": lambda w: scaled(w, 100.0),
    "one matrix times 20": one_matrix,
    "label noise": label_noise,
    "copy": lambda w: copied(w, 0.0),
    "copy with 5 % of noise": lambda w: copied(w, 0.05),
}
HISTOGRAMS: dict[str, Plant] = {
    "greedy histogram": lambda w: greedy(w, 1.0),
    "greedy histogram times 1000": lambda w: greedy(w, 1000.0),
    "greedy histogram, own counts kept": greedy_with_own,
    "flat histogram": flat,
}
ROWS: dict[str, Plant] = {"attracting router row": attracting_row}


def cases(world: World, method: str) -> Iterator[Case]:
    """Everything that is screened of one world under one method."""
    honest = list(world.honest.values())
    yield "honest", honest, set(), world.held_out
    for name, plant in (WEIGHTS | (ROWS if method == "learned_rows" else HISTOGRAMS)).items():
        planted = plant(world)
        culprits = {planted.party} | ({VICTIM} if name.startswith("copy") else set())
        yield name, list((world.honest | {planted.party: planted}).values()), culprits, world.held_out
    yield from _few(world)
    yield _shares(world)
    if method == "weights only":
        yield from _forms(world)


def _few(world: World) -> Iterator[Case]:
    for names in (("ash", VICTIM), (VICTIM,)):
        size = f"{len(names)} owner{'s' if len(names) > 1 else ''}"
        held_out = HeldOut({n: world.held_out.domains[n] for n in (*names, "public")}, names, 64)
        yield f"honest, {size}", [world.honest[n] for n in names], set(), held_out
        others = [world.honest[n] for n in names if n != VICTIM]
        yield f"weights times 10, {size}", [*others, scaled(world, 10.0)], {VICTIM}, held_out


def _shares(world: World) -> Case:
    """Two of the owners are one."""
    names = {"birch": "oak.code", "cedar": "oak.law"}
    renamed = [world.altered(world.honest[old], lambda _, t: t, party=new) for old, new in names.items()]
    given = [*renamed, *(c for party, c in world.honest.items() if party not in names)]
    domains = {names.get(name, name): found for name, found in world.held_out.domains.items()}
    owners = tuple(names.get(name, name) for name in OWNERS)
    return "honest, two experts of one owner", given, set(), HeldOut(domains, owners, 64)


def _forms(world: World) -> Iterator[Case]:
    """Whole feed-forward experts beside low-rank ones."""
    small = [
        world._contribute(world.base, party, texts(party, world.seed, HELD_OUT), (LowRankScope(rank=2),), 10)
        for party in OWNERS
        if party != VICTIM
    ]
    yield "honest, one whole among low-rank", [*small, world.honest[VICTIM]], set(), world.held_out
    yield "weights times 10, whole among low-rank", [*small, scaled(world, 10.0)], {VICTIM}, world.held_out


def outcome(world: World, method: str, case: Case) -> dict[str, Any]:
    """Verdicts of one screening."""
    name, given, culprits, held_out = case
    how = METHODS[method]
    found = screen(given, world.base, how, held_out=held_out if how is not None else None, public=world.public)
    sizes = [one.weights.size for one in found.contributions if one.weights is not None and one.party not in culprits]
    return {
        "method": method,
        "case": name,
        "seed": world.seed,
        "family": world.family,
        "culprits": sorted(culprits),
        "verdicts": {one.party: one.verdict for one in found.contributions},
        "findings": {
            one.party: sorted({f"{f.check} {f.level}" for f in one.findings if f.level != "note"})
            for one in found.contributions
            if one.verdict != "clean"
        },
        "advice": found.advice,
        "largest_honest_size": max(sizes, default=None),
    }


def run(seeds: Sequence[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """All methods and cases on a world of each seed."""
    found = []
    for number, seed in enumerate(seeds):
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), seed, FAMILIES[number % len(FAMILIES)])
            for method in METHODS:
                found += [outcome(world, method, case) for case in cases(world, method)]
                say(f"seed {seed}, {world.family}, {method}: {time.process_time():.0f} s of CPU time")
    return found


def summary(outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By method and case: culprits found, and honest owners blamed, out of how many."""
    rows = []
    for method, case in dict.fromkeys((one["method"], one["case"]) for one in outcomes):
        some = [one for one in outcomes if (one["method"], one["case"]) == (method, case)]
        guilty = [one["verdicts"][p] for one in some for p in one["culprits"]]
        honest = [v for one in some for p, v in one["verdicts"].items() if p not in one["culprits"]]
        rows.append(
            {
                "method": method,
                "case": case,
                "screenings": len(some),
                "culprits": len(guilty),
                "found": sum(v != "clean" for v in guilty),
                "called_harmful": sum(v == "harmful" for v in guilty),
                "honest": len(honest),
                "honest_look": sum(v == "look" for v in honest),
                "honest_harmful": sum(v == "harmful" for v in honest),
                "do_not_collaborate": sum(one["advice"] == "do not collaborate" for one in some),
            }
        )
    return rows


def page(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# Screening",
        "",
        f"Seeds {', '.join(map(str, result['seeds']))} ({', '.join(FAMILIES)} in turn), tiny consortia of four owners, "
        f"{HELD_OUT} held-out documents each; {result['cpu_seconds']:.0f} s of CPU time. {result['versions']}.",
        "",
        "*found*: culprits called look or harmful. *blamed*: honest owners called look, harmful. *against*: screenings "
        "whose advice is not to collaborate by this method, which accuses nobody by itself. Both of a copy and its "
        "original count as culprits: nobody can tell which was first.",
        "",
        "| method | case | found | of them harmful | honest: look | honest: harmful | against |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        found = f"{row['found']}/{row['culprits']} | {row['called_harmful']}" if row["culprits"] else "– | –"
        blamed = f"{row['honest_look']}/{row['honest']} | {row['honest_harmful']}/{row['honest']}"
        against = f"{row['do_not_collaborate']}/{row['screenings']}"
        lines.append(f"| {row['method']} | {row['case']} | {found} | {blamed} | {against} |")
    lines += ["", f"Largest change of an honest owner, relative to the base: {result['largest_honest_size']:.2f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11, 12, 13, 14, 15])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    outcomes = run(options.seeds, lambda line: print(line, file=sys.stderr))
    result = {
        "seeds": options.seeds,
        "cpu_seconds": time.process_time(),
        "versions": f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}",
        "largest_honest_size": float(np.max([one["largest_honest_size"] or 0.0 for one in outcomes])),
        "rows": summary(outcomes),
        "outcomes": outcomes,
    }
    print(page(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
