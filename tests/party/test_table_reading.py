"""Tables of every format give the same rows, whatever their size and layout."""

from __future__ import annotations

import gzip
import io
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quiltwork.models.mixture.local import Table
from quiltwork.party.sheets import PIECE_ROWS
from quiltwork.party.table import TableFragment, open_table, table_from_arrays

FRAME = pd.DataFrame(
    {
        "age": [40, 41, 57, 60],
        "dose": [0.5, -1e-3, 2.25, 1e12],
        "w": [1.0, 2.0, 0.0, 0.5],
        "stay": [3, 1, 4, 1],
        "ward": ["b", "a", "b", "c"],
    }
)


def write(frame: pd.DataFrame, place: Path, kind: str) -> Path:
    """The frame as a file; NumPy's formats need one matrix of numbers or a structured array."""
    path = place / f"rows.{kind}"
    match kind:
        case "csv":
            frame.to_csv(path, index=False)
        case "tsv":
            frame.to_csv(path, index=False, sep="\t")
        case "csv.gz":
            path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
        case "parquet":
            frame.to_parquet(path, row_group_size=3)
        case "npy":
            np.save(path, frame.to_records(index=False, column_dtypes={"ward": "U1"} if "ward" in frame else None))
        case "npz":
            np.savez(path, **{name: frame[name].to_numpy() for name in frame.columns})
    return path


