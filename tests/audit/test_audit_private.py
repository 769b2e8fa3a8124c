"""A component that was trained privately bounds nothing for rows whose activations crossed."""

from __future__ import annotations

import math

import pytest
from audit_runs import fragments, start

from quiltwork.audit.facts import facts_of
from quiltwork.audit.static import ledger
from quiltwork.privacy.events import SampledGaussianEvent
from quiltwork.privacy.ledger import Ledger
from quiltwork.session.split.records import Events

TRAINED = SampledGaussianEvent(released="component", sigma=4.0, sensitivity=1.0, sampling_rate=0.5, steps=4)


def test_activations_of_training_rows_undo_the_bound_of_a_private_component() -> None:
    run = start("isolated", *fragments(parties=2), events=[Events(p, (TRAINED,)) for p in ("p0", "p1")])
    rows = ledger(facts_of(run.records()))[1]
    by_hand = Ledger({"p0": (TRAINED,), "p1": (TRAINED,)}, columns=("p0", "p1")).price("row", delta=1e-5)
    assert math.isfinite(by_hand)
    assert rows.found["epsilon"] == pytest.approx(by_hand)  # type: ignore[index,call-overload]
    run.train(1)
    rows = ledger(facts_of(run.records()))[1]
    assert not rows.passed
    assert "activations: released without a mechanism" in str(rows.found)
