"""Mutated contributions by the hundred thousand: is one wrongly accepted, does one crash the reader or fill memory?

    python benchmarks/hostile.py --trials 100000 --json benchmarks/results/hostile.json

Each trial spoils a small sound contribution of one of the kinds, by its structure or its bytes, makes none, some or all
of the digests true again, lays it out on disk (links, pipes and holes included) and reads it. What must be refused is
judged by an oracle that was written from docs/format.md and shares no code with the reader (tests/hostile). A sample of
what is accepted is composed with sound companions and run.

Trials are numbered and need only ``--seed`` and their number; ``--repeat NUMBER`` runs one of them again. Two processes
share the work; counts are kept in ``--work``, and the same command goes on where an earlier one ended. A table goes
beside OUT, with the suffix .md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

_TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(_TESTS / "hostile"), str(_TESTS / "contribution")]

import torch  # noqa: E402
from hostile_composing import composed  # noqa: E402
from hostile_specimens import sizes_of, write_specimens  # noqa: E402
from hostile_trial import MAX_BYTES, MOST_GROWTH, MOST_SECONDS, Outcome, Range  # noqa: E402

from quiltwork.models.base import Base, open_base  # noqa: E402
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer  # noqa: E402

PROCESSES = 2
SAVE_EVERY = 1000
_COMPANIONS = ("expert", "expert-share", "mixture-other")


def make_base(place: Path) -> Base:
    """The smallest model that the composers take."""
    if not place.exists():
        tokenizer = train_tokenizer(["a page about nothing in particular"] * 4, 264)
        size = TinySize(vocabulary=len(tokenizer), hidden=8, intermediate=12, layers=1, heads=2, positions=32)
        tiny_model("olmo2", size, seed=0, tie=False).save_pretrained(place)
        tokenizer.save_pretrained(place)
    return open_base(place)


class Tally:
    """Counts of one process, kept in a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.counts: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"done": 0, "failures": []}

    def add(self, outcome: Outcome, composing: str) -> None:
        for table, key in (
            ("drawn", outcome.families),
            ("accepted" if outcome.accepted else "refused", outcome.families),
            ("errors", outcome.error or "accepted"),
            ("specimens", outcome.specimen),
            *([("composing", composing)] if composing else []),
        ):
            self.counts[table] = dict(Counter(self.counts.get(table, {})) + Counter({key: 1}))
        for name in ("seconds", "growth"):
            self.counts[name] = max(self.counts.get(name, 0), getattr(outcome, name))
        if outcome.failure is not None:
            self.counts["failures"].append([outcome.number, outcome.specimen, outcome.families, outcome.failure])

    def save(self, done: int, cpu_seconds: float) -> None:
        self.counts["done"] = done
        self.counts["cpu_seconds"] = self.counts.get("cpu_seconds", 0.0) + cpu_seconds
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.counts))
        partial.replace(self.file)


