"""Tables of machines as files, and the command that contributes from one."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from cli_runner import Outcome, done

from quiltwork.datasets.regimes import regime, with_shuffled_responses

NAMES = ("ash", "birch", "cedar", "dogwood", "elm")
FEATURES = ("height", "girth")
BAD = "dogwood"
"""Its responses belong to other rows."""
HONEST = tuple(name for name in NAMES if name != BAD)


def write_csv(path: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    """A table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def columns_of(x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """Covariates and response as named columns."""
    return {name: column.tolist() for name, column in zip((*FEATURES, "y"), (*x.T, y), strict=True)}


def machine_tables(place: Path) -> dict[str, Path]:
    """Five machines' tables, and ``test``: rows that no machine holds."""
    drawn = regime("even", machines=5, rows=5000, features=2, test_rows=800, seed=2)
    pieces = dict(zip(NAMES, drawn.pieces, strict=True))
    pieces[BAD] = with_shuffled_responses(pieces[BAD], seed=0)
    tables = {name: write_csv(place / f"{name}.csv", columns_of(p.x, p.y)) for name, p in pieces.items()}
    return tables | {"test": write_csv(place / "test.csv", columns_of(drawn.test.x, drawn.test.y))}


def contribute(data: Path, out: Path, party: str, *more: object) -> Outcome:
    """``quiltwork contribute mixture`` with four experts."""
    words = ("contribute", "mixture", "--data", data, "--target", "y", "--party", party, "--out", out)
    return done(*words, *(() if "--n-experts" in more else ("--n-experts", 4)), *more)
