"""Plans whose composer is a known program: every kind, what it leaves open and tells, prediction, audit, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, refused
from cli_split import write_csv
from numpy.typing import NDArray

from quiltwork.audit.facts import read_facts

PLAN = """
id = "case"
[labels]
files = ["labels.csv"]
column = "y"
{labels}
[parties.ash]
files = ["ash.csv"]
component = {{ kind = "linear" }}
[parties.birch]
files = ["birch.csv"]
component = {{ kind = "linear" }}
[program]
{program}
[training]
mode = "program"
epochs = {epochs}
batch_size = 32
learning_rate = 0.05
seed = 1
{more}
"""


def symbols(sizes: tuple[int, int], rows: int = 240) -> NDArray[np.int64]:
    draw = np.random.default_rng(4)
    return np.stack([draw.integers(0, size, rows) for size in sizes], 1)


def plan(
    place: Path,
    program: str,
    outcomes: list[object],
    sizes: tuple[int, int] = (3, 3),
    *,
    labels: str = "",
    epochs: int = 30,
    more: str = "",
) -> Path:
    """Each party sees its own symbol as a noisy one-hot row, in an order of its own; labels are outcomes in writing."""
    ids, known = [f"c{i:04d}" for i in range(len(outcomes))], symbols(sizes, len(outcomes))
    draw = np.random.default_rng(9)
    for party, size, column in zip(("ash", "birch"), sizes, known.T, strict=True):
        rows = np.eye(size)[column] + 0.1 * draw.normal(size=(len(column), size))
        order = draw.permutation(len(ids))
        write_csv(place / f"{party}.csv", [ids[i] for i in order], {f"x{j}": list(rows[order, j]) for j in range(size)})
    write_csv(place / "labels.csv", ids, {"y": outcomes})
    (place / "plan.toml").write_text(PLAN.format(program=program, labels=labels, epochs=epochs, more=more))
    return place / "plan.toml"


def order_of(a: int, b: int) -> int:
    return (a > b) - (a < b)


def alarm(a: int, b: int) -> str:
    return "act" if (a, b) == (2, 2) else "watch" if b == 2 else "rest"


CODE = "def told(a, b):\n    return 'even' if a * b % 2 == 0 else 'odd'\n"
RULES = """symbols = 3
otherwise = "rest"
rules = [{ when = { ash = [2], birch = [2] }, then = "act" }, { when = { birch = [2] }, then = "watch" }]"""

KINDS = {
    "sum": ('kind = "sum"\nsymbols = 3', lambda a, b: a + b, (3, 3)),
    "remainder": ('kind = "sum"\nsymbols = [3, 3]\nmodulus = 3', lambda a, b: (a + b) % 3, (3, 3)),
    "parity": ('kind = "parity"', lambda a, b: (a + b) % 2, (2, 2)),
    "comparison": ('kind = "comparison"\nsymbols = 3', order_of, (3, 3)),
    "rules": (f'kind = "rules"\n{RULES}', alarm, (3, 3)),
    "table": ('kind = "table"\ntable = [["a", "b"], ["c", "a"], ["b", "b"]]', lambda a, b: "abcabb"[2 * a + b], (3, 2)),
    "code": (
        'kind = "code"\nfile = "own.py"\nname = "told"\nsymbols = 3',
        lambda a, b: ("even", "odd")[a * b % 2],
        (3, 3),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_learned_and_predicted(kind: str, tmp_path: Path) -> None:
    program, outcome, sizes = KINDS[kind]
    due = [outcome(*map(int, cell)) for cell in symbols(sizes)]  # type: ignore[operator]
    words = plan(tmp_path, program, due, sizes)
    (tmp_path / "own.py").write_text(CODE)
    trust = ["--trust-code", "program"] if kind == "code" else []
    result = done("split", "train", words, "--out", tmp_path / "run", "--json", *trust).json
    assert result["mode"] == "program"
    assert result["scores"]["composed"] > 0.9
    data = [word for p in ("ash", "birch") for word in ("--data", f"{p}={tmp_path / f'{p}.csv'}")]
    done("split", "predict", words, "--run", tmp_path / "run", *data, "--out", tmp_path / "p.csv", *trust)
    with (tmp_path / "p.csv").open() as text:
        found = {row["id"]: row["likeliest"] for row in csv.DictReader(text)}
    assert np.mean([found[f"c{i:04d}"] == str(y) for i, y in enumerate(due)]) > 0.9
    assert read_facts((tmp_path / "run" / "records.json").read_text()).bytes("ash", "up") > 0


def summed(place: Path, **options: str | int) -> Path:
    return plan(place, KINDS["sum"][0], list(symbols((3, 3)).sum(1)), **options)  # type: ignore[arg-type]


def test_what_a_program_leaves_open_and_tells_is_said_and_recorded(tmp_path: Path) -> None:
    program, outcome, sizes = KINDS["remainder"]
    words = plan(tmp_path, program, [outcome(*cell) for cell in symbols(sizes)], sizes, epochs=1)  # type: ignore[operator]
    outcome = done("split", "train", words, "--out", tmp_path / "run")
    assert "noticed: the outcome does not settle what components read: 2 relabellings" in outcome.err
    assert "noticed: party 'ash', operand 0: zeros of its cotangents tell 0.00 of" in outcome.err
    recorded = read_facts((tmp_path / "run" / "records.json").read_text()).warnings
    assert len(recorded) == 3
    (tmp_path / "sum").mkdir()
    settled = summed(tmp_path / "sum", epochs=1)
    said = done("split", "train", settled, "--out", tmp_path / "sum" / "run", "--json").json["warnings"]
    # of a sum zeros tell the label whole, and what it leaves open is nothing
    assert [line.split(":")[0] for line in said] == ["party 'ash', operand 0", "party 'birch', operand 1"]
    assert "tell 2.20 of 2.20 bits of the label" in said[0]


def test_a_function_with_too_many_combinations_is_run_on_samples(tmp_path: Path) -> None:
    size = 1100  # a grid of more than 2 ** 20 cells
    known = symbols((3, 3))
    words = plan(
        tmp_path,
        f'kind = "code"\nfile = "own.py"\nname = "least"\nsymbols = {size}\nsamples = 64',
        [min(int(a) + int(b), 4) for a, b in known],
        labels='classes = ["4", "3", "2", "1", "0"]',
        epochs=2,
    )
    (tmp_path / "own.py").write_text("def least(a, b):\n    return min(a + b, 4)\n")
    train = ("split", "train", words, "--trust-code", "program", "--json")
    result = done(*train, "--out", tmp_path / "run").json
    assert "run on samples" in result["warnings"][0]
    assert done(*train, "--out", tmp_path / "two").json["digests"] == result["digests"]
    few = tmp_path / "few.toml"
    few.write_text(words.read_text().replace(f"symbols = {size}", "symbols = 3"))
    told = ("split", "train", few, "--trust-code", "program", "--out", tmp_path / "no")
    refused(*told, names=("program.samples", "9 combinations"))
    (tmp_path / "own.py").write_text("def least(a, b):\n    return a + b\n")
    refused(*train, "--out", tmp_path / "no", names=("least of 'own.py'", "labels.classes"))
    words.write_text(words.read_text().replace('classes = ["4", "3", "2", "1", "0"]', ""))
    refused(*train, "--out", tmp_path / "no", names=("labels.classes", "too many"))


def test_a_program_answers_without_a_party_and_is_audited(tmp_path: Path) -> None:
    words = summed(tmp_path, epochs=6)
    done("split", "train", words, "--out", tmp_path / "run", "--save-every", 7)
    one = ("--data", f"ash={tmp_path / 'ash.csv'}")
    predict = ("split", "predict", words, "--run", tmp_path / "run", "--out", tmp_path / "p.csv", *one)
    refused(*predict, names="quorum of 2")
    done(*predict, "--quorum", 1)
    with (tmp_path / "p.csv").open() as text:
        probable = max(float(row["p(0)"]) for row in csv.DictReader(text))
    assert probable < 0.4  # of nothing being known of the other operand, 1 / 3
    found = done("split", "audit", words, "--run", tmp_path / "run", "--retrain", "--json").json["certificate"]
    held = {one["number"]: one["held"] for one in found["standings"]}
    assert (held["G10"], held["G0"], held["G2"]) == (True, False, False)
    ash = (tmp_path / "ash.csv").read_text().replace("1.0", "0.5")
    (tmp_path / "ash.csv").write_text(ash)
    refused("split", "audit", words, "--run", tmp_path / "run", "--retrain", names="training again gives another")


def test_labels_of_a_program_may_be_randomised(tmp_path: Path) -> None:
    words = summed(tmp_path, labels="epsilon = 4.0", epochs=2)
    result = done("split", "train", words, "--out", tmp_path / "run", "--json").json
    assert [line["unit"] for line in result["privacy"]] == ["label"]
    assert result["privacy"][0]["epsilon"] == pytest.approx(4.0)
    assert "G7a" in result["held"]


def test_its_code_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    words = plan(tmp_path, KINDS["code"][0], [("even", "odd")[a * b % 2] for a, b in symbols((3, 3))], epochs=1)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + CODE)
    train = ("split", "train", words, "--out", tmp_path / "run")
    refused(*train, names="told of 'own.py'", mend="--trust-code program")
    refused(*train, "--trust-code", "ash", names="told of 'own.py'")
    assert not (tmp_path / "ran").exists()
    done(*train, "--trust-code", "program")
    audit = ("split", "audit", words, "--run", tmp_path / "run")
    refused(*audit, names="told of 'own.py'", mend="--trust-code program")
    done(*audit, "--trust-code", "program")


SUM = 'kind = "sum"\nsymbols = 3'
ONE_RULE = 'kind = "rules"\nsymbols = 3\notherwise = 0\nrules = [{{ when = {{ {} }}, then = 1 }}]'

REFUSED = {
    "go together": ('mode = "program"', 'mode = "joint"'),
    "program.operands": (SUM, SUM + '\noperands = ["ash", "elm"]'),
    "program.symbols": ("symbols = 3", "symbols = [3, 3, 3]"),
    "width is 5": ('kind = "linear" }\n[parties.birch]', 'kind = "linear", width = 5 }\n[parties.birch]'),
    "program.sum.modulus": (SUM, SUM + "\nmodulus = 0"),
    "key 'program'": ('kind = "sum"', 'kind = "product"'),
    "composer.outputs": ("[program]", '[composer]\noutputs = "median"\n[program]'),
    "label of case": ('kind = "sum"', 'kind = "comparison"'),
    "5 outcomes": ('column = "y"', 'column = "y"\nclasses = ["0", "1"]'),
    "labels.task": ('column = "y"', 'column = "y"\ntask = "regression"'),
    "is of two operands": (SUM, 'kind = "comparison"\nsymbols = 3\noperands = ["ash", "birch", "ash"]'),
    "of one length": (SUM, 'kind = "table"\ntable = [[0, 1], [1]]'),
    "a cell is 1.5": (SUM, 'kind = "table"\ntable = [[0, 1.5], [1, 0]]'),
    "'elm'": (SUM, ONE_RULE.format("elm = [1]")),
    "rule 0, operand 0": (SUM, ONE_RULE.format("ash = [3]")),
    "one word": (SUM, 'kind = "table"\ntable = [[0, "0"], [1, 0]]'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_program_that_does_not_fit_is_refused_by_name(name: str, tmp_path: Path) -> None:
    words = summed(tmp_path)
    old, new = REFUSED[name]
    assert old in words.read_text()
    words.write_text(words.read_text().replace(old, new))
    refused("split", "train", words, "--out", tmp_path / "run", names=name)
    assert not (tmp_path / "run").exists()


def test_a_party_may_hold_several_operands(tmp_path: Path) -> None:
    known = symbols((2, 2))
    words = plan(
        tmp_path,
        'kind = "sum"\nsymbols = [2, 2, 2]\noperands = ["birch", "ash", "birch"]',
        [2 * int(b) + int(a) for a, b in known],
        (2, 2),
        epochs=1,
    )
    done("split", "train", words, "--out", tmp_path / "run")
    terms = json.loads((tmp_path / "run" / "records.json").read_text())["facts"]
    assert terms["mode"] == "program"
    facts = read_facts((tmp_path / "run" / "records.json").read_text())
    # birch's activations are four logits wide, ash's two
    assert facts.bytes("birch", "up") > facts.bytes("ash", "up")
