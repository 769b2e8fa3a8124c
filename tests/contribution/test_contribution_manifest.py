"""The manifest: recognised from the outside in, one spelling, one digest over all fields."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quiltwork.contribution.canonical import encode
from quiltwork.contribution.manifest import MAX_BYTES, canonical_bytes, digest_of, parse
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import (
    AlteredContribution,
    ContributionError,
    MalformedContribution,
    UnsupportedContribution,
)

Forge = Callable[..., None]


@pytest.fixture
def fields(sealed: Contribution) -> dict[str, Any]:
    return dict(json.loads((sealed.path / "contribution.json").read_bytes()))


def resealed(fields: dict[str, Any]) -> bytes:
    body = {key: value for key, value in fields.items() if key != "digest"}
    return encode({**body, "digest": "sha256:" + hashlib.sha256(encode(body)).hexdigest()})


def test_the_digest_is_sha256_of_sorted_ascii_json_without_itself(sealed: Contribution, fields: dict[str, Any]) -> None:
    declared = fields.pop("digest")
    text = json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=True) + "\n"
    assert declared == "sha256:" + hashlib.sha256(text.encode()).hexdigest() == digest_of(sealed.manifest)


def test_top_level_keys_are_those_of_the_format(fields: dict[str, Any]) -> None:
    assert sorted(fields) == [
        "base",
        "card",
        "digest",
        "format",
        "kind",
        "licence",
        "method",
        "party",
        "payload",
        "privacy",
        "statistics",
        "training",
        "version",
    ]


def test_parse_undoes_canonical_bytes(sealed: Contribution, fields: dict[str, Any]) -> None:
    assert parse(canonical_bytes(sealed.manifest)) == sealed.manifest
    assert resealed(fields) == canonical_bytes(sealed.manifest)


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def edit(fields: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        target: Any = fields
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target[parent]
        target[int(last) if isinstance(target, list) else last] = value

    return edit


UNSUPPORTED = [
    (put("version", 2), "version 2", "reads version 1"),
    (put("version", -1), "version -1", "reads version 1"),
    (put("kind", "forest"), "kind 'forest'", "knows 'expert', 'statistics', 'mixture', 'likelihoods', 'module'"),
    (put("kind", "\x1b[2Jexpert"), r"kind '\x1b[2Jexpert'", "knows 'expert'"),
]


@pytest.mark.parametrize(("edit", "what", "why"), UNSUPPORTED)
def test_an_unknown_version_or_kind_is_unsupported_before_the_schema_is_asked(
    fields: dict[str, Any], edit: Callable[[dict[str, Any]], None], what: str, why: str
) -> None:
    edit(fields)
    fields["field_of_the_future"] = {}
    with pytest.raises(UnsupportedContribution) as caught:
        parse(resealed(fields))
    assert caught.value.what == what
    assert why in caught.value.why


EXACT = [{"mechanism": "exact", "note": "", "released": "ffn", "unit": "document"}]
MALFORMED = [
    (put("format", "safetensors"), "contribution.json", "'format' is not"),
    (put("version", True), "'version' in contribution.json", "not an integer"),
    (put("version", 1.0), "'version' in contribution.json", "not an integer"),
    (put("version", "1"), "'version' in contribution.json", "not an integer"),
    (put("kind", ["expert"]), "'kind' in contribution.json", "not a string"),
    (put("kind", None), "'kind' in contribution.json", "not a string"),
    (put("surprise", 1), "'surprise'", "Extra inputs"),
    (put("party", "ACME"), "'party'", "match pattern"),
    (put("party", "acme\n"), "'party'", "match pattern"),
    (put("party", "../acme"), "'party'", "match pattern"),
    (put("party", "a" * 65), "'party'", "match pattern"),
    (put("base/digest", "sha256:" + "A" * 64), "'base.digest'", "match pattern"),
    (put("base/vocabulary_size", 0), "'base.vocabulary_size'", "greater than or equal to 1"),
    (put("base/vocabulary_size", 11.0), "'base.vocabulary_size'", "valid integer"),
    (put("base/extra", 0), "'base.extra'", "Extra inputs"),
    (put("licence", ""), "'licence'", "at least 1 character"),
    (put("licence", "MIT\x1b[31m"), "'licence'", "control character U+001B"),
    (put("card", "x" * 100_001), "'card'", "at most 100000 characters"),
    (put("card", "bell \x07"), "'card'", "control character U+0007"),
    (put("card", None), "'card'", "valid string"),
    (put("training/steps", -1), "'training.steps'", "greater than or equal to 0"),
    (put("training/loss_last", "low"), "'training.loss_last'", "valid number"),
    (put("training/software/torch", 2), "'training.software.torch'", "valid string"),
    (put("method/ffn/top_k", "2"), "'method.ffn.top_k'", "valid integer"),
    (put("method/ffn", None), None, None),
    (put("method", {"ffn": None, "full": None}), "'method'", "at least one of ffn, lowrank, full and lora"),
    (put("statistics/0/name", "secrets"), "'statistics.0'", "does not match any of the expected tags"),
    (put("statistics/0/name", "\x1b[2J" * 999), "'statistics.0'", "Input tag"),
    (put("statistics", "none"), "'statistics'", "valid array"),
    (put("privacy/4/scale", 0), "'privacy.4.laplace.scale'", "greater than 0"),
    (put("privacy/4/unit", "person"), "'privacy.4.laplace.unit'", "'document'"),
    (put("privacy", EXACT * 257), "'privacy'", "at most 256"),
    (put("payload/ffn.safetensors/bytes", -1), "bytes'", "greater than or equal to 1"),
    (put("payload/ffn.safetensors/tensors", {}), "tensors'", "at least 1"),
    (put("payload/..~1secrets", {}), "'payload.", "match pattern"),
    (
        put("payload/full.safetensors/tensors/full.scalar/dtype", "I64"),
        "dtype'",
        "'F64', 'F32', 'BF16' or 'F16'",
    ),
    (
        put("payload/full.safetensors/tensors/full.scalar/shape", [-1]),
        "shape.0'",
        "greater than or equal to 1",
    ),
    (put("payload/full.safetensors/tensors/full.scalar/shape", [1] * 9), "shape'", "at most 8"),
]


@pytest.mark.parametrize(("edit", "what", "why"), MALFORMED)
def test_a_field_outside_the_schema_is_refused_by_name(
    fields: dict[str, Any], edit: Callable[[dict[str, Any]], None], what: str | None, why: str | None
) -> None:
    edit(fields)
    if what is None or why is None:  # sound by itself: whether the payload fits is asked later
        parse(resealed(fields))
        return
    with pytest.raises(MalformedContribution) as caught:
        parse(resealed(fields))
    assert what in caught.value.what
    assert why in caught.value.why
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", ".x.safetensors", "a/b.safetensors", "x.bin", "X.safetensors"],
)
def test_a_payload_name_cannot_lead_elsewhere(fields: dict[str, Any], name: str) -> None:
    fields["payload"][name] = fields["payload"].pop("full.safetensors")
    with pytest.raises(MalformedContribution) as caught:
        parse(resealed(fields))
    assert repr(f"payload.{name}")[1:-1] in caught.value.what


def test_every_field_is_spelled_out(fields: dict[str, Any]) -> None:
    del fields["card"]
    with pytest.raises(MalformedContribution, match="not the canonical spelling"):
        parse(resealed(fields))


@pytest.mark.parametrize(
    "respell",
    [
        lambda data: data.rstrip(b"\n"),
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b"  ", b"   ", 1),
        lambda data: data.replace(b"0.001", b"1e-3"),
        lambda data: data.replace(b"3.5", b"3.50"),
        lambda data: data.replace(b"100.0", b"100"),
        lambda data: data.replace(b"\\u2013", "–".encode()),
        lambda data: data.replace(b"acme", b"\\u0061cme"),
        lambda data: json.dumps(json.loads(data), indent=2).encode() + b" \n",
        lambda data: json.dumps(dict(reversed(json.loads(data).items())), indent=2).encode() + b"\n",
    ],
)
def test_another_spelling_of_the_same_fields_is_refused(
    sealed: Contribution, respell: Callable[[bytes], bytes]
) -> None:
    data = canonical_bytes(sealed.manifest)
    assert respell(data) != data
    with pytest.raises(MalformedContribution, match="not the canonical spelling"):
        parse(respell(data))


def test_a_lone_surrogate_is_refused(sealed: Contribution) -> None:
    data = canonical_bytes(sealed.manifest).replace(b"Two layers", b"\\ud800")
    with pytest.raises(MalformedContribution):
        parse(data)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in leaves(child, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, child in enumerate(value) for leaf in leaves(child, (*path, key))]
    return [path]


def test_the_digest_covers_every_field(fields: dict[str, Any]) -> None:
    changes = {str: "changed", int: 7, float: 0.125, bool: None, type(None): 1.0}
    for path in leaves(fields):
        edited = copy.deepcopy(fields)
        target: Any = edited
        for key in path[:-1]:
            target = target[key]
        old = target[path[-1]]
        target[path[-1]] = (not old) if isinstance(old, bool) else changes[type(old)]
        with pytest.raises(ContributionError):
            parse(encode(edited))


def test_a_change_that_the_schema_allows_is_called_an_alteration(sealed: Contribution) -> None:
    data = canonical_bytes(sealed.manifest).replace(b'"scale": 100.0', b'"scale": 900.0')
    with pytest.raises(AlteredContribution, match=r"'digest' in contribution\.json"):
        parse(data)


def test_negative_control_without_the_digest_check_the_change_would_pass(
    sealed: Contribution, fields: dict[str, Any]
) -> None:
    fields["privacy"][4]["scale"] = 900.0
    assert parse(resealed(fields)).digest != sealed.digest  # a forger gets through, under another name


@pytest.mark.parametrize("value", [[], "text", 1, None, {}])
def test_anything_but_our_object_is_refused(value: object) -> None:
    with pytest.raises(MalformedContribution, match="'format' is not 'quiltwork-contribution'"):
        parse(encode(value))


def test_a_manifest_over_the_limit_is_refused_unread(sealed: Contribution) -> None:
    with open(sealed.path / "contribution.json", "ab") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(MalformedContribution, match=f"{MAX_BYTES + 1} bytes, and the limit is {MAX_BYTES}"):
        read(sealed.path)


def test_a_future_version_is_unsupported_when_read_from_disk(sealed: Contribution, forge: Forge) -> None:
    forge(sealed.path, put("version", 2))
    with pytest.raises(UnsupportedContribution, match="version 2"):
        read(sealed.path)
    assert Path(sealed.path).is_dir()
