"""How the reduction grows: one step, a million rows, and the rate at which errors fall.

* one majorise-minimise step over L = 512 pooled experts at S = 2000 rows of d = 20 covariates, in process time, and the
  memory of pool and step together;
* a million rows over 128 machines from files to the composed model, in wall time on two processes;
* errors against the number of rows over 16 machines, whose slope on logarithmic axes is -1/2 for distances between
  parameters and -1 for squared ones.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from reduction_designs import Problem, generated, paper_truth
from reduction_run import fit_global, score, send, timed, true_mixture

from quiltwork.compose.method import compose
from quiltwork.compose.reduction import Reduction
from quiltwork.contribution.store import read
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.exponential import refit
from quiltwork.models.mixture.gates import ConstantWeights, SoftmaxGate
from quiltwork.models.mixture.majorise import make_plan
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import everywhere
from quiltwork.party.local_fits import fit_all
from quiltwork.party.mixture import contribute_mixture
from quiltwork.party.mixture_order import MixtureOrder
from quiltwork.party.table import TableFragment, open_table

ROWS = (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
SLOPE_FROM = 20_000
"""Slopes are those from here on: 1250 rows a machine for 151 parameters. With a quarter of that local fits fail."""

MILLION, MANY = 1_000_000, 128


def scale(work: Path, figure: Path, seeds: int) -> dict[str, Any]:
    """All three, and the figure of the third."""
    found = {"step": step(), "million": million(work / "million"), "consistency": consistency(work, seeds)}
    draw(found["consistency"], figure)
    return found


# One step ------------------------------------------------------------------------


def step(machines: int = 128, rows: int = 2000, times: int = 30) -> dict[str, float]:
    """Least process and wall seconds of a step out of ``times``; peak of traced memory, pool included."""
    mixtures, x = _locals(machines), np.random.default_rng(1).standard_normal((rows, 20))
    tracemalloc.start()
    pool = everywhere(mixtures, ConstantWeights(np.ones(machines)), x)
    experts = pool.machines[0].mixture.experts
    pool.totals  # noqa: B018 - kept by the pool, once for all steps
    cpu, wall = [], []
    for traced in range(times + 1):
        began = time.process_time(), time.perf_counter()
        plan = make_plan(pool, experts)
        experts = refit(experts, pool.x, plan.masses, plan.moments)
        if traced:
            cpu.append(time.process_time() - began[0])
            wall.append(time.perf_counter() - began[1])
        else:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return {"cpu_seconds": min(cpu), "wall_seconds": min(wall), "peak_megabytes": peak / 1e6}


def _locals(machines: int) -> list[Any]:
    """The paper's truth, each machine with errors of its own."""
    truth, rng = paper_truth(), np.random.default_rng(0)
    noisy = lambda part: part + 0.1 * rng.standard_normal(part.shape)  # noqa: E731
    return [
        Mixture(SoftmaxGate(noisy(truth.gate)), GaussianExperts(noisy(truth.coefficients), truth.variances))
        for _ in range(machines)
    ]


# A million rows ------------------------------------------------------------------


def million(work: Path, rows: int = MILLION, machines: int = MANY) -> dict[str, Any]:
    """Wall seconds from a file a machine to the composed model, two processes; and what it costs and scores.

    The fit on all rows, and eight of the contributions again, are timed beside it.
    """
    problem = generated("paper", rows, machines, 0)
    fragments, judged = write_tables(problem, work), replace(problem, machines=())
    k = problem.n_experts
    del problem
    order = MixtureOrder(party="any", n_experts=k)
    began = time.perf_counter(), _cpu()
    with parallel_config(n_jobs=2):
        fit_all(fragments, order, work / "sent", progress=False)
    composite, compose_cpu, _ = timed(lambda: compose([read(work / "sent" / m) for m in fragments], Reduction(k)))
    wall = time.perf_counter() - began[0]
    get_reusable_executor().shutdown(wait=True)  # a worker's time is known when it has ended
    cpu = _cpu() - began[1]
    some = list(fragments)[:8]
    alone = [timed(lambda m=m: contribute_mixture(fragments[m], work / f"again-{m}", order))[1] for m in some]
    together, global_cpu, _ = timed(lambda: fit_global(generated("paper", rows, machines, 0).pooled, k, 0))
    return {
        "rows": rows,
        "machines": machines,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "local_cpu_seconds": max(alone),
        "compose_cpu_seconds": compose_cpu,
        "global_cpu_seconds": global_cpu,
        "reduction": score(composite.mixture, judged),
        "global": score(together, judged),
    }


def write_tables(problem: Problem, work: Path) -> dict[str, TableFragment]:
    """A file for each machine, opened."""
    work.mkdir(parents=True, exist_ok=True)
    names, fragments = (*problem.features, problem.target), {}
    for machine in problem.machines:
        np.save(work / f"{machine.name}.npy", np.column_stack([machine.train.x, machine.train.y]))
        fragments[machine.name] = open_table([work / f"{machine.name}.npy"], target=problem.target, columns=names)
    return fragments


