import json
import math
import os
import stat

import pytest
from evaluate_example import DOMAINS, METHODS, PARTIES, PUBLIC, example, many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quiltwork.errors import InvalidOption, StorageError
from quiltwork.evaluate.merging import merge
from quiltwork.evaluate.metrics import METRICS
from quiltwork.evaluate.scores import (
    MAX_FILE_BYTES,
    Cell,
    Release,
    Routing,
    Row,
    Sample,
    Scores,
    Token,
    from_json,
    load_scores,
    save_scores,
)

NAMES = ["a", "b", "c", "δ-4", 'quo"te', "$x$"]
NUMBERS = st.floats(0, 1e6, allow_nan=False)
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def any_scores(draw):
    domains = draw(st.lists(st.sampled_from(NAMES), unique=True))
    split = draw(st.integers(0, len(domains)))
    metric = draw(st.sampled_from(list(METRICS)))
    extra = st.dictionaries(st.sampled_from(["r2", "ari"]), FINITE)
    values = st.floats(0, 1) if METRICS[metric].points else NUMBERS if METRICS[metric].ratio else FINITE
    cells = st.builds(
        Cell,
        value=values,
        paired=st.none() | NUMBERS,
        extra=extra,
        spread=st.none() | NUMBERS,
        amount=st.integers(0, 2**60),
    )
    tables = st.dictionaries(st.sampled_from(domains), cells) if domains else st.just({})
    active, total = st.none() | NUMBERS, st.none() | st.integers(0, 10**12)
    rows = st.builds(Row, domains=tables, active_params=active, total_params=total, extra=extra)
    parties = domains[:split]
    party_keys = st.sampled_from(parties) if parties else st.nothing()
    epsilon = st.none() | NUMBERS | st.just(math.inf)
    return Scores(
        machine=draw(st.text(max_size=5)),
        metric=metric,
        parties=parties,
        public=domains[split:],
        domains=domains,
        methods=draw(st.dictionaries(st.sampled_from(["base", "soup", "m"]), rows)),
        alone=draw(st.dictionaries(party_keys, rows)),
        contributions=draw(
            st.dictionaries(
                party_keys, st.builds(Release, digest=st.text(max_size=8), bytes=st.just(3), epsilon=epsilon)
            )
        ),
        opt_out_identical=draw(st.none() | st.booleans()),
        seconds=draw(st.none() | NUMBERS),
    )


def part(domain: str) -> Scores:
    """What the owner of one domain would have written: the example with all other columns removed."""
    whole = example()

    def cut(row: Row) -> Row:
        return row.model_copy(update={"domains": {d: c for d, c in row.domains.items() if d == domain}})

    return whole.model_copy(
        update={
            "domains": (domain,),
            "methods": {m: cut(r) for m, r in whole.methods.items()},
            "alone": {p: cut(r) for p, r in whole.alone.items()},
            "leave_one_out": {m: {p: cut(r) for p, r in rows.items()} for m, rows in whole.leave_one_out.items()},
            "routing": {m: {domain: t[domain]} for m, t in whole.routing.items()},
            "contributions": {p: r for p, r in whole.contributions.items() if p == domain},
            "samples": tuple(s for s in whole.samples if s.domain == domain),
        }
    )


def edited(**changes) -> str:
    return json.dumps(json.loads(example().to_json()) | changes)


# --- round trip and strict JSON


def test_file_round_trip(tmp_path):
    path = save_scores(example(), tmp_path / "deep" / "scores.json")
    assert load_scores(path) == example()
    assert stat.S_IMODE(os.stat(path).st_mode) & 0o444


@given(any_scores())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_json_round_trip(scores):
    text = scores.to_json()
    assert from_json(text) == from_json(text.encode()) == scores
    assert from_json(text).to_json() == text


def test_json_is_strict_and_infinity_is_null():
    scores = Scores(parties=["p"], contributions={"p": Release(digest="d", bytes=1, epsilon=math.inf)})
    text = scores.to_json()
    assert json.loads(text, parse_constant=pytest.fail)["contributions"]["p"]["epsilon"] is None
    assert scores.contributions["p"].epsilon is None


def test_schema_is_the_documented_one():
    raw = json.loads(example().to_json())
    assert list(raw)[:5] == ["format", "version", "machine", "created", "metric"]
    assert raw["methods"]["base"]["domains"]["code"].keys() == {"value", "spread", "paired", "amount", "items", "extra"}
    assert raw["methods"]["base"].keys() == {
        "domains",
        "active_params",
        "total_params",
        "seconds",
        "excluded",
        "extra",
    }
    assert raw["samples"][0]["tokens"][0].keys() == {"text", "slot", "weight"}
    assert raw["routing"]["learned_rows"]["law"].keys() == {"slots", "layers", "spans"}


