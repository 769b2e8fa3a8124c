"""Mixtures on tables from end to end as a user types it, from ``contribute mixture`` to ``predict``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, files, misused, refused
from cli_tables import BAD, FEATURES, HONEST, NAMES, columns_of, contribute, write_csv

from quiltwork.cli.catalog import LANGUAGE, TABLES
from quiltwork.compose.reopen import open_table_composite
from quiltwork.contribution.store import read

Composed = Callable[[str], Path]


def table(path: Path) -> dict[str, list[str]]:
    """A CSV file by columns."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}


# Contribute -------------------------------------------------------------------


def test_what_leaves_is_a_few_kilobytes_and_is_named(machines: Mapping[str, Path]) -> None:
    for name, path in machines.items():
        contribution = read(path)
        assert (contribution.party, contribution.kind) == (name, "mixture")
        assert contribution.bytes < 10_000
        assert contribution.parts == {"mixture", "covariates", "precision"}
        assert contribution.manifest.table.features == FEATURES
        assert contribution.manifest.table.units == ("m", "")
        assert contribution.manifest.table.target == ("y",)


def test_the_same_table_in_another_format_gives_the_same_mixture(tables: Mapping[str, Path], tmp_path: Path) -> None:
    pyarrow_csv = pytest.importorskip("pyarrow.csv")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow_csv.read_csv(tables["ash"]), tmp_path / "ash.parquet")
    one = contribute(tables["ash"], tmp_path / "one", "ash", "--json").json
    other = contribute(tmp_path / "ash.parquet", tmp_path / "other", "ash", "--json").json
    assert one["digest"] == other["digest"] == read(tmp_path / "one").digest
    assert one["confinement"] == "off"
    assert one["method"]["rows"] == 1000


def test_every_option_reaches_the_manifest(tables: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "card.txt").write_text("Trees of the north wood.\n")
    words = ("--licence", "CC-BY-4.0", "--card", tmp_path / "card.txt", "--seed", 7, "--covariates", 2)
    rest = ("--features", "girth", "--features", "height", "--units", "girth=cm", "--no-likelihood", "--n-experts", 2)
    result = contribute(tables["ash"], tmp_path / "ash", "ash", *words, *rest, "--json").json
    assert result["table"]["features"] == ["girth", "height"]
    assert result["table"]["units"] == ["cm", ""]
    assert (result["licence"], result["card"]) == ("CC-BY-4.0", "Trees of the north wood.\n")
    assert (result["method"]["seed"], result["method"]["n_experts"]) == (7, 2)
    assert result["method"]["log_likelihood"] is None
    assert result["statistics"][0]["components"] <= 2
    assert set(result["releases"]) == {"mixture", "covariates"}


def test_columns_may_be_separated_by_commas_and_a_summary_left_out(tables: Mapping[str, Path], tmp_path: Path) -> None:
    rest = ("--features", "girth, height", "--covariates", "none", "--n-experts", "bic")
    result = contribute(tables["ash"], tmp_path / "ash", "ash", *rest, "--json").json
    assert result["table"]["features"] == ["girth", "height"]
    assert set(result["parts"]) == {"mixture"}
    assert result["method"]["n_experts"] >= 2, "one expert fits four regimes badly, and the criterion says so"


def test_inspect_tells_names_units_sizes_and_the_price(machines: Mapping[str, Path]) -> None:
    out = done("inspect", machines["ash"]).out
    for words in ("height (m), girth", "predicts: y", "rows: 1,000", "n_experts: 4", read(machines["ash"]).digest):
        assert words in out
    for part in ("mixture", "covariates", "precision", "training"):
        assert f"privacy of {part}" in out
    assert out.count("no bound (exact)") == 4


# Compose ----------------------------------------------------------------------


@pytest.mark.parametrize("method", TABLES)
def test_each_method_composes_without_a_base(method: str, composed_tables: Composed) -> None:
    path = composed_tables(method)
    composite = open_table_composite(path)
    assert composite.method.name == method
    assert composite.parties == NAMES
    assert np.isfinite(composite.mixture.mean(np.zeros((1, 2)))).all()


