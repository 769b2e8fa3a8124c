"""Many small fits at once: batched PyTorch against one fit after the other, with the same starts, passes and tolerance.

    python benchmarks/batched_fits.py --seeds 3 --json benchmarks/results/batched_fits.json

``--slots`` machines are fitted together. What one machine asks for, the likelihood and the next step at some
parameters, is computed for all slots in one batch of float64 tensors; a machine that is done leaves its slot to the
next, so that no slot waits. The course of each fit (starts, steps, leaps, when it ends) is that of the package, written
here as a generator that yields parameters and is sent their pass.

Costs are process seconds, which count all threads, each the least of ``--repeats`` interleaved runs; the table gives
mean and spread over seeds. ``difference`` is the largest gap between the two penalised log-likelihoods, a row, that a
machine arrives at. A table goes beside OUT, with the suffix .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait shall cost nothing

import numpy as np
import torch
from numpy.typing import NDArray

from quiltwork.models.mixture import em, regression, starts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.fit import Settings, _ridge, _step, _units, fit
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.likelihood import Problem
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.standard import Standard
from quiltwork.models.mixture.steps import Parameters

Array: TypeAlias = NDArray[np.float64]
SETTINGS = Settings(family="gaussian")
WARM_UP = 2


@dataclass(frozen=True, eq=False)
class Table:
    """One machine's rows, in raw units and as its problem."""

    x: Array
    y: Array
    problem: Problem

    @classmethod
    def of(cls, x: Array, y: Array) -> Table:
        rows = Standard.of(x, np.ones(len(x)))
        step = _step(y, _units(y, rows.weights, SETTINGS), rows, SETTINGS, 0)
        return cls(x, y, Problem(rows, step, _ridge(SETTINGS.ridge_gate, rows.p)))


@dataclass(frozen=True, eq=False)
class Ask:
    """Parameters, and fixed responsibilities ``[K, n]`` for the first step of a start."""

    parameters: Parameters
    given: Array | None = None


@dataclass(frozen=True, eq=False)
class Told:
    """The pass at them: the penalised log-likelihood and where a whole step leads."""

    parameters: Parameters
    value: float
    target: Parameters


Course: TypeAlias = Generator[Ask, Told, Any]


# The course of one fit ------------------------------------------------------------


def course(table: Table, n_experts: int, rng: np.random.Generator) -> Generator[Ask, Told, float]:
    """`fit.fit` on one block of rows: the best of several loose runs, and its finish. Returns L."""
    problem, runs, ends = table.problem, list[Told](), list[float]()
    same, block = em.nats(em.SAME_VALUE, problem), next(problem.rows.blocks())
    while len(runs) < SETTINGS.n_init:
        best = sorted(ends, reverse=True)
        if len(best) > 1 and best[0] - best[1] <= same:
            break
        stretch = starts.STRETCHES[len(runs) % len(starts.STRETCHES)]
        blank = problem.step.blank(n_experts, problem.rows.p)
        first = yield Ask(blank, starts.partition(problem, n_experts, stretch, rng)(block))
        begin = replace(first.target, gate=blank.gate)
        most = starts.Competition(1).max_iterations
        rival = max((told.value for told in runs), default=-np.inf)
        last, end = yield from run(problem, begin, starts.LOOSE_TOLERANCE, most, rival)
        runs.append(last)
        ends.append(end)
    last, _ = yield from run(problem, max(runs, key=lambda told: told.value), SETTINGS.tol, SETTINGS.max_iter, -np.inf)
    return float(last.value)


