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
from reduction_designs import generated, paper_truth
from reduction_run import fit_global, score, send

from quiltwork.compose.method import compose
from quiltwork.compose.reduction import Reduction

ROWS = (5_000, 10_000, 20_000, 40_000, 80_000, 160_000)
MILLION, MANY = 1_000_000, 128


def scale(work: Path, figure: Path, seeds: int) -> dict[str, Any]:
    """All three, and the figure of the third."""
    found = {"step": step(), "million": million(work / "million"), "consistency": consistency(work, seeds)}
    draw(found["consistency"], figure)
    return found


# One step ------------------------------------------------------------------------


def step(machines: int = 128, rows: int = 2000, times: int = 30) -> dict[str, float]:
    """Least process and wall seconds of a step out of ``times``; peak of traced memory, pool included."""
    from quiltwork.models.mixture.exponential import refit
    from quiltwork.models.mixture.gates import ConstantWeights
    from quiltwork.models.mixture.majorise import make_plan
    from quiltwork.models.mixture.pool import everywhere

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
    from quiltwork.models.mixture.experts.gaussian import GaussianExperts
    from quiltwork.models.mixture.gates import SoftmaxGate
    from quiltwork.models.mixture.mixture import Mixture

    truth, rng = paper_truth(), np.random.default_rng(0)
    noisy = lambda part: part + 0.1 * rng.standard_normal(part.shape)  # noqa: E731
    return [
        Mixture(SoftmaxGate(noisy(truth.gate)), GaussianExperts(noisy(truth.coefficients), truth.variances))
        for _ in range(machines)
    ]


# A million rows ------------------------------------------------------------------


def million(work: Path, rows: int = MILLION, machines: int = MANY) -> dict[str, float]:
    """Wall seconds from a file a machine to the composed model, two processes; and what it costs and scores.

    Memory is the largest resident set of the main process and of a worker, each with its libraries.
    """
    from joblib import parallel_config

    from quiltwork.contribution.store import read
    from quiltwork.party.local_fits import fit_all
    from quiltwork.party.mixture_order import MixtureOrder
    from quiltwork.party.table import open_table

    problem = generated("paper", rows, machines, 0)
    names = (*problem.features, problem.target)
    work.mkdir(parents=True, exist_ok=True)
    for machine in problem.machines:
        np.save(work / f"{machine.name}.npy", np.column_stack([machine.train.x, machine.train.y]))
    problem = replace(problem, machines=tuple(replace(m, train=None) for m in problem.machines))  # type: ignore[arg-type]
    fragments = {
        m.name: open_table([work / f"{m.name}.npy"], target=problem.target, columns=names) for m in problem.machines
    }
    began = time.perf_counter(), _cpu()
    with parallel_config(n_jobs=2):
        fit_all(fragments, MixtureOrder(party="any", n_experts=problem.n_experts), work / "contributions")
    composite = compose([read(work / "contributions" / name) for name in fragments], Reduction(problem.n_experts))
    mixture = composite.mixture
    wall, cpu = time.perf_counter() - began[0], _cpu() - began[1]
    memory = {who: resource.getrusage(whose).ru_maxrss / 1e3 for who, whose in _PROCESSES.items()}
    return {"rows": rows, "machines": machines, "wall_seconds": wall, "cpu_seconds": cpu, "megabytes": memory} | score(
        mixture, problem
    )


_PROCESSES = {"main": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}


def _cpu() -> float:
    """Process seconds of this process and of the workers that have ended."""
    return sum(sum(resource.getrusage(whose)[:2]) for whose in _PROCESSES.values())


# Errors against rows -------------------------------------------------------------


def consistency(work: Path, seeds: int, machines: int = 16) -> dict[str, Any]:
    """Errors of the reduction and of the global fit against rows: seeds' means and slopes of the logarithms."""

    found: dict[str, list[list[float]]] = {}
    for rows in ROWS:
        points: dict[str, list[float]] = {}
        for seed in range(seeds):
            problem = generated("paper", rows, machines, seed)
            sent = send(problem, {}, work / f"consistency-{rows}-{seed}", seed)
            level = score_of_truth(problem)
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
    slopes = {name: float(np.polyfit(np.log(ROWS), np.log(values), 1)[0]) for name, values in means.items()}
    return {"rows": list(ROWS), "machines": machines, "seeds": seeds, "errors": found, "means": means, "slopes": slopes}


def score_of_truth(problem: Any) -> float:
    from reduction_run import true_mixture

    return score(true_mixture(problem), problem)["loglik_per_row"]


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
                found["rows"], values.mean(axis=1), marker=marker, color=colour, label=f"{name}, slope {slope:.2f}"
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
    largest = max(many["megabytes"].values())
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
        f"The million rows cost {many['cpu_seconds']:.0f} CPU s; largest resident set {largest:.0f} MB with libraries; "
        f"log-likelihood per row {many['loglik_per_row']:.4f}, RPE {many['rpe']:.4f}.",
        "",
        f"## Errors against rows, {errors['machines']} machines, {errors['seeds']} seeds",
        "",
        "| rows | " + " | ".join(errors["means"]) + " |",
        "|---" * (1 + len(errors["means"])) + "|",
    ]
    for i, n in enumerate(errors["rows"]):
        lines.append(f"| {n:,} | " + " | ".join(f"{values[i]:.5f}" for values in errors["means"].values()) + " |")
    lines.append("| slope | " + " | ".join(f"{errors['slopes'][name]:.2f}" for name in errors["means"]) + " |")
    return "\n".join(lines) + "\n"
