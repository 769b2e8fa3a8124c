"""Events: strict, frozen, finite; the unknown is kept, and nothing unknown passes for known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quiltwork.errors import PrivacyError
from quiltwork.privacy.events import (
    EVENT,
    ExactEvent,
    GaussianEvent,
    LaplaceEvent,
    OtherEvent,
    parse_event,
    printable,
)

LAPLACE = {"mechanism": "laplace", "released": "tokens", "unit": "document", "scale": 2.0, "sensitivity": 1.0}
GAUSSIAN = {
    "mechanism": "gaussian",
    "released": "moments",
    "unit": "document",
    "sigma": 2.0,
    "sensitivity": 1.0,
}
EXACT = {"mechanism": "exact", "released": "ffn", "unit": "document", "note": "as it is"}
OTHER = {"mechanism": "skellam", "released": "tokens", "unit": "person", "mu": [1, {"deep": 2.5}], "on": None}
OF_A_ROW = {**GAUSSIAN, "released": "covariates", "unit": "row"}
TYPES = [
    (OF_A_ROW, GaussianEvent),
    (LAPLACE, LaplaceEvent),
    (GAUSSIAN, GaussianEvent),
    (EXACT, ExactEvent),
    (OTHER, OtherEvent),
]


@pytest.mark.parametrize(("record", "kind"), TYPES)
def test_the_mechanism_decides_the_type_and_nothing_is_lost(record: dict[str, Any], kind: type) -> None:
    event = parse_event(record)
    assert type(event) is kind
    assert event.model_dump(mode="json") == record
    assert EVENT.validate_json(json.dumps(record)) == event
    assert parse_event(event) is event


def test_defaults_are_the_obvious_ones() -> None:
    assert LaplaceEvent(released="tokens", scale=1.0, sensitivity=1.0).unit == "document"
    assert ExactEvent(released="ffn").note == ""
    assert GaussianEvent(released="tokens", sigma=1.0, sensitivity=1.0).mechanism == "gaussian"


@pytest.mark.parametrize("number", [0, 0.0, -1.0, math.nan, math.inf, -math.inf, True, "1", None])
@pytest.mark.parametrize(
    ("record", "field"),
    [(LAPLACE, "scale"), (LAPLACE, "sensitivity"), (GAUSSIAN, "sigma"), (GAUSSIAN, "sensitivity")],
)
def test_numbers_are_positive_and_finite(record: dict[str, Any], field: str, number: object) -> None:
    with pytest.raises(PrivacyError, match=f"privacy event, '{field}'"):
        parse_event({**record, field: number})


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({**LAPLACE, "unit": "person"}, "unit"),
        ({**LAPLACE, "epsilon": 0.1}, "epsilon"),
        ({**EXACT, "epsilon": 0.1}, "epsilon"),
        ({**LAPLACE, "released": ""}, "released"),
        ({**LAPLACE, "released": "Tokens"}, "released"),
        ({**LAPLACE, "released": "tokens\n"}, "released"),
        ({**EXACT, "note": "x" * 2001}, "note"),
        ({**EXACT, "note": "\x1b[2J"}, "note"),
        ({**OTHER, "mechanism": "x" * 65}, "mechanism"),
        ({**OTHER, "mechanism": None}, "mechanism"),
        ({**OTHER, "unit": ""}, "unit"),
        ({**OTHER, "Upper": 1}, "Upper"),
        ({k: v for k, v in LAPLACE.items() if k != "sensitivity"}, "sensitivity"),
        ({}, "mechanism"),
        ([], "the record itself"),
        (None, "the record itself"),
        ("exact", "the record itself"),
    ],
)
def test_a_broken_field_is_named(record: object, field: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        parse_event(record)
    assert caught.value.what == f"privacy event, '{field}'"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "not finite"),
        ([[math.inf]], "not finite"),
        ({"a": {"b": -math.inf}}, "not finite"),
        ([[[[[[[[1]]]]]]]], "nests deeper than 8 levels"),
        ("\x07", "control character U+0007"),
        ({"\x07": 1}, "control character U+0007"),
        ({1, 2}, "not a valid JSON value"),
        (object(), "not a valid JSON value"),
        (b"bytes", "not a valid JSON value"),
    ],
)
def test_an_unknown_mechanism_keeps_plain_finite_json_only(value: object, why: str) -> None:
    with pytest.raises(PrivacyError) as caught:
        parse_event({**OTHER, "field": value})
    assert why in caught.value.why


def test_an_unknown_mechanism_keeps_at_most_32_fields() -> None:
    fields = {f"f{i}": i for i in range(30)}
    assert parse_event({**OTHER, **fields}).model_extra == {**fields, "mu": OTHER["mu"], "on": None}
    with pytest.raises(PrivacyError, match="more than 32 further fields"):
        parse_event({**OTHER, **fields, "one-more": 1})


@pytest.mark.parametrize("name", ["laplace", "gaussian", "exact"])
def test_a_known_mechanism_cannot_be_smuggled_in_as_unknown(name: str) -> None:
    with pytest.raises(ValidationError, match="is known, and has its own fields"):
        OtherEvent(mechanism=name, released="tokens", unit="document")


@pytest.mark.parametrize(("record", "kind"), TYPES)
def test_events_do_not_change(record: dict[str, Any], kind: type) -> None:
    event: Any = parse_event(record)
    with pytest.raises(ValidationError, match="frozen"):
        event.released = "other"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["mechanism", "released", "unit", "scale", "sigma", "sensitivity", "note", "x"]),
        JSON | st.sampled_from(["laplace", "gaussian", "exact", "skellam", "document"]),
    )
)
def test_any_record_gives_an_event_or_a_refusal(record: dict[str, Any]) -> None:
    try:
        event = parse_event(record)
    except PrivacyError:
        return
    assert parse_event(json.loads(event.model_dump_json())) == event


@given(st.floats(min_value=5e-324, max_value=1.7e308), st.floats(min_value=5e-324, max_value=1.7e308))
def test_every_positive_float_survives(scale: float, sensitivity: float) -> None:
    event = LaplaceEvent(released="tokens", scale=scale, sensitivity=sensitivity)
    assert parse_event(json.loads(json.dumps(event.model_dump(mode="json")))) == event


@given(st.text(st.characters(exclude_categories=["Cc"], include_characters="\n\t")))
def test_text_without_control_characters_is_printable(text: str) -> None:
    assert printable(text) == text
