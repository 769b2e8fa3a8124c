"""The Python story in one file: owners contribute, anyone composes, one leaves.

    python examples/compose_four_owners.py BASE OUT FRAGMENT...

BASE is a checkpoint directory (Olmo2 or Llama), each FRAGMENT a text file of one owner, named after it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.models.base import open_base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.training.loop import TrainingPlan


def main(base_path: str, out: str, *fragments: str) -> None:
    base = open_base(base_path)
    contributions = [
        contribute(
            base,
            open_fragment([fragment]),
            Path(out) / Path(fragment).stem,
            Order(party=Path(fragment).stem, plan=TrainingPlan(steps=20, batch_size=4, sequence_length=64)),
        )
        for fragment in fragments
    ]
    composite = compose(contributions, MixtureOfExperts(LearnedRows()), base)
    composite.save(Path(out) / "composed")
    leaver = composite.parties[0]
    composite.without(leaver).save(Path(out) / f"without-{leaver}")
    print(f"composed {', '.join(composite.parties)}; then took out {leaver}")


if __name__ == "__main__":
    main(*sys.argv[1:])
