"""Four owners hold a quadrant each of the same images of digits, and learn to read them on the command line.

    python examples/split_quadrants.py [DIRECTORY]

Writes each owner's columns, the labels and a plan, then runs `quiltwork split train`, `predict` with one owner down,
and `audit --retrain`, which trains again, with noise for the others' quadrants too. The directory is a temporary one
if none is given.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

OWNERS = {"north-west": (0, 0), "north-east": (0, 4), "south-west": (4, 0), "south-east": (4, 4)}
TRAIN = 1297


def main(place: Path, epochs: int = 20) -> None:
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    cases, digits = images.reshape(-1, 8, 8)[order], digits[order]
    write(place / "labels.csv", [["case", "digit"], *([i, y] for i, y in enumerate(digits[:TRAIN]))])
    for owner in OWNERS:
        write(place / f"{owner}.csv", quadrant(cases, owner, range(TRAIN)))
        write(place / f"new-{owner}.csv", quadrant(cases, owner, range(TRAIN, len(cases))))
    (place / "plan.toml").write_text(plan(epochs))
    trained = quiltwork("train", place, "--out", place / "run")
    print("on rows held out:", {name: round(score, 3) for name, score in trained["scores"].items()})
    for down in ([], ["south-east"]):
        up = [word for owner in OWNERS if owner not in down for word in ("--data", f"{owner}={place}/new-{owner}.csv")]
        quiltwork("predict", place, "--run", place / "run", *up, "--quorum", 3, "--out", place / "read.csv")
        right = np.mean([int(row["likeliest"]) == digits[int(row["id"])] for row in read(place / "read.csv")])
        print(f"{down[0] if down else 'nobody'} down: {right:.3f} of new images are read right")
    audit = quiltwork("audit", place, "--run", place / "run", "--retrain")
    for standing in audit["certificate"]["standings"]:
        title = audit["guarantees"][standing["number"]]["title"]
        print(f"{'held' if standing['held'] else 'not held'}: {standing['number']} {title}")


def quadrant(cases: NDArray[np.float64], owner: str, rows: range) -> list[list[object]]:
    """A header and an owner's rows, with ids."""
    top, left = OWNERS[owner]
    pixels = cases[:, top : top + 4, left : left + 4].reshape(len(cases), 16)
    return [["case", *(f"pixel{j}" for j in range(16))], *([i, *pixels[i]] for i in rows)]


def plan(epochs: int) -> str:
    parties = "".join(
        f'[parties.{owner}]\nfiles = ["{owner}.csv"]\ncomponent = {{ kind = "mlp", hidden = [32], width = 16 }}\n'
        for owner in OWNERS
    )
    return f"""id = "case"
[labels]
files = ["labels.csv"]
column = "digit"
{parties}[training]
mode = "isolated"
epochs = {epochs}
held_out = 0.15
"""


def quiltwork(verb: str, place: Path, *arguments: object) -> dict[str, Any]:
    words = [sys.executable, "-m", "quiltwork", "split", verb, place / "plan.toml", *arguments, "--json"]
    done = subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def write(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