def test_a_bad_machine_is_excluded_and_the_reason_is_told(
    machines: Mapping[str, Path], composed_tables: Composed, tmp_path: Path
) -> None:
    outcome = done("compose", *machines.values(), "--method", "reduction", "--out", tmp_path / "all", "--json")
    assert set(outcome.json["excluded"]) == {BAD}
    assert f"excluded {BAD}: {outcome.json['excluded'][BAD]}" in outcome.err
    assert files(tmp_path / "all") == files(composed_tables("reduction")), "what is printed changes nothing"
    shown = done("inspect", tmp_path / "all").out
    assert BAD in shown
    assert "nats a row" in shown
    careless = ("--method", "reduction", "--no-robust", "--out", tmp_path / "careless", "--json")
    assert done("compose", *machines.values(), *careless).json["excluded"] == {}


def test_options_reach_the_method(machines: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--n-experts", 3, "--support", 500, "--gate", "projection", "--experts", "precision")
    more = ("--machine-weights", "rows", "--seed", 4, "--no-robust")
    words = ("compose", *machines.values(), "--method", "reduction", *options, *more, "--out", tmp_path / "a", "--json")
    told = done(*words).json["options"]
    wanted = {"n_experts": 3, "support": 500, "gate": "projection", "experts": "precision"}
    wanted |= {"weights": "rows", "seed": 4, "robust": False}
    assert {name: told[name] for name in wanted} == wanted
    middle = ("--method", "middle", "--divergence", "transport", "--support", 50, "--out", tmp_path / "b", "--json")
    assert done("compose", *machines.values(), *middle).json["options"]["divergence"] == "transport"


def test_order_does_not_matter_and_include_is_composing_fewer(machines: Mapping[str, Path], tmp_path: Path) -> None:
    given = list(machines.values())
    done("compose", *given[:3], "--method", "middle", "--out", tmp_path / "three")
    done("compose", *given[2::-1], "--method", "middle", "--out", tmp_path / "reversed")
    chosen = [word for name in NAMES[:3] for word in ("--include", name)]
    done("compose", *given, "--method", "middle", *chosen, "--out", tmp_path / "included")
    assert files(tmp_path / "three") == files(tmp_path / "reversed") == files(tmp_path / "included")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--method", "reduction", "--base", "b"), ("--base", "mixtures of tables")),
        (("--method", "reduction", "--layout", "native"), ("--layout", "mixtures of tables")),
        (("--method", "reduction", "--public", "p"), ("--public", "mixtures of tables")),
        (("--method", "reduction", "--top-k", 2), ("option 'top_k'", "reduction")),
        (("--method", "middle", "--n-experts", 2), ("option 'n_experts'", "middle")),
        (("--method", "reduction", "--n-experts", 0), ("n_experts=0",)),
        (("--method", "reduction", "--gate", "garden"), ("garden",)),
        (("--method", "reduction", "--support", 0), ("support",)),
        (("--method", "reduction", "--include", "yew"), ("--include yew", "ash, birch, cedar, dogwood, elm")),
        (("--method", "shrink"), ("method 'shrink'", "reduction")),
    ],
)
def test_a_wrong_option_is_refused(
    options: tuple[object, ...], names: tuple[str, ...], machines: Mapping[str, Path], tmp_path: Path
) -> None:
    refused("compose", *machines.values(), *options, "--out", tmp_path / "out", names=names)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", LANGUAGE)
def test_methods_of_language_models_need_a_base(method: str, machines: Mapping[str, Path], tmp_path: Path) -> None:
    refused("compose", machines["ash"], "--method", method, "--out", tmp_path / "out", names=("--base", method))


def test_kinds_do_not_mix(machines: Mapping[str, Path], given: Mapping[str, Path], base: Path, tmp_path: Path) -> None:
    expert = next(iter(given.values()))
    out = ("--out", tmp_path / "out")
    refused("compose", machines["birch"], expert, "--method", "reduction", *out, names=("mixture", "ash"))
    refused("compose", machines["birch"], "--base", base, "--method", "soup", *out, names="birch")


# Join and leave ---------------------------------------------------------------