def test_most_keys_are_optional():
    assert from_json('{"format": "quiltwork-scores"}') == Scores()


# --- refusals


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not strict JSON"),
        ("{", "not strict JSON"),
        (b"\xff\xfe", "not strict JSON"),
        ("[" * 200_000, "not strict JSON"),
        ('{"format": "quiltwork-scores", "seconds": NaN}', "NaN is not a JSON number"),
        ('{"format": "quiltwork-scores", "seconds": -Infinity}', "-Infinity is not a JSON number"),
        ('{"format": "quiltwork-scores", "machine": "a", "machine": "b"}', "key 'machine' is repeated"),
        ("[]", "not a score file"),
        ("{}", "not a score file"),
        ('{"format": "other"}', "not a score file"),
        ('{"format": "quiltwork-scores", "version": 1}', "version"),
        ('{"format": "quiltwork-scores", "versoin": 1}', "versoin: Extra inputs"),
        ('{"format": "quiltwork-scores", "seconds": "3"}', "seconds: Input should be a valid number"),
        ('{"format": "quiltwork-scores", "seconds": 1e999}', "seconds"),
        ('{"format": "quiltwork-scores", "parties": ["a", "a"]}', "parties repeats ['a']"),
        ('{"format": "quiltwork-scores", "parties": ["a\\u0007"]}', "parties.0"),
        ('{"format": "quiltwork-scores", "parties": ["a\\u202e"]}', "parties.0"),
        ('{"format": "quiltwork-scores", "parties": [""]}', "parties.0"),
        ('{"format": "quiltwork-scores", "machine": "\\ud800"}', "Invalid JSON"),
        ('{"format": "quiltwork-scores", "parties": ["a"], "public": ["a"]}', "both parties and public"),
    ],
)
def test_bad_files_are_refused_by_name(text, why):
    with pytest.raises(InvalidOption) as caught:
        from_json(text, source="score file 'x.json'")
    assert caught.value.what == "score file 'x.json'"
    assert why in caught.value.why
    assert caught.value.mend


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"methods": {"m": {"domains": {"code": {"value": -1}}}}}, "method 'm', domain 'code': -1.0 is negative"),
        ({"methods": {"m": {"domains": {"code": {}}}}}, "methods.m.domains.code.value: Field required"),
        (
            {"methods": {"m": {"domains": {"klingon": {"value": 1}}}}},
            "['klingon'] are not listed under 'domains'",
        ),
        ({"alone": {"stranger": {}}}, "alone: ['stranger'] are not listed under 'parties'"),
        ({"leave_one_out": {"soup": {"stranger": {}}}}, "leave_one_out of 'soup': ['stranger']"),
        ({"contributions": {"stranger": {"digest": "", "bytes": 0}}}, "contributions: ['stranger']"),
        ({"routing": {"soup": {"klingon": {"slots": [], "layers": []}}}}, "routing of 'soup': ['klingon']"),
        (
            {"routing": {"m": {"law": {"slots": ["a"], "layers": [[0.5, 0.5]]}}}},
            "layer 0 has 2 shares for 1 slots",
        ),
        ({"routing": {"m": {"law": {"slots": ["a", "b"], "layers": [[0.9, 0.9]]}}}}, "sum to 1.8000"),
        (
            {"samples": [{"domain": "law", "method": "m", "tokens": [{"text": "", "slot": "a", "weight": 2}]}]},
            "weight",
        ),
        ({"contributions": {"law": {"digest": "", "bytes": 1.5}}}, "contributions.law.bytes"),
        ({"metric": "accuracy"}, "metric"),
    ],
)
def test_bad_values_are_refused_by_place(changes, why):
    with pytest.raises(InvalidOption) as caught:
        from_json(edited(**changes))
    assert why in caught.value.why


@given(st.binary(max_size=200))
def test_reading_is_total(data):
    with pytest.raises(InvalidOption):
        from_json(data)


@given(st.integers(0, 10**9), st.integers(0, 255))
@settings(max_examples=150)
def test_altered_bytes_are_read_or_refused(place, value):
    data = bytearray(many(2).to_json().encode())
    data[place % len(data)] = value
    try:
        read = from_json(bytes(data))
    except InvalidOption:
        return
    assert from_json(read.to_json()) == read


