"""Small plans of split learning with their files, for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PLAN = """
id = "case"
[labels]
files = ["labels.csv"]
column = "y"
[parties.bank]
files = ["bank.csv"]
component = {{ kind = "mlp", hidden = [8], width = 4 }}
[parties.shop]
files = ["shop.csv"]
component = {{ kind = "mlp", hidden = [8], width = 4 }}
[composer]
hidden = [16]
[training]
mode = "{mode}"
epochs = {epochs}
batch_size = 32
seed = 3
{more}
"""


def xor(rows: int = 240) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Two parties with one bit each and a column of noise; the label is the bits' sum modulo two."""
    draw = np.random.default_rng(11)
    # equally many rows of each pair, so that no bit alone tells anything
    bits = draw.permutation(np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (rows // 4, 1)))
    noise = draw.normal(scale=0.1, size=(rows, 2, 2))
    tables = {p: np.column_stack([2.0 * bits[:, i] - 1, noise[:, i, 0]]) for i, p in enumerate(("bank", "shop"))}
    return tables, bits.sum(1) % 2


def additive(rows: int = 240) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Two parties with two columns each; each tells something of the label."""
    draw = np.random.default_rng(12)
    tables = {p: draw.normal(size=(rows, 2)) for p in ("bank", "shop")}
    return tables, (tables["bank"][:, 0] + tables["shop"][:, 0] > 0).astype(np.int64)


def write_csv(path: Path, ids: list[str] | None, columns: dict[str, list[object]]) -> None:
    names = [*(["case"] if ids is not None else []), *columns]
    rows = zip(*([ids] if ids is not None else []), *columns.values(), strict=True)
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")


def table_csv(path: Path, ids: list[str] | None, table: NDArray[np.float64]) -> None:
    write_csv(path, ids, {f"x{j}": [repr(float(v)) for v in column] for j, column in enumerate(table.T)})


def plan(
    place: Path,
    data: tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]],
    mode: str = "isolated",
    epochs: int = 8,
    more: str = "",
) -> Path:
    """A plan and its files, each party's rows in an order of its own."""
    tables, labels = data
    ids = [f"c{i:04d}" for i in range(len(labels))]
    for number, (party, table) in enumerate(tables.items()):
        order = np.random.default_rng(number).permutation(len(ids))
        table_csv(place / f"{party}.csv", [ids[i] for i in order], table[order])
    write_csv(place / "labels.csv", ids, {"y": list(labels)})
    (place / "plan.toml").write_text(PLAN.format(mode=mode, epochs=epochs, more=more))
    return place / "plan.toml"
