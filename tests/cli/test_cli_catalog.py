"""The table of method names: each row makes its method, knows its options, and refuses others."""

from __future__ import annotations

from typing import Any

import pytest

from quiltwork.cli.catalog import (
    LANGUAGE,
    METHODS,
    NETWORKS,
    TABLES,
    is_network_method,
    is_table_method,
    make_method,
    make_network_method,
    make_table_method,
)
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.btx import BTX
from quiltwork.compose.combine import Combine
from quiltwork.compose.dare import Dare
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.method import Method
from quiltwork.compose.middle import Middle
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.network_soup import NetworkSoup
from quiltwork.compose.networks import NetworkMethod
from quiltwork.compose.precision_average import PrecisionAverage
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows, Prompts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.compose.stitch import Stitch
from quiltwork.compose.tables import TableMethod
from quiltwork.compose.task_arithmetic import TaskArithmetic
from quiltwork.compose.ties import Ties
from quiltwork.errors import InvalidOption

COMMON: dict[str, Any] = {"weights": {"a": 2.0}, "include": ("a", "b")}
EVIDENCE: dict[str, Any] = {
    "features": "tokens",
    "temperature": 2.0,
    "half_life": 9.0,
    "floor": 0.5,
    "bound": 3.0,
    "top_k": 2,
    "minimum_weight": 0.1,
    "smoothing": 1.0,
}
ROWS: dict[str, Any] = {"top_k": 2, "renormalise": False, "bias": True}
LDA: dict[str, Any] = {
    "covariance": "public",
    "shrinkage": 0.3,
    "temperature": 2.0,
    "offsets": False,
    "top_k": 2,
    "renormalise": False,
}
PROMPTS: dict[str, Any] = {
    "prompts": {"a": Prompts(("yes",), ("no",))},
    "negative": ("neither",),
    "pool": "last",
    "scale": 2.0,
    "top_k": 2,
    "renormalise": False,
}
OF_EVIDENCE = {name: value for name, value in EVIDENCE.items() if name != "top_k"}
DARE: dict[str, Any] = {"density": 0.3, "elect": True, "scale": 0.7, "seed": 3}
BRANCHES: dict[str, Any] = {"top_k": 2, "renormalise": False, "seed": 3}
# every option of every method set to something that is not its default
WHOLE: dict[str, tuple[dict[str, Any], Method]] = {
    "soup": ({}, Soup(**COMMON)),
    "task_arithmetic": ({"scale": 0.5}, TaskArithmetic(0.5, **COMMON)),
    "ties": ({"density": 0.5, "scale": 0.7}, Ties(0.5, 0.7, **COMMON)),
    "dare": (DARE, Dare(**DARE, **COMMON)),
    "btx": (BRANCHES, BTX(**BRANCHES, **COMMON)),
    "uniform_ensemble": ({}, Ensemble("uniform", **COMMON)),
    "btm": ({"top_k": 2, "temperature": 3.0}, Ensemble("likelihood", top_k=2, temperature=3.0, **COMMON)),
    "learned_rows": (ROWS, MixtureOfExperts(LearnedRows(**ROWS), **COMMON)),
    "residual_lda": (LDA, MixtureOfExperts(ResidualLDA(**LDA), **COMMON)),
    "prompt_rows": (PROMPTS, MixtureOfExperts(PromptRows(**PROMPTS), **COMMON)),
    "evidence_rows": (
        OF_EVIDENCE | ROWS | {"rows": "learned-rows", "share": 0.5},
        MixtureOfExperts(RowsAndEvidence(LearnedRows(**ROWS), PrefixEvidence(**OF_EVIDENCE), 0.5), **COMMON),
    ),
    "evidence_ffn": (EVIDENCE, MixtureOfExperts(PrefixEvidence(**EVIDENCE), **COMMON)),
    "evidence_full": (EVIDENCE, MixtureOfExperts(PrefixEvidence(**EVIDENCE), scope="full", **COMMON)),
}

SUPPORT: dict[str, Any] = {"support": 100, "seed": 3}
REDUCTION: dict[str, Any] = {"n_experts": 2, "gate": "projection", "experts": "precision", "robust": False}
WHOLE_TABLES: dict[str, tuple[dict[str, Any], TableMethod]] = {
    "reduction": (
        REDUCTION | SUPPORT | {"machine_weights": "rows"},
        Reduction(weights="rows", **REDUCTION, **SUPPORT),
    ),
    "aligned_average": (SUPPORT, AlignedAverage(**SUPPORT)),
    "middle": (SUPPORT | {"divergence": "transport"}, Middle("transport", **SUPPORT)),
    "precision_average": (SUPPORT, PrecisionAverage(**SUPPORT)),
    "ambient": ({"machine_weights": "evidence"}, AmbientMixture("evidence")),
}

SEEN: dict[str, Any] = {"evidence": "classes", "prior": "rows", "floor": 30.0, "temperature": 2.0}
READ = Evidence(of="classes", prior="rows", floor=30.0, temperature=2.0)
WHOLE_NETWORKS: dict[str, tuple[dict[str, Any], NetworkMethod]] = {
    "combine": (
        SEEN | {"rule": "rank", "weighting": "evidence"},
        Combine("rank", "evidence", READ),
    ),
    "stitch": (
        SEEN
        | {"pair": ("a", "b"), "points": ("p", "q"), "mode": "replace", "both": False}
        | {"rule": "logit", "ridge": 0.1, "weighting": "evidence"},
        Stitch(("a", "b"), ("p", "q"), "replace", False, "logit", "evidence", READ, 0.1),
    ),
    "gaussian_head": ({"form": "qda", "shrinkage": 0.5}, GaussianHead("qda", 0.5)),
    "network_soup": ({"weights": {"a": 2.0}}, NetworkSoup({"a": 2.0})),
    "network_alone": ({}, NetworkAlone()),
}