@pytest.mark.parametrize("method", TABLES)
def test_leaving_is_never_having_been_there_and_joining_brings_it_back(
    method: str, machines: Mapping[str, Path], composed_tables: Composed, tmp_path: Path
) -> None:
    whole = composed_tables(method)
    out = done("remove", whole, "--party", "birch", "--out", tmp_path / "left", "--json")
    assert out.json["removed"] == ["birch"]
    others = [path for name, path in machines.items() if name != "birch"]
    done("compose", *others, "--method", method, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never") != files(whole)
    assert not any("birch" in name for name in files(tmp_path / "left"))
    done("add", tmp_path / "left", machines["birch"], "--out", tmp_path / "joined")
    assert files(tmp_path / "joined") == files(whole)


def test_several_can_join_in_any_order_and_options_are_remembered(machines: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--method", "reduction", "--n-experts", 2, "--support", 300, "--seed", 5)
    done("compose", *machines.values(), *options, "--out", tmp_path / "whole")
    done("compose", machines["cedar"], machines["ash"], *options, "--out", tmp_path / "two")
    done(
        "add", tmp_path / "two", machines["elm"], machines[BAD], machines["birch"], "--out", tmp_path / "all", "--json"
    )
    assert files(tmp_path / "all") == files(tmp_path / "whole")


def test_who_cannot_join_is_named(
    machines: Mapping[str, Path], composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    whole, out = composed_tables("middle"), ("--out", tmp_path / "out")
    refused("add", whole, machines["ash"], *out, names=("party 'ash'", "already"), mend="remove")
    contribute(tables["ash"], tmp_path / "yew", "yew", "--n-experts", 2)
    refused("add", whole, tmp_path / "yew", *out, names=("yew", "height", "'m'"))
    refused("add", tmp_path / "yew", machines["ash"], *out, names=str(tmp_path / "yew"))
    misused("add", whole, *out, names="CONTRIBUTIONS")


def test_a_changed_byte_is_refused_by_every_verb(
    composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    done("remove", composed_tables("middle"), "--party", BAD, "--out", whole)
    data = bytearray((whole / "party-ash.safetensors").read_bytes())
    data[-1] ^= 1
    (whole / "party-ash.safetensors").write_bytes(data)
    name = "party-ash.safetensors"
    refused("inspect", whole, names=name)
    refused("remove", whole, "--party", "birch", "--out", tmp_path / "o", names=name)
    refused("evaluate", whole, "--party", f"ash={tables['test']}", names=name)
    refused("predict", whole, "--data", tables["test"], "--out", tmp_path / "p.csv", names=name)


# Evaluate ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores(
    composed_tables: Composed, tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], Path]:
    out = tmp_path_factory.mktemp("scores") / "scores.json"
    held_out = [word for name in HONEST for word in ("--party", f"{name}={tables['test']}")]
    models = (composed_tables("reduction"), f"all={composed_tables('ambient')}")
    result = done("evaluate", *models, *held_out, "--leave-one-out", "reduction", "--out", out, "--json").json
    return result, out


def test_scores_are_log_likelihoods_of_the_composites(
    scores: tuple[dict[str, object], Path], composed_tables: Composed, tables: Mapping[str, Path]
) -> None:
    result, out = scores
    assert json.loads(out.read_text()) == result
    assert result["metric"] == "nats per row"
    assert set(result["methods"]) == {"reduction", "all"}
    assert set(result["leave_one_out"]["reduction"]) == set(NAMES)
    assert set(result["alone"]) == set(NAMES)
    assert set(result["methods"]["reduction"]["excluded"]) == {BAD}
    read_back = {name: np.array(column, dtype=float) for name, column in table(tables["test"]).items()}
    x = np.column_stack([read_back[name] for name in FEATURES])
    mixture = open_table_composite(composed_tables("reduction")).mixture
    loss = -mixture.log_density(x, read_back["y"][:, None]).mean()
    cell = result["methods"]["reduction"]["domains"]["ash"]
    assert cell["value"] == pytest.approx(loss, rel=1e-12)
    assert cell["amount"] == 800


def test_the_reduction_is_better_than_the_bad_machine_alone(scores: tuple[dict[str, object], Path]) -> None:
    result, _ = scores
    composed = result["methods"]["reduction"]["domains"]["ash"]["value"]
    assert composed < result["alone"][BAD]["domains"]["ash"]["value"] - 0.1


def test_the_table_for_people_names_metric_rows_and_verdicts(
    composed_tables: Composed, machines: Mapping[str, Path], tables: Mapping[str, Path]
) -> None:
    words = ("evaluate", composed_tables("middle"), "--party", f"ash={tables['test']}")
    out = done(*words, "--contribution", machines["ash"]).out
    for word in ("nats per row", "middle", "ash alone", "dogwood alone"):
        assert word in out


def test_columns_are_found_by_name_whatever_their_order(
    composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    columns = table(tables["test"])
    shuffled = {"extra": ["1"] * 800} | {name: columns[name] for name in ("y", *reversed(FEATURES))}
    write_csv(tmp_path / "shuffled.csv", shuffled)
    words = ("evaluate", composed_tables("middle"), "--json", "--party")
    results = [done(*words, f"ash={path}").json for path in (tables["test"], tmp_path / "shuffled.csv")]
    one, other = (result["methods"]["middle"]["domains"] for result in results)
    assert one == other


def test_what_cannot_be_scored_is_named(
    composed_tables: Composed,
    composed: Composed,
    machines: Mapping[str, Path],
    base: Path,
    tables: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    model, data = composed_tables("middle"), f"ash={tables['test']}"
    write_csv(tmp_path / "narrow.csv", {"height": [1, 2], "y": [1, 2]})
    write_csv(tmp_path / "empty.csv", {"height": [], "girth": [], "y": []})
    refused("evaluate", model, "--party", f"ash={tmp_path / 'narrow.csv'}", names="column 'girth'")
    refused("evaluate", model, "--party", f"ash={tmp_path / 'empty.csv'}", names="empty.csv")
    refused("evaluate", model, "--party", data, "--base", base, names="--base")
    refused("evaluate", model, "--party", data, "--leave-one-out", "sum", names=("sum", "middle"))
    refused("evaluate", model, model, "--party", data, names=("middle", "two rows"))
    refused("evaluate", model, composed("learned_rows"), "--party", data, names=("middle", "of another kind"))
    refused("evaluate", composed("learned_rows"), "--party", data, names="--base")
    refused("evaluate", machines["ash"], "--party", data, names=(str(machines["ash"]), "contribution"), mend="compose")
    misused("evaluate", model, names="--party")


# Predict ----------------------------------------------------------------------


def test_predictions_are_the_mixtures_means_and_quantiles(
    composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    words = ("--data", tables["test"], "--out", out, "--quantiles", "0.1,0.5,0.9", "--explain", "--json")
    outcome = done("predict", composed_tables("reduction"), *words)
    told = table(out)
    mixture = open_table_composite(composed_tables("reduction")).mixture
    k = mixture.n_experts
    weights = [f"weight of expert {i}" for i in range(k)]
    assert outcome.json == {"path": str(out), "rows": 800, "columns": list(told)}
    assert list(told) == ["y", "y@0.1", "y@0.5", "y@0.9", "expert", *weights]
    given = table(tables["test"])
    x = np.column_stack([np.array(given[name], dtype=float) for name in FEATURES])
    assert np.allclose(np.array(told["y"], dtype=float), mixture.mean(x)[:, 0], atol=1e-12)
    levels = np.column_stack([np.array(told[f"y@{level}"], dtype=float) for level in ("0.1", "0.5", "0.9")])
    assert (np.diff(levels, axis=1) > 0).all()
    share = (np.array(given["y"], dtype=float)[:, None] < levels).mean(axis=0)
    assert share == pytest.approx([0.1, 0.5, 0.9], abs=0.05)
    gate = np.column_stack([np.array(told[name], dtype=float) for name in weights])
    assert np.allclose(gate.sum(axis=1), 1)
    assert (gate.argmax(axis=1) == np.array(told["expert"], dtype=int)).all()
    assert "expert 0" in outcome.err
    assert "height" in outcome.err


def test_a_table_needs_no_target_to_be_predicted_and_parquet_says_the_same(
    composed_tables: Composed, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = table(tables["test"])
    bare = write_csv(tmp_path / "bare.csv", {name: columns[name] for name in FEATURES})
    model = composed_tables("middle")
    done("predict", model, "--data", bare, "--out", tmp_path / "p.parquet")
    note = done("predict", model, "--data", tables["test"], "--out", tmp_path / "p.csv").err
    assert "800 rows of y" in note
    told = parquet.read_table(tmp_path / "p.parquet")["y"].to_pylist()
    assert told == pytest.approx(np.array(table(tmp_path / "p.csv")["y"], dtype=float))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--out", "p.xlsx"), ("p.xlsx", ".parquet")),
        (("--out", "p.csv", "--quantiles", "0.5,1"), ("--quantiles", "between 0 and 1")),
        (("--out", "p.csv", "--quantiles", "half"), ("--quantiles 'half'",)),
        (("--out", "p.csv", "--missing", "guess"), ("guess",)),
    ],
)
def test_a_wrong_option_of_predict_is_refused(
    options: tuple[str, ...],
    names: tuple[str, ...],
    composed_tables: Composed,
    tables: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused("predict", composed_tables("middle"), "--data", tables["test"], *options, names=names)
    assert list(tmp_path.iterdir()) == []


def test_a_language_model_predicts_no_table(composed: Composed, tables: Mapping[str, Path], tmp_path: Path) -> None:
    words = ("predict", composed("learned_rows"), "--data", tables["test"], "--out", tmp_path / "p.csv")
    refused(*words, names="learned_rows")


# Classes and counts -----------------------------------------------------------


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Three machines' labelled rows; the third has never met the class ``rose``."""
    place, rng = tmp_path_factory.mktemp("flowers"), np.random.default_rng(0)
    found = {}
    for number, name in enumerate(("a", "b", "c")):
        x = rng.normal(size=(300, 2))
        logits = np.column_stack([2 * x[:, 0], -2 * x[:, 0], 1.5 * x[:, 1]]) + rng.gumbel(size=(300, 3))
        label = np.array(["iris", "lily", "rose"])[logits.argmax(axis=1)]
        if number == 2:
            x, label = x[label != "rose"], label[label != "rose"]
        columns = columns_of(x, x[:, 0])
        found[name] = write_csv(place / f"{name}.csv", columns | {"y": label.tolist()})
    return found


def test_classes_from_end_to_end(flowers: Mapping[str, Path], tmp_path: Path) -> None:
    options = ("--task", "classification", "--classes", "iris,lily,rose", "--n-experts", 1)
    for name, path in flowers.items():
        contribute(path, tmp_path / name, name, *options)
    given = [tmp_path / name for name in flowers]
    done("compose", *given, "--method", "ambient", "--machine-weights", "evidence", "--out", tmp_path / "composed")
    assert "iris, lily, rose" in done("inspect", tmp_path / "composed").out
    held_out = [word for name, path in flowers.items() for word in ("--party", f"{name}={path}")]
    result = done("evaluate", tmp_path / "composed", *held_out, "--json").json
    assert all(0 < cell["value"] < np.log(3) for cell in result["methods"]["ambient"]["domains"].values())
    done("predict", tmp_path / "composed", "--data", flowers["a"], "--out", tmp_path / "p.csv")
    told = table(tmp_path / "p.csv")
    assert list(told) == ["y", "y=iris", "y=lily", "y=rose"]
    probabilities = np.column_stack([np.array(told[f"y={label}"], dtype=float) for label in ("iris", "lily", "rose")])
    assert np.allclose(probabilities.sum(axis=1), 1)
    right = np.mean(np.array(told["y"]) == np.array(table(flowers["a"])["y"]))
    assert right > 0.6
    levels = ("--data", flowers["a"], "--out", tmp_path / "q.csv", "--quantiles", "0.5")
    refused("predict", tmp_path / "composed", *levels, names="--quantiles")


def test_machines_that_have_met_other_classes_are_refused_by_name(flowers: Mapping[str, Path], tmp_path: Path) -> None:
    for name in ("a", "c"):
        contribute(flowers[name], tmp_path / name, name, "--task", "classification", "--n-experts", 1)
    words = ("compose", tmp_path / "a", tmp_path / "c", "--method", "middle", "--out", tmp_path / "out")
    refused(*words, names=("party 'c'", "rose", "party 'a'"), mend="declares the classes")


def test_counts_from_end_to_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        x = rng.normal(size=(400, 2))
        write_csv(tmp_path / f"{name}.csv", columns_of(x, rng.poisson(np.exp(1 + 0.5 * x[:, 0])).astype(float)))
        contribute(tmp_path / f"{name}.csv", tmp_path / name, name, "--task", "counts", "--n-experts", 1)
    done("compose", tmp_path / "a", tmp_path / "b", "--method", "reduction", "--out", tmp_path / "composed")
    words = ("--data", tmp_path / "a.csv", "--out", tmp_path / "p.csv", "--quantiles", "0.5")
    done("predict", tmp_path / "composed", *words)
    told = table(tmp_path / "p.csv")
    x = np.array(table(tmp_path / "a.csv")["height"], dtype=float)
    assert np.array(told["y"], dtype=float) == pytest.approx(np.exp(1 + 0.5 * x), rel=0.3)
    assert all(float(value).is_integer() for value in told["y@0.5"])