def run(problem: Problem, start: Parameters | Told, tolerance: float, most: int, rival: float) -> Course:
    """`em.maximise`: the last pass, and the value that the run ends at or is bound for."""
    enough, small = em.nats(tolerance, problem), em.nats(em.SMALL_GAIN, problem)
    here = start if isinstance(start, Told) else (yield Ask(start))
    walked, caution = [here], 1
    for iteration in range(1, most + 1):
        before, leap = here.value, len(walked) > 2 * caution and em._creeps(walked, small)  # type: ignore[arg-type]
        if leap:
            there = yield Ask(_foretold(walked[-3:]))
            caution, walked = (1, [there]) if there.value > here.value else (caution + 1, [here])
        else:
            walked.append((yield from _next(here)))
        here = walked[-1]
        pace = here.value - before
        hopeless = iteration > em.PATIENCE and not leap and here.value + (most - iteration) * pace < rival
        if len(walked) > 2 and em._arrives(walked, rival, problem):  # type: ignore[arg-type]
            return here, rival
        if hopeless or (not leap and pace <= enough):
            break
    return here, here.value


def _next(here: Told) -> Course:
    least = here.value - em.ROUNDING * abs(here.value)
    for halving in range(em.MOST_HALVINGS):
        part = here.parameters.towards(here.target, 0.5**halving)
        there = yield Ask(replace(part, coefficients=here.target.coefficients))
        if there.value >= least:
            return there if there.value >= here.value else here
    return here


def _foretold(walked: Sequence[Told]) -> Parameters:
    zero, one, two = (em._flat(each.parameters) for each in walked)
    step, turn = one - zero, two - 2 * one + zero
    far = min(max(float(np.linalg.norm(step)) / max(float(np.linalg.norm(turn)), 1e-300), 1.0), em.FARTHEST_LEAP)
    return em._unflat(zero + 2 * far * step + far**2 * turn, walked[-1].parameters)


# All slots at once ----------------------------------------------------------------


