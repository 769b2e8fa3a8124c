"""Many machines in one house: the same bytes however the work is dealt out, and a bad machine stays alone."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import quiltwork.party.local_fits as room
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, Interrupted, InvalidOption, QuiltworkError, StorageError
from quiltwork.party.local_fits import Fits, fit_all
from quiltwork.party.mixture import MixtureOrder, contribute_mixture
from quiltwork.party.table import TableFragment, open_table, table_from_arrays

ORDER = MixtureOrder("any", n_experts=2, precision=True, options={"n_init": 2, "max_iter": 50})


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, TableFragment]:
    """Five machines: four files, and rows in memory."""
    found: dict[str, TableFragment] = {}
    for number, name in enumerate(("elm", "ash", "fir", "oak", "yew")):
        rng = np.random.default_rng(number)
        x = rng.normal(size=(150, 2))
        y = np.where(x[:, 0] > 0, x[:, 1], -x[:, 1]) + 0.1 * rng.normal(size=150)
        np.save(tmp_path / f"{name}.npy", np.column_stack([x, y]))
        found[name] = open_table([tmp_path / f"{name}.npy"], target="y", columns=["a", "b", "y"])
        if name == "yew":
            found[name] = table_from_arrays(x, y, features=["a", "b"])
    return found


def digests(fits: Fits) -> dict[str, str]:
    return {party: contribution.digest for party, contribution in fits.contributions.items()}


def test_the_bytes_do_not_depend_on_how_many_fit_at_once(tables: dict[str, TableFragment], tmp_path: Path) -> None:
    one = fit_all(tables, ORDER, tmp_path / "1", progress=False)
    two = fit_all(tables, ORDER, tmp_path / "2", n_jobs=2, progress=False)
    with joblib.parallel_config(backend="threading", n_jobs=3):
        three = fit_all(tables, ORDER, tmp_path / "3", progress=False)
    assert digests(one) == digests(two) == digests(three)
    assert list(one.contributions) == list(two.contributions) == list(tables)
    assert not one.refused
    alone = contribute_mixture(tables["ash"], tmp_path / "alone", MixtureOrder(**{**vars(ORDER), "party": "ash"}))
    assert alone.digest == one.contributions["ash"].digest
    assert read(tmp_path / "2" / "fir") == one.contributions["fir"]


def test_a_bad_machine_keeps_no_one_back(tables: dict[str, TableFragment], tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("a,b,y\n1,2,3\n4,,6\n")
    tables["bad"] = open_table([tmp_path / "bad.csv"], target="y")
    tables["few"] = table_from_arrays(np.eye(2), [1.0, 2.0], features=["a", "b"])
    for jobs in (None, 2):
        fits = fit_all(tables, ORDER, tmp_path / f"out{jobs}", n_jobs=jobs, progress=False)
        assert set(fits.contributions) == set(tables) - {"bad", "few"}
        assert set(fits.refused) == {"bad", "few"}
        assert isinstance(fits.refused["bad"], FragmentError)
        assert "column 'b' row 2" in str(fits.refused["bad"])
        assert sorted(p.name for p in (tmp_path / f"out{jobs}").iterdir()) == sorted(set(tables) - {"bad", "few"})


def test_an_unexpected_failure_is_told_without_what_it_says(
    tables: dict[str, TableFragment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the row 4711.0815 is odd")

    monkeypatch.setattr(room, "fit_table", fail)
    fits = fit_all({"elm": tables["elm"]}, ORDER, tmp_path / "out", progress=False)
    assert "ValueError" in str(fits.refused["elm"])
    assert "elm" in str(fits.refused["elm"])
    assert "4711" not in str(fits.refused["elm"])


def test_what_was_written_before_an_interrupt_is_whole(
    tables: dict[str, TableFragment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = room.release, []

    def release(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(room, "release", release)
    with pytest.raises(Interrupted, match="2 of 5"):
        fit_all(tables, ORDER, tmp_path / "out", progress=False)
    left = list((tmp_path / "out").iterdir())
    assert len(left) == 2
    for path in left:
        assert read(path).party == path.name


def test_a_backend_that_returns_all_at_once_serves_too(tables: dict[str, TableFragment], tmp_path: Path) -> None:
    one = fit_all(tables, ORDER, tmp_path / "1", progress=False)
    with joblib.parallel_config(backend="multiprocessing", n_jobs=2):
        fits = fit_all(tables, ORDER, tmp_path / "2", progress=False)
    assert digests(fits) == digests(one)


def test_progress_is_told(tables: dict[str, TableFragment], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_all(tables, ORDER, tmp_path / "out")
    assert "local fits: 5/5" in capsys.readouterr().err


def test_refusals_before_any_work(tables: dict[str, TableFragment], tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="tables"):
        fit_all({}, ORDER, tmp_path)
    with pytest.raises(InvalidOption, match="party"):
        fit_all({"Ash Tree": tables["ash"]}, ORDER, tmp_path)
    (tmp_path / "out" / "ash").mkdir(parents=True)
    with pytest.raises(StorageError, match="already there"):
        fit_all(tables, ORDER, tmp_path / "out")
    fits = fit_all({"ash": tables["ash"]}, ORDER, tmp_path / "out", overwrite=True, progress=False)
    assert read(tmp_path / "out" / "ash") == fits.contributions["ash"]


def test_an_order_travels_to_a_worker() -> None:
    order = MixtureOrder("ash", n_experts=3)
    assert pickle.loads(pickle.dumps(order)) == order


def kinds(root: type[QuiltworkError]) -> Iterator[type[QuiltworkError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds(QuiltworkError)), ids=lambda kind: kind.__name__)
def test_every_refusal_comes_home_from_a_worker(kind: type[QuiltworkError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a part", why="it is odd", mend="Mend it.")))
    assert type(error) is kind
    assert (error.what, error.why, error.mend) == ("a part", "it is odd", "Mend it.")


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dask_cluster_gives_the_same_bytes(processes: bool, tables: dict[str, TableFragment], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    one = fit_all(tables, ORDER, tmp_path / "1", progress=False)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=":0")
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        fits = fit_all(tables, ORDER, tmp_path / "2", progress=False)
    assert digests(fits) == digests(one)
