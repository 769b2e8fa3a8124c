"""Revocations: what they state, whose word they are, and every file that is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from party_keys import bundled, new_key, trust_file
from quiltwork.contribution.bundle import unseal
from quiltwork.contribution.revocation import read_revocations, revoke
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign
from quiltwork.contribution.signing_keys import read_signing_key
from quiltwork.contribution.store import Draft, read, write
from quiltwork.contribution.trust import open_trust
from quiltwork.errors import InvalidOption, MalformedContribution, RevokedContribution

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def signed(sealed: Contribution, tmp_path: Path) -> Contribution:
    """A contribution of acme, signed; the trust file has its key and globex's."""
    for party in ("acme", "globex", "stranger"):
        new_key(tmp_path, party)
    trust_file(tmp_path, ("acme", "acme.pem"), ("globex", "globex.pem"))
    sign(sealed, read_signing_key(tmp_path / "acme.key"))
    return sealed


def take_back(place: Path, name: str, key: str, party: str, digest: str, **changes: Any) -> Path:
    stated = {"reason": "consent withdrawn", "at": NOON} | changes
    path = place / f"{name}.revocation"
    path.write_bytes(revoke(party, digest, read_signing_key(place / f"{key}.key"), **stated))
    return path


def statement(digest: str = DIGEST, **changes: Any) -> dict[str, Any]:
    """A revocation's statement as the page has it, written by hand."""
    predicate = {"party": "acme", "contribution": digest, "revoked": "2026-05-04T12:00:00Z", "reason": "why"}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "acme", "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": "https://quiltwork/revocation/v1",
        "predicate": predicate | changes,
    }


def test_it_states_whose_what_when_and_why(tmp_path: Path) -> None:
    new_key(tmp_path, "acme")
    evening = datetime(2026, 5, 4, 14, 0, 0, tzinfo=timezone(timedelta(hours=2)))
    path = take_back(tmp_path, "it", "acme", "acme", DIGEST, at=evening, reason="why")
    assert json.loads(unseal(path.read_bytes(), "it").payload) == statement()
    assert path.read_bytes() == take_back(tmp_path, "again", "acme", "acme", DIGEST, reason="why").read_bytes()


def test_what_its_party_took_back_is_refused_with_who_when_and_why(signed: Contribution, tmp_path: Path) -> None:
    path = take_back(tmp_path, "a", "acme", "acme", signed.digest)
    open_trust(tmp_path / "trust.toml").require([signed])
    for given_path in (path, tmp_path):
        trust = open_trust(tmp_path / "trust.toml", revocations=[given_path])
        assert trust.notes == ()
        with pytest.raises(RevokedContribution) as caught:
            trust.require([signed])
        for word in ("'acme'", "2026-05-04T12:00:00Z", "consent withdrawn", signed.digest[:19]):
            assert word in str(caught.value)


def test_what_another_program_wrote_is_heeded(signed: Contribution, tmp_path: Path) -> None:
    path = tmp_path / "hand.revocation"
    path.write_bytes(bundled(statement(signed.digest), tmp_path / "acme.key"))
    with pytest.raises(RevokedContribution, match="why"):
        open_trust(tmp_path / "trust.toml", revocations=[path]).require([signed])


@pytest.mark.parametrize(
    ("key", "party", "words"),
    [
        ("globex", "acme", "not signed with a key of 'acme'"),
        ("stranger", "acme", "not signed with a key of 'acme'"),
        ("stranger", "stranger", "names no key of 'stranger'"),
    ],
)
def test_the_word_of_another_key_is_no_revocation_and_is_told(
    signed: Contribution, tmp_path: Path, key: str, party: str, words: str
) -> None:
    path = take_back(tmp_path, "x", key, party, signed.digest)
    trust = open_trust(tmp_path / "trust.toml", revocations=[path])
    (note,) = trust.notes
    assert "is no revocation" in note
    assert words in note
    trust.require([signed])


def test_nobody_takes_back_what_is_another_s(signed: Contribution, tmp_path: Path) -> None:
    """Globex signs in its own name over acme's digest: that is not acme's word, nor does it hide it."""
    foreign = take_back(tmp_path, "x", "globex", "globex", signed.digest, at=NOON - timedelta(days=9))
    trust = open_trust(tmp_path / "trust.toml", revocations=[foreign])
    trust.require([signed])
    own = take_back(tmp_path, "y", "acme", "acme", signed.digest)
    with pytest.raises(RevokedContribution):
        open_trust(tmp_path / "trust.toml", revocations=[foreign, own]).require([signed])


