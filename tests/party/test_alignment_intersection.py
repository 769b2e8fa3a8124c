"""Private set intersection: against Python's sets, and what crosses against the ids themselves."""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from quiltwork.errors import InvalidOption, TableMismatch
from quiltwork.party.alignment import Linkage, SameRows
from quiltwork.party.intersection import Answerer, Asker, CommonRows, intersection

try:
    importlib.import_module("private_set_intersection.python")
    WHY = ""
except ImportError as error:
    WHY = f"openmined.psi cannot be loaded here: {error}"
needs_library = pytest.mark.skipif(bool(WHY), reason=WHY)


def cases(seed: int, count: int) -> list[str]:
    return [f"case {i}" for i in np.random.default_rng(seed).choice(400, count, replace=False)]


@needs_library
@pytest.mark.parametrize("counts", [(1, 1), (150, 40), (40, 150), (200, 200)])
def test_the_intersection_is_that_of_sets(counts: tuple[int, int]) -> None:
    own, others = cases(1, counts[0]), cases(2, counts[1])
    assert intersection(own, others) == [case for case in own if case in set(others)]


@needs_library
def test_ids_are_matched_byte_by_byte() -> None:
    assert intersection(["7", "07", "é", "x"], ["7 ", "07", "e\u0301", "X"]) == ["07"]


@needs_library
def test_messages_hold_no_id_and_have_a_point_a_case() -> None:
    own, others = cases(1, 60), cases(2, 90)
    asker, answerer = Asker(own), Answerer(others)
    request = asker.request()
    said = request + answerer.setup(60) + answerer.response(request)
    assert not any(case.encode() in said for case in {*own, *others})
    # a point of the curve is 33 bytes; two more name its field
    assert 60 * 35 <= len(request) < 60 * 35 + 20
    assert 90 * 35 <= len(answerer.setup(60)) < 90 * 35 + 20
    assert Asker(own).request() != request  # another secret, other bytes


@needs_library
def test_common_rows_of_three_parties() -> None:
    ids = {"ash": cases(1, 200), "birch": cases(2, 220), "cedar": cases(3, 180)}
    found = CommonRows().positions(ids)
    expected = sorted(set(ids["ash"]) & set(ids["birch"]) & set(ids["cedar"]))
    assert expected
    assert all([ids[p][i] for i in found[p]] == expected for p in ids)


@needs_library
def test_where_all_have_the_same_cases_both_rules_agree() -> None:
    ids: dict[str, Sequence[str]] = {"ash": cases(1, 50), "birch": sorted(cases(1, 50))}
    rules: list[Linkage] = [CommonRows(), SameRows()]
    one, two = (rule.positions(ids) for rule in rules)
    assert all((one[p] == two[p]).all() for p in ids)


@needs_library
def test_nothing_in_common_and_garbled_messages_are_refused() -> None:
    with pytest.raises(TableMismatch, match="none is common"):
        CommonRows().positions({"ash": ["a"], "birch": ["b"]})
    with pytest.raises(TableMismatch, match="not of the protocol"):
        Answerer(["a"]).response(b"\xff\xff\xff")
    asker = Asker(["a"])
    asker.request()
    with pytest.raises(TableMismatch, match="not of the protocol"):
        asker.common(b"\xff", b"\xff")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("private_set_intersection"):
            raise ModuleNotFoundError(name=name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InvalidOption, match=r"quiltwork\[align\]"):
        CommonRows().positions({"ash": ["a"], "birch": ["a"]})
