"""Mutated composed and merged directories: is one wrongly accepted, does one crash a verb, hang it or fill memory?

    python benchmarks/hostile_composed.py --trials 20000 --json benchmarks/results/hostile_composed.json

Each trial spoils a small saved model (mixtures by rows, by evidence and by both, whole models by evidence, a portable
mixture, a soup, a merged checkpoint), by its structure or its bytes; makes nothing, the record, the files or the list
of files true again; lays it out on disk (links, pipes and holes included); and does what the verbs list, add, verify,
generate, evaluate and remove do with it (tests/hostile/hostile_composites.py). An oracle that shares no code with the
reader says what must be refused. Whoever seals a directory anew may make another model of it, and then that model must
be sound: finite answers, one for each token of the vocabulary.

Trials are numbered and need only ``--seed`` and their number; ``--repeat NUMBER`` runs one of them again. ``--first``
and the number of trials choose others. A table goes beside OUT, with the suffix .md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hostile import Tally, families_table, make_base, summed  # sets the environment, and finds the tests' modules

import torch  # isort: skip
import transformers  # isort: skip
from hostile_composites import CompositeRange, write_composites  # isort: skip
from hostile_specimens import sizes_of, write_specimens  # isort: skip
from hostile_trial import MOST_GROWTH, MOST_SECONDS  # isort: skip


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp())
    base = make_base(work / "base")
    parts = write_specimens(work / "parts", sizes_of(base, hidden=8, intermediate=12, layers=1))
    # where memory is, so that a spoiled directory costs no disk
    fast = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=fast) as place:
        target = CompositeRange(write_composites(work, parts, base), Path(place), options.seed)
        if options.repeat is not None:
            print(target.trial(options.repeat))
            sys.exit()
        tally, began = Tally(work / "tally.json"), time.process_time()
        for number in range(options.first, options.first + options.trials):
            tally.add(target.trial(number), "")
            if (number + 1) % 1000 == 0:
                print(f"{number + 1 - options.first}: {len(tally.counts['failures'])} failures", flush=True)
        tally.save(options.trials, time.process_time() - began)
    return summed([tally.counts]) | {"seed": options.seed, "first": options.first}


def page(result: dict[str, Any]) -> str:
    """The table for people."""
    versions = f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        "# Hostile composed directories",
        "",
        f"{result['trials']} mutated composed and merged directories, seed {result['seed']}: "
        f"**{len(result['failures'])} failures** (wrongly accepted, crashed, acted, lingered, grew, asked for packages "
        f"or answered with what is not finite). {versions}, transformers {transformers.__version__}.",
        "",
        "`accepted` went through every verb: mutations that left the model as it was, and other sound models in a "
        "directory that was sealed anew; the oracle agrees on each.",
        "",
        *families_table(result),
        "",
        "Specimens: " + ", ".join(f"{count} {name}" for name, count in result["specimens"].items()) + ".",
        "",
        "Outcomes: " + ", ".join(f"{count} {name}" for name, count in result["errors"].items()) + ".",
        "",
        f"Longest trial {result['longest_cpu_seconds']} s of CPU time (limit {MOST_SECONDS:g}); largest growth of "
        f"memory {result['largest_growth_bytes'] / 2**20:.1f} MiB (limit {MOST_GROWTH // 2**20}). "
        f"{result['cpu_seconds']:.0f} s of CPU time in all.",
        "",
        *(f"- trial {n}, {specimen}, {names}: {failure}" for n, specimen, names, failure in result["failures"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, help="run one trial and tell what it came to")
    options = parser.parse_args()
    result = run(options)
    print(page(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        options.json.with_suffix(".md").write_text(page(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
