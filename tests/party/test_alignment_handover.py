"""Files of an alignment: the common cases in one order, and a refusal of whatever is not the file of the step."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import FragmentError, InvalidOption, TableMismatch
from quiltwork.party.handover import agreement, answer, apply, finish, request

try:
    importlib.import_module("private_set_intersection.python")
    WHY = ""
except ImportError as error:
    WHY = f"openmined.psi cannot be loaded here: {error}"
needs_library = pytest.mark.skipif(bool(WHY), reason=WHY)


def cases(seed: int, count: int) -> list[str]:
    return [f"case {i}" for i in np.random.default_rng(seed).choice(300, count, replace=False)]


@given(st.sets(st.text(min_size=1, max_size=5), min_size=1, max_size=20), st.data())
def test_every_owner_finds_the_same_cases_under_the_same_names(common: set[str], data: st.DataObject) -> None:
    agreed = agreement(sorted(common))
    told = []
    for owner in ("\ue000", "\ue001"):
        ids = data.draw(st.permutations([*sorted(common), *(owner * n for n in range(7, 10))]))
        rows, names = apply(ids, agreed)
        assert {ids[row] for row in rows} == common
        assert names == sorted(names)
        told.append([(name, ids[row]) for row, name in zip(rows, names, strict=True)])
    assert told[0] == told[1]


def test_names_are_fresh_and_hold_no_id() -> None:
    first, second = agreement(["c1", "c2"]), agreement(["c1", "c2"])
    assert apply(["c1", "c2"], first)[1] != apply(["c1", "c2"], second)[1]
    assert b"c1" not in first


def test_files_that_are_not_of_the_step_are_refused() -> None:
    agreed = agreement(["a", "b"])
    with pytest.raises(TableMismatch, match="lacks 1 of the 2"):
        apply(["a", "c"], agreed)
    with pytest.raises(TableMismatch, match="makes the request"):
        answer(["a"], agreed)
    changed = agreed[:60] + bytes([agreed[60] ^ 1]) + agreed[61:]
    for damaged in (agreed[:-1], changed):
        with pytest.raises(TableMismatch, match="cut or changed"):
            apply(["a", "b"], damaged)
    for ids in (["a", "a"], ["a", ""]):
        with pytest.raises(FragmentError, match="row 2"):
            apply(ids, agreed)


@needs_library
def test_three_owners_find_what_all_have() -> None:
    ids = {"ash": cases(1, 150), "elm": cases(2, 170), "fir": cases(3, 160)}
    asked, secret = request(ids["ash"])
    answers = [answer(ids[p], asked) for p in ("elm", "fir")]
    common = finish(ids["ash"], secret, answers)
    expected = set(ids["ash"]) & set(ids["elm"]) & set(ids["fir"])
    assert set(common) == expected
    assert common == [i for i in ids["ash"] if i in expected]
    agreed = agreement(common)
    names = {p: apply(own, agreed) for p, own in ids.items()}
    matched = [tuple(ids[p][names[p][0][j]] for p in ids) for j in range(len(common))]
    assert all(len(set(row)) == 1 for row in matched)
    # what goes to others holds no id
    assert not any(i.encode() in b"".join([asked, *answers, agreed]) for own in ids.values() for i in own)


@needs_library
def test_the_asker_goes_on_only_with_what_it_asked() -> None:
    ids = cases(1, 20)
    asked, secret = request(ids)
    reply = answer(cases(2, 200), asked)
    assert finish(ids, secret, [reply])
    with pytest.raises(TableMismatch, match="not those that were asked with"):
        finish(ids[::-1], secret, [reply])
    with pytest.raises(InvalidOption, match="no answer"):
        finish(ids, secret, [])
    with pytest.raises(TableMismatch, match="none is common"):
        finish(ids, secret, [answer(["elsewhere"], asked)])
    # another asker's secret makes nothing of it
    other_ids = cases(1, 20)
    _, other = request(other_ids)
    with pytest.raises(TableMismatch, match="none is common"):
        finish(other_ids, other, [reply])
