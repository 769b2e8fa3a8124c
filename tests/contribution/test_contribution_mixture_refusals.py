"""Mixtures that break the format, by a draft, a forger or chance: refused by name, or sound to compute with."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quiltwork.contribution import header
from quiltwork.contribution.kinds import StatisticsMethod, TokenHistogramStatistic
from quiltwork.contribution.manifest import BaseReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.contribution.tables import CovariatesStatistic, TableReference
from quiltwork.errors import AlteredContribution, ContributionError, MalformedContribution

Make = Callable[..., Draft]
MakeTable = Callable[..., TableReference]
Forge = Callable[..., None]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mixture.variances", np.array([[1.0], [0.0], [1.0]]), r"mixture\.variances.*outside"),
        ("mixture.variances", -np.ones((3, 1)), r"mixture\.variances.*outside"),
        ("mixture.gate", np.full((3, 3), np.nan), r"mixture\.gate.*NaN"),
        ("mixture.coefficients", np.full((3, 1, 3), np.inf), r"mixture\.coefficients.*NaN"),
        ("mixture.coefficients", np.ones((3, 3)), r"mixture\.coefficients.*shape"),
        ("mixture.gate", np.ones((3, 3), dtype=np.float32), r"mixture\.gate.*F32"),
        ("covariates.counts", np.array([10.0, 9.0]), r"covariates\.counts.*outside"),
        ("covariates.counts", np.array([10.0, 2.0**54]), r"covariates\.counts.*outside"),
        ("covariates.counts", np.ones(3), r"covariates\.counts.*shape"),
        ("covariates.covariances", np.ones((2, 2)), r"covariates\.covariances.*shape"),
        ("precision.gate_hessian", np.ones((5, 5)), r"precision\.gate_hessian.*shape"),
        ("mixture.rows", np.ones(3), r"mixture\.rows.*no part of this contribution has it"),
        ("rows.x", np.ones(3), r"rows\.x.*no part that the draft declares"),
    ],
)
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, make_mixture: Make, name: str, value: Any, message: str
) -> None:
    tensors = {**make_mixture().tensors, name: value}
    with pytest.raises(MalformedContribution, match=message):
        write(tmp_path / "x", make_mixture(tensors=tensors))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"table": None}, "field 'table'"),
        ({"base": "BASE"}, "field 'base'"),
        ({"statistics": (TokenHistogramStatistic(),)}, "field 'statistics.0'"),
    ],
)
def test_a_mixture_stands_on_a_table_and_on_no_base(
    tmp_path: Path, make_mixture: Make, make_draft: Make, changes: dict[str, Any], field: str
) -> None:
    base = make_draft().base
    assert isinstance(base, BaseReference)
    changes = {name: base if value == "BASE" else value for name, value in changes.items()}
    with pytest.raises(MalformedContribution) as caught:
        write(tmp_path / "x", make_mixture(**changes))
    assert caught.value.what.startswith(field)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base": None}, "field 'base'"),
        ({"table": "TABLE"}, "field 'table'"),
        ({"method": StatisticsMethod(), "statistics": (CovariatesStatistic(components=1),)}, "field 'statistics.0'"),
    ],
)
def test_a_language_kind_stands_on_a_base_and_on_no_table(
    tmp_path: Path, make_draft: Make, make_table: MakeTable, changes: dict[str, Any], field: str
) -> None:
    changes = {name: make_table() if value == "TABLE" else value for name, value in changes.items()}
    with pytest.raises(MalformedContribution) as caught:
        write(tmp_path / "x", make_draft(**changes))
    assert caught.value.what.startswith(field)


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def run(fields: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        target: Any = fields
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        target[int(last) if isinstance(target, list) else last] = value

    return run


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("method/n_experts", 4, r"mixture\.gate.*shape"),
        ("method/n_experts", 2**40, "method.n_experts"),
        ("method/n_features", 3, "3 features, and the table 2"),
        ("method/family", "poisson", r"mixture\.variances.*no part"),
        ("method/family", "os.system", "method.family"),
        ("method/rows", 0, "method.rows"),
        ("method/kind", "mixture", "method.kind"),
        ("statistics/0/components", 3, r"covariates\.counts.*shape"),
        ("statistics/0/components", 65, "components"),
        ("statistics/0/minimum_rows", 0, "minimum_rows"),
        ("statistics/0/minimum_rows", 2**53 + 1, "minimum_rows"),
        ("statistics/0/name", "rows", r"statistics\.0"),
        ("statistics/1/name", "covariates", r"statistics\.1"),
        ("table/units", ["cm"], "2 features have 1 units"),
        ("table/target", ["weight"], "named twice"),
        ("table/features/0", "a\u202eb", "does not show"),
        ("table/rows", [[1.0]], "table.rows"),
        ("training", None, "training"),
        ("base", None, "base"),
        ("privacy/0/unit", "document", "kind 'mixture' is a row"),
    ],
)
def test_forged_fields_are_refused_by_name(
    fitted: Contribution, forge: Forge, path: str, value: object, message: str
) -> None:
    forge(fitted.path, edit(path, value))
    with pytest.raises(MalformedContribution, match=message):
        read(fitted.path)


def test_negative_control_a_forger_who_changes_nothing_is_read(fitted: Contribution, forge: Forge) -> None:
    forge(fitted.path)
    assert read(fitted.path) == fitted


def spans(path: Path, file: str) -> dict[str, slice]:
    """Where each tensor's bytes lie in a payload file."""
    tensors = json.loads((path / "contribution.json").read_bytes())["payload"][file]["tensors"]
    types = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in tensors.items()}
    start = len(header.build(types))
    return {name: slice(start + span.begin, start + span.end) for name, span in header.layout(types).items()}