def test_another_contribution_of_the_party_stays(
    signed: Contribution, tmp_path: Path, make_draft: Callable[..., Draft]
) -> None:
    other = write(tmp_path / "other", make_draft(card="a later one"))
    sign(other, read_signing_key(tmp_path / "acme.key"))
    trust = open_trust(tmp_path / "trust.toml", revocations=[take_back(tmp_path, "a", "acme", "acme", signed.digest)])
    trust.require([other])
    with pytest.raises(RevokedContribution):
        trust.require([other, signed])


def test_a_key_that_has_run_out_still_takes_back(signed: Contribution, tmp_path: Path) -> None:
    trust_file(tmp_path, ("acme", "acme.pem"), more="until = 2025-12-31")
    path = take_back(tmp_path, "a", "acme", "acme", signed.digest)
    with pytest.raises(RevokedContribution):
        open_trust(tmp_path / "trust.toml", revocations=[path], on=date(2026, 6, 1)).require([signed])


def test_of_two_the_earlier_is_told(signed: Contribution, tmp_path: Path) -> None:
    take_back(tmp_path, "a", "acme", "acme", signed.digest, reason="later")
    take_back(tmp_path, "b", "acme", "acme", signed.digest, reason="earlier", at=NOON - timedelta(days=1))
    with pytest.raises(RevokedContribution, match="saying: earlier"):
        open_trust(tmp_path / "trust.toml", revocations=[tmp_path]).require([signed])


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not json",
        lambda key: bundled(statement(revoked="yesterday"), key),
        lambda key: bundled(statement(revoked="2026-13-04T12:00:00Z"), key),
        lambda key: bundled(statement(reason=""), key),
        lambda key: bundled(statement(reason="\x1b[2J"), key),
        lambda key: bundled(statement(party="../acme"), key),
        lambda key: bundled(statement(contribution="sha256:" + "cd" * 32), key),
        lambda key: bundled(statement() | {"predicateType": "https://model_signing/signature/v1.0"}, key),
        lambda key: bundled(statement() | {"predicate": []}, key),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(signed: Contribution, tmp_path: Path, broken: Any) -> None:
    """One that cannot be read may be one that should be heeded."""
    path = tmp_path / "broken.revocation"
    path.write_bytes(broken(tmp_path / "acme.key") if callable(broken) else broken)
    with pytest.raises(MalformedContribution, match=r"broken\.revocation"):
        open_trust(tmp_path / "trust.toml", revocations=[tmp_path])


def test_a_signature_is_no_revocation_and_a_revocation_no_signature(signed: Contribution, tmp_path: Path) -> None:
    with pytest.raises(MalformedContribution, match="a revocation states"):
        read_revocations([signed.path / "contribution.sig"])
    own = take_back(tmp_path, "a", "acme", "acme", signed.digest).read_bytes()
    (signed.path / "contribution.sig").write_bytes(own)
    with pytest.raises(MalformedContribution, match="a signature states"):
        open_trust(tmp_path / "trust.toml").require([read(signed.path)])


def test_a_huge_file_is_refused_before_it_is_read(signed: Contribution, tmp_path: Path) -> None:
    with (tmp_path / "huge.revocation").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MalformedContribution, match="limit"):
        read_revocations([tmp_path])


def test_paths_that_are_not_there_are_refused_and_other_files_passed_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert read_revocations([tmp_path]) == []
    with pytest.raises(InvalidOption, match="missing"):
        read_revocations([tmp_path / "missing"])


@pytest.mark.parametrize(
    ("party", "digest", "reason", "words"),
    [
        ("Acme", DIGEST, "why", "party"),
        ("acme", "ab" * 32, "why", "contribution"),
        ("acme", DIGEST, "", "reason"),
        ("acme", DIGEST, "w" * 2001, "reason"),
        ("acme", DIGEST, "\x00", "reason"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(
    tmp_path: Path, party: str, digest: str, reason: str, words: str
) -> None:
    key = read_signing_key(new_key(tmp_path, "acme"))
    with pytest.raises(InvalidOption, match=words):
        revoke(party, digest, key, reason=reason, at=NOON)


def test_whatever_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("written")
    key = read_signing_key(new_key(place, "acme"))

    @settings(max_examples=60)
    @given(st.text(min_size=1, max_size=100), st.datetimes(datetime(1900, 1, 1), datetime(9000, 1, 1)))
    def again(reason: str, at: datetime) -> None:
        try:
            data = revoke("acme", DIGEST, key, reason=reason, at=at.replace(tzinfo=UTC))
        except InvalidOption:
            return
        (place / "it.revocation").write_bytes(data)
        (found,) = read_revocations([place])
        assert found.revocation.reason == reason
        assert found.envelope.maker([key.public]) == key.public
        assert datetime.fromisoformat(found.revocation.revoked) == at.replace(tzinfo=UTC, microsecond=0)

    again()
