"""One seed of the reduction benchmark: local fits, what they send, every method on it, scores and costs.

A machine's whole cost is that of its contribution: reading its rows, the fit, the summaries, the sealed files. Costs
of a method are

    cpu_seconds      process time of all local contributions and of the composition, on one thread
    wall_seconds     learning time as the paper counts it: the slowest local contribution, then the composition
    compose_seconds  process time of the composition alone
    bytes_sent       of all contributions, files and manifests; for the global fit the rows themselves, 8 bytes a number

Local contributions are kept in a work directory, so that methods can be run again on them.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from reduction_designs import Machine, Problem, Rows

from quiltwork.compose.method import compose
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import QuiltworkError
from quiltwork.evaluate.held_out import HeldOutRows
from quiltwork.evaluate.insight import advice, gains, headline, verdicts
from quiltwork.evaluate.tables import score_table
from quiltwork.evaluate.truth import gate_ari, parameter_error
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

SYNTHETIC_ROWS = 50_000
"""Most rows that the refit baseline draws from the local models."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What the machines of one seed sent, and what it cost them.

    Attributes:
        contributions: sorted by party.
        cpu: process seconds by party.
        wall: wall seconds by party.
        bad: parties whose fit was spoiled on purpose.
    """

    contributions: list[Contribution]
    cpu: dict[str, float]
    wall: dict[str, float]
    bad: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(contribution.bytes for contribution in self.contributions)


# Local fits ----------------------------------------------------------------------


def send(problem: Problem, bad: Mapping[str, Machine], work: Path, seed: int) -> Sent:
    """Every machine's contribution; fits of ``bad`` are made on the rows given there instead."""
    cpu, wall = {}, {}
    for machine in problem.machines:
        place = work / machine.name
        if not (place / "seconds.json").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            taken = contribute(problem, bad.get(machine.name, machine), place / "contribution", seed)
            (place / "seconds.json").write_text(json.dumps(taken))
        cpu[machine.name], wall[machine.name] = json.loads((place / "seconds.json").read_text())
    contributions = [read(work / name / "contribution") for name in sorted(cpu)]
    return Sent(contributions, cpu, wall, tuple(bad))


def contribute(problem: Problem, machine: Machine, target: Path, seed: int) -> tuple[float, float]:
    """Process and wall seconds of one contribution."""
    from quiltwork.party.mixture import MixtureOrder, contribute_mixture
    from quiltwork.party.table import table_from_arrays

    order = MixtureOrder(party=machine.name, n_experts=machine.n_experts, covariates=1, precision=True, seed=seed)
    rows = machine.train
    began = time.process_time(), time.perf_counter()
    fragment = table_from_arrays(rows.x, rows.y, features=problem.features, units=problem.units, target=problem.target)
    contribute_mixture(fragment, target, order)
    return time.process_time() - began[0], time.perf_counter() - began[1]


# Methods -------------------------------------------------------------------------


def methods(n_experts: int) -> dict[str, Any]:
    """Every composition by the name of its row."""
    from quiltwork.compose.aligned_average import AlignedAverage
    from quiltwork.compose.ambient import AmbientMixture
    from quiltwork.compose.middle import Middle
    from quiltwork.compose.precision_average import PrecisionAverage
    from quiltwork.compose.reduction import Reduction

    return {
        "reduction": Reduction(n_experts),
        "reduction_projection": Reduction(n_experts, gate="projection"),
        "reduction_precision": Reduction(n_experts, experts="precision"),
        "reduction_evidence": Reduction(n_experts, weights="evidence"),
        "reduction_evidence_precision": Reduction(n_experts, weights="evidence", experts="precision"),
        "reduction_not_robust": Reduction(n_experts, robust=False),
        "aligned_average": AlignedAverage(),
        "middle": Middle(),
        "precision_average": PrecisionAverage(),
        "ambient": AmbientMixture(),
        "ambient_evidence": AmbientMixture("evidence"),
    }


def refit(sent: Sent, n_experts: int, rows: int, seed: int) -> Mixture[Any]:
    """Synthetic rows from the local models, each at covariates from its own summary, and one fit on them.

    The idea of FedGenGMM, for regressions.
    """
    from quiltwork.compose.tables import local_of

    rng = np.random.default_rng([seed, 5])
    found = [local_of(contribution) for contribution in sent.contributions]
    share = min(rows, SYNTHETIC_ROWS) / sum(local.rows for local in found)
    drawn = []
    for local in found:
        x = local.covariates.sample(max(1, round(local.rows * share)), rng)
        drawn.append((x, local.mixture.sample(x, rng)[0]))
    x, y = np.concatenate([x for x, _ in drawn]), np.concatenate([y for _, y in drawn])
    return fit_global(Rows(x, y[:, 0]), n_experts, seed)


