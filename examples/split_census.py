"""Two owners hold different columns of the same people: a bureau what they are, an employer what they do.

    python examples/split_census.py [FOLDER]

FOLDER holds adult.data of "Adult" (UCI, Kohavi 1996): 15 columns without a header, the last of them the income class.
Without it a stand-in of that layout is drawn, and said to be one. Words become a column each.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quiltwork.session.split.estimators import SplitClassifier

OWNERS = {
    "bureau": {"age": 0, "education": 4, "marital": 5, "relationship": 7, "sex": 9},
    "employer": {"workclass": 1, "occupation": 6, "gain": 10, "loss": 11, "hours": 12},
}
NUMBERS = {0, 4, 10, 11, 12}
INCOME = 14


def main(folder: Path | None = None, rows: int = 2000, epochs: int = 10) -> None:
    people = read(folder, rows) if folder else drawn(rows)
    print("people as given" if folder else "no folder is given: the people are drawn, and their scores mean nothing")
    income = np.array([person[INCOME].strip(" .") == ">50K" for person in people]).astype(int)
    tables = {owner: columns(people, numbered) for owner, numbered in OWNERS.items()}
    cut = len(people) * 3 // 4
    train, test = ({owner: x[part] for owner, x in tables.items()} for part in (slice(cut), slice(cut, None)))
    print(f"commonest class: {max(income[cut:].mean(), 1 - income[cut:].mean()):.3f}")
    for mode in ("isolated", "joint"):
        fit = SplitClassifier(mode, epochs=epochs).fit(train, income[:cut])
        print(f"{mode}: {fit.score(test, income[cut:]):.3f}")
        if mode == "isolated":
            for owner in OWNERS:
                print(f"    {owner} alone: {fit.score({owner: test[owner]}, income[cut:]):.3f}")


def columns(people: list[list[str]], numbered: dict[str, int]) -> NDArray[np.float64]:
    """Numbers as they are, large ones by their logarithm; a column of 0 and 1 for each word."""
    found = []
    for at in numbered.values():
        values = [person[at].strip() for person in people]
        if at in NUMBERS:
            found.append(np.log1p(np.array(values, dtype=np.float64)))
        else:
            found += [np.array([value == word for value in values], dtype=np.float64) for word in sorted(set(values))]
    return np.column_stack(found)


def read(folder: Path, rows: int) -> list[list[str]]:
    with (folder / "adult.data").open(newline="") as file:
        return [person for person in csv.reader(file) if len(person) > INCOME][:rows]


def drawn(rows: int) -> list[list[str]]:
    """People of the same layout, whose income depends on columns of both owners."""
    draw = np.random.default_rng(0)
    people = []
    for _ in range(rows):
        person = ["0"] * (INCOME + 1)
        age, years, hours = draw.integers(18, 80), draw.integers(1, 17), draw.integers(10, 70)
        person[0], person[4], person[12] = str(age), str(years), str(hours)
        person[1], person[6] = draw.choice(["Private", "State-gov"]), draw.choice(["Sales", "Tech-support"])
        person[5], person[7] = draw.choice(["Married", "Divorced"]), draw.choice(["Husband", "Wife", "Own-child"])
        person[9] = draw.choice(["Female", "Male"])
        score = 0.4 * (years - 10) + 0.05 * (hours - 40) + (person[6] == "Tech-support") - 1 + draw.logistic()
        person[INCOME] = ">50K" if score > 0 else "<=50K"
        people.append(person)
    return people


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
