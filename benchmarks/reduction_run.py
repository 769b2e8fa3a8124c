"""One seed of the reduction benchmark: local fits, what they send, every method on it, scores and costs.

A machine's whole cost is that of its contribution: reading its rows, the fit, the summaries, the sealed files. Costs
of a method are

    cpu_seconds           process time of all local contributions and of the composition, on one thread
    wall_seconds          learning time as the paper counts it: the slowest local contribution, then the composition
    learning_cpu_seconds  the same in process time, which other work on the machine does not disturb
    compose_seconds       process time of the composition alone: reading the contributions, checks, the method
    bytes_sent            of all contributions, files and manifests; the rows themselves for the global fit, 8 bytes a
                          number

Each machine contributes twice, with and without the statistics of precision, and a method is given the smaller
contribution that serves it. Contributions are kept in a work directory, so that methods can be run again on them.

A spoiled fit replaces a good one of the same machine, whose costs stay. There are three sorts:

    shuffled  fitted to responses that were dealt anew among the rows: it converges, to nothing
    lost      one expert is a copy of another, as in a poor optimum
    swapped   two experts have changed places under the gate
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from reduction_designs import Array, Machine, Problem, Rows, generated

from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.method import compose
from quiltwork.compose.middle import Middle
from quiltwork.compose.precision_average import PrecisionAverage
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.tables import local_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import QuiltworkError
from quiltwork.evaluate.held_out import HeldOutRows
from quiltwork.evaluate.insight import advice, gains, headline, verdicts
from quiltwork.evaluate.tables import score_table
from quiltwork.evaluate.truth import gate_ari, parameter_error
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor
from quiltwork.party.mixture import contribute_mixture, fit_table, release
from quiltwork.party.mixture_order import MixtureOrder
from quiltwork.party.table import TableFragment, table_from_arrays

SYNTHETIC_ROWS = 50_000
"""Most rows that the refit baseline draws from the local models."""


Spoils: TypeAlias = Mapping[str, Literal["shuffled", "lost", "swapped"]]
"""Which machines' fits are spoiled, and how."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What the machines of one seed sent, with and without precision, and what it cost them.

    Attributes:
        places: directories of the contributions, in the order of parties, by whether they hold precision.
        cpu: process seconds of each machine, likewise.
        wall: wall seconds, likewise.
        spoiled: see ``Spoils``.
    """

    places: dict[bool, list[Path]]
    cpu: dict[bool, list[float]]
    wall: dict[bool, list[float]]
    spoiled: Spoils

    def read(self, precision: bool) -> list[Contribution]:
        return [read(place) for place in self.places[precision]]

    def locals(self) -> list[Local]:
        return [local_of(contribution) for contribution in self.read(False)]


# Local fits ----------------------------------------------------------------------


def send(problem: Problem, spoiled: Spoils, work: Path, seed: int) -> Sent:
    """Every machine's contributions."""
    sent = Sent({False: [], True: []}, {False: [], True: []}, {False: [], True: []}, spoiled)
    for machine in sorted(problem.machines, key=lambda machine: machine.name):
        for precision in (False, True):
            place = work / machine.name / ("precision" if precision else "plain")
            if not (place / "seconds.json").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                order = MixtureOrder(machine.name, n_experts=machine.n_experts, precision=precision, seed=seed)
                fragment = _fragment(problem, machine.train.x, machine.train.y)
                _, *taken = timed(lambda f=fragment, p=place, o=order: contribute_mixture(f, p / "contribution", o))
                if machine.name in spoiled:
                    spoil(problem, machine, place / "contribution", order, spoiled[machine.name])
                (place / "seconds.json").write_text(json.dumps(taken))
            cpu, wall = json.loads((place / "seconds.json").read_text())
            sent.places[precision].append(place / "contribution")
            sent.cpu[precision].append(cpu)
            sent.wall[precision].append(wall)
    return sent


def warm_up(work: Path) -> None:
    """A small seed, thrown away: what is imported or compiled at first use costs nobody's fit."""
    one_seed(generated("hard", 600, 3, 0, test_rows=100), {}, work / "warm-up", 0)


def _fragment(problem: Problem, x: Array, y: Array) -> TableFragment:
    return table_from_arrays(x, y, features=problem.features, units=problem.units, target=problem.target)


def spoil(problem: Problem, machine: Machine, target: Path, order: MixtureOrder, how: str) -> None:
    """Put a spoiled fit in place of a good one."""
    x, y = machine.train.x, machine.train.y
    if how == "shuffled":
        y = np.random.default_rng([order.seed, 17]).permutation(y)
    fit, table = fit_table(_fragment(problem, x, y), order)
    if how != "shuffled":
        gate, experts = fit.mixture.gate, fit.mixture.experts
        first = {"lost": [1, 1], "swapped": [1, 0]}[how]
        fit = replace(fit, mixture=Mixture(gate, experts.select([*first, *range(2, experts.n_experts)])))
    release(fit, table, target, order, overwrite=True)


# Methods -------------------------------------------------------------------------


