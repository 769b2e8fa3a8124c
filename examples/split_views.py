"""Six owners hold six aligned views of the same handwritten digits, one each.

    python examples/split_views.py [FOLDER]

FOLDER holds the files of "Multiple Features" (UCI, van Breukelen et al. 1998): mfeat-fac, mfeat-fou, mfeat-kar,
mfeat-mor, mfeat-pix and mfeat-zer, 2000 rows each, numbers separated by blanks, 200 rows of each digit in turn. Without
it a stand-in of that layout is drawn, and said to be one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quiltwork.session.split.estimators import SplitClassifier

COLUMNS = {"fac": 216, "fou": 76, "kar": 64, "mor": 6, "pix": 240, "zer": 47}
DIGITS = 10


def main(folder: Path | None = None, each: int = 60, epochs: int = 10) -> None:
    views = read(folder) if folder else drawn(each)
    print("views as given" if folder else "no folder is given: the views are drawn, and their scores mean nothing")
    rows = len(views["fac"])
    labels = np.repeat(np.arange(DIGITS), rows // DIGITS)
    order = np.random.default_rng(0).permutation(rows)
    train, test = order[: rows * 3 // 4], order[rows * 3 // 4 :]
    for mode in ("isolated", "joint"):
        fit = SplitClassifier(mode, epochs=epochs).fit({v: x[train] for v, x in views.items()}, labels[train])
        new = {view: x[test] for view, x in views.items()}
        print(f"{mode}: {fit.score(new, labels[test]):.3f} of new digits read right by all six")
        if mode == "isolated":
            for view in COLUMNS:
                print(f"    {view} alone: {fit.score({view: new[view]}, labels[test]):.3f}")
            fit.leave("pix")
            del new["pix"]
            print(f"    after pix has left: {fit.score(new, labels[test]):.3f}")


def read(folder: Path) -> dict[str, NDArray[np.float64]]:
    """The six files."""
    return {view: np.loadtxt(folder / f"mfeat-{view}") for view in COLUMNS}


def drawn(each: int) -> dict[str, NDArray[np.float64]]:
    """Views of the same layout: a centre for each digit and view, and noise that hides much of it."""
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(DIGITS), each)
    centres = {view: draw.normal(size=(DIGITS, width)) for view, width in COLUMNS.items()}
    return {
        view: centres[view][labels] + draw.normal(scale=0.5 * np.sqrt(width), size=(len(labels), width))
        for view, width in COLUMNS.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
