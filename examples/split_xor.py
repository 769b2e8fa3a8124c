"""Two owners hold one bit of each case; the label is their exclusive or, of which neither bit alone tells anything.

    python examples/split_xor.py

In isolated mode each owner learns from labels and its own bit alone, so that nothing about the other can reach it; here
that must fail, and the session says so. Joint mode learns it, and the price is told by its records: what each owner
receives depends on the other's bits.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from quiltwork.session.split.estimators import SplitClassifier


def main(rows: int = 1200, epochs: int = 15) -> None:
    bits = np.random.default_rng(0).permutation(np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (rows // 4, 1)))
    train, test = slice(0, rows * 2 // 3), slice(rows * 2 // 3, rows)
    isolated = SplitClassifier("isolated", epochs=epochs, held_out=0.25)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        isolated.fit(fragments(bits[train]), label(bits[train]))
    print(f"isolated: {isolated.score(fragments(bits[test]), label(bits[test])):.3f} of new cases right")
    for warning in said:
        print(f"it says: {warning.message}")
    joint = SplitClassifier("joint", epochs=epochs).fit(fragments(bits[train]), label(bits[train]))
    print(f"joint: {joint.score(fragments(bits[test]), label(bits[test])):.3f} of new cases right")
    print(f"what ash receives depends on: {', '.join(sorted(joint.run_.records().dependencies['ash']))}")


def fragments(bits: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Each owner's column, as -1 and 1."""
    return {owner: 2.0 * bits[:, [column]] - 1 for column, owner in enumerate(("ash", "birch"))}


def label(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return bits.sum(1) % 2


if __name__ == "__main__":
    main()