def test_missing_and_oversized_files_are_refused(tmp_path):
    with pytest.raises(InvalidOption, match="No such file"):
        load_scores(tmp_path / "none.json")
    with pytest.raises(InvalidOption, match="directory"):
        load_scores(tmp_path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidOption, match=r"large\.json.* is larger than"):
        load_scores(large)


def test_saving_where_a_directory_stands_is_refused(tmp_path):
    with pytest.raises(StorageError):
        save_scores(example(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Cell(value=1.0).value = 2.0


def test_numbers_from_python_must_be_finite():
    for bad in (math.nan, math.inf):
        with pytest.raises(ValidationError):
            Cell(value=bad)


def test_text_that_no_file_can_hold_is_refused():
    with pytest.raises(ValidationError):
        Token(text="\ud800", slot="p", weight=1.0)


# --- rows and means


def test_row_and_mean_agree_with_the_figures():
    scores = example()
    assert scores.row("btm") == dict(zip(DOMAINS, METHODS["btm"], strict=True))
    assert scores.mean("btm", PARTIES) == pytest.approx(sum(METHODS["btm"][:5]) / 5)
    assert scores.mean("base", PUBLIC) == pytest.approx(sum(METHODS["base"][5:]) / 3)


def test_unknown_method_and_missing_domains_are_refused():
    scores = example()
    with pytest.raises(InvalidOption, match=r"method 'vote'.*Choose one of \['base', 'btm'"):
        scores.row("vote")
    with pytest.raises(InvalidOption, match=r"domains \['klingon'\] were not scored"):
        scores.mean("btm", ["code", "klingon"])
    with pytest.raises(InvalidOption, match="no domains to average"):
        scores.mean("btm", [])


def test_routing_mean_is_over_layers():
    routing = Routing(slots=["a", "b"], layers=[[1.0, 0.0], [0.5, 0.5]])
    assert routing.mean() == {"a": 0.75, "b": 0.25}
    assert Routing(slots=["a"], layers=[]).mean() == {"a": 0.0}


# --- merging


def without_order(scores: Scores):
    raw = scores.model_dump()
    for field in ("parties", "public", "domains"):
        raw[field] = sorted(raw[field])
    raw["samples"] = sorted(raw["samples"], key=str)
    raw["machine"] = sorted(raw["machine"].split("; "))
    return raw


def test_columns_scored_apart_merge_to_the_whole():
    parts = [part(domain) for domain in DOMAINS]
    assert merge(*parts) == example()
    assert all(len(p.methods["btm"].domains) == 1 for p in parts)


def test_merge_is_idempotent_commutative_and_associative():
    a, b, c = part("code"), part("law"), part("wikipedia")
    assert merge(a, a) == a == merge(a)
    assert without_order(merge(a, b)) == without_order(merge(b, a))
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)


@given(any_scores())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_merging_a_part_with_itself_changes_only_empty_machine_names(scores):
    assert without_order(merge(scores, scores) if "; " not in scores.machine else scores) == without_order(scores)


def test_merge_keeps_the_longest_time_the_latest_date_and_all_machines():
    a = Scores(machine="x", created="2026-01-02", seconds=5, methods={"m": Row(seconds=3)})
    b = Scores(machine="y", created="2026-01-01", seconds=7, methods={"m": Row(seconds=4)})
    merged = merge(a, b)
    assert (merged.machine, merged.created, merged.seconds) == ("x; y", "2026-01-02", 7)
    assert merged.methods["m"].seconds == 4
    assert merge(a, Scores()) == a


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((None, None), None),
        ((True, None), True),
        ((True, True), True),
        ((True, False), False),
        ((None, False), False),
    ],
)
def test_one_failed_opt_out_fails_the_merge(values, outcome):
    first, second = (Scores(opt_out_identical=v) for v in values)
    assert merge(first, second).opt_out_identical is outcome


def test_conflicting_cells_are_refused_by_name():
    one = Scores(domains=["law"], methods={"soup": Row(domains={"law": Cell(value=1.0)})})
    two = Scores(domains=["law"], methods={"soup": Row(domains={"law": Cell(value=1.1)})})
    with pytest.raises(InvalidOption, match=r"cell method soup / law.*two parts disagree") as caught:
        merge(one, two)
    assert "same models" in caught.value.mend