NUMERIC = FRAME.drop(columns="ward")
KINDS = ("csv", "tsv", "csv.gz", "parquet", "npy", "npz")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    fragment = open_table([write(NUMERIC, tmp_path, kind)], target="stay", weight="w")
    rows = fragment.arrays()
    assert fragment.features == ("age", "dose")
    np.testing.assert_array_equal(rows.x, FRAME[["age", "dose"]].to_numpy(dtype=np.float64))
    np.testing.assert_array_equal(rows.y, FRAME[["stay"]].to_numpy(dtype=np.float64))
    assert rows.weights is not None
    np.testing.assert_array_equal(rows.weights, FRAME["w"])
    assert rows.x.dtype == np.float64
    assert rows.y.dtype == np.float64
    assert rows.dropped == 0


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
def test_labels_are_codes_in_the_order_of_the_classes(kind: str, tmp_path: Path) -> None:
    path = write(FRAME, tmp_path, kind)
    rows = open_table([path], target="ward", features=["age"], task="classification").arrays()
    assert rows.classes == ("a", "b", "c")
    assert rows.y.tolist() == [1, 0, 1, 2]
    assert rows.y.dtype == np.int64
    declared = open_table([path], target="ward", features=["age"], task="classification", classes=["c", "z", "b", "a"])
    assert declared.arrays().y.tolist() == [2, 3, 2, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_are_labels_too_and_sort_by_value(kind: str, tmp_path: Path) -> None:
    frame = NUMERIC.assign(stay=[10, 9, 10, 2])
    rows = open_table([write(frame, tmp_path, kind)], target="stay", task="classification").arrays()
    assert rows.classes == ("2", "9", "10")
    assert rows.y.tolist() == [2, 1, 2, 0]


def test_dictionary_and_boolean_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"on": [True, False, True], "y": pd.Categorical(["u", "v", "u"]), "k": [1.0, 2.0, 1.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    rows = open_table([tmp_path / "t.parquet"], target="y", features=["on"], task="classification").arrays()
    np.testing.assert_array_equal(rows.x, [[1.0], [0.0], [1.0]])
    assert (rows.classes, rows.y.tolist()) == (("u", "v"), [0, 1, 0])
    rows = open_table([tmp_path / "t.parquet"], target="k", features=["on"], task="classification").arrays()
    assert rows.classes == ("1", "2")


def test_several_files_and_directories_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    NUMERIC.iloc[:1].to_csv(tmp_path / "parts" / "a.csv", index=False)
    NUMERIC.iloc[1:3, ::-1].to_parquet(tmp_path / "parts" / "b.parquet")  # another order of columns
    (tmp_path / "parts" / ".hidden.csv").write_text("nonsense")
    NUMERIC.iloc[3:].to_csv(tmp_path / "c.csv", index=False)
    rows = open_table([tmp_path / "parts", tmp_path / "c.csv"], target="stay").arrays()
    np.testing.assert_array_equal(rows.x, NUMERIC[["age", "dose", "w"]].to_numpy(dtype=np.float64))


def test_a_matrix_takes_names_or_numbers(tmp_path: Path) -> None:
    matrix = NUMERIC.to_numpy(dtype=np.float64)
    np.save(tmp_path / "m.npy", matrix)
    assert open_table([tmp_path / "m.npy"], target="x3").features == ("x0", "x1", "x2")
    named = open_table([tmp_path / "m.npy"], target="stay", columns=list(NUMERIC.columns))
    assert named.features == ("age", "dose", "w")
    np.testing.assert_array_equal(named.arrays().x, matrix[:, :3])


def test_features_come_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = open_table([write(NUMERIC, tmp_path, "npy")], target="stay", features=["dose", "age"]).arrays()
    np.testing.assert_array_equal(rows.x, FRAME[["dose", "age"]].to_numpy(dtype=np.float64))


def test_without_a_target_there_are_covariates_alone(tmp_path: Path) -> None:
    path = write(NUMERIC, tmp_path, "csv")
    (block,) = open_table([path], target=(), features=["age"]).blocks()
    assert (block.x.shape, block.y.shape) == ((4, 1), (4, 0))
    assert len(open_table([path], target=(), features=["age"]).arrays()) == 4


# memory ---------------------------------------------------------------


def test_a_mapped_matrix_is_not_copied(tmp_path: Path) -> None:
    matrix = np.arange(30.0).reshape(10, 3)
    np.save(tmp_path / "m.npy", matrix)
    rows = open_table([tmp_path / "m.npy"], target="x2").arrays()
    base: Any = rows.x
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    np.testing.assert_array_equal(rows.x, matrix[:, :2])
    mapped = np.load(tmp_path / "m.npy", mmap_mode="r")
    assert np.shares_memory(table_from_arrays(mapped[:, :2], mapped[:, 2]).arrays().x, mapped)


def test_single_precision_stays_where_it_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.arange(30, dtype=np.float32).reshape(10, 3))
    rows = open_table([tmp_path / "m.npy"], target="x2").arrays()
    assert rows.x.dtype == np.float32
    assert rows.y.dtype == np.float64


def test_a_view_gives_way_where_rows_are_left_out() -> None:
    x = np.arange(12.0).reshape(6, 2)
    x[3, 1] = np.nan
    rows = table_from_arrays(x, np.arange(6.0), missing="drop").arrays()
    assert rows.dropped == 1
    np.testing.assert_array_equal(rows.x, np.delete(x, 3, axis=0))
    np.testing.assert_array_equal(rows.y[:, 0], [0, 1, 2, 4, 5])


def test_beyond_its_budget_a_table_goes_to_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = np.random.default_rng(0).normal(size=(2 * PIECE_ROWS + 5, 2))
    frame = pd.DataFrame({"b": x[:, 0], "y": x[:, 1], "a": x[:, 0]})
    frame.to_parquet(tmp_path / "t.parquet")
    fragment = open_table([tmp_path / "t.parquet"], target="y")
    small, large = fragment.arrays(memory=1 << 20), fragment.arrays()
    assert isinstance(small.x, np.memmap)
    assert not isinstance(large.x, np.memmap)
    np.testing.assert_array_equal(small.x, large.x)
    np.testing.assert_array_equal(large.x[:, 0], x[:, 0])
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert fragment.arrays(dtype=np.float32).x.dtype == np.float32


def test_no_row_is_held_twice(tmp_path: Path) -> None:
    n = 6 * PIECE_ROWS
    frame = pd.DataFrame({f"x{j}": np.arange(n, dtype=np.float64) for j in range(10)}).assign(y=np.arange(n))
    fragment = open_table([write(frame, tmp_path, "parquet")], target="y")
    tracemalloc.start()
    try:
        rows = fragment.arrays()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.1 * (rows.x.nbytes + rows.y.nbytes)
    assert peak < 2.5 * rows.x.nbytes


def test_blocks_are_small_and_add_up(tmp_path: Path) -> None:
    n = 2 * PIECE_ROWS + 5
    frame = pd.DataFrame({"a": np.arange(n, dtype=np.float64), "y": np.arange(n) % 7})
    for kind in ("parquet", "csv", "npy"):
        fragment = open_table([write(frame, tmp_path, kind)], target="y")
        blocks = list(fragment.blocks())
        assert len(blocks) > 1 or kind == "csv"
        np.testing.assert_array_equal(np.concatenate([b.x[:, 0] for b in blocks]), frame["a"])


def test_a_fragment_of_files_travels_to_a_worker(tmp_path: Path) -> None:
    fragment = open_table([write(NUMERIC, tmp_path, "parquet"), write(NUMERIC, tmp_path, "npy")], target="stay")
    data = pickle.dumps(fragment)
    assert len(data) < 2000  # paths, not rows
    again: TableFragment = pickle.loads(data)
    np.testing.assert_array_equal(again.arrays().x, fragment.arrays().x)


# meaning --------------------------------------------------------------


def test_a_table_says_what_its_rows_mean(tmp_path: Path) -> None:
    path = write(FRAME, tmp_path, "csv")
    fragment = open_table(
        [path], target="ward", features=["age", "dose"], units={"age": "years"}, task="classification"
    )
    assert fragment.meaning(("a", "b")) == Table(("age", "dose"), ("years", ""), ("ward",), ("a", "b"), "multinomial")
    listed = open_table([path], target=["dose", "stay"], features=["age"], units=["years"])
    assert listed.meaning(None) == Table(("age",), ("years",), ("dose", "stay"), None, "gaussian")
    assert listed.arrays().y.shape == (4, 2)
    assert open_table([path], target="stay", features=["age"], task="counts").family == "poisson"


@settings(max_examples=60, deadline=None)
@given(
    x=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 20), st.integers(1, 4)),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=64),
    )
)
def test_any_finite_number_survives_csv(x: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> None:
    frame = pd.DataFrame(x, columns=[f"c{j}" for j in range(x.shape[1])]).assign(y=np.arange(len(x)))
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False)  # the shortest decimal that reads back as the same double
    path.write_text(buffer.getvalue())
    np.testing.assert_array_equal(open_table([path], target="y").arrays().x, x)
