"""docs/format.md as checks on plain JSON, written without the reader's schema: what each field of a manifest may be.

A check takes a value and the path to it, and raises `Broken` where the page rules the value out. Checks are made by
small makers (`whole`, `obj`, ...), so that the tables below read like those of the page.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Check: TypeAlias = Callable[[Any, str], None]


class Broken(Exception):
    """A rule of the page is broken; the text names the path."""


def require(holds: object, where: str) -> None:
    if not holds:
        raise Broken(where)


def whole(least: float = -(2**63), most: float = 2**63 - 1) -> Check:
    return lambda value, at: require(type(value) is int and least <= value <= most, at)


def number(least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> Check:
    return lambda value, at: require(type(value) is float and least <= value <= most and value > above, at)


def text(least: int, most: int, *, seen: bool = False) -> Check:
    def check(value: Any, at: str) -> None:
        require(isinstance(value, str) and least <= len(value) <= most, at)
        kinds = ("Cc", "Cf", "Cs", "Zl", "Zp") if seen else ("Cc", "Cs")
        require(not any(unicodedata.category(c) in kinds and (seen or c not in "\n\t") for c in value), at)

    return check


def like(pattern: str) -> Check:
    return lambda value, at: require(isinstance(value, str) and re.fullmatch(pattern, value), at)


def literal(*values: Any) -> Check:
    return lambda value, at: require(any(type(value) is type(v) and value == v for v in values), at)


def maybe(check: Check) -> Check:
    return lambda value, at: None if value is None else check(value, at)


def many(check: Check, least: int, most: int, *, distinct: bool = False) -> Check:
    def run(value: Any, at: str) -> None:
        require(isinstance(value, list) and least <= len(value) <= most, at)
        for place, one in enumerate(value):
            check(one, f"{at}[{place}]")
        require(not distinct or len(set(value)) == len(value), at)

    return run


def mapping(key: Check, check: Check, least: int, most: int) -> Check:
    def run(value: Any, at: str) -> None:
        require(isinstance(value, dict) and least <= len(value) <= most, at)
        for name, one in value.items():
            key(name, f"{at} key")
            check(one, f"{at}.{name}")

    return run


def obj(**fields: Check) -> Check:
    """An object of exactly these fields."""

    def run(value: Any, at: str) -> None:
        require(isinstance(value, dict) and value.keys() == fields.keys(), f"{at} fields")
        for name, check in fields.items():
            check(value[name], f"{at}.{name}")

    return run


def tagged(tag: str, cases: Mapping[str, Check]) -> Check:
    def run(value: Any, at: str) -> None:
        require(isinstance(value, dict) and isinstance(value.get(tag), str) and value[tag] in cases, f"{at}.{tag}")
        cases[value[tag]](value, at)

    return run


def anything(value: Any, at: str) -> None:
    """No rule of its own."""


DIGEST = like(r"sha256:[0-9a-f]{64}")
PARTY = like(r"[a-z0-9][a-z0-9_-]{0,63}")
LABELLED = like(r"[a-z0-9][a-z0-9_-]{0,63}(\.[a-z0-9][a-z0-9_-]{0,31})?")
LABEL = like(r"[a-z0-9][a-z0-9_.:-]{0,63}")
SHORT = text(1, 100)
NAME = text(1, 200, seen=True)
COUNT, ONE, TRUTH, FLOAT = whole(0), whole(1), literal(True, False), number()
WIDTH = whole(1, 2**24)
SOFTWARE = mapping(SHORT, SHORT, 0, 64)

ENTRY = obj(dtype=literal("F64", "F32", "BF16", "F16"), shape=many(ONE, 0, 8), digest=DIGEST)
FILE = obj(bytes=ONE, digest=DIGEST, tensors=mapping(like(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}"), ENTRY, 1, 10_000))
PAYLOAD = mapping(like(r"[a-z0-9][a-z0-9_-]{0,63}\.safetensors"), FILE, 0, 8)

_UNIT = literal("document", "row", "label")
_POSITIVE = number(above=0.0)
_EVENTS: dict[str, Check] = {
    "laplace": obj(mechanism=anything, released=LABEL, unit=_UNIT, scale=_POSITIVE, sensitivity=_POSITIVE),
    "gaussian": obj(mechanism=anything, released=LABEL, unit=_UNIT, sigma=_POSITIVE, sensitivity=_POSITIVE),
    "sampled_gaussian": obj(
        mechanism=anything, released=LABEL, unit=_UNIT, sigma=_POSITIVE, sensitivity=_POSITIVE,
        sampling_rate=number(0.0, 1.0, above=0.0), steps=whole(1, 10**6),
    ),
    "exact": obj(mechanism=anything, released=LABEL, unit=_UNIT, note=text(0, 2000)),
}  # fmt: skip


def event(value: Any, at: str) -> None:
    require(isinstance(value, dict), at)
    for field in ("mechanism", "released", "unit"):
        LABEL(value.get(field), f"{at}.{field}")
    require(value["mechanism"] != "randomised_response", f"{at}: its unit is of no kind")
    _EVENTS.get(value["mechanism"], anything)(value, at)


BASE = obj(digest=DIGEST, family=LABEL, vocabulary_size=WIDTH, tokenizer=DIGEST)
TRAINING = obj(
    steps=COUNT, tokens=COUNT, sequence_length=ONE, batch_size=ONE, learning_rate=number(0.0), seed=whole(),
    loss_first=maybe(FLOAT), loss_last=maybe(FLOAT), software=SOFTWARE,
)  # fmt: skip
_ROUTED: dict[str, Check] = {
    "layers": whole(1, 1024), "hidden_size": WIDTH, "intermediate_size": WIDTH, "top_k": maybe(whole(1, 1024)),
    "anchor_share": number(0.0, 1.0), "router": TRUTH, "bias": TRUTH,
}  # fmt: skip
_SHARE = number(0.0, 1.0)
_RETAINED = many(obj(gate_proj=_SHARE, up_proj=_SHARE, down_proj=_SHARE), 0, 1024)
EXPERT = obj(
    ffn=maybe(obj(**_ROUTED)),
    lowrank=maybe(obj(**_ROUTED, rank=WIDTH, retained=maybe(_RETAINED))),
    full=maybe(obj(form=literal("delta"))),
    lora=maybe(obj(rank=WIDTH, scaling=number(above=0.0))),
)
LANGUAGE_STATISTICS = many(
    tagged("name", {
        "tokens": obj(name=anything),
        "bigrams": obj(name=anything, cells=literal(*(2**k for k in range(1, 25)))),
        "trigrams": obj(name=anything, cells=literal(*(2**k for k in range(1, 25)))),
        "moments": obj(
            name=anything, layers=whole(1, 1024), hidden_size=WIDTH, second=literal("full", "diagonal"), rows=ONE
        ),
        "proxies": obj(name=anything, documents=whole(1, 2**20)),
    }), 0, 16,
)  # fmt: skip

TABLE = obj(
    features=many(NAME, 1, 10_000, distinct=True), units=many(text(0, 200, seen=True), 1, 10_000),
    target=many(NAME, 1, 64, distinct=True), classes=maybe(many(NAME, 2, 10_000, distinct=True)),
)  # fmt: skip
MIXTURE = obj(
    family=literal("gaussian", "multinomial", "poisson"), n_experts=whole(1, 1024), n_features=whole(1, 10_000),
    n_outputs=whole(1, 10_000), rows=ONE, converged=TRUTH, iterations=COUNT, log_likelihood=maybe(FLOAT),
    seed=whole(), software=SOFTWARE,
)  # fmt: skip
TABLE_STATISTICS = many(
    tagged("name", {
        "covariates": obj(name=anything, components=whole(1, 64), minimum_rows=whole(1, 2**53)),
        "precision": obj(name=anything),
    }), 0, 16,
)  # fmt: skip

TASK = obj(
    shape=many(whole(1, 2**24), 1, 3), units=SHORT, classes=maybe(many(NAME, 2, 10_000, distinct=True)),
    outputs=whole(1, 10_000),
)  # fmt: skip
NETWORK = obj(party=PARTY, digest=DIGEST)
_NODE = like(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_PLACE = like(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,240}")
EMBEDDING = tagged("kind", {
    "identity": obj(kind=anything),
    "random": obj(kind=anything, dimension=ONE, seed=COUNT),
    "module": obj(kind=anything, party=PARTY, digest=DIGEST, point=_PLACE, dimension=ONE),
})  # fmt: skip
NETWORK_STATISTICS = many(
    tagged("name", {
        "inputs": obj(name=anything, embedding=EMBEDDING, components=whole(1, 64), minimum_rows=whole(1, 2**53)),
        "classes": obj(
            name=anything, embedding=EMBEDDING, form=literal("pooled", "per_class"), minimum_rows=whole(1, 2**53)
        ),
    }), 0, 16,
)  # fmt: skip
GRAPH = obj(
    nodes=many(obj(
        name=_NODE, op=like(r"[a-z_][a-zA-Z0-9_]{0,63}(\.[a-zA-Z_][A-Za-z0-9_]{0,63})?"),
        args=many(anything, 0, 16), kwargs=mapping(_NODE, anything, 0, 16),
    ), 1, 20_000),
    tensors=mapping(_NODE, obj(
        entry=_PLACE, dtype=literal("float32", "int64", "bool"), shape=many(ONE, 0, 8)
    ), 0, 9_000),
    input=_NODE, output=_NODE,
)  # fmt: skip
MODULE = obj(
    network=DIGEST,
    signature=obj(
        shape=many(ONE, 1, 3), units=SHORT, mean=many(FLOAT, 1, 4096), std=many(_POSITIVE, 1, 4096),
        classes=maybe(many(NAME, 2, 10_000, distinct=True)), outputs=whole(1, 10_000),
    ),
    graph=GRAPH,
    points=many(obj(
        name=_PLACE, node=_NODE, form=literal("map", "grid", "tokens", "vector"), shape=many(ONE, 1, 3), cut=TRUTH,
        leading=COUNT,
    ), 0, 4096),
    rests_on=many(DIGEST, 0, 256), role=literal("predicts", "embeds"),
    training=maybe(obj(
        rows=maybe(ONE), note=anything, accuracy=maybe(number(0.0, 1.0)), loss=maybe(FLOAT), held_out_rows=COUNT,
        software=SOFTWARE,
    )),
)  # fmt: skip
PAIR_POINTS = many(
    obj(name=_PLACE, channels=whole(1, 2**16), height=whole(1, 4096), width=whole(1, 4096)), 1, 256
)  # fmt: skip
_POINT = obj(network=whole(0, 63), point=_PLACE, channels=whole(1, 2**16))
STITCHES = obj(
    networks=many(NETWORK, 1, 64),
    splices=many(obj(into=_POINT, sources=many(_POINT, 1, 63), mode=literal("average", "replace")), 1, 64),
    rests_on=many(DIGEST, 0, 256),
    training=obj(
        loss=literal("task", "penultimate", "closed_form"), rows=ONE, steps=COUNT, batch_size=COUNT,
        learning_rate=number(0.0), seed=whole(), loss_first=maybe(FLOAT), loss_last=maybe(FLOAT), software=SOFTWARE,
    ),
)  # fmt: skip


def _kind(party: Check = PARTY, **fields: Check) -> Check:
    common = {
        "format": literal("quiltwork-contribution"), "version": literal(1), "kind": anything, "party": party,
        "payload": PAYLOAD, "privacy": many(event, 0, 256), "licence": SHORT, "card": text(0, 100_000),
        "digest": DIGEST,
    }  # fmt: skip
    return obj(**common, **fields)


def _language(method: Check) -> Check:
    return _kind(LABELLED, base=BASE, training=maybe(TRAINING), statistics=LANGUAGE_STATISTICS, method=method)


MANIFEST = tagged("kind", {
    "expert": _language(EXPERT),
    "statistics": _language(obj()),
    "mixture": _kind(table=TABLE, method=MIXTURE, statistics=TABLE_STATISTICS),
    "likelihoods": _kind(table=TABLE, method=obj(candidates=many(DIGEST, 1, 1024, distinct=True), rows=ONE)),
    "module": _kind(task=TASK, method=MODULE, statistics=NETWORK_STATISTICS),
    "moments": _kind(task=TASK, method=obj(), statistics=NETWORK_STATISTICS),
    "outputs": _kind(task=TASK, method=obj(networks=many(NETWORK, 1, 256), rows=ONE, correct=TRUTH)),
    "stitch_statistics": _kind(task=TASK, method=obj(
        a=NETWORK, b=NETWORK, points_a=PAIR_POINTS, points_b=PAIR_POINTS, held_out=TRUTH, rows=maybe(ONE),
        minimum_rows=ONE, seed=whole(), software=SOFTWARE,
    )),
    "stitches": _kind(task=TASK, method=STITCHES),
})  # fmt: skip