def resealed_with(path: Path, forge: Forge, file: str, data: bytes) -> None:
    """The payload replaced by ``data`` of the same layout, with every digest true."""
    places = spans(path, file)
    (path / file).write_bytes(data)

    def declare(fields: dict[str, Any]) -> None:
        declared = fields["payload"][file]
        declared["digest"] = "sha256:" + hashlib.sha256(data).hexdigest()
        for name, place in places.items():
            declared["tensors"][name]["digest"] = "sha256:" + hashlib.sha256(data[place]).hexdigest()

    forge(path, declare)


def accepted(path: Path) -> bool:
    """Whether it is read; a refusal must be of a value, since all else is true."""
    try:
        read(path)
    except AlteredContribution:
        return False
    return True


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -0.0, 5e-324, 1e308, math.nan, math.inf, -1.0])
LEAST = {"mixture.variances": 2.0**-1022, "covariates.counts": 10.0}
MOST = {"covariates.counts": 2.0**53}


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), NUMBERS), min_size=1, max_size=4),
    file=st.sampled_from(["mixture.safetensors", "statistics.safetensors"]),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_are_read_where_they_are_finite_and_in_their_domain(
    tmp_path: Path, fitted: Contribution, forge: Forge, changes: list[tuple[int, float]], file: str
) -> None:
    path = tmp_path / "forged"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(fitted.path, path)
    data, places = bytearray((path / file).read_bytes()), spans(path, file)
    start = min(place.start for place in places.values())
    for where, number in changes:
        offset = start + 8 * (where % ((len(data) - start) // 8))
        data[offset : offset + 8] = np.float64(number).tobytes()
    resealed_with(path, forge, file, bytes(data))
    found = {name: np.frombuffer(bytes(data[place]), dtype="<f8") for name, place in places.items()}
    sound = all(
        np.isfinite(values).all()
        and (values >= LEAST.get(name, -np.inf)).all()
        and (values <= MOST.get(name, np.inf)).all()
        for name, values in found.items()
    )
    assert accepted(path) == sound


def test_a_variance_of_zero_behind_true_digests_is_refused(fitted: Contribution, forge: Forge) -> None:
    data = (fitted.path / "mixture.safetensors").read_bytes()
    variances = fitted.tensor("mixture.variances").numpy()
    for value, number in itertools.product(variances.ravel(), (0.0, -1.0, 5e-324)):
        changed = data.replace(np.float64(value).tobytes(), np.float64(number).tobytes())
        assert changed != data
        resealed_with(fitted.path, forge, "mixture.safetensors", changed)
        with pytest.raises(AlteredContribution, match=r"mixture\.variances.*outside"):
            read(fitted.path)


def test_every_changed_byte_is_refused(fitted: Contribution) -> None:
    for file in sorted(fitted.path.iterdir()):
        data = file.read_bytes()
        for place in range(0, len(data), 19):
            changed = bytearray(data)
            changed[place] ^= 1 << (place % 8)
            file.write_bytes(changed)
            with pytest.raises(ContributionError):
                read(fitted.path)
        file.write_bytes(data)
    assert read(fitted.path) == fitted
