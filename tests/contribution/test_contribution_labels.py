"""Labels: an owner hands over several contributions, each under OWNER.SHARE, and answers for all of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from party_keys import new_key, trust_file
from quiltwork.compose.method import check_parties, chosen
from quiltwork.contribution.fields import PartyLabel, PartyName, is_named, owner_of
from quiltwork.contribution.revocation import revoke
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign
from quiltwork.contribution.signing_keys import read_signing_key
from quiltwork.contribution.store import Draft, read, write
from quiltwork.contribution.trust import open_trust
from quiltwork.errors import (
    DuplicateParty,
    InvalidOption,
    MalformedContribution,
    RevokedContribution,
    UntrustedContribution,
)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True)
SHARES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True)
LABEL, NAME = TypeAdapter(PartyLabel), TypeAdapter(PartyName)


def labelled(place: Path, make: Callable[..., Draft], label: str) -> Contribution:
    return write(place / label, make(party=label))


@given(NAMES, SHARES)
def test_every_owner_with_or_without_a_share_is_a_label(owner: str, share: str) -> None:
    for label in (owner, f"{owner}.{share}"):
        assert LABEL.validate_python(label) == label
        assert owner_of(label) == owner
        assert is_named(label, {owner})
    assert not is_named(owner, {f"{owner}.{share}"})
    with pytest.raises(ValidationError):
        NAME.validate_python(f"{owner}.{share}")


@pytest.mark.parametrize(
    "label", ["", ".code", "acme.", "acme..code", "acme.a.b", "Acme.code", "acme.Code", "acme.-x", "acme." + "a" * 33]
)
def test_anything_else_is_none(label: str) -> None:
    with pytest.raises(ValidationError):
        LABEL.validate_python(label)


def test_a_language_model_contribution_carries_a_label(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    written = labelled(tmp_path, make_draft, "acme.code")
    assert read(written.path) == written
    assert written.party == "acme.code"


def test_tables_have_names_without_shares(make_mixture: Callable[..., Draft], tmp_path: Path) -> None:
    with pytest.raises(MalformedContribution, match="field 'party'"):
        write(tmp_path / "ward", make_mixture(party="ward.east"))


def test_the_owner_s_key_signs_its_shares_and_no_other_s(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    code, other = (labelled(tmp_path, make_draft, label) for label in ("acme.code", "acmeous.code"))
    key = read_signing_key(new_key(tmp_path, "acme"))
    sign(code, key)
    sign(other, key)
    trust = open_trust(trust_file(tmp_path, ("acme", "acme.pem")))
    trust.require([code])
    with pytest.raises(UntrustedContribution, match=r"'acmeous\.code'.*no key of that party"):
        trust.require([other])


@pytest.mark.parametrize("named", ["acme", "acme.code"])
def test_the_owner_takes_one_share_back(make_draft: Callable[..., Draft], tmp_path: Path, named: str) -> None:
    code, law = (labelled(tmp_path, make_draft, label) for label in ("acme.code", "acme.law"))
    key = read_signing_key(new_key(tmp_path, "acme"))
    for one in (code, law):
        sign(one, key)
    stated = revoke(named, code.digest, key, reason="withdrawn", at=datetime(2026, 5, 4, tzinfo=UTC))
    (tmp_path / "code.revocation").write_bytes(stated)
    trust = open_trust(trust_file(tmp_path, ("acme", "acme.pem")), revocations=[tmp_path / "code.revocation"])
    trust.require([law])
    with pytest.raises(RevokedContribution, match=r"of party 'acme\.code': party 'acme' took it back"):
        trust.require([code])


def test_a_stranger_takes_nothing_back_by_a_share_s_name(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    code = labelled(tmp_path, make_draft, "acme.code")
    sign(code, read_signing_key(new_key(tmp_path, "acme")))
    thief = read_signing_key(new_key(tmp_path, "thief"))
    stated = revoke("acme.code", code.digest, thief, reason="mine", at=datetime(2026, 5, 4, tzinfo=UTC))
    (tmp_path / "code.revocation").write_bytes(stated)
    path = trust_file(tmp_path, ("acme", "acme.pem"), ("thief", "thief.pem"))
    trust = open_trust(path, revocations=[tmp_path / "code.revocation"])
    trust.require([code])
    assert trust.notes == (
        f"{trust.notes[0].split(' is no')[0]} is no revocation: it is not signed with a key of 'acme'",
    )


def test_shares_of_one_owner_are_different_parties(make_draft: Callable[..., Draft], tmp_path: Path) -> None:
    found = [labelled(tmp_path, make_draft, label) for label in ("acme", "acme.code", "acme.law")]
    check_parties(found)
    with pytest.raises(DuplicateParty, match=r"acme\.code"):
        check_parties([found[1], found[1]])
    with pytest.raises(InvalidOption, match="party 'base'"):
        check_parties([labelled(tmp_path, make_draft, "base.code")])


def test_an_owner_s_name_includes_all_its_shares() -> None:
    labels = ["acme.code", "acme.law", "globex"]
    assert chosen(labels, ("acme",), {}) == ["acme.code", "acme.law"]
    assert chosen(labels, ("acme.law", "globex"), {"acme.law": 2.0}) == ["acme.law", "globex"]
    for include, weights in ((("acme.tax",), {}), (None, {"acme": 2.0}), (("base",), {})):
        with pytest.raises(InvalidOption, match=r"The parties are: acme\.code, acme\.law, globex"):
            chosen(labels, include, weights)
