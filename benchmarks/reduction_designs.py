"""The tables of the reduction benchmark: three generated designs with a known truth, and public tables cut by owner.

``paper``   the simulation of arXiv 2312.09877: true parameters from its public repository (commit b4bb897,
            ``data/param_MU.mat``); the law of x is not given there, N(0, 0.5^|i-j|) is this benchmark's assumption
``hard``    crossing experts, two of them nearly the same, shares from 1/2 to 1/20
``shifted`` rows sorted along a noisy direction of x, machines of different size
real        folders of ``--data``, see ``REAL``; every fourth block of rows is kept to judge by

A machine's name says nothing about its rows; the tests of all machines together are the pooled test.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quiltwork.datasets.regimes import Truth, regime

Array = NDArray[np.float64]
Parts = tuple[tuple[str, ...], tuple[str, ...], str, dict[str, tuple[Array, Array]]]
"""Names of features, their units, name of the target, and each machine's x and y."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one table; ``expert`` gave the response, ``group`` says which rows belong together, where known."""

    x: Array
    y: Array
    expert: NDArray[np.intp] | None = None
    group: NDArray[np.intp] | None = None


@dataclass(frozen=True, eq=False)
class Machine:
    name: str
    train: Rows
    test: Rows | None
    n_experts: int


@dataclass(frozen=True, eq=False)
class Problem:
    """What one seed of one design asks: machines with their rows, rows to judge by, the truth where there is one."""

    name: str
    features: tuple[str, ...]
    units: tuple[str, ...]
    target: str
    machines: tuple[Machine, ...]
    test: Rows
    truth: Truth | None
    n_experts: int

    @property
    def pooled(self) -> Rows:
        parts = [machine.train for machine in self.machines]
        return Rows(np.concatenate([p.x for p in parts]), np.concatenate([p.y for p in parts]))


# Generated -----------------------------------------------------------------------

_B0 = (-10, -5, 5, 10)
_B = (
    (4, 2, 6, 10, -5, -3, 1, 1, 7, -8, -8, 7, 10, 1, 6, -10, -7, -6, 10, 6),
    (-7, 6, 8, 9, -9, -8, -10, 5, -3, -7, -2, 0, 0, -2, 1, 4, 7, 4, 9, -7),
    (9, 1, 7, 6, -6, -3, -9, -5, 7, 3, -4, 5, 5, -7, 9, 5, -3, -3, 8, -9),
    (7, 10, -6, 0, -7, -4, -7, 3, -4, 6, -5, -3, -7, 4, -1, -3, 6, 8, 3, 6),
)
_A0 = (0, 2, 2, 0)
_A = (
    (-1, 1, 0, 0, 2, 1, 2, 0, 2, 1, 1, 2, 2, -2, -2, 1, -2, 2, -2, -1),
    (-1, 1, -1, 2, 1, 0, 0, 0, 0, -2, -2, -1, 1, -1, -1, 2, 0, 0, 1, -2),
    (-1, 1, 0, -1, -2, 2, 2, -2, -2, 0, -2, -1, -1, 1, -1, 1, 0, -1, -2, 0),
    (0,) * 20,
)
_S2 = (4, 5, 4, 5)


def paper_truth() -> Truth:
    gate = np.column_stack([_A0, _A]).astype(float)
    coefficients = np.column_stack([_B0, _B]).astype(float)[:, None, :]
    return Truth(gate, coefficients, np.array(_S2, dtype=float)[:, None])


