"""What a fit under noise is worth: held-out log-likelihood a row against rows, price and number of features.

    python benchmarks/private_mixture.py --seeds 10 --json benchmarks/results/private_mixture.json

Two linear experts that cross, covariates N(0, I), bounds as a careful owner would declare them (centre 0, scale 1,
2 for the response), delta 1e-6, 20 looks at the rows. Each figure is the median over seeds, and the worst. Beside them
stand the fit without noise, one straight line without noise, and the reduction of 16 machines that each fit under noise
(covariates released at epsilon 1 on top). A table of all goes beside OUT, with the suffix .md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from quiltwork.compose.method import compose
from quiltwork.compose.reduction import Reduction
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor
from quiltwork.party.mixture import MixtureOrder, contribute_mixture
from quiltwork.party.private_em import PrivateFit, fit_privately
from quiltwork.party.table import table_from_arrays
from quiltwork.party.table_rows import Rows

DELTA = 1e-6
PRICES = (8.0, 3.0, 1.0)
MACHINES = 16


def truth(features: int) -> Mixture:
    rng = np.random.default_rng(0)
    gate = np.zeros((2, 1 + features))
    gate[0, 1] = 2.0
    coefficients = rng.normal(size=(2, 1, 1 + features))
    coefficients[:, 0, :2] = [[1.5, 1.0], [-1.5, -1.0]]
    return Mixture(SoftmaxGate(gate), GaussianExperts(coefficients, np.full((2, 1), 0.25)))


def draw(law: Mixture, rows: int, seed: int) -> Rows:
    rng = np.random.default_rng([seed, rows])
    x = rng.normal(size=(rows, law.n_features))
    return Rows(x, law.sample(x, rng)[0])


def bounds(columns: int, epsilon: float) -> ClippedGaussian:
    scale = np.append(np.ones(columns - 1), 2.0)
    return ClippedGaussian(np.zeros(columns), scale, epsilon, DELTA)


def one_line(rows: Rows, test: Rows) -> float:
    wide, held = (np.column_stack([np.ones(len(r)), r.x]) for r in (rows, test))
    solution = np.linalg.lstsq(wide, rows.y)[0]
    variance = float(((rows.y - wide @ solution) ** 2).mean())
    return -0.5 * (math.log(2 * math.pi * variance) + float(((test.y - held @ solution) ** 2).mean()) / variance)


def composed(law: Mixture, rows: int, epsilon: float, seed: int, test: Rows) -> float:
    d = law.n_features
    summary = ClippedGaussian(np.zeros(d), np.ones(d), 1.0, DELTA)
    with tempfile.TemporaryDirectory() as work:
        sent = []
        for machine in range(MACHINES):
            name = f"m{machine}"
            order = MixtureOrder(
                name, covariates=summary, private=PrivateFit(bounds(d + 1, epsilon)), seed=MACHINES * seed + machine
            )
            own = draw(law, rows, 1000 * seed + machine)
            sent.append(contribute_mixture(table_from_arrays(own.x, own.y), Path(work) / name, order))
        mixture = compose(sent, Reduction(n_experts=2)).mixture
        return float(mixture.log_density(test.x, test.y).mean())


def measured(features: int, rows: int, seeds: int) -> dict[str, list[float]]:
    law = truth(features)
    test = draw(law, 10_000, 99)
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        own = draw(law, rows, seed)
        found.setdefault("one_line", []).append(one_line(own, test))
        exact = MixtureOfExpertsRegressor(2, random_state=seed).fit(own.x, own.y[:, 0]).mixture_
        found.setdefault("no_noise", []).append(float(exact.log_density(test.x, test.y).mean()))
        for epsilon in PRICES:
            fit = fit_privately(own, 2, PrivateFit(bounds(features + 1, epsilon)), seed)
            value = float(fit.mixture.log_density(test.x, test.y).mean())
            found.setdefault(f"epsilon_{epsilon:g}", []).append(value)
        if seed < 3 and rows <= 10_000:
            for epsilon in PRICES:
                value = composed(law, rows, epsilon, seed, test)
                found.setdefault(f"epsilon_{epsilon:g}_of_16", []).append(value)
    return found


def page(results: dict[str, dict[str, list[float]]]) -> str:
    names = ["no_noise", *(f"epsilon_{e:g}" for e in PRICES), *(f"epsilon_{e:g}_of_16" for e in PRICES), "one_line"]
    lines = [f"| design | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for design, found in results.items():
        cells = [f"{statistics.median(found[n]):.3f} ({min(found[n]):.3f})" if n in found else "" for n in names]
        lines.append(f"| {design} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", required=True)
    given = parser.parse_args()
    results = {
        f"d={features} n={rows}": measured(features, rows, given.seeds)
        for features in (2, 5)
        for rows in (1000, 10_000, 100_000)
    }
    machine = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    record = {"machine": machine, "seeds": given.seeds, "results": results}
    Path(given.json).write_text(json.dumps(record, indent=1) + "\n")
    title = f"Log-likelihood a held-out row, nats: median (worst) of {given.seeds} seeds. {machine}."
    Path(given.json).with_suffix(".md").write_text(f"# A fit under noise\n\n{title}\n\n{page(results)}")
    print(page(results))


if __name__ == "__main__":
    main()
