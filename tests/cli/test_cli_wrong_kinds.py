"""One kind of thing where another is expected, at every place where a verb takes a path.

Whatever is given, the answer is a refusal in three parts that names what was given (or, of a contribution, its party)
and says what to do: never a traceback, and nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_runner import FAST, Outcome, assert_refusal, done, run
from safetensors.torch import load_file, save_file

import network_parties as parties
from party_keys import new_key, trust_file
from quiltwork.models.base import Base

THINGS = {
    "missing": "nothing",
    "file": "a file of text",
    "empty": "an empty directory",
    "base": "a dense checkpoint",
    "other": "a dense checkpoint of another family",
    "expert": "a contribution of a language model's expert",
    "foreign": "the same made from another base",
    "part": "a contribution of a mixture on a table",
    "module": "a contribution of a network",
    "portable": "a composed language model, plain transformers",
    "native": "a composed language model, quiltwork's own layout",
    "soup": "a composed language model that is a sum",
    "mixture": "a composed mixture on a table",
    "networks": "composed networks",
    "merged": "a merged checkpoint",
}


@dataclass(frozen=True)
class Slot:
    """A place where a verb takes a path.

    Attributes:
        words: the command; ``{X}`` stands for what is tried, other names in braces for things of the right kind.
        right: what belongs there, and is not tried.
        called: what else a refusal may name: where two things do not fit, the other one.
    """

    words: str
    right: tuple[str, ...]
    called: tuple[str, ...] = ()


LANGUAGE = ("portable", "native", "soup")
COMPOSED = (*LANGUAGE, "mixture", "networks")
PARTS = ("expert", "foreign", "part", "module")
DENSE = ("base", "other", "soup", "merged")

SLOTS = {
    "inspect": Slot("inspect {X}", (*PARTS, *COMPOSED)),
    "verify": Slot("verify {X} --public-key {pem}", PARTS),
    "verify-composed": Slot("verify {X} --trust {trust}", (*COMPOSED, "merged")),
    "sign": Slot("sign {X} --key {key}", PARTS),
    "revoke": Slot("revoke {X} --key {key} --reason why --out {out}.revocation", PARTS),
    "list": Slot("list {X}", COMPOSED),
    "list-contribution": Slot("list {portable} --trust {trust} --contribution {X}", ("expert",)),
    "remove": Slot("remove {X} --party ash --out {out}", COMPOSED),
    "add": Slot("add {X} {late} --out {out}", ("portable", "native"), ("'cedar'",)),
    "add-late": Slot("add {portable} {X} --out {out}", ()),
    "add-base": Slot("add {portable} {late} --base {X} --out {out}", ("base",), ("'cedar'",)),
    "compose-rows": Slot("compose {X} {late} --base {base} --method learned_rows --out {out}", ("expert",)),
    "compose-base": Slot("compose {late} --base {X} --method learned_rows --out {out}", ("base",), ("'cedar'",)),
    "compose-tables": Slot("compose {X} --method middle --out {out}", ("part",)),
    "compose-networks": Slot("compose {X} --method combine --out {out}", ("module",)),
    "compose-public": Slot(
        "compose {late} --base {base} --method evidence_ffn --public {X} --out {out}", ("expert", "file")
    ),
    "tune": Slot("tune {X} --public {file} --out {out}", ("portable", "native")),
    "tune-part": Slot("tune {portable} --public {file} --proxies evidence --contribution {X} --out {out}", ("expert",)),
    "screen": Slot("screen {X} {late} --base {base} --weights-only", ("expert",)),
    "screen-base": Slot("screen {late} --base {X} --weights-only", ("base",), ("'cedar'",)),
    "choose": Slot("choose {X} --answer {part}", ("mixture",)),
    "choose-answer": Slot("choose {mixture} --answer {X}", ()),
    "merge": Slot("merge {X} {base} --out {out}", DENSE),
    "merge-base": Slot("merge {base} --base {X} --out {out}", DENSE, ("'the base'",)),
    "evaluate": Slot(
        "evaluate {X} --base {base} --party ash={file}", ("base", "other", "merged", *LANGUAGE), ("--base",)
    ),
    "evaluate-base": Slot("evaluate {portable} --base {X} --party ash={file}", ("base",), ("/portable'",)),
    "evaluate-part": Slot("evaluate {portable} --base {base} --party ash={file} --contribution {X}", ("expert",)),
    "evaluate-text": Slot("evaluate {portable} --base {base} --party ash={X}", ("file",)),
    "report": Slot("report {X} --out {out}.html", ()),
    "generate": Slot("generate {X} --prompt a --max-new-tokens 1", ("base", "other", "merged", *LANGUAGE)),
    "predict": Slot("predict {X} --data {table} --out {out}.csv", ("mixture", "networks")),
    "predict-data": Slot("predict {mixture} --data {X} --out {out}.csv", ()),
    "export": Slot("export {X} --out {out}.pt2", ("networks",)),
    "expert-base": Slot(
        f"contribute expert --base {{X}} --data {{file}} --party oak --out {{out}} {' '.join(FAST)}", ()
    ),
    "expert-data": Slot("contribute expert --base {base} --data {X} --party oak --out {out}", ("file",)),
    "checkpoint": Slot(
        "contribute checkpoint --base {base} --checkpoint {X} --party oak --out {out}", ("base", "expert", *DENSE)
    ),
    "likelihoods": Slot("contribute likelihoods --data {table} --candidate {X} --party oak --out {out}", ("mixture",)),
    "outputs": Slot("contribute outputs --network {X} --data {table} --party oak --out {out}", ("module",)),
    "trust": Slot("list {portable} --trust {X} --revocations {revoked}", ()),
    "revocations": Slot("list {portable} --trust {trust} --revocations {X}", ()),
}
EXPERTS_BASES = ("base", "other", "portable", "merged", "soup")
"""What an expert can be trained beside."""
# a directory of revocations may be empty, or hold files that are none
NO_REVOCATIONS = ("empty", "base", "other", *PARTS, *COMPOSED, "merged")


@pytest.fixture(scope="module")
def things(
    base: Path,
    given: Mapping[str, Path],
    tiny_base: Callable[[str], Base],
    contributions,
    composed: Callable[[str], Path],
    composed_tables: Callable[[str], Path],
    machines: Mapping[str, Path],
    tables: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Every kind of thing by name; ``late`` is an expert whose party is in no composed model."""
    place = tmp_path_factory.mktemp("things")
    late, two = given["cedar"], (given["ash"], given["birch"])
    module = parties.release(place / "made", "ash", one=parties.network("ash")).path
    found = {"base": base, "other": tiny_base("llama").path, "expert": given["ash"], "late": late}
    found |= {"foreign": contributions("llama")[0].path, "part": machines["ash"], "module": module}
    for name, method, layout in (("portable", "learned_rows", "portable"), ("native", "learned_rows", "native")):
        words = ("--base", base, "--method", method, "--layout", layout, "--out", place / name)
        done("compose", *two, *words)
    done("compose", *two, "--base", base, "--method", "soup", "--out", place / "soup")
    done("compose", module, "--method", "combine", "--out", place / "networks")
    shutil.copytree(base, place / "twin")
    tensors = load_file(place / "twin" / "model.safetensors")
    save_file({name: 1.1 * one for name, one in tensors.items()}, place / "twin" / "model.safetensors")
    done("merge", base, place / "twin", "--out", place / "merged")
    found |= {name: place / name for name in ("portable", "native", "soup", "networks", "merged", "missing", "empty")}
    found |= {"mixture": composed_tables("middle"), "table": tables["test"], "revoked": place / "revoked"}
    (place / "empty").mkdir()
    (place / "revoked").mkdir()
    (place / "file").write_text("the river runs over grey stones\fthe ferry crosses\fthe mill stands still")
    found |= {"file": place / "file", "key": new_key(place, "ash"), "pem": place / "ash.pem"}
    return found | {"trust": trust_file(place, ("ash", "ash.pem"), ("birch", "ash.pem"))}