def _cpu() -> float:
    """Process seconds of this process and of the workers that have ended."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


# Errors against rows -------------------------------------------------------------


def consistency(work: Path, seeds: int, machines: int = 16) -> dict[str, Any]:
    """Errors of the reduction and of the global fit against rows: seeds' means and slopes of the logarithms."""

    found: dict[str, list[list[float]]] = {}
    for rows in ROWS:
        points: dict[str, list[float]] = {}
        for seed in range(seeds):
            problem = generated("paper", rows, machines, seed)
            sent = send(problem, {}, work / f"consistency-{rows}-{seed}", seed)
            level = score(true_mixture(problem), problem)["loglik_per_row"]
            fits = {
                "global": fit_global(problem.pooled, problem.n_experts, seed),
                "reduction": compose(sent.read(False), Reduction(problem.n_experts)).mixture,
            }
            for name, mixture in fits.items():
                scores = score(mixture, problem)
                points.setdefault(f"{name}.parameter_error", []).append(scores["parameter_error"])
                points.setdefault(f"{name}.excess_nats", []).append(level - scores["loglik_per_row"])
        for name, values in points.items():
            found.setdefault(name, []).append(values)
    means = {name: [float(np.mean(values)) for values in table] for name, table in found.items()}
    late = np.array(ROWS) >= SLOPE_FROM
    line = lambda values: np.polyfit(np.log(ROWS)[late], np.log(values)[late], 1)  # noqa: E731
    slopes = {name: float(line(np.array(values))[0]) for name, values in means.items()}
    return {"rows": list(ROWS), "machines": machines, "seeds": seeds, "errors": found, "means": means, "slopes": slopes}


def draw(found: dict[str, Any], target: Path) -> None:
    """Both errors on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    titles = {"parameter_error": "mean squared error of parameters", "excess_nats": "nats per row below the truth"}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        for name, colour, marker in (("global", "0.35", "o"), ("reduction", "C0", "s")):
            values = np.array(found["errors"][f"{name}.{measure}"])
            slope = found["slopes"][f"{name}.{measure}"]
            axes.plot(
                found["rows"], values.mean(axis=1), marker=marker, color=colour, label=f"{name}, late slope {slope:.2f}"
            )
            axes.plot(found["rows"], values, marker, color=colour, alpha=0.3, markersize=3)
        axes.set(xscale="log", yscale="log", xlabel="rows over all machines", title=title)
        axes.legend(frameon=False)
    figure.suptitle(f"The paper's design over {found['machines']} machines, {found['seeds']} seeds", fontsize=10)
    figure.savefig(target, dpi=130)
    plt.close(figure)


# The page ------------------------------------------------------------------------


def page(result: dict[str, Any]) -> str:
    one, many, errors = result["step"], result["million"], result["consistency"]
    learning = many["local_cpu_seconds"] + many["compose_cpu_seconds"]
    rows = [
        ("one step, L = 512, S = 2000, d = 20, CPU ms", one["cpu_seconds"] * 1e3, 10.0),
        ("memory of pool and step, MB", one["peak_megabytes"], 100.0),
        (f"{many['rows']:,} rows over {many['machines']} machines, two processes, wall s", many["wall_seconds"], 120.0),
    ]
    lines = [
        "# Reduction: how it grows",
        "",
        f"Machine: {result['machine']}. Command: `{result['command']}`.",
        "",
        "| figure | measured | at most | reached |",
        "|---|---|---|---|",
        *[
            f"| {name} | {value:.3g} | {limit:g} | {'yes' if value <= limit else '**no**'} |"
            for name, value, limit in rows
        ],
        "",
        f"All this cost {many['cpu_seconds']:.0f} CPU s. Slowest of eight local contributions "
        f"{many['local_cpu_seconds']:.2f} CPU s, composition "
        f"{many['compose_cpu_seconds']:.2f}; the fit on all rows {many['global_cpu_seconds']:.1f}, "
        f"{many['global_cpu_seconds'] / learning:.0f} times that. Log-likelihood per row "
        f"{many['reduction']['loglik_per_row']:.4f}, of the fit on all rows {many['global']['loglik_per_row']:.4f}.",
        "",
        f"## Errors against rows, {errors['machines']} machines, {errors['seeds']} seeds",
        "",
        "| rows | " + " | ".join(errors["means"]) + " |",
        "|---" * (1 + len(errors["means"])) + "|",
    ]
    for i, n in enumerate(errors["rows"]):
        lines.append(f"| {n:,} | " + " | ".join(f"{values[i]:.5f}" for values in errors["means"].values()) + " |")
    lines.append(
        f"| slope from {SLOPE_FROM:,} on | "
        + " | ".join(f"{errors['slopes'][name]:.2f}" for name in errors["means"])
        + " |"
    )
    return "\n".join(lines) + "\n"