def generated(
    name: str, rows: int, machines: int, seed: int, *, different_experts: bool = False, test_rows: int = 50_000
) -> Problem:
    kind = {"paper": "even", "hard": "hard", "shifted": "shifted"}[name]
    truth = None if name == "hard" else paper_truth()
    drawn = regime(
        kind,  # type: ignore[arg-type]
        machines=machines,
        rows=rows,
        features=6,
        test_rows=test_rows,
        truth=truth,
        different_experts=different_experts,
        seed=seed,
    )
    parts = zip(drawn.pieces, drawn.n_experts, strict=True)
    d = drawn.truth.n_features
    return Problem(
        name=f"{name}-different" if different_experts else name,
        features=tuple(f"x{j + 1}" for j in range(d)),
        units=("",) * d,
        target="y",
        machines=tuple(
            Machine(f"m{m:03d}", Rows(piece.x, piece.y, piece.expert), None, k) for m, (piece, k) in enumerate(parts)
        ),
        test=Rows(drawn.test.x, drawn.test.y, drawn.test.expert),
        truth=drawn.truth,
        n_experts=drawn.truth.n_experts,
    )


# Real ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """How a public table becomes machines.

    ``block`` rows that follow each other stay together when test rows are chosen, so that neighbours in time are not
    on both sides.
    """

    folder: str
    read: Callable[[Path], Parts]
    n_experts: int
    block: int
    origin: str


def real(name: str, data: Path, seed: int) -> Problem:
    source = REAL[name]
    features, units, target, parts = source.read(data / source.folder)
    rng = np.random.default_rng([seed, 3])
    machines = []
    for party, (x, y) in parts.items():
        block = np.arange(len(y)) // source.block
        held = rng.permutation(block[-1] + 1) % 4 == 0
        test = held[block]
        mine = Rows(x[~test], y[~test]), Rows(x[test], y[test], group=block[test])
        machines.append(Machine(party, *mine, source.n_experts))
    tests = [machine.test for machine in machines if machine.test is not None]
    pooled = Rows(np.concatenate([t.x for t in tests]), np.concatenate([t.y for t in tests]))
    return Problem(name, features, units, target, tuple(machines), pooled, None, source.n_experts)


def _table(path: Path, delimiter: str = ",") -> dict[str, list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    return dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))


def _numbers(values: Iterable[str]) -> Array:
    return np.array([float(v) if v not in ("NA", "") else math.nan for v in values])


def _circle(angle: Array) -> tuple[Array, Array]:
    return np.sin(2 * np.pi * angle), np.cos(2 * np.pi * angle)


def _complete(x: Array, y: Array) -> tuple[Array, Array]:
    whole = np.isfinite(x).all(axis=1) & np.isfinite(y)
    return x[whole], y[whole]


_WIND = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")


def _beijing(folder: Path) -> Parts:
    names = ["TEMP", "PRES", "DEWP", "WSPM", "hour_sin", "hour_cos", "season_sin", "season_cos", "wind_sin", "wind_cos"]
    units = ("degC", "hPa", "degC", "m/s", *[""] * 6)
    parts = {}
    for path in sorted(folder.glob("*.csv.gz")):
        t = _table(path)
        wind = np.array([_WIND.index(w) / 16 if w in _WIND else math.nan for w in t["wd"]])
        season = (_numbers(t["month"]) - 1 + (_numbers(t["day"]) - 1) / 31) / 12
        columns = [_numbers(t[name]) for name in names[:4]]
        x = np.column_stack([*columns, *_circle(_numbers(t["hour"]) / 24), *_circle(season), *_circle(wind)])
        parts[path.name.split(".")[0].lower()] = _complete(x, np.log1p(_numbers(t["PM2.5"])))
    return tuple(names), units, "log1p_pm25", parts


def _mmash(folder: Path) -> Parts:
    """Heart rate of ten-second windows from posture, steps now and before, and the hour."""
    names = ("steps", "steps_minute", "steps_quarter", "standing", "sitting", "lying", "hour_sin", "hour_cos")
    units = ("1/s", "1/s", "1/s", "", "", "", "", "")
    parts = {}
    for path in sorted(folder.glob("subject_*__actigraph.txt.gz")):
        t = _table(path)
        seconds = np.array([int(v[11:13]) * 3600 + int(v[14:16]) * 60 + int(v[17:19]) for v in t["Time"]])
        posture = [_numbers(t[f"Inclinometer {word}"]) for word in ("Standing", "Sitting", "Lying")]
        raw = np.column_stack([_numbers(t["Steps"]), *posture, _numbers(t["Heart rate (BPM)"]), seconds])
        windows = raw[: len(raw) // 10 * 10].reshape(-1, 10, 6).mean(axis=1)
        steps, rate = windows[:, 0], windows[:, 4]
        past = [np.convolve(steps, np.r_[np.zeros(w), np.ones(w + 1)], "same") / (w + 1) for w in (6, 90)]
        x = np.column_stack([steps, *past, windows[:, 1:4], *_circle(windows[:, 5] / 86400)])
        x, y = _complete(x, np.where(rate > 30, rate, math.nan))
        parts[path.name.split("__")[0].replace("_", "-")] = x, y
    return names, units, "heart_rate", parts


def _bike(folder: Path) -> Parts:
    t = {name: _numbers(v) for name, v in _table(folder / "hour.csv.gz").items() if name != "dteday"}
    names = ("temp", "hum", "windspeed", "workingday", "yr", "weathersit")
    angles = ("hour_sin", "hour_cos", "half_sin", "half_cos", "season_sin", "season_cos")
    circles = [*_circle(t["hr"] / 24), *_circle(t["hr"] / 12), *_circle(t["mnth"] / 12)]
    x = np.column_stack([*[t[name] for name in names], *circles])
    return names + angles, ("",) * x.shape[1], "log1p_count", _by_quantile(x, np.log1p(t["cnt"]), 0)


def _uci(file: str, cut: int) -> Callable[[Path], Parts]:
    def read(folder: Path) -> Parts:
        with gzip.open(folder / file, "rt", encoding="utf-8") as text:
            rows = np.loadtxt(io.StringIO(text.read()))
        x, y = rows[:, :-1], rows[:, -1]
        return tuple(f"x{j + 1}" for j in range(x.shape[1])), ("",) * x.shape[1], "y", _by_quantile(x, y, cut)

    return read


def _by_quantile(x: Array, y: Array, column: int, machines: int = 8) -> dict[str, tuple[Array, Array]]:
    """Machines by quantile of one column; rows of a machine in a random order, since theirs means nothing then."""
    order = np.random.default_rng(0).permutation(len(y))
    order = order[np.argsort(x[order, column], kind="stable")]
    rng = np.random.default_rng(1)
    parts = [rng.permutation(part) for part in np.array_split(order, machines)]
    return {f"q{m + 1}": (x[part], y[part]) for m, part in enumerate(parts)}


def _parkinsons(folder: Path) -> Parts:
    t = _table(folder / "parkinsons_updrs.data.gz", "\t")
    names = ("test_time", "Jitter(%)", "Shimmer", "NHR", "HNR", "RPDE", "DFA", "PPE")
    units = ("d", "%", "", "", "dB", "", "", "")
    x, y = np.column_stack([_numbers(t[name]) for name in names]), _numbers(t["total_UPDRS"])
    subject = _numbers(t["subject#"]).astype(int)
    features = tuple(name.lower().replace("(%)", "") for name in names)
    parts = {f"patient-{s:02d}": (x[subject == s], y[subject == s]) for s in np.unique(subject)}
    return features, units, "total_updrs", parts


REAL = {
    "beijing": Source("beijing_air_12sites", _beijing, 4, 24 * 7, "UCI Beijing Multi-Site Air Quality, 12 stations"),
    "mmash": Source("mmash_10subjects", _mmash, 4, 180, "PhysioNet MMASH, 10 subjects, reformatted"),
    "bike": Source("bike_sharing", _bike, 4, 1, "UCI Bike Sharing, hours, by quantile of temperature"),
    "power": Source("uci_regression", _uci("power-plant.txt.gz", 0), 3, 1, "UCI Combined Cycle Power, by temperature"),
    "kin8nm": Source("uci_regression", _uci("kin8nm.txt.gz", 2), 4, 1, "Delve kin8nm, by its third joint angle"),
    "parkinsons": Source("parkinsons_telemonitoring", _parkinsons, 1, 6, "UCI Parkinsons Telemonitoring, 42 patients"),
}