def test_every_row_is_tested() -> None:
    assert WHOLE.keys() == LANGUAGE.keys()
    assert WHOLE_TABLES.keys() == TABLES.keys()
    assert {name: set(options) for name, (options, _) in WHOLE_TABLES.items()} == {
        name: set(row.options) for name, row in TABLES.items()
    }
    found = {name: {*options, *COMMON} for name, (options, _) in WHOLE.items()}
    for name in ("evidence_ffn", "evidence_full", "evidence_rows"):
        found[name] |= {"switching"}  # stated instead of a half-life: below
    found["evidence_rows"] |= {*LDA, *PROMPTS}  # stated with other kinds of rows: below
    assert found == {name: set(row.options) for name, row in LANGUAGE.items()}
    told = {name: set(options) for name, (options, _) in WHOLE_NETWORKS.items()}
    told["combine"] |= {"weights"}  # stated instead of a weighting: below
    assert told == {name: set(row.options) for name, row in NETWORKS.items()}
    assert len(METHODS) == len(LANGUAGE) + len(TABLES) + len(NETWORKS), "a name is of one ground"
    assert METHODS == {**LANGUAGE, **TABLES, **NETWORKS}


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_method_bears_its_name_and_takes_all_its_options(name: str) -> None:
    assert make_method(name, {}).name == name
    assert make_method(name.replace("_", "-"), {}) == make_method(name, {})
    options, method = WHOLE[name]
    assert make_method(name, options | COMMON) == method
    assert method != make_method(name, {})


def test_switching_stands_where_a_half_life_could() -> None:
    assert make_method("evidence_ffn", {"switching": 0.1}) == MixtureOfExperts(PrefixEvidence(switching=0.1))
    with pytest.raises(InvalidOption, match="half_life and switching together"):
        make_method("evidence_full", {"switching": 0.1, "half_life": 9.0})


@pytest.mark.parametrize(
    ("kind", "own", "rows"),
    [("residual_lda", LDA, ResidualLDA), ("prompt_rows", PROMPTS, PromptRows), ("learned_rows", ROWS, LearnedRows)],
)
def test_rows_of_every_kind_stand_beside_evidence(kind: str, own: dict[str, Any], rows: Any) -> None:
    # the temperature is the evidence's; rows beside it are tempered by their share
    own = {name: value for name, value in own.items() if name != "temperature"}
    made = make_method("evidence_rows", own | {"rows": kind, "switching": 0.1})
    assert made == MixtureOfExperts(RowsAndEvidence(rows(**own), PrefixEvidence(switching=0.1)))
    with pytest.raises(InvalidOption, match="do not take it"):
        make_method("evidence_rows", {"rows": kind, "bias" if kind != "learned_rows" else "pool": True})
    with pytest.raises(InvalidOption, match="there are no such rows"):
        make_method("evidence_rows", {"rows": "columns"})


@pytest.mark.parametrize("name", TABLES)
def test_a_method_over_tables_bears_its_name_and_takes_all_its_options(name: str) -> None:
    assert make_table_method(name, {}).name == name
    assert make_table_method(name.replace("_", "-"), {}) == make_table_method(name, {})
    options, method = WHOLE_TABLES[name]
    assert make_table_method(name, options) == method != make_table_method(name, {})


@pytest.mark.parametrize("name", NETWORKS)
def test_a_method_over_networks_bears_its_name_and_takes_all_its_options(name: str) -> None:
    assert make_network_method(name, {}).name == name
    assert make_network_method(name.replace("_", "-"), {}) == make_network_method(name, {})
    options, method = WHOLE_NETWORKS[name]
    assert make_network_method(name, options) == method
    assert (method == make_network_method(name, {})) == (not options)


def test_weights_of_parties_are_stated_or_found_and_not_both() -> None:
    assert make_network_method("combine", {"weights": {"a": 2.0}}) == Combine(weights={"a": 2.0})
    with pytest.raises(InvalidOption, match="--weight: the weighting is stacked"):
        make_network_method("combine", {"weights": {"a": 2.0}, "weighting": "stacked"})


@pytest.mark.parametrize("name", METHODS)
def test_an_option_of_another_method_is_refused(name: str) -> None:
    others = {option for row in METHODS.values() for option in row.options} - set(METHODS[name].options)
    make = make_table_method if name in TABLES else make_network_method if name in NETWORKS else make_method
    for option in sorted(others):
        with pytest.raises(InvalidOption) as caught:
            make(name, {option: 1})
        assert caught.value.what == f"option '{option}'"
        assert name in caught.value.why
        assert all(known in caught.value.mend for known in METHODS[name].options or ["none"])


@pytest.mark.parametrize("name", METHODS)
def test_a_name_is_of_one_ground(name: str) -> None:
    assert is_table_method(name) == is_table_method(name.replace("_", "-")) == (name in TABLES)
    assert is_network_method(name) == is_network_method(name.replace("_", "-")) == (name in NETWORKS)


@pytest.mark.parametrize("name", ["", "Soup", "magic", "soup ", "__class__", "quiltwork.compose.soup:Soup"])
def test_an_unknown_name_is_refused_and_lists_the_known(name: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        make_method(name, {})
    assert all(known in caught.value.mend for known in METHODS)


def test_a_value_out_of_its_domain_is_refused_by_the_method() -> None:
    with pytest.raises(InvalidOption, match="top_k=0"):
        make_method("btm", {"top_k": 0})