def fit_global(rows: Rows, n_experts: int, seed: int) -> Mixture[Any]:
    from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor

    return MixtureOfExpertsRegressor(n_experts=n_experts, random_state=seed).fit(rows.x, rows.y).mixture_


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, its process and its wall seconds."""
    began = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - began[0], time.perf_counter() - began[1]


# Scores --------------------------------------------------------------------------


def score(mixture: Mixture[Any], problem: Problem) -> dict[str, float]:
    """Means over the pooled test rows; errors of the parameters where the truth is known."""
    test = problem.test
    mean = mixture.mean(test.x)[:, 0]
    found = {
        "loglik_per_row": float(mixture.log_density(test.x, test.y[:, None]).mean()),
        "rpe": float(((test.y - mean) ** 2).sum() / (test.y**2).sum()),
    }
    if test.expert is not None:
        found["ari"] = gate_ari(mixture, test.x, test.expert)
    known = problem.truth is not None and mixture.n_experts == problem.truth.n_experts
    if known and isinstance(mixture.gate, SoftmaxGate):
        found["parameter_error"] = parameter_error(mixture, true_mixture(problem), test.x[:2000])
    return found


def true_mixture(problem: Problem) -> Mixture[GaussianExperts]:
    truth = problem.truth
    assert truth is not None
    return Mixture(SoftmaxGate(truth.gate), GaussianExperts(truth.coefficients, truth.variances))


def advise(composites: Mapping[str, Any], together: Mixture[Any], problem: Problem) -> dict[str, Any]:
    """What the score matrix advises, from each machine's own held-out rows; rows of one block belong together."""
    held_out = {m.name: HeldOutRows(m.test.x, m.test.y, m.test.group) for m in problem.machines if m.test}
    if not held_out:
        return {}
    scores = score_table({**composites, "pooled": together}, held_out)
    gain = [gain.own for gain in gains(scores, "reduction") if gain.own is not None]
    found = {"advice": advice(scores), "headline": headline(scores), "verdicts": verdicts(scores)}
    return found | {"mean_gain_of_reduction": statistics.fmean(gain)}


# One seed ------------------------------------------------------------------------


def one_seed(problem: Problem, bad: Mapping[str, Machine], work: Path, seed: int) -> dict[str, Any]:
    """Scores and costs of every method on one seed."""
    sent = send(problem, bad, work, seed)
    pooled = problem.pooled
    _say(f"{problem.name}-{seed}: global fit")
    together, cpu, wall = timed(lambda: fit_global(pooled, problem.n_experts, seed))
    costs = {"cpu_seconds": cpu, "wall_seconds": wall, "bytes_sent": pooled.x.size * 8 + pooled.y.size * 8}
    rows: dict[str, Any] = {"global": score(together, problem) | costs}
    rows["local"] = _locals(sent, problem)
    composites: dict[str, Any] = {}
    for name, method in methods(problem.n_experts).items():
        _say(f"{problem.name}-{seed}: {name}")
        try:
            composite = compose(sent.contributions, method)
            solution, cpu, wall = timed(lambda composite=composite: composite.solution)
        except QuiltworkError as error:
            rows[name] = {"refused": str(error)}
            continue
        composites[name] = composite
        rows[name] = score(solution.mixture, problem) | _costs(sent, cpu, wall)
        rows[name] |= {"excluded": dict(solution.excluded), "notes": list(solution.notes)}
        if name == "reduction":
            rows[name] |= {"steps": float(len(solution.objective))}
            rows[name] |= _without_bad(composite, sent, problem, rows[name]["loglik_per_row"])
    _say(f"{problem.name}-{seed}: refit")
    again, cpu, wall = timed(lambda: refit(sent, problem.n_experts, len(pooled.y), seed))
    rows["synthetic_refit"] = score(again, problem) | _costs(sent, cpu, wall)
    if problem.truth is not None:
        rows["truth"] = score(true_mixture(problem), problem)
    rows["reduction"] |= advise(composites, together, problem)
    return rows


def _locals(sent: Sent, problem: Problem) -> dict[str, float]:
    """Machines alone, the spoiled ones left out: mean, best and worst; costs of one machine."""
    from quiltwork.compose.tables import local_of

    good = [local_of(c).mixture for c in sent.contributions if c.party not in sent.bad]
    scores = [score(mixture, problem) for mixture in good]
    found = {name: statistics.fmean(s[name] for s in scores) for name in scores[0]}
    levels = [s["loglik_per_row"] for s in scores]
    found |= {"loglik_per_row_best": max(levels), "loglik_per_row_worst": min(levels)}
    cpu, wall = list(sent.cpu.values()), list(sent.wall.values())
    found |= {"cpu_seconds": statistics.fmean(cpu), "cpu_seconds_slowest": max(cpu), "cpu_seconds_total": sum(cpu)}
    return found | {"wall_seconds": max(wall), "bytes_sent": 0.0}


def _costs(sent: Sent, cpu: float, wall: float) -> dict[str, float]:
    return {
        "cpu_seconds": sum(sent.cpu.values()) + cpu,
        "wall_seconds": max(sent.wall.values()) + wall,
        "compose_seconds": cpu,
        "learning_cpu_seconds": max(sent.cpu.values()) + cpu,
        "bytes_sent": float(sent.bytes),
    }


def _without_bad(composite: Any, sent: Sent, problem: Problem, level: float) -> dict[str, float]:
    """What the spoiled fits changed: log-likelihood per row with them, less that of never having had them."""
    if not sent.bad:
        return {}
    for party in sent.bad:
        composite = composite.without(party)
    test = problem.test
    return {"bad_effect": level - float(composite.mixture.log_density(test.x, test.y[:, None]).mean())}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
