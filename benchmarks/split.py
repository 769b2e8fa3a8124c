"""Components that each learn a part and never see the whole: accuracy, equality, bytes, leaks, absences, step times.

    python benchmarks/split.py --data DIR --seeds 5 --json OUT
    python benchmarks/split.py --data DIR --seeds 5 --json OUT --sections steps,attacks

``split_tasks.py`` has the tables, ``split_runs.py`` the sessions. Sections that are not asked for stay as they are in
OUT, and a page is written beside it. Accuracies are of rows that nobody trained on. Sessions run over a channel in this
process, and those of step times over spawned processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported, which the functions below do

NAMES = (
    "accuracy",
    "heads",
    "equality",
    "bytes",
    "attacks",
    "hijack",
    "membership",
    "label privacy",
    "record privacy",
    "faults",
    "steps",
)
SEEDS_AT_MOST = {"equality": 3, "attacks": 3, "hijack": 3, "label privacy": 3, "record privacy": 2, "steps": 1}
SEEDS_AT_MOST["membership"] = 1  # its models are its repetitions
"""Dear sections, and those whose answer is yes or no, take fewer seeds."""


def section(name: str, data: Path, seeds: int) -> dict[str, Any]:
    """One section: mean, standard deviation and values of each figure, and what it cost."""
    import split_accuracy
    import split_attacks
    import split_hijack
    import split_membership
    import split_steps

    ways = {**split_accuracy.SECTIONS, **split_attacks.SECTIONS}
    ways["hijack"] = lambda _, seed: split_hijack.hijack(seed)
    ways["membership"] = lambda _, seed: split_membership.membership(seed)
    ways["steps"] = lambda *_: split_steps.steps()
    count, began = min(seeds, SEEDS_AT_MOST.get(name, seeds)), time.process_time()
    runs = []
    for seed in range(count):
        runs.append(ways[name](data, seed))
        print(f"{name}, seed {seed}: {time.process_time() - began:.0f} s", flush=True)
    return {
        "seeds": count,
        "cpu_seconds": round(time.process_time() - began, 1),
        "load": round(os.getloadavg()[0], 1),
        "rows": {row: {key: _figure(runs, row, key) for key in runs[0][row]} for row in runs[0]},
    }


def _figure(runs: list[dict[str, dict[str, float]]], row: str, key: str) -> dict[str, Any]:
    values = [run[row][key] for run in runs]
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
    }


def main(argv: list[str] | None = None) -> None:
    """Run sections, and write the result and its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of public tables")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sections", default=",".join(NAMES), help="which, separated by commas")
    parser.add_argument("--json", required=True, type=Path, help="file for the result; a page is written beside it")
    given = parser.parse_args(argv)

    import torch
    from split_page import markdown, targets

    from quiltwork.evaluate.tables import machine
    from quiltwork.files import write_file

    torch.set_num_threads(1)
    result = json.loads(given.json.read_text()) if given.json.exists() else {"sections": {}}
    result |= {"machine": machine(), "command": f"python benchmarks/split.py --data DIR --seeds {given.seeds}"}
    for name in given.sections.split(","):
        result["sections"][name] = section(name, given.data, given.seeds)
        result["targets"] = targets(result["sections"])
        write_file(given.json, json.dumps(result, indent=1) + "\n")
        write_file(given.json.with_suffix(".md"), markdown(result))


if __name__ == "__main__":
    main()