def tried(slot: Slot, things: Mapping[str, Path], name: str, out: Path) -> Outcome:
    table = {key: str(path) for key, path in things.items()} | {"X": str(things[name]), "out": str(out)}
    return run(*(word.format(**table) for word in slot.words.split()))


def wrong(place: str) -> list[str]:
    right = SLOTS[place].right + (EXPERTS_BASES if place == "expert-base" else ())
    return [name for name in THINGS if name not in right and not (place == "revocations" and name in NO_REVOCATIONS)]


def faults(outcome: Outcome, names: Sequence[str]) -> list[str]:
    """What is wrong with an answer to a wrong thing that may be called by any of some names."""
    if "Traceback" in outcome.err or outcome.code not in (1, 2):
        return [f"code {outcome.code}: {outcome.err[-300:]}"]
    words = " ".join(outcome.err.replace("│", " ").split())
    if outcome.code == 2:
        return [] if any(name in words.replace(" ", "") for name in names) else [f"not named: {words}"]
    found = [] if "refused: " in words and " why: " in words and " mend: " in words else [f"no refusal: {words}"]
    return found + ([] if any(name in words for name in names) else [f"not named: {words}"])


@pytest.mark.parametrize("place", SLOTS)
def test_a_wrong_kind_of_thing_is_refused_by_name(place: str, things: Mapping[str, Path], tmp_path: Path) -> None:
    found = {}
    for name in wrong(place):
        outcome = tried(SLOTS[place], things, name, tmp_path / "out")
        called = [things[name].name, *(["'ash'"] if name in PARTS else []), *SLOTS[place].called]
        if bad := faults(outcome, called):
            found[name] = bad
        left = [path.name for path in tmp_path.iterdir()]
        if left:
            found[name] = [*bad, f"left {left}"]
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    assert not found, "\n".join(f"{name}: {bad}" for name, bad in found.items())