@pytest.mark.parametrize(
    ("one", "two", "what"),
    [
        ({"base": "x"}, {"base": "y"}, "base"),
        (
            {"methods": {"m": {"total_params": 1}}},
            {"methods": {"m": {"total_params": 2}}},
            "total_params of method m",
        ),
        (
            {"alone": {"p": {"total_params": 1}}},
            {"alone": {"p": {"total_params": 2}}},
            "total_params of alone p",
        ),
        (
            {"contributions": {"p": {"digest": "x", "bytes": 1}}},
            {"contributions": {"p": {"digest": "y", "bytes": 1}}},
            "contribution p",
        ),
        (
            {"routing": {"m": {"p": {"slots": ["a"], "layers": [[1]]}}}},
            {"routing": {"m": {"p": {"slots": ["b"], "layers": [[1]]}}}},
            "routing m p",
        ),
    ],
)
def test_conflicts_beyond_cells_are_refused_by_name(one, two, what):
    names = {"parties": ["p"], "domains": ["p"]}
    with pytest.raises(InvalidOption) as caught:
        merge(Scores(**names, **one), Scores(**names, **two))
    assert caught.value.what == what


def test_active_parameters_depend_on_the_text_and_merge_to_the_largest():
    def row(active):
        return {"methods": {"m": {"active_params": active, "total_params": 9}}}

    merged = [merge(Scores(**row(a)), Scores(**row(b))) for a, b in ((3, 5.5), (5.5, 3))]
    assert [m.methods["m"].active_params for m in merged] == [5.5, 5.5]


def test_a_name_that_is_party_here_and_public_there_is_refused():
    with pytest.raises(InvalidOption, match="both parties and public"):
        merge(Scores(parties=["x"]), Scores(public=["x"]))


def test_samples_are_united_once():
    one = Sample(domain="d", method="m", tokens=[Token(text="a", slot="p", weight=1.0)])
    two = Sample(domain="d", method="m", tokens=[Token(text="b", slot="p", weight=1.0)])
    assert merge(Scores(samples=[one]), Scores(samples=[one, two])).samples == (one, two)


# --- metrics


def nats(**cells: float) -> Scores:
    row = Row(domains={d: Cell(value=v) for d, v in cells.items()})
    return Scores(metric="nats per row", domains=list(cells), methods={"m": row})


def test_nats_may_be_negative_and_bits_may_not():
    assert from_json(nats(d=-3.5).to_json()).methods["m"].domains["d"].value == -3.5
    with pytest.raises(ValidationError, match=r"method 'm', domain 'd': -3\.5 is negative, as no bits per byte are"):
        Scores(domains=["d"], methods={"m": Row(domains={"d": Cell(value=-3.5)})})


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_shares_lie_between_nothing_and_all(value):
    with pytest.raises(ValidationError, match=r"method 'm', domain 'd': .* is no share"):
        Scores(metric="share wrong", domains=["d"], methods={"m": Row(domains={"d": Cell(value=value)})})
    assert Scores(metric="share wrong", domains=["d"], methods={"m": Row(domains={"d": Cell(value=abs(value) % 1)})})


def test_parts_of_different_metrics_do_not_merge_and_an_empty_part_has_none():
    with pytest.raises(InvalidOption) as caught:
        merge(nats(d=1.0), example())
    assert caught.value.what == "metric"
    assert merge(nats(d=1.0), Scores()) == nats(d=1.0) == merge(Scores(), nats(d=1.0))


def test_unknown_sizes_merge_with_known_ones():
    def sized(active, total):
        return Scores(methods={"m": Row(active_params=active, total_params=total)})

    assert merge(sized(None, None), sized(3, 9)) == sized(3, 9) == merge(sized(3, 9), sized(None, None))
    assert merge(sized(None, None), sized(None, None)) == sized(None, None)


def test_exclusions_and_measures_of_a_model_are_united_and_must_agree():
    def told(**fields):
        return Scores(parties=["p", "q"], methods={"m": Row(**fields)})

    merged = merge(told(excluded={"p": "diverged"}), told(excluded={"q": "too far"}, extra={"ari": 1.0}))
    assert merged.methods["m"].excluded == {"p": "diverged", "q": "too far"}
    assert merged.methods["m"].extra == {"ari": 1.0}
    with pytest.raises(InvalidOption, match="method m extra ari"):
        merge(told(extra={"ari": 1.0}), told(extra={"ari": 0.5}))
    with pytest.raises(ValidationError, match=r"excluded of method 'm': \['stranger'\]"):
        told(excluded={"stranger": "diverged"})
