"""Settings of a router that another hand may have written: in their domain, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from quiltwork.contribution.kinds import ResidualMomentsStatistic
from quiltwork.models import router_settings, unrouting

EVIDENCE = {
    "kind": "evidence", "public": True, "weights": [1.0, 2, 0.5], "features": "tokens", "symbols": 7, "separator": 0,
    "floor": None, "temperature": 1.0, "half_life": None, "switching": 0.1, "bound": 4.0, "top_k": None,
    "minimum_weight": 0.0,
}  # fmt: skip
ROWS = {"kind": "rows", "top_k": 2, "renormalise": True, "bias": False, "weights": [1.0, 1.0, 1.0]}
DISCRIMINANTS = {
    "covariance": "pooled", "shrinkage": 0.1, "temperature": 1.0, "offset": True, "top_k": None, "renormalise": True,
    "rows": {"ash": 5}, "public_rows": 9,
}  # fmt: skip


def test_sound_settings_pass() -> None:
    router_settings.evidence(EVIDENCE, (3, 7), 2)
    router_settings.rows(ROWS)
    router_settings.discriminants(DISCRIMINANTS)
    most = ResidualMomentsStatistic(layers=1, hidden_size=1, second="full", rows=2**63 - 1).rows
    router_settings.discriminants({**DISCRIMINANTS, "rows": {"ash": most}})


@pytest.mark.parametrize(
    "change",
    [
        {"public": 1}, {"weights": [1.0, 0.0]}, {"weights": [1.0, float("nan")]}, {"weights": 1.0},
        {"weights": [1.0, True]}, {"weights": [10**400]}, {"features": "os"}, {"features": ["tokens"]}, {"symbols": 8},
        {"symbols": 7.0}, {"separator": -1}, {"separator": "0"}, {"floor": float("inf")}, {"floor": "0"},
        {"temperature": 0.0}, {"temperature": float("nan")}, {"temperature": None}, {"half_life": 10**400},
        {"half_life": 5.0}, {"switching": 1.0}, {"switching": [0.1]}, {"bound": {}}, {"top_k": 0}, {"top_k": 1.0},
        {"top_k": True}, {"minimum_weight": 1.0}, {"minimum_weight": -0.1},
        {"bound": 0.0}, {"bound": -4.0},
    ],
    ids=str,
)  # fmt: skip
def test_evidence_outside_its_domain_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0].rstrip("s")):
        router_settings.evidence({**EVIDENCE, **change}, (3, 7), 2)


@pytest.mark.parametrize("shape", [(2, 7), (3, 6), (3,), (3, 7, 1)])
def test_evidence_of_other_rows_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="evidence of shape"):
        router_settings.evidence(EVIDENCE, shape, 2)


@pytest.mark.parametrize("change", [{"top_k": -1}, {"renormalise": 1}, {"bias": None}, {"weights": ["1"]}], ids=str)
def test_rows_outside_their_domain_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).rstrip("s")):
        router_settings.rows({**ROWS, **change})


@pytest.mark.parametrize(
    "change",
    [{"covariance": "x"}, {"shrinkage": 1.5}, {"temperature": 0}, {"rows": {"ash": 0}}, {"public_rows": 2**63}],
    ids=str,
)
def test_discriminants_outside_their_domain_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[-1]):
        router_settings.discriminants({**DISCRIMINANTS, **change})


@pytest.mark.parametrize("share", [-1.0, float("nan"), "1", None])
def test_a_share_of_rows_that_no_option_takes_is_refused(share: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_rows", "native_evidence"):
        monkeypatch.setattr(unrouting, name, lambda *_: None)
    settings = {"kind": "rows_and_evidence", "weights": [1.0, 1.0], "rows": {}, "evidence": {}}
    assert unrouting.native_routing({**settings, "share": 0.0}, {}, ("ash",), 1, None).share == 0.0  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="share"):
        unrouting.native_routing({**settings, "share": share}, {}, ("ash",), 1, None)