class Batch:
    """Slots of equal shape, and one pass over all of them."""

    def __init__(self, slots: int, n: int, p: int, k: int, device: str) -> None:
        new = {"dtype": torch.float64, "device": device}
        self.z = torch.zeros(slots, p, n, **new)  # type: ignore[call-overload]
        self.products = torch.zeros(slots, p * (p + 1) // 2, n, **new)  # type: ignore[call-overload]
        self.y = torch.zeros(slots, n, **new)  # type: ignore[call-overload]
        self.ridge = torch.as_tensor(_ridge(SETTINGS.ridge_gate, p), **new)
        low, high = np.triu_indices(k, 1)
        self.low, self.high = torch.as_tensor(low, device=device), torch.as_tensor(high, device=device)
        ends = np.eye(k)[low] - np.eye(k)[high]
        self.laplacian = torch.as_tensor(np.einsum("ek,el->kle", ends, ends).reshape(k * k, -1), **new)
        places = np.empty((p, p), dtype=np.int64)
        above = np.triu_indices(p)
        places[above] = places.T[above] = np.arange(len(above[0]))
        self.places = torch.as_tensor(places.ravel(), device=device)

    def load(self, slot: int, table: Table) -> None:
        block = next(table.problem.rows.blocks())
        assert block.products is not None
        self.z[slot] = torch.from_numpy(block.z)
        self.products[slot] = torch.from_numpy(block.products)
        self.y[slot] = torch.from_numpy(table.y[:, 0])
        self.y[slot] -= self.y[slot].mean()
        self.y[slot] /= self.y[slot].std(correction=0)

    def at(self, asks: Sequence[Ask]) -> list[Told]:
        """One pass, and the step from it, in every slot."""
        gate = self._stack([ask.parameters.gate for ask in asks])
        linear = self._stack([ask.parameters.coefficients[:, 0] for ask in asks])
        variance = self._stack([ask.parameters.variances[:, 0] for ask in asks])
        k = gate.shape[1]
        predictors = torch.cat([gate, linear], dim=1) @ self.z
        log_pi = torch.log_softmax(predictors[:, :k], dim=1)
        pi = log_pi.exp()
        joint = log_pi - 0.5 * (self.y[:, None] - predictors[:, k:]) ** 2 / variance[:, :, None]
        joint -= 0.5 * torch.log(2 * torch.pi * variance)[:, :, None]
        log_f = torch.logsumexp(joint, dim=1)
        tau = (joint - log_f[:, None]).exp()
        for slot, ask in enumerate(asks):
            if ask.given is not None:
                tau[slot] = torch.from_numpy(ask.given)
        value = log_f.sum(dim=1) - 0.5 * (gate**2 @ self.ridge).sum(dim=1)
        first = torch.cat([tau - pi, tau * self.y[:, None]], dim=1) @ self.z.mT
        second = torch.cat([pi[:, self.low] * pi[:, self.high], tau], dim=1) @ self.products.mT
        squares = (tau @ (self.y**2)[:, :, None])[:, :, 0]
        slope = first[:, :k] - self.ridge * gate
        moved = gate + self._gate_step(slope, second[:, : len(self.low)])
        solved, variances = self._experts(tau.sum(dim=2), first[:, k:], second[:, len(self.low) :], squares)
        parts = (value.tolist(), *(part.cpu().numpy() for part in (moved, solved, variances)))
        return [
            Told(ask.parameters, v, Parameters(g, b[:, None], s[:, None]))
            for ask, v, g, b, s in zip(asks, *parts, strict=True)
        ]

    def _stack(self, parts: Sequence[Array]) -> torch.Tensor:
        return torch.from_numpy(np.stack(parts)).to(self.z.device)

    def _gate_step(self, slope: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        m, k, p = slope.shape
        shift = 2 * edges[:, :, self.places[:: p + 1]].sum(dim=(1, 2)) / (k * k * p)
        flat = (self.laplacian @ edges)[:, :, self.places].reshape(m, k, k, p, p)
        flat.diagonal(dim1=3, dim2=4).add_(shift[:, None, None, None].clamp_min(regression.TINY))
        flat.diagonal(dim1=1, dim2=2).diagonal(dim1=1, dim2=2).add_(self.ridge)
        hessian = flat.transpose(2, 3).reshape(m, k * p, k * p)
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal += regression.DAMPING * diagonal.amax(dim=1, keepdim=True)
        factor, _ = torch.linalg.cholesky_ex(hessian)
        return torch.cholesky_solve(slope.reshape(m, k * p, 1), factor).reshape(m, k, p)

    def _experts(
        self, mass: torch.Tensor, cross: torch.Tensor, grams: torch.Tensor, squares: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        m, k, p = cross.shape
        full = grams[:, :, self.places].reshape(m, k, p, p)
        factor, _ = torch.linalg.cholesky_ex(full)
        b = torch.cholesky_solve(cross[..., None], factor)[..., 0]
        rss = squares - (b * cross).sum(dim=2)
        return b, torch.clamp_min(rss / mass, SETTINGS.min_variance)


def together(tables: Iterator[Table], n_experts: int, slots: int, device: str) -> list[float]:
    """L of every table; ``slots`` of them are fitted side by side."""
    queue, values = enumerate(tables), dict[int, float]()
    first = [item for _, item in zip(range(slots), queue, strict=False)]
    rows, p = len(first[0][1].x), first[0][1].problem.rows.p
    batch = Batch(len(first), rows, p, n_experts, device)
    running = [_begin(batch, slot, item, n_experts) for slot, item in enumerate(first)]
    while any(course is not None for _, course, _ in running):
        told = batch.at([ask for _, _, ask in running])
        for slot, (name, one, ask) in enumerate(running):
            if one is None:
                continue
            try:
                running[slot] = (name, one, one.send(told[slot]))
            except StopIteration as end:
                values[name] = end.value
                item = next(queue, None)
                running[slot] = (name, None, ask) if item is None else _begin(batch, slot, item, n_experts)
    return [values[name] for name in sorted(values)]


def _begin(batch: Batch, slot: int, item: tuple[int, Table], n_experts: int) -> tuple[int, Course | None, Ask]:
    batch.load(slot, item[1])
    one = course(item[1], n_experts, np.random.default_rng(0))
    return item[0], one, next(one)


def alone(tables: Sequence[tuple[Array, Array]], n_experts: int) -> list[float]:
    """L of every table, one fit after the other."""
    found = []
    for x, y in tables:
        one = fit(x, y, np.ones(len(x)), n_experts, SETTINGS, np.random.default_rng(0))
        found.append(one.path[-1] + len(x) * float(np.log(y.std())))
    return found


# Tables and costs -----------------------------------------------------------------


DESIGNS = {"20 columns, 1562 rows": (20, 4, 1562), "5 columns, 200 rows": (5, 2, 200)}


def drawn(d: int, k: int, n: int, machines: int, seed: int) -> list[tuple[Array, Array]]:
    """Rows of one law, dealt to machines; neighbouring columns correlate by one half."""
    law_rng, rng = np.random.default_rng(0), np.random.default_rng([seed, d])
    coefficients = law_rng.integers(-2, 3, size=(k, 1, 1 + d)).astype(float)
    law = Mixture(SoftmaxGate(law_rng.normal(size=(k, 1 + d))), GaussianExperts(coefficients, np.ones((k, 1))))
    root = np.linalg.cholesky(0.5 ** np.abs(np.subtract.outer(np.arange(d), np.arange(d))))
    x = rng.standard_normal((machines * n, d)) @ root.T
    y = law.sample(x, rng)[0]
    return list(zip(np.split(x, machines), np.split(y, machines), strict=True))


def cost(work: Callable[[], list[float]]) -> tuple[list[float], float, float]:
    began = time.process_time(), time.perf_counter()
    values = work()
    return values, time.process_time() - began[0], time.perf_counter() - began[1]


def measured(design: str, machines: int, slots: Sequence[int], seed: int, repeats: int, device: str) -> dict[str, Any]:
    """Process and wall seconds of every way, the least of interleaved runs."""
    d, k, n = DESIGNS[design]
    tables = drawn(d, k, n, machines, seed)
    ways: dict[str, Callable[[], list[float]]] = {"one by one": lambda: alone(tables, k)}
    for count in slots:
        ways[f"{count} slots"] = lambda c=count: together((Table.of(x, y) for x, y in tables), k, c, device)
    alone(tables[:WARM_UP], k)
    together((Table.of(x, y) for x, y in tables[:WARM_UP]), k, WARM_UP, device)
    taken: dict[str, list[tuple[list[float], float, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, work in ways.items():
            taken[way].append(cost(work))
    single = np.array(taken["one by one"][0][0])
    return {
        way: {
            "cpu_seconds": min(run[1] for run in runs),
            "wall_seconds": min(run[2] for run in runs),
            "difference": float(np.abs(np.array(runs[0][0]) - single).max()) / n,
        }
        for way, runs in taken.items()
    }


def page(record: dict[str, Any]) -> str:
    lines = [
        "# Many small fits at once",
        "",
        f"{record['machine']}; {record['seeds']} seeds, mean ± standard deviation.",
        "",
        "| tables | machines | threads | way | CPU seconds | against one by one | difference, nats a row |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in record["cases"]:
        for way in case["runs"][0]:
            cpu = [one[way]["cpu_seconds"] for one in case["runs"]]
            share = [one[way]["cpu_seconds"] / one["one by one"]["cpu_seconds"] for one in case["runs"]]
            worst = max(one[way]["difference"] for one in case["runs"])
            cells = [
                case["design"],
                case["machines"],
                case["threads"],
                way,
                _spread(cpu),
                _spread(share),
                f"{worst:.1e}",
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


def processor() -> str:
    """The processor's name, where the system tells it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--machines", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--slots", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    cases = []
    for design in DESIGNS:
        for machines in given.machines:
            for threads in given.threads:
                torch.set_num_threads(threads)
                runs = [
                    measured(design, machines, given.slots, seed, given.repeats, given.device)
                    for seed in range(given.seeds)
                ]
                cases.append({"design": design, "machines": machines, "threads": threads, "runs": runs})
                print(json.dumps(cases[-1]), flush=True)
    machine = f"{processor()}, {os.cpu_count()} cores, device {given.device}"
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    record = {"machine": f"{machine}, {versions}", "seeds": given.seeds, "cases": cases}
    Path(given.json).write_text(json.dumps(record, indent=1) + "\n")
    Path(given.json).with_suffix(".md").write_text(page(record))
    print(page(record))


if __name__ == "__main__":
    main()
