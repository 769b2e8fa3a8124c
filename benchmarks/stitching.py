"""Networks trained apart, joined: composites beside each owner's own model, the plain ensemble, and pooled training.

    python benchmarks/stitching.py --data DIR --seeds 5 --json OUT
    python benchmarks/stitching.py --seeds 5 --json OUT                     installed data alone
    python benchmarks/stitching.py --data DIR --tasks looks,pneumonia …     some tasks; results of others are kept

Each owner trains another architecture on its own images. What crosses is written as contributions and composed from
them. Beside it run what owners could do otherwise: use one model for all, average weights (networks of one
architecture), distil the ensemble at one owner, federated averaging with all owners online, and pooled training, which
nobody here may do. Every figure is the share of an owner's held-out images that are right.

DIR is a folder of public sets: optdigits and semeion and mfeat (UCI), mnist, pneumoniamnist (MedMNIST).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from stitching_page import page
from stitching_run import run
from stitching_tasks import tasks


def main() -> None:
    """Run tasks and seeds that the result does not hold yet, and write the result and its page after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of public sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", help="which, separated by commas; all by default")
    parser.add_argument("--json", required=True, type=Path, help="file for the result; a page is written beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = tasks(given.data)
    names = given.tasks.split(",") if given.tasks else list(known)
    for seed in range(given.seeds):
        for name in names:
            if f"{name}/{seed}" not in read(given.json):
                began = time.process_time()
                found = run(known[name](seed), seed)
                found["CPU seconds"] = time.process_time() - began
                write(given.json, f"{name}/{seed}", found)
                print(f"{name}, seed {seed}: {found['CPU seconds']:.0f} CPU seconds", flush=True)


def read(path: Path) -> dict[str, dict]:
    """Results so far, by task and seed."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, name: str, found: dict) -> None:
    """Add one result to the file as it is now, and draw the page anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = dict(sorted((read(path) | {name: found}).items()))
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page(results))


if __name__ == "__main__":
    main()