SAYINGS = [
    ("list", "expert", "it is a contribution and no composed model", "quiltwork compose"),
    ("list", "merged", "it is a merged checkpoint", "quiltwork compose"),
    ("remove", "missing", "there is no such directory", "quiltwork compose"),
    ("add", "file", "it is a file", "quiltwork compose"),
    ("add-late", "portable", "it is a composed model", "contributions of its parties"),
    ("add-late", "foreign", "it was made from base", "made from this one"),
    ("compose-rows", "base", "a checkpoint, and no contribution", "quiltwork contribute checkpoint"),
    ("compose-base", "expert", "it is no checkpoint", "Hugging Face"),
    ("compose-base", "native", "quiltwork's own layout", "--layout portable"),
    ("verify", "merged", "composed and merged models are not", "Verify it without"),
    ("report", "portable", "it is a composed model", "quiltwork evaluate"),
    ("tune", "mixture", "it holds a mixture on tables", "quiltwork predict"),
    ("generate", "missing", "there is no such directory", "config.json"),
    ("tune-part", "module", "not made from the base", "that went into the model"),
    ("evaluate-part", "part", "holds no expert of a language model", "models of its own kind"),
]


@pytest.mark.parametrize(("place", "name", "why", "mend"), SAYINGS)
def test_a_refusal_says_what_it_is_and_what_to_do(
    place: str, name: str, why: str, mend: str, things: Mapping[str, Path], tmp_path: Path
) -> None:
    assert_refusal(tried(SLOTS[place], things, name, tmp_path / "out"), why, mend)


def test_an_answer_that_names_nothing_would_be_noticed(things: Mapping[str, Path], tmp_path: Path) -> None:
    outcome = tried(SLOTS["list"], things, "expert", tmp_path / "out")
    assert not faults(outcome, [things["expert"].name])
    assert faults(outcome, ["another name"])
    assert faults(Outcome(1, "", "Traceback (most recent call last)"), [""])
    assert faults(Outcome(0, "done", ""), [""])
