"""Signing, verifying and taking back as a user types it, on tables, networks and language models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from cli_runner import Outcome, done, files, misused, refused
from cli_signed import NAMES, Signed, said, signed

import network_parties as parties
from party_keys import certificate, days, new_key
from quiltwork.contribution.store import read


@pytest.fixture
def rows(machines: Mapping[str, Path], tmp_path: Path) -> Signed:
    return signed(tmp_path, machines)


@pytest.fixture
def networks(tmp_path: Path) -> Signed:
    made = {p: parties.release(tmp_path / "made", p, one=parties.network(p)).path for p in NAMES}
    return signed(tmp_path, made)


# Sign and verify ----------------------------------------------------------------


def test_sign_and_verify(rows: Signed) -> None:
    again = done("sign", rows["ash"], "--key", rows.place / "ash.key", "--overwrite", "--json").json
    assert again["digest"] == read(rows["ash"]).digest
    assert again["path"] == str(rows["ash"] / "contribution.sig")
    found = done("verify", *rows.all, *rows.trust, "--json").json
    assert [one["party"] for one in found] == list(NAMES)
    assert found[0] == {"party": "ash", "digest": again["digest"], "key": again["key"]}
    assert f"ash: {again['digest']} is signed with key {again['key']}" in done("verify", rows["ash"], *rows.trust).out
    refused("sign", rows["ash"], "--key", rows.place / "ash.key", names="already there")


def test_verify_by_one_key_or_certificate(rows: Signed) -> None:
    done("verify", rows["ash"], "--public-key", rows.place / "ash.pem")
    refused("verify", rows["ash"], "--public-key", rows.place / "birch.pem", names=("'ash'", "no key of that party"))
    key = rows.place / "ash.key"
    current = certificate(rows.place, "current", key, days(-2), days(2))
    past = certificate(rows.place, "past", key, days(-9), days(-2))
    done("verify", rows["ash"], "--certificate", current)
    refused("verify", rows["ash"], "--certificate", past, names=("'ash'", "until", "today"), mend="new key")
    refused("verify", rows["ash"], "--public-key", current, names="the other of the two", mend="--certificate")
    refused("verify", rows["ash"], "--certificate", rows.place / "ash.pem", names="other", mend="--public-key")
    misused("verify", rows["ash"], names="give one of")
    misused("verify", rows["ash"], *rows.trust, "--public-key", rows.place / "ash.pem", names="give one of")


def test_keys_that_do_not_do(rows: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("sign", rows["ash"], "--key", rows.place / "ash.pem", names="no private key", mend="openssl")
    locked = new_key(rows.place, "locked", password=b"open sesame")
    words = ("sign", rows["ash"], "--overwrite", "--key", locked)
    refused(*words, names="no private key that can be read")
    monkeypatch.setenv("QUILTWORK_KEY_PASSWORD", "open sesame")
    done(*words)


# Requiring signatures -------------------------------------------------------------


def attempts(given: Signed, out: Path, method: str) -> tuple[object, ...]:
    return ("compose", *given.all, "--method", method, "--out", out)


@pytest.mark.parametrize(("kind", "method"), [("rows", "middle"), ("networks", "combine")])
def test_compose_and_add_take_signed_contributions_only(
    kind: str, method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given: Signed = request.getfixturevalue(kind)
    done(*attempts(given, tmp_path / "all", method), *given.trust)
    done("compose", *given.all[:2], "--method", method, "--out", tmp_path / "two", *given.trust)
    done("add", tmp_path / "two", given["cedar"], "--out", tmp_path / "three", *given.trust)
    assert files(tmp_path / "three") == files(tmp_path / "all")
    (given["cedar"] / "contribution.sig").unlink()
    for words in (
        attempts(given, tmp_path / "no", method),
        ("add", tmp_path / "two", given["cedar"], "--out", tmp_path / "no"),
    ):
        refused(*words, *given.trust, names=("'cedar'", "not signed"), mend="quiltwork sign")
        assert not (tmp_path / "no").exists()
    done(*attempts(given, tmp_path / "some", method), "--include", "ash", "--include", "birch", *given.trust)
    done(*attempts(given, tmp_path / "unasked", method))


def test_an_altered_and_a_foreign_signature_are_refused(rows: Signed, tmp_path: Path) -> None:
    words = (*attempts(rows, tmp_path / "no", "middle"), *rows.trust)
    own = (rows["ash"] / "contribution.sig").read_bytes()
    shutil.copy(rows["birch"] / "contribution.sig", rows["ash"])
    refused(*words, names=("'ash'", "with a key of 'birch'"))
    bundle = json.loads(own)
    bundle["dsseEnvelope"]["payload"] = bundle["dsseEnvelope"]["payload"][:-4]
    (rows["ash"] / "contribution.sig").write_text(json.dumps(bundle))
    refused(*words, names=("'ash'", "no key of that party made its signature"))
    (rows["ash"] / "contribution.sig").write_bytes(own[: len(own) // 2])
    refused(*words, names=("contribution.sig of party 'ash'",), mend="again")


# Taking back ------------------------------------------------------------------------


def test_a_table_s_composite_of_what_was_taken_back(rows: Signed, tables: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "composed"
    done(*attempts(rows, out, "middle"))
    back = rows.taken_back("birch")
    predict = ("predict", "--data", tables["test"], "--out", tmp_path / "new.csv")
    evaluate = ("evaluate", "--party", f"ash={tables['test']}", "--json")
    for verb, *words in (predict, evaluate):
        refused(verb, out, *words, *back, names=said("birch"), mend="quiltwork remove")
    refused("verify", rows["birch"], *back, names=said("birch"))
    refused(*attempts(rows, tmp_path / "no", "middle"), *back, names=said("birch"), mend="Leave it out")
    refused("add", out, rows["birch"], "--out", tmp_path / "no", *back, names=said("birch"))
    done("remove", out, "--party", "birch", "--out", tmp_path / "without")
    done("predict", tmp_path / "without", *predict[1:], *back)
    refused(
        "evaluate", tmp_path / "without", *evaluate[1:], "--contribution", rows["birch"], *back, names=said("birch")
    )


def test_a_composed_network_of_what_was_taken_back(networks: Signed, tmp_path: Path) -> None:
    out = tmp_path / "composed"
    done(*attempts(networks, out, "combine"))
    np.savez(tmp_path / "new.npz", inputs=parties.inputs(rows=3))
    back = networks.taken_back("ash")
    refused("predict", out, "--data", tmp_path / "new.npz", "--out", tmp_path / "p.csv", *back, names=said("ash"))
    refused("export", out, "--out", tmp_path / "m.pt2", *back, names=said("ash"))
    done("predict", out, "--data", tmp_path / "new.npz", "--out", tmp_path / "p.csv")


def test_a_language_model_of_what_was_taken_back(
    base: Path, given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    owners = signed(tmp_path, given)
    generate = ("generate", composed("learned_rows"), "--prompt", "the river", "--max-new-tokens", 2)
    back = owners.taken_back("cedar")
    refused(*generate, *back, names=said("cedar"), mend="quiltwork remove")
    held_out = tmp_path / "text.txt"
    held_out.write_text("the river runs")
    evaluate = ("evaluate", composed("soup"), "--base", base, "--party", f"ash={held_out}")
    refused(*evaluate, *back, names=said("cedar"))
    words = ("compose", "--base", base, "--method", "uniform_ensemble", "--out", tmp_path / "out", *back)
    refused(*words, *owners.all, names=said("cedar"))
    done(*words, *owners.all, "--include", "ash", "--include", "birch")
    done("generate", tmp_path / "out", "--prompt", "the river", "--max-new-tokens", 2, *back)


def test_who_joins_a_language_model_is_signed_and_nobody_in_it_took_back(
    given: Mapping[str, Path], composed: Callable[[str], Path], tmp_path: Path
) -> None:
    owners = signed(tmp_path, given)
    done("remove", composed("learned_rows"), "--party", "birch", "--out", tmp_path / "two")
    words = ("add", tmp_path / "two", owners["birch"], "--out", tmp_path / "three")
    done(*words, *owners.trust)
    assert files(tmp_path / "three") == files(composed("learned_rows"))
    (owners["birch"] / "contribution.sig").unlink()
    refused(*words, *owners.trust, "--overwrite", names=("'birch'", "not signed"))
    back = owners.taken_back("ash")
    done("sign", owners["birch"], "--key", tmp_path / "birch.key")
    refused(*words, *back, "--overwrite", names=said("ash"), mend="quiltwork remove")
    refused("verify", tmp_path / "three", *back, names=said("ash"))
    refused("verify", tmp_path / "three", *back[:2], names=("--trust", "holds no signatures"))


def test_public_text_as_a_contribution_is_trusted_like_any_other(
    base: Path, given: Mapping[str, Path], tmp_path: Path
) -> None:
    owners = signed(tmp_path, given)
    words = ("compose", owners["ash"], owners["birch"], "--base", base, "--method", "evidence_ffn", *owners.trust)
    done(*words, "--public", owners["cedar"], "--out", tmp_path / "out")
    (owners["cedar"] / "contribution.sig").unlink()
    refused(*words, "--public", owners["cedar"], "--out", tmp_path / "no", names=("'cedar'", "not signed"))


def test_the_word_of_another_key_is_told_and_changes_nothing(rows: Signed, tmp_path: Path) -> None:
    back = rows.taken_back("birch", key="ash")
    outcome = done(*attempts(rows, tmp_path / "out", "middle"), *back)
    assert "is no revocation: it is not signed with a key of 'birch'" in outcome.err


def test_revoke_says_what_it_wrote_and_refuses_to_replace(rows: Signed, tmp_path: Path) -> None:
    words = ("revoke", rows["ash"], "--key", rows.place / "ash.key", "--reason", "why")
    outcome: Outcome = done(*words, "--json")
    assert outcome.json["path"] == str(rows["ash"].resolve()) + ".revocation"
    assert outcome.json["digest"] == read(rows["ash"]).digest
    refused(*words, names="already there")
    refused(*words, "--out", tmp_path / "it.txt", names=".revocation")
    by_name = ("--digest", outcome.json["digest"], "--party", "ash", "--out", tmp_path / "other.revocation")
    done("revoke", *words[2:], *by_name)
    refused("verify", rows["ash"], *rows.trust, "--revocations", tmp_path / "other.revocation", names="saying: why")
    misused("revoke", *words[2:], names="give a contribution")
    misused("revoke", *words[1:], *by_name, names="give a contribution")
    refused(*words[:-1], "", "--overwrite", names="reason")


def test_the_two_options_go_together(rows: Signed, tmp_path: Path) -> None:
    out = tmp_path / "composed"
    done(*attempts(rows, out, "middle"))
    back = rows.taken_back("ash")
    refused(*attempts(rows, tmp_path / "no", "middle"), *back[2:], names="--revocations", mend="--trust")
    predict = ("predict", out, "--data", tmp_path / "none.csv", "--out", tmp_path / "p.csv")
    refused(*predict, *back[:2], names=("--trust", "holds no signatures"), mend="--revocations")
    refused(*predict, *back[2:], names="--revocations", mend="--trust")


# Bills of materials -------------------------------------------------------------------


def test_inspect_writes_a_bill(rows: Signed, tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx")
    out, bill = tmp_path / "composed", tmp_path / "bill.json"
    done(*attempts(rows, out, "middle"))
    told = done("inspect", out, "--bom", bill, "--json").json
    value = json.loads(bill.read_text())
    assert [one["hashes"][0]["content"] for one in value["components"]] == [
        one["digest"].removeprefix("sha256:") for one in told["contributions"]
    ]
    refused("inspect", out, "--bom", bill, names="already there")
    refused("inspect", rows["ash"], "--bom", tmp_path / "no.json", names=("--bom", "no composed model"))
    assert not (tmp_path / "no.json").exists()


def test_the_base_is_named_in_the_card_and_in_the_bill(base: Path, given: Mapping[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "composed"
    words = ("compose", given["ash"], "--method", "uniform_ensemble", "--out", out)
    refused(*words, "--base", base, "--base-name", "not a name", names="base name", mend="OWNER/NAME")
    assert not out.exists()
    done(*words, "--base", base, "--base-name", "owner/base-1B")
    assert '\nbase_model:\n- "owner/base-1B"\n' in (out / "README.md").read_text()
    assert done("inspect", out, "--json").json["base_name"] == "owner/base-1B"
    tables = ("compose", given["ash"], "--method", "middle", "--out", out, "--base-name", "owner/base-1B")
    refused(*tables, names=("--base-name", "no such thing"))
