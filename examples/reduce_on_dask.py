"""Local fits on a Dask cluster: one partition of a Parquet table a machine.

    python examples/reduce_on_dask.py OUT [SCHEDULER]

SCHEDULER is the address of a cluster whose workers see OUT and have quiltwork[dask]; without it, two workers are
started here. The contributions are the same bytes as from fits one after the other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import joblib
import pyarrow
from distributed import Client, LocalCluster
from pyarrow import parquet

from quiltwork.compose.method import compose
from quiltwork.compose.reduction import Reduction
from quiltwork.datasets.regimes import regime
from quiltwork.party.local_fits import fit_all
from quiltwork.party.mixture import MixtureOrder
from quiltwork.party.table import open_table


def main(out: str, scheduler: str | None = None) -> None:
    world = regime("shifted", machines=6, rows=6000, seed=1)
    partitions = write_partitions(Path(out) / "table", world)
    tables = {path.stem: open_table([path], target="y") for path in partitions}
    order = MixtureOrder("any", n_experts=world.truth.n_experts)
    with client(scheduler), joblib.parallel_config(backend="dask"):
        fits = fit_all(tables, order, Path(out) / "machines", progress=False)
    composite = compose(list(fits.contributions.values()), Reduction(n_experts=order.n_experts))
    composite.save(Path(out) / "composed")
    print(f"reduced {', '.join(composite.parties)}")


def write_partitions(folder: Path, world) -> list[Path]:
    """One file a machine; yours lie there already."""
    folder.mkdir(parents=True)
    paths = [folder / f"part-{number}.parquet" for number in range(len(world.pieces))]
    for path, piece in zip(paths, world.pieces, strict=True):
        columns = {f"x{j}": piece.x[:, j] for j in range(piece.x.shape[1])} | {"y": piece.y}
        parquet.write_table(pyarrow.table(columns), path)
    return paths


def client(scheduler: str | None) -> Client:
    """A client of the cluster at that address, or of two workers in this process."""
    if scheduler is not None:
        return Client(scheduler)
    return Client(LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"))


if __name__ == "__main__":
    main(*sys.argv[1:])