def methods(n_experts: int) -> dict[str, Any]:
    """Every composition by the name of its row."""
    return {
        "reduction": Reduction(n_experts),
        "reduction_logit": Reduction(n_experts, gate="logit"),
        "reduction_projection": Reduction(n_experts, gate="projection"),
        "reduction_precision": Reduction(n_experts, experts="precision"),
        "reduction_rows": Reduction(n_experts, weights="rows"),
        "reduction_twice_experts": Reduction(2 * n_experts),
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
    rng, found = np.random.default_rng([seed, 5]), sent.locals()
    share = min(rows, SYNTHETIC_ROWS) / sum(local.rows for local in found)
    drawn = []
    for local in found:
        assert local.covariates is not None
        x = local.covariates.sample(max(1, round(local.rows * share)), rng)
        drawn.append((x, local.mixture.sample(x, rng)[0]))
    x, y = np.concatenate([x for x, _ in drawn]), np.concatenate([y for _, y in drawn])
    return fit_global(Rows(x, y[:, 0]), n_experts, seed)


def fit_global(rows: Rows, n_experts: int, seed: int) -> Mixture[Any]:
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


def one_seed(problem: Problem, spoiled: Spoils, work: Path, seed: int) -> dict[str, Any]:
    """Scores and costs of every method on one seed."""
    _say(f"{problem.name}-{seed}: local fits")
    sent = send(problem, spoiled, work, seed)
    pooled = problem.pooled
    _say(f"{problem.name}-{seed}: global fit")
    together, cpu, wall = timed(lambda: fit_global(pooled, problem.n_experts, seed))
    numbers = float(pooled.x.size + pooled.y.size)
    costs = {"cpu_seconds": cpu, "wall_seconds": wall, "learning_cpu_seconds": cpu, "bytes_sent": 8 * numbers}
    rows: dict[str, Any] = {"global": score(together, problem) | costs, "local": _locals(sent, problem)}
    composites: dict[str, Any] = {}
    for name, method in methods(problem.n_experts).items():
        _say(f"{problem.name}-{seed}: {name}")
        precision = "precision" in method.needs()
        try:
            composite, cpu, wall = timed(lambda m=method, p=precision: _composed(sent, m, p))
        except QuiltworkError as error:
            rows[name] = {"refused": str(error)}
            continue
        composites[name], solution = composite, composite.solution
        rows[name] = score(composite.mixture, problem) | _costs(sent, precision, cpu, wall)
        rows[name] |= {"excluded": dict(solution.excluded), "notes": list(solution.notes)}
        rows[name] |= {"steps": float(len(solution.objective))} | _without_spoiled(composite, sent, problem, rows[name])
    _say(f"{problem.name}-{seed}: refit")
    again, cpu, wall = timed(lambda: refit(sent, problem.n_experts, len(pooled.y), seed))
    rows["synthetic_refit"] = score(again, problem) | _costs(sent, False, cpu, wall)
    if problem.truth is not None:
        rows["truth"] = score(true_mixture(problem), problem)
    rows["reduction"] |= advise(composites, together, problem)
    return rows


def _composed(sent: Sent, method: Any, precision: bool) -> Any:
    composite = compose(sent.read(precision), method)
    _ = composite.solution
    return composite


def _locals(sent: Sent, problem: Problem) -> dict[str, float]:
    """Machines alone, the spoiled ones left out: mean, best and worst; costs of one machine."""
    scores = [score(local.mixture, problem) for local in sent.locals() if local.party not in sent.spoiled]
    found = {name: statistics.fmean(s[name] for s in scores) for name in set.intersection(*map(set, scores))}
    levels, cpu = [s["loglik_per_row"] for s in scores], sent.cpu[False]
    found |= {"loglik_per_row_best": max(levels), "loglik_per_row_worst": min(levels)}
    found |= {"cpu_seconds": statistics.fmean(cpu), "learning_cpu_seconds": max(cpu), "cpu_seconds_total": sum(cpu)}
    return found | {"wall_seconds": max(sent.wall[False]), "bytes_sent": 0.0}


def _costs(sent: Sent, precision: bool, cpu: float, wall: float) -> dict[str, float]:
    return {
        "cpu_seconds": sum(sent.cpu[precision]) + cpu,
        "wall_seconds": max(sent.wall[precision]) + wall,
        "learning_cpu_seconds": max(sent.cpu[precision]) + cpu,
        "compose_seconds": cpu,
        "bytes_sent": float(sum(contribution.bytes for contribution in sent.read(precision))),
    }


def _without_spoiled(composite: Any, sent: Sent, problem: Problem, row: dict[str, Any]) -> dict[str, float]:
    """What the spoiled fits changed: log-likelihood per row with them, less that of never having had them."""
    if not sent.spoiled:
        return {}
    for party in sent.spoiled:
        composite = composite.without(party)
    test = problem.test
    clean = float(composite.mixture.log_density(test.x, test.y[:, None]).mean())
    return {"bad_effect": row["loglik_per_row"] - clean, "loglik_per_row_clean": clean}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
