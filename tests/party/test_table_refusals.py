"""What cannot be used is refused by file, column and row, and the refusal never shows a value."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from quiltwork.errors import FragmentError, InvalidOption, QuiltworkError
from quiltwork.party.table import open_table, table_from_arrays

SECRET = "4711.0815"

Csv = Callable[[str], Path]


@pytest.fixture
def csv(tmp_path: Path) -> Csv:
    def write(text: str) -> Path:
        path = tmp_path / "ward.csv"
        path.write_text(text)
        return path

    return write


def refusal(kind: type[QuiltworkError], path: Path, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        open_table([path], **{"target": "y", **options}).arrays()
    assert caught.value.__cause__ is None
    message = str(caught.value)
    assert SECRET not in message
    return message


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        (f"a,y\n1,2\nx{SECRET},3\n", {}, ["column 'a'", "row 2 holds text"]),
        (f"a,y\n1,2\n{SECRET},\n", {}, ["column 'y' row 2", "missing"]),
        ("a,y\n1,2\nNA,3\n", {}, ["column 'a' row 2", "missing"]),
        ("a,y\n1,2\nNaN,3\n", {}, ["column 'a' row 2", "NaN", 'missing="drop"']),
        ("a,y\n1,2\n-inf,3\n", {}, ["column 'a' row 2", "infinite"]),
        (f"a,y\n1,2\n{SECRET}\n", {}, ["row 2", "cells"]),
        (f"a,y\n1,2\n3,4,{SECRET}\n", {}, ["row 2", "cells"]),
        ("a,y\n", {}, ["holds no rows"]),
        ("", {}, ["ward.csv", "empty"]),
        ("a,y\n,2\n,3\n", {"missing": "drop"}, ["all of its 2 rows"]),
        ("a,a,y\n1,2,3\n", {}, ["column 'a'", "two columns"]),
        ("a;y\n1;2\n", {}, ["column 'y'", "no such column", "delimiter"]),
        ("a,y\n1,2\n", {"features": ["b"]}, ["column 'b'", "no such column"]),
        ("y\n1\n", {}, ["no column but target"]),
        ("a,y\n1,2\n5,2\n", {}, ["column 'y'", "same in every row"]),
        ("a,y\n1,u\n5,u\n", {"task": "classification"}, ["column 'y'", "one class"]),
        (
            "a,y\n" + "".join(f"{row},{row}.5\n" for row in range(65)),
            {"task": "classification"},
            ["column 'y'", "65 classes", "at most 64", "regression"],
        ),
        (f"a,y\n1,{SECRET}\n5,v\n", {}, ["column 'y'", "not numeric", "classification"]),
        ("a,y\n1,u\n5,\n", {"task": "classification"}, ["column 'y' row 2", "missing label"]),
        (f"a,y\n1,u\n5,{SECRET}\n", {"task": "classification", "classes": ["u", "v"]}, ["column 'y' row 2", "classes"]),
        (f"a,y\n1,2\n5,{SECRET}\n", {"task": "counts"}, ["column 'y' row 2", "whole number"]),
        ("a,y\n1,2\n5,-1\n", {"task": "counts"}, ["column 'y' row 2", "whole number"]),
        (f"a,w,y\n1,1,2\n2,-{SECRET},3\n", {"weight": "w"}, ["column 'w' row 2", "negative"]),
        ("a,w,y\n1,0,2\n2,0,3\n", {"weight": "w"}, ["weights are zero"]),
        ("a,w,y\n1,0,2\n2,1,3\n3,1,3\n", {"weight": "w"}, ["column 'y'", "same in every row"]),
        ("a\u202eb,y\n1,2\n2,3\n", {}, ["column 'a\\u202eb'", "printable"]),
        (f"{'n' * 201},y\n1,2\n2,3\n", {}, ["printable"]),
    ],
)
def test_values_and_names(text: str, options: dict[str, Any], parts: list[str], csv: Csv) -> None:
    message = refusal(FragmentError, csv(text), **options)
    for part in parts:
        assert part in message


def test_missing_rows_are_left_out_on_demand_and_the_others_keep_their_numbers(csv: Csv) -> None:
    path = csv("a,y\n1,2\n,3\n3,4\n4,5\n")
    rows = open_table([path], target="y", missing="drop").arrays()
    assert rows.dropped == 1
    np.testing.assert_array_equal(rows.x[:, 0], [1, 3, 4])
    path = csv("a,w,y\n1,1,2\n,1,3\n3,-1,4\n")
    assert "row 3" in refusal(FragmentError, path, weight="w", missing="drop")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"target": "a", "features": ["a"]}, "column 'a'"),
        ({"weight": "y"}, "column 'y'"),
        ({"features": ["a", "a"]}, "column 'a'"),
        ({"task": "ranking"}, "task 'ranking'"),
        ({"missing": "impute"}, "missing 'impute'"),
        ({"target": ["y", "z"], "task": "counts"}, "targets"),
        ({"classes": ["u", "v"]}, "classes"),
        ({"classes": ["u"], "task": "classification"}, "classes"),
        ({"classes": ["u", "u"], "task": "classification"}, "classes"),
        ({"units": {"b": "m"}}, "unit of 'b'"),
        ({"units": ["m", "s"]}, "units"),
        ({"units": "m"}, "units"),
    ],
)
def test_options(options: dict[str, Any], what: str, csv: Csv) -> None:
    assert refusal(InvalidOption, csv("a,y,z\n1,2,3\n2,3,4\n"), **{"features": ["a"], **options}).startswith(what)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a,y\n1,2\n")
    assert "not read as a table" in refusal(FragmentError, tmp_path / "t.txt")
    assert "no such file" in refusal(FragmentError, tmp_path / "none.csv")
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + SECRET.encode())
    assert "damaged" in refusal(FragmentError, tmp_path / "t.parquet")
    whole = gzip.compress(b"a,y\n" + b"1,2\n" * 1000)
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be unpacked" in refusal(FragmentError, tmp_path / "t.csv.gz")
    (tmp_path / "latin.csv").write_bytes("a,y\n1,ä\n2,ö\n".encode("latin-1"))
    assert "UTF-8" in refusal(FragmentError, tmp_path / "latin.csv", task="classification")


def test_files_that_do_not_fit_each_other(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,y\n1,2\n")
    (tmp_path / "2.csv").write_text("a,b,y\n1,2,3\n")
    message = refusal(FragmentError, tmp_path)
    assert "2.csv' column 'b'" in message
    assert open_table([tmp_path], target="y", features=["a"]).arrays().x.shape == (2, 1)
    (tmp_path / "3.csv").write_text("b,y\n1,2\n")
    assert "3.csv' column 'a'" in refusal(FragmentError, tmp_path, features=["a"])


def test_parquet_types(tmp_path: Path) -> None:
    frame = pd.DataFrame({"when": pd.to_datetime(["2020-01-01", "2020-01-02"]), "s": ["u", SECRET], "y": [1.0, 2.5]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert "column 'when': it is not numeric" in refusal(FragmentError, tmp_path / "t.parquet")
    assert "row 1 holds text" in refusal(FragmentError, tmp_path / "t.parquet", features=["s"])
    message = refusal(FragmentError, tmp_path / "t.parquet", features=["s"], task="classification")
    assert "column 'y'" in message or "column 's'" in message
    message = refusal(FragmentError, tmp_path / "t.parquet", target="y", features=["s"], task="classification")
    assert "label is text or a whole number" in message


def test_numpy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": SECRET}, 1], dtype=object), allow_pickle=True)
    assert "plain numbers" in refusal(FragmentError, tmp_path / "o.npy")
    np.savez(tmp_path / "o.npz", a=np.array([{"a": SECRET}, 1], dtype=object))
    assert "plain numbers" in refusal(FragmentError, tmp_path / "o.npz")
    np.savez(tmp_path / "r.npz", a=np.zeros(3), y=np.zeros(2))
    assert "differ in their rows: 'a' 3, 'y' 2" in refusal(FragmentError, tmp_path / "r.npz")
    np.save(tmp_path / "m.npy", np.zeros((3, 2)))
    assert "2 columns, and 1 names" in refusal(FragmentError, tmp_path / "m.npy", columns=["y"])
    np.save(tmp_path / "c.npy", np.zeros((3, 2, 2)))
    assert "shape (3, 2, 2)" in refusal(FragmentError, tmp_path / "c.npy")
    np.save(tmp_path / "z.npy", np.zeros((3, 2), dtype=complex))
    assert "not numeric" in refusal(FragmentError, tmp_path / "z.npy", target="x1")
    (tmp_path / "e.npy").write_bytes(b"")
    assert "plain numbers" in refusal(FragmentError, tmp_path / "e.npy")


@pytest.mark.parametrize(
    ("y", "options"),
    [
        (np.zeros(3), {}),
        (np.zeros((4, 2)), {}),
        (np.zeros((4, 3)), {"target": ["u", "v"]}),
        (np.zeros(4), {"weights": np.ones(3)}),
    ],
)
def test_arrays_that_do_not_fit_each_other(y: np.ndarray, options: dict[str, Any]) -> None:
    with pytest.raises(FragmentError, match="beside 4 rows"):
        table_from_arrays(np.zeros((4, 2)), y, **options)
    with pytest.raises(FragmentError, match="2 columns, and 3 names"):
        table_from_arrays(np.zeros((4, 2)), np.zeros(4), features=["a", "b", "c"])
