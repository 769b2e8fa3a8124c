"""Mixtures of experts fitted apart and put together: every method beside its rivals, the fit on all rows among them.

    python benchmarks/reduction.py --design paper --n 100000 --machines 64 --seeds 3 --bad 1 --json OUT
    python benchmarks/reduction.py --design hard|shifted --n 40000 --machines 32 --seeds 3 --json OUT
    python benchmarks/reduction.py --design real --data DIR --seeds 3 --json OUT
    python benchmarks/reduction.py --design scale --json OUT

``reduction_designs.py`` has the tables, ``reduction_run.py`` says what a cost is, ``reduction_scale.py`` measures one
step, a million rows and the rate at which errors fall. ``--bad B`` spoils the fits of B machines in each seed; the
global fit has all rows, unspoiled.

Rows of the result: ``global`` (one fit on all rows), ``local`` (machines alone: mean, best, worst), the reduction and
its options, its rivals, ``synthetic_refit`` (rows drawn from the local models, one fit on them), ``truth``. Everything
that a machine sends is a contribution; no row of data is sent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before NumPy is imported, which the functions below do

if TYPE_CHECKING:
    from reduction_designs import Problem

SETS = ("beijing", "mmash", "bike", "power", "kin8nm", "parkinsons")
SPOILS = ("shuffled", "lost", "swapped")


def problems(given: argparse.Namespace, seed: int) -> list[Problem]:
    from reduction_designs import generated, real

    if given.design == "real":
        names = given.sets.split(",")
        return [real(name, Path(given.data), seed) for name in names]
    make = lambda different: generated(given.design, given.n, given.machines, seed, different_experts=different)  # noqa: E731
    return [make(False), make(True)] if given.design == "hard" else [make(False)]


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Rows of every seed by section."""
    import numpy as np
    from reduction_run import one_seed, warm_up

    warm_up(work)
    sections: dict[str, list[dict[str, Any]]] = {}
    for seed in range(given.seeds):
        for problem in problems(given, seed):
            chosen = np.random.default_rng([seed, 23]).choice(len(problem.machines), given.bad, replace=False)
            bad = {problem.machines[m].name: SPOILS[(seed + i) % 3] for i, m in enumerate(chosen)}
            sections.setdefault(problem.name, []).append(one_seed(problem, bad, work / f"{problem.name}-{seed}", seed))
    return {name: {"results": combine(runs), "seeds": runs} for name, runs in sections.items()}


def combine(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """``<method>.<measure>`` to its mean and standard deviation over seeds; None where a method refuses."""
    found: dict[str, Any] = {}
    for name in runs[0]:
        for measure in sorted({key for run in runs for key, value in run[name].items() if isinstance(value, float)}):
            values = [run[name][measure] for run in runs if measure in run[name]]
            sd = statistics.stdev(values) if len(values) > 1 else None
            found[f"{name}.{measure}"] = {"mean": statistics.fmean(values), "sd": sd}
    return found


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", choices=("paper", "hard", "shifted", "real", "scale"), default="paper")
    parser.add_argument("--n", type=int, default=100_000, help="rows over all machines")
    parser.add_argument("--machines", type=int, default=64)
    parser.add_argument("--bad", type=int, default=0, help="machines whose fit is spoiled, in each seed")
    parser.add_argument("--data", help="folder of public tables, for --design real")
    parser.add_argument("--sets", default=",".join(SETS), help="which of them, separated by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", required=True, help="file for the result; a page is written beside it")
    parser.add_argument("--work", help="where local contributions are kept; a temporary directory unless given")
    given = parser.parse_args(argv)
    if given.design == "real" and not given.data:
        parser.error("--design real needs --data")
    return given


def main(argv: list[str] | None = None) -> None:
    from reduction_page import REFERENCE, markdown, targets

    from quiltwork.evaluate.tables import machine
    from quiltwork.files import write_file

    given, began = parse(argv), time.monotonic()
    shown = list(argv if argv is not None else sys.argv[1:])
    for private in ("--data", "--work"):
        if private in shown:
            shown[shown.index(private) + 1] = "DIR"
    result: dict[str, Any] = {
        "design": given.design,
        "machine": machine(),
        "command": "python benchmarks/reduction.py " + " ".join(shown),
        "n_seeds": given.seeds,
    }
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(given.work or temporary)
        if given.design == "scale":
            from reduction_scale import page, scale

            result |= scale(work, Path(given.json).with_suffix(".png"), given.seeds)
        else:
            sections = run(given, work)
            result |= {"sections": sections, "targets": targets(given.design, sections), "reference": REFERENCE}
            page = markdown
    result["seconds"] = round(time.monotonic() - began)
    write_file(Path(given.json), json.dumps(result, indent=1) + "\n")
    print(write_file(Path(given.json).with_suffix(".md"), page(result)).read_text())


if __name__ == "__main__":
    main()
