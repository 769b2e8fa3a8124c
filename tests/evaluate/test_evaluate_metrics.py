import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.evaluate.metrics import METRICS, percent_above

BITS, NATS = METRICS["bits per byte"], METRICS["nats per row"]


def test_percent():
    assert percent_above(3.0, 2.0) == 50.0
    assert percent_above(0.0, 0.0) == 0.0
    assert percent_above(1.0, 0.0) == math.inf


def test_the_table_is_closed_and_filed_under_its_names():
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}
    with pytest.raises(TypeError):
        METRICS["accuracy"] = BITS  # type: ignore[index]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_change_of_a_metric_of_any_sign_has_the_sign_of_the_difference(value, reference):
    shown = NATS.change(value, reference)
    assert "%" not in shown
    assert float(shown.split()[0]) == pytest.approx(value - reference, rel=6e-3, abs=6e-4)


def test_a_change_never_reads_minus_zero():
    assert NATS.change(1.0 - 1e-5, 1.0) == "+0.000 nats per row"
    assert BITS.change(1.0 - 1e-5, 1.0) == "+0.0 %"
