import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.pareto import dominates, front

ROWS = st.integers(1, 4).flatmap(
    lambda width: st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3),
        st.tuples(*[st.integers(0, 4).map(float)] * width),
        max_size=9,
    )
)


def brute_force(rows):
    """Domination straight from its definition, by counting columns."""
    kept = []
    for name, row in rows.items():
        beaten = False
        for other in rows.values():
            not_above = sum(o <= r for o, r in zip(other, row, strict=True))
            below = sum(o < r for o, r in zip(other, row, strict=True))
            beaten |= not_above == len(row) and below > 0
        if not beaten:
            kept.append(name)
    return kept


def wrong_front(rows):
    """A broken rule: best in at least one column. It drops compromises and must be told apart."""
    width = len(next(iter(rows.values()), ()))
    lowest = [min(row[j] for row in rows.values()) for j in range(width)]
    return [name for name, row in rows.items() if any(row[j] == lowest[j] for j in range(width))]


@given(ROWS)
def test_front_equals_brute_force(rows):
    assert front(rows) == brute_force(rows)


def test_brute_force_tells_a_broken_rule():
    rows = {"a": [0.0, 2.0], "b": [2.0, 0.0], "compromise": [1.0, 1.0]}
    assert front(rows) == brute_force(rows) == ["a", "b", "compromise"]
    assert wrong_front(rows) != front(rows)


@given(ROWS)
def test_every_row_off_the_front_is_beaten_by_one_on_it(rows):
    kept = front(rows)
    assert bool(kept) == bool(rows)
    for name, row in rows.items():
        assert name in kept or any(dominates(rows[k], row) for k in kept)


@given(ROWS)
def test_front_does_not_depend_on_order(rows):
    turned = dict(reversed(rows.items()))
    assert set(front(turned)) == set(front(rows))


@given(ROWS, st.floats(0.1, 10), st.floats(-5, 5))
def test_front_does_not_depend_on_units(rows, scale, shift):
    moved = {name: [scale * v + shift for v in row] for name, row in rows.items()}
    assert front(moved) == front(rows)


def test_ties_stay_together():
    assert front({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 3.0]}) == ["a", "b"]


def test_front_of_nothing_is_empty():
    assert front({}) == []


@pytest.mark.parametrize("rows", [{"a": [1.0], "b": [1.0, 2.0]}, {"a": []}])
def test_rows_of_unequal_or_no_columns_are_refused(rows):
    with pytest.raises(InvalidOption, match="same columns") as caught:
        front(rows)
    assert "every column" in caught.value.mend


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_cannot_be_compared_are_refused(value):
    with pytest.raises(InvalidOption, match=r"row 'b', column 1 .* cannot be compared"):
        front({"a": [1.0, 1.0], "b": [1.0, value]})
