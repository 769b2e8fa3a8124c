"""Search over placements and the hypervolume over owners."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.hypervolume import hypervolume
from quiltwork.evaluate.placement import search

LOSSES = st.floats(0, 1, width=32)


def by_inclusion_and_exclusion(rows, reference):
    total = 0.0
    for size in range(1, len(rows) + 1):
        for chosen in combinations(rows, size):
            sides = [max(r - max(column), 0) for r, column in zip(reference, zip(*chosen, strict=True), strict=True)]
            total += (-1) ** (size + 1) * float(np.prod(sides))
    return total


@settings(max_examples=60)
@given(st.integers(1, 4).flatmap(lambda d: st.lists(st.lists(LOSSES, min_size=d, max_size=d), min_size=1, max_size=5)))
def test_hypervolume_is_that_of_the_union_of_boxes(rows):
    reference = [0.9] * len(rows[0])
    assert hypervolume(rows, reference) == pytest.approx(by_inclusion_and_exclusion(rows, reference), abs=1e-9)


def test_what_is_beaten_or_beyond_the_reference_adds_nothing():
    rows = [(0.1, 0.3), (0.3, 0.1)]
    whole = hypervolume(rows, (0.5, 0.5))
    assert hypervolume([*rows, (0.35, 0.35), (0.05, 0.6), (0.1, 0.3)], (0.5, 0.5)) == whole
    assert hypervolume([*rows, (0.15, 0.15)], (0.5, 0.5)) > whole
    assert hypervolume([], (0.5, 0.5)) == 0


@pytest.mark.parametrize("rows", [[(0.1,)], [(0.1, float("nan"))], [(0.1, 0.2, 0.3)]])
def test_rows_that_cannot_be_compared_are_refused(rows):
    with pytest.raises(InvalidOption, match="hypervolume"):
        hypervolume(rows, (0.5, 0.5))


TABLE = {
    "A": {"ash": 0.1, "birch": 0.6},
    "B": {"ash": 0.6, "birch": 0.1},
    "ensemble": {"ash": 0.3, "birch": 0.3},
    "stitched": {"ash": 0.2, "birch": 0.25},
}


def test_the_front_is_over_owners_and_never_an_average():
    found = search(list(TABLE), TABLE.__getitem__)
    assert found.front == ["A", "B", "stitched"]
    assert found.hypervolume(["A", "B", "ensemble", "stitched"]) > found.hypervolume(["A", "B", "ensemble"])
    assert found.owners == ("ash", "birch")


def test_cost_keeps_what_is_cheap_on_the_front():
    costs = {"A": 1.0, "B": 1.0, "ensemble": 2.0, "stitched": 3.0}
    found = search(list(TABLE), TABLE.__getitem__, cost=costs.__getitem__)
    assert found.front == list(TABLE)


def test_models_evaluated_for_other_owners_are_refused():
    with pytest.raises(InvalidOption, match="model 'B'"):
        search(["A", "B"], lambda name: {"ash": 0.1} if name == "B" else TABLE[name])
    for names in ([], ["A", "A"]):
        with pytest.raises(InvalidOption, match="named twice"):
            search(names, TABLE.__getitem__)