def run_trial(target: Range, number: int, companions: list[Path], base: Base, every: int) -> tuple[Outcome, str]:
    outcome = target.trial(number)
    composable = outcome.specimen.startswith(("expert", "mixture"))
    if outcome.failure or not outcome.accepted or not composable or number % every:
        return outcome, ""
    try:
        return outcome, composed(target.place / "x", companions, base, number // every)
    except AssertionError as error:
        return Outcome(**{**outcome.__dict__, "failure": str(error)}), "crash"


def work(part: int, options: argparse.Namespace, specimens: dict[str, Path]) -> None:
    """One process: every ``PROCESSES``-th trial from ``part`` on."""
    torch.set_num_threads(1)
    base = open_base(options.work / "base")
    companions = [specimens[name] for name in _COMPANIONS]
    # where memory is, so that a spoiled directory costs no disk
    fast = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as place:
        target = Range(specimens, Path(place), options.seed)
        tally = Tally(options.work / f"{options.seed}-{part}.json")
        began, first = time.process_time(), tally.counts["done"]
        share = range(part, options.trials, PROCESSES)
        for done in range(first, len(share)):
            tally.add(*run_trial(target, share[done], companions, base, options.compose_every))
            if (done + 1) % SAVE_EVERY == 0 or done + 1 == len(share):
                tally.save(done + 1, time.process_time() - began)
                began = time.process_time()
                print(
                    f"process {part}: {done + 1} of {len(share)}, {len(tally.counts['failures'])} failures", flush=True
                )


def summed(parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"trials": sum(part["done"] for part in parts)}
    for table in ("drawn", "accepted", "refused", "errors", "specimens", "composing"):
        found[table] = dict(sorted(sum((Counter(part.get(table, {})) for part in parts), Counter()).items()))
    found["cpu_seconds"] = round(sum(part["cpu_seconds"] for part in parts), 1)
    found["longest_cpu_seconds"] = round(max(part["seconds"] for part in parts), 3)
    found["largest_growth_bytes"] = max(part["growth"] for part in parts)
    found["failures"] = [failure for part in parts for failure in part["failures"]]
    return found


def families_table(result: dict[str, Any]) -> list[str]:
    """How many of each family were drawn and accepted."""
    families: dict[str, list[int]] = {}
    for names, drawn in result["drawn"].items():
        row = families.setdefault(names if "+" not in names else "two of them", [0, 0])
        row[0] += drawn
        row[1] += result["accepted"].get(names, 0)
    rows = [f"| {name} | {drawn} | {accepted} |" for name, (drawn, accepted) in sorted(families.items())]
    return ["| mutated | drawn | accepted |", "|---|---|---|", *rows]


def page(result: dict[str, Any]) -> str:
    """The table for people."""
    lines = [
        "# Hostile contributions",
        "",
        f"{result['trials']} mutated contributions, seed {result['seed']}: **{len(result['failures'])} failures** "
        "(wrongly accepted, wrongly refused, crashed, acted, lingered or grew). "
        f"{platform.machine()}, Python {platform.python_version()}.",
        "",
        "`accepted` are mutations that left the contribution as it was, or made another sound one with true digests; "
        "the oracle agrees on each.",
        "",
        *families_table(result),
        "",
        "Outcomes: " + ", ".join(f"{count} {name}" for name, count in result["errors"].items()) + ".",
        "",
        "A sample of the accepted, composed with sound companions and run: "
        + ", ".join(f"{count} {name}" for name, count in result["composing"].items())
        + ".",
        "",
        f"Longest reading {result['longest_cpu_seconds']} s of CPU time (limit {MOST_SECONDS:g}); largest growth of "
        f"memory while reading {result['largest_growth_bytes'] / 2**20:.1f} MiB (limit {MOST_GROWTH // 2**20}); "
        f"`max_bytes` was {MAX_BYTES // 2**20} MiB. {result['cpu_seconds']:.0f} s of CPU time in all.",
        "",
    ]
    lines += [
        f"- trial {n}, {specimen}, {families}: {failure}" for n, specimen, families, failure in result["failures"]
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compose-every", type=int, default=3, help="compose each n-th of the trials, where accepted")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "quiltwork-hostile")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, help="run one trial and tell what it came to")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    base = make_base(options.work / "base")
    specimens_place = Path(tempfile.mkdtemp(dir=options.work))
    specimens = write_specimens(specimens_place, sizes_of(base, hidden=8, intermediate=12, layers=1))
    if options.repeat is not None:
        companions = [specimens[name] for name in _COMPANIONS]
        print(run_trial(Range(specimens, specimens_place, options.seed), options.repeat, companions, base, 1))
        return
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(part, options, specimens)) for part in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a process ended before its share was done; give the command again to go on")
    parts = [Tally(options.work / f"{options.seed}-{part}.json").counts for part in range(PROCESSES)]
    result = summed(parts) | {"seed": options.seed}
    print(page(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
