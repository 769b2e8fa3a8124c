"""Trust files and keys: on which days a key counts, and every file that is no key."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

import party_keys as keys
from party_keys import new_key, trust_file
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign
from quiltwork.contribution.signing_keys import read_signing_key, read_verifying_key
from quiltwork.contribution.trust import open_trust
from quiltwork.errors import InvalidOption, UntrustedContribution

TODAY = date(2026, 6, 1)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path, "acme")


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ("from = 2026-06-01\nuntil = 2026-06-01", True),
        ("until = 2026-05-31", False),
        ("from = 2026-06-02", False),
        ("", True),
    ],
)
def test_a_key_counts_on_its_days_only(
    sealed: Contribution, key: Path, tmp_path: Path, more: str, counts: bool
) -> None:
    sign(sealed, read_signing_key(key))
    trust = open_trust(trust_file(tmp_path, ("acme", "acme.pem"), more=more), on=TODAY)
    if counts:
        trust.require([sealed])
    else:
        with pytest.raises(UntrustedContribution, match=r"counts (from|until) 2026-.*today is 2026-06-01") as caught:
            trust.require([sealed])
        assert "new key" in caught.value.mend


def test_of_one_key_under_two_terms_the_one_that_counts_is_taken(
    sealed: Contribution, key: Path, tmp_path: Path
) -> None:
    sign(sealed, read_signing_key(key))
    entry = '[[keys]]\nparty = "acme"\nkey = "acme.pem"\n'
    text = f"{entry}until = 2026-01-01\n{entry}from = 2026-05-01\n"
    (tmp_path / "trust.toml").write_text(text)
    open_trust(tmp_path / "trust.toml", on=TODAY).require([sealed])
    with pytest.raises(UntrustedContribution, match="counts"):
        open_trust(tmp_path / "trust.toml", on=date(2026, 3, 1)).require([sealed])


def test_a_certificate_brings_its_days(sealed: Contribution, key: Path, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(key))
    keys.certificate(tmp_path, "acme", key, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC))
    path = trust_file(tmp_path, ("acme", "acme.crt"), more="until = 2026-07-01")
    open_trust(path, on=TODAY).require([sealed])
    for day in (date(2025, 12, 31), date(2026, 7, 2)):
        with pytest.raises(UntrustedContribution, match="from 2026-01-01 until 2026-07-01"):
            open_trust(path, on=day).require([sealed])


def test_a_key_may_stand_in_the_trust_file_itself(sealed: Contribution, key: Path, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(key))
    pem = (tmp_path / "acme.pem").read_text()
    (tmp_path / "trust.toml").write_text(f'[[keys]]\nparty = "acme"\nkey = """\n{pem}"""\n')
    open_trust(tmp_path / "trust.toml").require([sealed])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys"),
        ("keys = []", "keys"),
        ("[[keys]]\nparty = 'acme'", "key"),
        ("[[keys]]\nparty = 'Acme!'\nkey = 'acme.pem'", "party"),
        ("[[keys]]\nparty = 'acme'\nkey = 'acme.pem'\nuntil = 'soon'", "until"),
        ("[[keys]]\nparty = 'acme'\nkey = 'acme.pem'\nuntil = 2026-01-01T00:00:00", "until"),
        ("[[keys]]\nparty = 'acme'\nkey = 'acme.pem'\nowner = 1", "owner"),
        ("[[keys]]\nparty = 'acme'\nkey = 'nowhere.pem'", "cannot be read"),
        ("[[keys]]\nparty = 'acme'\nkey = 'trust.toml'", "no public key"),
        ("[[keys]]\nparty = 'acme'\nkey = 'acme.key'", "no public key"),
        ("[[keys", "not TOML"),
        ("\udcff", "not TOML"),
    ],
)
def test_a_bad_trust_file_is_refused_by_name(tmp_path: Path, key: Path, text: str, words: str) -> None:
    (tmp_path / "trust.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidOption, match=words):
        open_trust(tmp_path / "trust.toml")


def test_keys_of_other_kinds_are_refused_by_name(tmp_path: Path) -> None:
    for name, secret in keys.other_keys().items():
        path = keys.write_key(tmp_path, name, secret)
        with pytest.raises(InvalidOption, match=rf"(?i){name}.*secp256r1|secp256r1.*{name}"):
            read_signing_key(path)
        with pytest.raises(InvalidOption, match=rf"(?i){name}"):
            read_verifying_key(tmp_path / f"{name}.pem")


def test_an_encrypted_key_needs_its_password(tmp_path: Path, sealed: Contribution) -> None:
    path = new_key(tmp_path, "locked", password=b"open sesame")
    assert read_signing_key(path, "open sesame").public == read_verifying_key(tmp_path / "locked.pem")
    for wrong in (None, "sesame"):
        with pytest.raises(InvalidOption, match="no private key that can be read"):
            read_signing_key(path, wrong)


def test_files_that_are_no_keys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b"x" * 70_000)
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(500))
    for name in ("huge", "noise", "missing"):
        for reader in (read_signing_key, read_verifying_key):
            with pytest.raises(InvalidOption, match=name):
                reader(tmp_path / name)
