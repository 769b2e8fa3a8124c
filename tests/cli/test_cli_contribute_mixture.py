"""``quiltwork contribute mixture``: what cannot be used is refused by name, noise is priced, the process is sealed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, files, finish, misused, refused, start
from cli_tables import BAD, HONEST, contribute, write_csv

from quiltwork.contribution.store import read
from quiltwork.party.confine import landlock_abi

Columns = dict[str, list[object]]


def good(rows: int = 60) -> Columns:
    """A table with nothing wrong."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(rows, 2))
    return {"u": x[:, 0].tolist(), "v": x[:, 1].tolist(), "y": (x @ [1.0, -2.0] + rng.normal(size=rows)).tolist()}


def spoiled(name: str, row: int, value: object) -> Columns:
    """The good table with one value replaced."""
    columns = good()
    columns[name][row] = value
    return columns


def command(data: Path, out: Path, *more: object) -> tuple[object, ...]:
    target = () if "--target" in more else ("--target", "y")
    return ("contribute", "mixture", "--data", data, *target, "--party", "ash", "--out", out, *more)


# Bad tables -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "options", "names"),
    [
        (good(3), ("--n-experts", 4), ("n_experts=4", "n_samples = 3")),
        ({"u": [], "v": [], "y": []}, (), ("table.csv", "no rows")),
        (spoiled("v", 7, "nan"), (), ("column 'v'", "row 8")),
        (spoiled("v", 7, ""), (), ("column 'v'", "row 8", "missing")),
        (spoiled("y", 0, "inf"), (), ("column 'y'", "row 1")),
        (spoiled("u", 2, "tall"), (), ("column 'u'",)),
        (good() | {"y": [1.5] * 60}, (), ("column 'y'", "same in every row")),
        (good() | {"y": ["oak"] * 60}, ("--task", "classification"), ("column 'y'", "one class")),
        (good(), ("--task", "counts"), ("column 'y'", "count")),
        (good() | {"w": [1.0] * 59 + [-1.0]}, ("--weight", "w"), ("column 'w'", "row 60", "negative")),
        (good() | {"w": [0.0] * 60}, ("--weight", "w"), ("weights are zero",)),
        (good(), ("--target", "z"), ("column 'z'",)),
        (good(), ("--features", "u,z"), ("column 'z'",)),
        (good(), ("--features", "u,u"), ("column 'u'", "twice")),
        (good(), ("--weight", "w"), ("column 'w'",)),
        (good(), ("--units", "z=cm"), ("z",)),
        (good(), ("--task", "divination"), ("divination",)),
        (good(), ("--n-experts", "many"), ("--n-experts 'many'",)),
        (good(), ("--n-experts", 0), ("0",)),
        (good(), ("--covariates", "all"), ("--covariates 'all'",)),
        (good(), ("--classes", "a,b"), ("classes",)),
        (good(), ("--missing", "guess"), ("guess",)),
        (good(), ("--licence", ""), ("licence",)),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_is_left(
    columns: Columns, options: tuple[object, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "table.csv", columns)
    refused(*command(table, tmp_path / "out", *options), names=names)
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_table_that_is_not_there_or_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("words")
    refused(*command(tmp_path / "nowhere.csv", tmp_path / "out"), names="nowhere.csv")
    refused(*command(tmp_path / "notes.txt", tmp_path / "out"), names="notes.txt")
    misused("contribute", "mixture", "--data", tmp_path, "--party", "ash", "--out", tmp_path / "out", names="--target")


def test_rows_with_missing_values_can_be_left_out(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", spoiled("v", 7, ""))
    result = done(*command(table, tmp_path / "out", "--missing", "drop", "--json")).json
    assert result["method"]["rows"] == 59


@pytest.mark.parametrize("odd", ["constant", "collinear"])
def test_columns_that_say_nothing_new_do_no_harm(odd: str, tmp_path: Path) -> None:
    columns = good(200)
    twice = [2.0 * float(str(value)) for value in columns["u"]]
    extra: list[object] = [3.0] * 200 if odd == "constant" else list(twice)
    table = write_csv(tmp_path / "table.csv", {"u": columns["u"], "v": columns["v"], "w": extra, "y": columns["y"]})
    done(*command(table, tmp_path / "ash", "--n-experts", 1))
    done("compose", tmp_path / "ash", "--method", "ambient", "--out", tmp_path / "composed")
    result = done("evaluate", tmp_path / "composed", "--party", f"ash={table}", "--json").json
    write_csv(tmp_path / "plain.csv", columns)
    done(*command(tmp_path / "plain.csv", tmp_path / "plain", "--n-experts", 1))
    done("compose", tmp_path / "plain", "--method", "ambient", "--out", tmp_path / "composed-plain")
    plain = done("evaluate", tmp_path / "composed-plain", "--party", f"ash={table}", "--json").json
    values = [one["methods"]["ambient"]["domains"]["ash"]["value"] for one in (result, plain)]
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_an_existing_contribution_is_kept_unless_asked(tables: Mapping[str, Path], tmp_path: Path) -> None:
    contribute(tables["ash"], tmp_path / "ash", "ash", "--n-experts", 1)
    before = files(tmp_path / "ash")
    refused(*command(tables["birch"], tmp_path / "ash", "--n-experts", 1), names=str(tmp_path / "ash"))
    assert files(tmp_path / "ash") == before
    done(*command(tables["birch"], tmp_path / "ash", "--n-experts", 1, "--overwrite"))
    assert files(tmp_path / "ash") != before


# Machines that do not fit each other ------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``two(name, renamed, *options)``: a machine's contribution, its columns renamed."""
    place = tmp_path_factory.mktemp("two")

    def build(name: str, renamed: Mapping[str, str], *options: object) -> Path:
        columns = {renamed.get(column, column): values for column, values in good(200).items()}
        table = write_csv(place / f"{name}.csv", columns)
        words = ("contribute", "mixture", "--data", table, "--target", renamed.get("y", "y"), "--party", name)
        done(*words, "--out", place / name, "--overwrite", *options)
        return place / name

    return build


@pytest.mark.parametrize(
    ("renamed", "options", "names"),
    [
        ({"v": "w"}, (), ("party 'birch'", "'v'", "party 'ash'")),
        ({}, ("--features", "u"), ("party 'birch'", "'v'")),
        ({}, ("--features", "v,u"), ("party 'birch'", "another order")),
        ({}, ("--units", "u=inch"), ("party 'birch'", "'u'", "'inch'", "'cm'")),
        ({"y": "z"}, (), ("party 'birch'", "'z'", "'y'")),
    ],
)
def test_another_table_is_refused_by_party_and_column(
    two: Callable[..., Path],
    renamed: dict[str, str],
    options: tuple[str, ...],
    names: tuple[str, ...],
    tmp_path: Path,
) -> None:
    same = () if "--units" in options else ("--units", "u=cm")
    ash = two("ash", {}, "--units", "u=cm", "--n-experts", 1)
    birch = two("birch", renamed, *same, *options, "--n-experts", 1)
    refused("compose", ash, birch, "--method", "ambient", "--out", tmp_path / "out", names=names)


@pytest.mark.parametrize("method", ["aligned_average", "precision_average"])
def test_machines_that_disagree_on_k_are_named_where_it_matters(
    method: str, two: Callable[..., Path], tmp_path: Path
) -> None:
    ash = two("ash", {}, "--n-experts", 1, "--precision")
    birch = two("birch", {}, "--n-experts", 2, "--precision")
    refused(
        "compose", ash, birch, "--method", method, "--out", tmp_path / "out", names=("'ash' has 1", "the others have 2")
    )
    done("compose", ash, birch, "--method", "reduction", "--n-experts", 1, "--out", tmp_path / "reduced")


def test_a_part_that_a_method_needs_is_asked_for_by_name(two: Callable[..., Path], tmp_path: Path) -> None:
    ash = two("ash", {}, "--n-experts", 1, "--covariates", "none")
    words = ("compose", ash, "--out", tmp_path / "out", "--method")
    refused(*words, "precision_average", names=("party 'ash'", "'covariates'"))
    refused(*words, "ambient", "--machine-weights", "evidence", names=("party 'ash'", "'covariates'"))


def test_a_fit_that_went_astray_is_excluded_by_name(tables: Mapping[str, Path], tmp_path: Path) -> None:
    for name in HONEST:
        contribute(tables[name], tmp_path / name, name)
    outcome = contribute(tables[BAD], tmp_path / "yew", "yew", "--max-iterations", 1)
    assert "note: EM has not converged" in outcome.err
    assert not read(tmp_path / "yew").manifest.method.converged
    given = [tmp_path / name for name in (*HONEST, "yew")]
    outcome = done("compose", *given, "--method", "reduction", "--n-experts", 4, "--out", tmp_path / "out", "--json")
    assert set(outcome.json["excluded"]) == {"yew"}
    assert "had not converged" in outcome.json["excluded"]["yew"]
    assert f"excluded yew: {outcome.json['excluded']['yew']}" in outcome.err


# Noise ------------------------------------------------------------------------

GUESSES = ("--guess", "height=0,1", "--guess", "girth=0,1", "--guess", "y=0,4")
RULE = "gaussian:epsilon=2,delta=1e-5"


def test_a_summary_under_noise_is_priced_and_the_fit_is_not(tables: Mapping[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    contribute(tables["ash"], tmp_path / "ash", "ash", "--covariates", RULE, *GUESSES)
    told = done("inspect", tmp_path / "ash", "--delta", "1e-5", "--json").json["epsilon"]
    assert told["covariates"] == pytest.approx(2, abs=0.01)
    assert told["mixture"] is None
    assert told["everything"] is None
    words = done("inspect", tmp_path / "ash", "--delta", "1e-5").out
    assert "epsilon 2 at delta 1e-05 (gaussian), for one row more or less" in words


def test_a_fit_under_noise_has_a_price_as_a_whole(tables: Mapping[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    noise = ("--private", RULE, "--private-steps", 5, "--private-precision", RULE, "--covariates", RULE, *GUESSES)
    contribute(tables["ash"], tmp_path / "ash", "ash", "--n-experts", 2, *noise)
    result = done("inspect", tmp_path / "ash", "--delta", "1e-5", "--json").json
    told = result["epsilon"]
    assert all(told[part] == pytest.approx(2, abs=0.01) for part in ("mixture", "covariates", "precision"))
    assert 2 < told["everything"] < 6, "three releases compose to less than their sum"
    assert result["method"]["log_likelihood"] is None
    done("compose", tmp_path / "ash", "--method", "ambient", "--out", tmp_path / "composed")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--covariates", RULE), ("column 'height'", "--guess height=CENTRE,SCALE")),
        (("--private", RULE, *GUESSES[:4]), ("column 'y'",)),
        (("--private", RULE, *GUESSES, "--covariates", "1"), ("covariates",)),
        (("--private", RULE, *GUESSES, "--precision"), ("precision",)),
        (("--private", RULE, *GUESSES, "--n-experts", "bic"), ("bic",)),
        (("--private-precision", RULE, *GUESSES), ("precision",)),
        (("--private", "laplace:epsilon=1", *GUESSES), ("laplace",)),
        (("--private", "gaussian:epsilon=1", *GUESSES), ("delta",)),
        (("--private", RULE, "--private-steps", 0, *GUESSES), ("iterations=0",)),
        (("--covariates", RULE, "--guess", "height=1"), ("--guess height=1",)),
        (("--covariates", RULE, *GUESSES, "--guess", "age=1,2"), ("--guess age",)),
        (("--covariates", RULE, "--guess", "height=0,0", "--guess", "girth=0,1"), ("scale",)),
    ],
)
def test_noise_that_would_not_protect_is_refused(
    options: tuple[object, ...], names: tuple[str, ...], tables: Mapping[str, Path], tmp_path: Path
) -> None:
    refused(*command(tables["ash"], tmp_path / "out", *options), names=names)
    assert list(tmp_path.iterdir()) == []


# Confinement ------------------------------------------------------------------


@pytest.mark.skipif(landlock_abi() == 0, reason="this kernel has no Landlock")
def test_a_confined_owner_contributes_the_same(tables: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "outbox" / "ash"
    outcome = finish(start(*command(tables["ash"], out, "--confine", "--json")))
    assert outcome.code == 0, outcome.err
    assert outcome.json["confinement"].startswith("landlock")
    open_ = done(*command(tables["ash"], tmp_path / "open" / "ash", "--json")).json
    assert outcome.json["digest"] == open_["digest"]
    assert [path.name for path in out.parent.iterdir()] == ["ash"]
