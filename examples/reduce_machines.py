"""Machines fit apart, anyone reduces their mixtures to one, a machine leaves.

    python examples/reduce_machines.py OUT

Eight machines hold rows of one generated table. Each fits a mixture of experts next to its rows and releases a few
kilobytes; the reduction makes one mixture of them. No row leaves its machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quiltwork.compose.method import compose
from quiltwork.compose.reduction import Reduction
from quiltwork.composite import TableComposite
from quiltwork.datasets.regimes import Piece, regime
from quiltwork.party.local_fits import fit_all
from quiltwork.party.mixture import MixtureOrder
from quiltwork.party.table import table_from_arrays


def main(out: str) -> None:
    world = regime("even", machines=8, rows=8000, seed=1)
    tables = {f"m{number}": table_from_arrays(piece.x, piece.y) for number, piece in enumerate(world.pieces)}
    experts = world.truth.n_experts
    fits = fit_all(tables, MixtureOrder("any", n_experts=experts), Path(out) / "machines", progress=False)
    contributions = list(fits.contributions.values())
    reduction = Reduction(n_experts=experts)
    composite, alone = compose(contributions, reduction), compose(contributions[:1], reduction)
    composite.save(Path(out) / "composed")
    composite.without("m3").save(Path(out) / "without-m3")
    print(f"{len(contributions)} machines sent {sum(c.bytes for c in contributions)} bytes and no row")
    print(f"one machine alone: {score(alone, world.test):.3f} nats a row; all: {score(composite, world.test):.3f}")


def score(composite: TableComposite, rows: Piece) -> float:
    return float(composite.mixture.log_density(rows.x, rows.y[:, None]).mean())


if __name__ == "__main__":
    main(*sys.argv[1:])
