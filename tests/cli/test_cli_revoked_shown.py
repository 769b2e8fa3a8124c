"""What was taken back is shown by list and inspect, and refused wherever else something is opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import FAST, done, files, misused, refused, run
from cli_signed import NAMES, Signed, said, signed

import network_parties as parties


@pytest.fixture
def owners(given: Mapping[str, Path], tmp_path: Path) -> Signed:
    return signed(tmp_path / "owners", given)


@pytest.fixture
def rows(machines: Mapping[str, Path], tmp_path: Path) -> Signed:
    return signed(tmp_path / "owners", machines)


@pytest.fixture
def networks(tmp_path: Path) -> Signed:
    made = {p: parties.release(tmp_path / "made", p, one=parties.network(p)).path for p in NAMES}
    return signed(tmp_path / "owners", made)


# Shown ---------------------------------------------------------------------------


def standings(*words: object) -> dict[str, str]:
    return {one["party"]: one["standing"] for one in done(*words, "--json").json["parties"]}


def test_list_marks_what_was_taken_back(owners: Signed, composed: Callable[[str], Path]) -> None:
    back = owners.taken_back("birch")
    for model in (composed("learned_rows"), composed("soup")):
        words = ("list", model, *back)
        assert standings(*words) == {"ash": "not revoked", "birch": "revoked", "cedar": "not revoked"}
        found = {one["party"]: one for one in done(*words, "--json").json["parties"]}["birch"]
        assert found["detail"].startswith("its party took it back on 20")
        assert "an error was found" in found["detail"]
        shown = " ".join(done(*words).out.split())
        assert "revoked" in shown
        assert "an error was found" in shown
        strict = run(*words, "--strict")
        assert (strict.code, strict.out) == (1, done(*words).out)
    assert "standing" not in done("list", composed("learned_rows"), "--json").json["parties"][0]


def test_list_says_who_signed_where_the_contributions_are_at_hand(
    owners: Signed, composed: Callable[[str], Path]
) -> None:
    given = [word for party in ("ash", "cedar") for word in ("--contribution", owners[party])]
    words = ("list", composed("learned_rows"), *owners.trust, *given)
    assert standings(*words, "--strict") == {"ash": "signed", "birch": "unknown", "cedar": "signed"}
    (owners["cedar"] / "contribution.sig").unlink()
    assert standings(*words) == {"ash": "signed", "birch": "unknown", "cedar": "unsigned"}
    assert run(*words, "--strict").code == 1
    shutil.copy(owners["birch"] / "contribution.sig", owners["ash"])
    assert standings(*words)["ash"] == "unsigned"
    assert "with a key of 'birch'" in " ".join(done(*words).out.split())


def test_list_refuses_questions_that_nothing_answers(
    owners: Signed, composed: Callable[[str], Path], contributions, tmp_path: Path
) -> None:
    words = ("list", composed("learned_rows"))
    refused(*words, *owners.trust, names=("--trust", "holds no signatures"), mend="--revocations")
    refused(*words, "--strict", names="--strict", mend="--trust")
    refused(*words, "--contribution", owners["ash"], names="--contribution", mend="--trust")
    refused(*words, "--revocations", tmp_path, names="--revocations", mend="--trust")
    stranger = contributions("llama")[0].path
    refused(*words, *owners.trust, "--contribution", stranger, names=("party 'ash'", "not in the composed model"))


@pytest.mark.parametrize(("kind", "method"), [("rows", "middle"), ("networks", "combine")])
def test_list_and_inspect_of_other_models(
    kind: str, method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given: Signed = request.getfixturevalue(kind)
    done("compose", *given.all, "--method", method, "--out", tmp_path / "out")
    back = given.taken_back("cedar")
    expected = {"ash": "not revoked", "birch": "not revoked", "cedar": "revoked"}
    assert standings("list", tmp_path / "out", *back) == expected
    told = done("inspect", tmp_path / "out", *back, "--json").json["standing"]
    assert {one["party"]: one["standing"] for one in told} == expected
    assert "an error was found" in " ".join(done("inspect", tmp_path / "out", *back).out.split())
    for party, how in (("cedar", "revoked"), ("ash", "signed")):
        [one] = done("inspect", given[party], *back, "--json").json["standing"]
        assert one["standing"] == how
    (given["ash"] / "contribution.sig").unlink()
    shown = " ".join(done("inspect", given["ash"], *given.trust).out.split())
    assert "unsigned" in shown
    done("remove", tmp_path / "out", "--party", "cedar", "--out", tmp_path / "left")
    assert set(standings("list", tmp_path / "left", *back, "--strict").values()) == {"not revoked"}


# Refused -------------------------------------------------------------------------


def test_a_party_can_always_be_taken_out(owners: Signed, composed: Callable[[str], Path], tmp_path: Path) -> None:
    back = owners.taken_back("birch")
    model = composed("learned_rows")
    misused("remove", model, "--party", "ash", "--out", tmp_path / "no", *back, names="no such option")
    done("remove", model, "--party", "ash", "--out", tmp_path / "some")
    assert standings("list", tmp_path / "some", *back) == {"birch": "revoked", "cedar": "not revoked"}
    done("remove", tmp_path / "some", "--party", "birch", "--out", tmp_path / "left")
    assert standings("list", tmp_path / "left", *back, "--strict") == {"cedar": "not revoked"}


def test_what_is_in_a_base_that_is_composed_itself(
    owners: Signed, base: Path, fragments: Mapping[str, Path], tmp_path: Path
) -> None:
    portable = tmp_path / "portable"
    words = ("--base", base, "--method", "learned_rows", "--layout", "portable", "--out", portable)
    done("compose", owners["ash"], owners["birch"], *words)
    own = ("contribute", "--base", portable, "--data", fragments["cedar"], "--party", "cedar", "--cpu", *FAST)
    done(*own, "--out", tmp_path / "cedar")
    done("compose", tmp_path / "cedar", "--base", portable, "--method", "learned_rows", "--out", tmp_path / "longer")
    back = owners.taken_back("ash")
    refused(*own, "--out", tmp_path / "no", *back, names=said("ash"), mend="quiltwork remove")
    text = ("--party", f"cedar={fragments['cedar']}", "--max-bytes", 300)
    refused("evaluate", base, "--base", portable, *text, *back, names=said("ash"))
    checkpoint = ("contribute", "checkpoint", "--base", portable, "--checkpoint", base, "--party", "oak")
    refused(*checkpoint, "--out", tmp_path / "no", *back, names=said("ash"))
    listed = run("list", tmp_path / "longer", *back, "--strict")
    assert listed.code == 1
    assert "ash, in the base, is revoked" in listed.out
    inherited = done("list", tmp_path / "longer", *back, "--json").json["inherited"]
    assert [one["standing"] for one in inherited] == ["revoked", "not revoked"]
    assert not (tmp_path / "no").exists()


def test_choosing_and_answering_for_mixtures(rows: Signed, tables: Mapping[str, Path], tmp_path: Path) -> None:
    for method in ("middle", "precision_average"):
        done("compose", *rows.all[:2], "--method", method, "--out", tmp_path / method)
    candidates = (tmp_path / "middle", tmp_path / "precision_average")
    asked = [word for one in candidates for word in ("--candidate", one)]
    words = ("contribute", "likelihoods", "--data", tables["cedar"], "--party", "cedar", *asked, "--out")
    done(*words, tmp_path / "answer")
    choose = ("choose", *candidates, "--answer", tmp_path / "answer")
    done(*choose)
    refused(*choose, *rows.trust, names=("'cedar'", "not signed"), mend="quiltwork sign")
    done("sign", tmp_path / "answer", "--key", rows.place / "cedar.key")
    done(*choose, *rows.trust)
    back = rows.taken_back("ash")
    refused(*choose, *back, names=said("ash"), mend="quiltwork remove")
    refused(*words, tmp_path / "no", *back, names=said("ash"))
    scores = ("evaluate", *candidates, "--party", f"cedar={tables['cedar']}", "--out", tmp_path / "scores.json")
    done(*scores)
    refused("choose", tmp_path / "scores.json", *back, names=("--trust", "scored already"))
    report = ("report", tmp_path / "scores.json", "--out", tmp_path / "report.html")
    refused(*report, *back, names=("--trust", "none is drawn"), mend="--composite")
    refused(*report, "--composite", tmp_path / "middle", *back, names=said("ash"))
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "no").exists()


def test_kinds_that_read_others_networks(networks: Signed, tmp_path: Path) -> None:
    inputs = parties.inputs(rows=60)
    np.savez(tmp_path / "own.npz", inputs=inputs, labels=np.arange(60) % 3)
    both = [word for party in ("ash", "birch") for word in ("--network", networks[party])]
    data = ("--data", tmp_path / "own.npz", "--party", "cedar", "--out", tmp_path / "out")
    back = networks.taken_back("birch")
    cases = (
        ("outputs", *both),
        ("statistics", *both),
        ("stitches", *both, "--points", "a,b"),
        ("transfer", "--student", networks["ash"], "--teacher", networks["birch"]),
        ("moments", "--units", "0..1", "--embedding", "module:a", "--embedding-network", networks["birch"]),
    )
    for kind, *more in cases:
        refused("contribute", kind, *more, *data, *back, names=said("birch"), mend="Leave it out")
    refused("choose", *networks.all, *back, names=said("birch"))
    (networks["birch"] / "contribution.sig").unlink()
    for kind, *more in cases:
        refused("contribute", kind, *more, *data, *networks.trust, names=("'birch'", "not signed"))
    assert "out" not in files(tmp_path)
    assert not (tmp_path / "out").exists()
