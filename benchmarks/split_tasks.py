"""Tables in fragments: the same cases at several owners, a label, and the rows to train on and to judge by."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from quiltwork.session.split.programs import Fold, total


@dataclass(frozen=True)
class Task:
    """One table.

    Attributes:
        name: of it.
        fragments: float32 ``[n, p_i]`` by owner.
        labels: int64 ``[n]``.
        classes: their number.
        train: positions to train on.
        test: positions to judge by.
        epochs: passes over the training rows.
        program: what makes the label of the fragments' symbols, where that is known.
    """

    name: str
    fragments: Mapping[str, Tensor]
    labels: Tensor
    classes: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    epochs: int
    program: Fold | None = None

    def heard(self, *positions: NDArray[np.int64]) -> Tensor:
        """Labels of some positions, -1 elsewhere, so that what is not to be trained on cannot be."""
        found = torch.full_like(self.labels, -1)
        for part in positions:
            found[part] = self.labels[part]
        return found


def tasks(data: Path) -> dict[str, Callable[[int], Task]]:
    """Every task by name, as a function of the seed that parts its rows."""
    return {
        "digits": digits,
        "mfeat": lambda seed: mfeat(data, seed),
        "adult": lambda seed: adult(data, seed),
        "digit sum": digit_sum,
        "xor": xor,
    }


def digits(seed: int) -> Task:
    """Four owners of a quarter of an image each; 1297 rows to train on, 500 to judge by."""
    images, labels = load_digits(return_X_y=True)
    square = (images / 16).reshape(-1, 8, 8)
    corners = {"NW": (0, 0), "NE": (0, 4), "SW": (4, 0), "SE": (4, 4)}
    parts = {name: square[:, r : r + 4, c : c + 4].reshape(-1, 16) for name, (r, c) in corners.items()}
    return _task("digits", parts, labels, seed, test=500, epochs=30)


def mfeat(data: Path, seed: int) -> Task:
    """Six owners of another description each of the same 2000 written digits; 1500 rows to train on."""
    with np.load(data / "mfeat" / "mfeat.npz") as file:
        parts = {name: file[name] for name in file.files if name != "y"}
        labels = file["y"]
    return _task("mfeat", parts, labels, seed, test=500, epochs=30)


def adult(data: Path, seed: int, rows: int = 10_000, test: int = 2_500) -> Task:
    """A registry and an employer; as many rows as are asked for, drawn from both public files."""
    table = [line for part in ("train", "test") for line in _lines(data / "adult" / f"adult-{part}.csv.gz")]
    chosen = [table[i] for i in np.random.default_rng([seed, 1]).choice(len(table), rows, replace=False)]
    registry = np.hstack([_number(chosen, 0), *(_one_hot(chosen, c, table) for c in (5, 7, 8, 9, 13))])
    gains = np.log1p(np.hstack([_number(chosen, 10), _number(chosen, 11)]))
    work = [_number(chosen, 4), _number(chosen, 12), gains, *(_one_hot(chosen, c, table) for c in (1, 6))]
    labels = np.array([line[14].startswith(">") for line in chosen])
    return _task("adult", {"registry": registry, "employer": np.hstack(work)}, labels, seed, test=test, epochs=8)


def digit_sum(seed: int) -> Task:
    """Two owners of an image each, and the sum of both digits; training and test are of other images."""
    draw = np.random.default_rng([seed, 2])
    images, truth = load_digits(return_X_y=True)
    order = draw.permutation(len(images))
    cases = np.concatenate([draw.choice(order[:1297], (6000, 2)), draw.choice(order[1297:], (1000, 2))])
    program = total([10, 10])
    parts = {owner: _float(images[column] / 16) for owner, column in zip(("ash", "birch"), cases.T, strict=True)}
    labels = torch.from_numpy(program.apply(truth[cases]))
    rows = np.arange(7000, dtype=np.int64)
    return Task("digit sum", parts, labels, 19, rows[:6000], rows[6000:], 8, program)


def xor(seed: int) -> Task:
    """Two owners of a sign each, behind noise; the label is whether the signs differ."""
    draw = np.random.default_rng([seed, 3])
    bits = draw.integers(0, 2, (3000, 2))
    parts = {
        owner: draw.normal(size=(3000, 4)) * 0.4 + (2 * bit[:, None] - 1)
        for owner, bit in zip(("ash", "birch"), bits.T, strict=True)
    }
    return _task("xor", parts, bits.sum(1) % 2, seed, test=1000, epochs=10)


def _task(
    name: str, parts: Mapping[str, NDArray[np.float64]], labels: NDArray[np.int64], seed: int, *, test: int, epochs: int
) -> Task:
    order = np.random.default_rng([seed, 4]).permutation(len(labels)).astype(np.int64)
    fragments = {party: _float(table) for party, table in sorted(parts.items())}
    numbers = torch.from_numpy(np.asarray(labels).astype(np.int64))
    return Task(name, fragments, numbers, int(numbers.max()) + 1, np.sort(order[test:]), np.sort(order[:test]), epochs)


def _float(table: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(table, dtype=np.float32))


def _lines(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", newline="") as file:
        return [[cell.strip() for cell in line] for line in csv.reader(file) if len(line) == 15]


def _number(lines: list[list[str]], column: int) -> NDArray[np.float64]:
    return np.array([[float(line[column])] for line in lines])


def _one_hot(lines: list[list[str]], column: int, table: list[list[str]]) -> NDArray[np.float64]:
    kinds = sorted({line[column] for line in table})
    return np.array([[float(line[column] == kind) for kind in kinds] for line in lines])
