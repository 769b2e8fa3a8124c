"""Signatures on contributions: whose they are, over what, and every way in which one is none."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import party_keys as keys
from party_keys import bundled, model_statement, new_key, trust_file
from quiltwork.contribution.bundle import MAX_BYTES, unseal
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign, signature_of
from quiltwork.contribution.signing_keys import read_signing_key, read_verifying_key
from quiltwork.contribution.store import Draft, read, write
from quiltwork.contribution.trust import Trust, open_trust
from quiltwork.errors import (
    AlteredContribution,
    MalformedContribution,
    StorageError,
    UntrustedContribution,
)

TODAY = date(2026, 6, 1)
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path, "acme")


@pytest.fixture
def trust(tmp_path: Path, key: Path) -> Trust:
    return open_trust(trust_file(tmp_path, ("acme", "acme.pem")), on=TODAY)


def place_signature(contribution: Contribution, data: bytes) -> Contribution:
    (contribution.path / "contribution.sig").write_bytes(data)
    return read(contribution.path)


# What is signed -----------------------------------------------------------


@pytest.mark.parametrize("curve", keys.CURVES)
def test_the_signature_is_over_every_file_as_another_program_reads_it(
    any_draft: Draft, curve: str, tmp_path: Path
) -> None:
    contribution = write(tmp_path / "it", any_draft)
    secret = new_key(tmp_path, "k", curve)
    path = sign(contribution, read_signing_key(secret))
    bundle = json.loads(path.read_bytes())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    public: Any = load_pem_public_key((tmp_path / "k.pem").read_bytes())
    signature = base64.b64decode(bundle["dsseEnvelope"]["signatures"][0]["sig"])
    public.verify(signature, keys.pre_authentication(payload), ec.ECDSA(keys.HASHES[curve]))
    stated, due = json.loads(payload), model_statement(contribution.path, any_draft.party)
    assert stated["subject"] == due["subject"]
    assert stated["predicate"]["resources"] == due["predicate"]["resources"]
    hint = hashlib.sha256((tmp_path / "k.pem").read_bytes()).hexdigest()
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == hint


def test_a_signed_contribution_is_the_same_contribution(sealed: Contribution, key: Path) -> None:
    before = sealed.digest, sealed.bytes
    sign(sealed, read_signing_key(key))
    again = read(sealed.path)
    assert again == sealed
    assert (again.digest, again.bytes) == before


def test_signing_twice_gives_the_same_bytes_and_replaces_only_when_asked(sealed: Contribution, key: Path) -> None:
    secret = read_signing_key(key)
    first = sign(sealed, secret).read_bytes()
    with pytest.raises(StorageError, match="already there"):
        sign(sealed, secret)
    assert sign(sealed, secret, overwrite=True).read_bytes() == first


def test_what_another_program_signed_is_trusted(sealed: Contribution, key: Path, trust: Trust) -> None:
    trust.require([place_signature(sealed, bundled(model_statement(sealed.path), key))])
    trust.require([place_signature(sealed, bundled(model_statement(sealed.path), key, hint=""))])


def test_a_signature_may_be_no_link_and_no_directory(sealed: Contribution, key: Path, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(key)).rename(tmp_path / "elsewhere")
    (sealed.path / "contribution.sig").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedContribution, match="symbolic link"):
        read(sealed.path)
    (sealed.path / "contribution.sig").unlink()
    (sealed.path / "contribution.sig").mkdir()
    with pytest.raises(MalformedContribution, match="a directory"):
        read(sealed.path)


# What is refused ----------------------------------------------------------


def test_an_unsigned_contribution_is_refused_with_the_mend(sealed: Contribution, trust: Trust) -> None:
    with pytest.raises(UntrustedContribution, match=r"party 'acme'.*not signed") as caught:
        trust.require([sealed])
    assert "quiltwork sign" in caught.value.mend


def test_a_party_without_a_key_is_refused(sealed: Contribution, key: Path, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(key))
    others = open_trust(trust_file(tmp_path, ("globex", "acme.pem")), on=TODAY)
    with pytest.raises(UntrustedContribution, match="names no key of that party"):
        others.require([sealed])


def test_the_key_of_another_party_is_refused_and_named(sealed: Contribution, key: Path, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(new_key(tmp_path, "globex")))
    both = open_trust(trust_file(tmp_path, ("acme", "acme.pem"), ("globex", "globex.pem")), on=TODAY)
    with pytest.raises(UntrustedContribution, match="with a key of 'globex'"):
        both.require([sealed])


def test_a_stranger_s_key_is_refused(sealed: Contribution, trust: Trust, tmp_path: Path) -> None:
    sign(sealed, read_signing_key(new_key(tmp_path, "stranger")))
    with pytest.raises(UntrustedContribution, match="no key of that party made its signature"):
        trust.require([sealed])


def test_a_stranger_who_claims_the_party_s_key_is_refused(
    sealed: Contribution, key: Path, trust: Trust, tmp_path: Path
) -> None:
    claimed = read_verifying_key(tmp_path / "acme.pem").fingerprint
    forged = bundled(model_statement(sealed.path), new_key(tmp_path, "stranger"), hint=claimed)
    with pytest.raises(UntrustedContribution, match="no key of that party"):
        trust.require([place_signature(sealed, forged)])


def test_the_signature_of_another_contribution_is_refused(
    sealed: Contribution, key: Path, trust: Trust, make_draft: Callable[..., Draft], tmp_path: Path
) -> None:
    other = write(tmp_path / "other", make_draft(card="another"))
    replayed = sign(other, read_signing_key(key)).read_bytes()
    trust.require([other])
    with pytest.raises(
        UntrustedContribution, match=r"of another contribution: it is not over this 'contribution.json'"
    ):
        trust.require([place_signature(sealed, replayed)])


def test_an_altered_byte_is_refused_also_under_new_digests(
    sealed: Contribution, key: Path, trust: Trust, forge: Callable[..., None]
) -> None:
    sign(sealed, read_signing_key(key))
    trust.require([read(sealed.path)])
    file = sealed.path / "ffn.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(AlteredContribution):
        read(sealed.path)
    data[-1] ^= 1
    file.write_bytes(data)
    forge(sealed.path, lambda manifest: manifest.update(licence="MIT"))
    with pytest.raises(UntrustedContribution, match="another contribution"):
        trust.require([read(sealed.path)])


def test_files_swapped_after_reading_gain_nothing(
    sealed: Contribution, key: Path, trust: Trust, make_draft: Callable[..., Draft], tmp_path: Path
) -> None:
    """What is verified is what was read, not what lies there now."""
    other = write(tmp_path / "other", make_draft(card="another"))
    sign(other, read_signing_key(key))
    taken = read(sealed.path)
    for file in other.path.iterdir():
        (sealed.path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UntrustedContribution):
        trust.require([taken])
    trust.require([read(sealed.path)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update(predicateType="https://quiltwork/revocation/v1"), "a signature states"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (lambda s: s["subject"].append(s["subject"][0]), "subject"),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "its subject is not"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "a file twice"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake3"), "algorithm"),
        (lambda s: s["predicate"]["resources"][0].update(digest="zz"), "digest"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "method"),
        (lambda s: s["predicate"].pop("resources"), "resources"),
    ],
)
def test_a_sound_signature_under_another_statement_is_refused(
    sealed: Contribution, key: Path, trust: Trust, change: Change, words: str
) -> None:
    statement = model_statement(sealed.path)
    change(statement)
    with pytest.raises(MalformedContribution, match=words):
        trust.require([place_signature(sealed, bundled(statement, key))])


@pytest.mark.parametrize("name", ["one.txt", "contribution.sig"])
def test_a_signature_over_more_than_is_there_is_refused(
    sealed: Contribution, key: Path, trust: Trust, name: str
) -> None:
    statement = model_statement(sealed.path)
    listed = statement["predicate"]["resources"]
    listed.append({"name": name, "algorithm": "sha256", "digest": "0" * 64})
    listed.sort(key=lambda one: one["name"])
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in listed)).hexdigest()
    statement["subject"][0]["digest"]["sha256"] = root
    with pytest.raises(UntrustedContribution, match=f"also over '{name}'"):
        trust.require([place_signature(sealed, bundled(statement, key))])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.1+json"), "mediaType"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "payloadType"),
        (lambda b: b["dsseEnvelope"].update(signatures=[]), "signatures"),
        (lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]), "signatures"),
        (lambda b: b["dsseEnvelope"].update(payload="@@@"), "payload"),
        (lambda b: b.update(verificationMaterial={"x509CertificateChain": {}}), "publicKey"),
        (lambda b: b.pop("dsseEnvelope"), "dsseEnvelope"),
    ],
)
def test_another_bundle_is_refused_by_field(
    sealed: Contribution, key: Path, trust: Trust, change: Change, words: str
) -> None:
    bundle = json.loads(bundled(model_statement(sealed.path), key))
    change(bundle)
    with pytest.raises(MalformedContribution, match=words):
        trust.require([place_signature(sealed, json.dumps(bundle).encode())])


def test_a_huge_bundle_is_refused_before_it_is_read(sealed: Contribution, trust: Trust) -> None:
    with (sealed.path / "contribution.sig").open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing, which no test could read
    with pytest.raises(MalformedContribution, match=f"limit is {MAX_BYTES}"):
        trust.require([read(sealed.path)])


def test_an_altered_bundle_never_crashes_and_never_speaks_for_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Accepted is only what still holds the same signed bytes."""
    place = tmp_path_factory.mktemp("mutations")
    secret = read_signing_key(new_key(place, "k"))
    public = read_verifying_key(place / "k.pem")
    (place / "file").write_bytes(b"content")
    sound = bundled(model_statement(place), place / "k.key")
    payload = unseal(sound, "it").payload

    @settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, len(sound) - 1), st.integers(0, 255), st.booleans()), max_size=4))
    def mutated(changes: list[tuple[int, int, bool]]) -> None:
        data = bytearray(sound)
        for where, value, insert in changes:
            data[where : where + (not insert)] = bytes([value])
        try:
            envelope = unseal(bytes(data), "it")
            made = envelope.maker([public])
            stated = envelope.statement() if made else None
        except MalformedContribution:
            return
        assert made is None or (envelope.payload == payload and stated is not None)

    mutated()
    assert unseal(sound, "it").maker([public]) == public == secret.public


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(
                st.sampled_from(
                    ["mediaType", "dsseEnvelope", "payload", "signatures", "sig", "verificationMaterial", "hint"]
                ),
                c,
            )
        ),
    )
)
def test_any_json_is_a_bundle_or_refused(value: Any) -> None:
    with pytest.raises(MalformedContribution):
        unseal(json.dumps(value).encode(), "it")


def test_a_payload_of_any_bytes_under_a_sound_signature_is_refused(
    sealed: Contribution, key: Path, trust: Trust
) -> None:
    for payload in (b"", b"\xff", b"[]", b"{}", b"[" * 10_000, b'{"_type": NaN}', b'"\\ud800"'):
        with pytest.raises(MalformedContribution):
            trust.require([place_signature(sealed, bundled(payload, key))])


# The other program ------------------------------------------------------------


def model_signing() -> list[str]:
    """The command of the `model-signing` package, in this interpreter or in one that the environment names."""
    elsewhere = os.environ.get("QUILTWORK_MODEL_SIGNING_PYTHON")
    if elsewhere is None and importlib.util.find_spec("model_signing") is None:
        pytest.skip("model-signing is not installed; QUILTWORK_MODEL_SIGNING_PYTHON may name an interpreter with it")
    return [elsewhere or sys.executable, "-m", "model_signing"]


def judged(*words: object) -> bool:
    return subprocess.run([*model_signing(), *map(str, words)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("curve", keys.CURVES)
def test_model_signing_verifies_ours_and_we_verify_its(sealed: Contribution, curve: str, tmp_path: Path) -> None:
    secret = new_key(tmp_path, "acme", curve)
    new_key(tmp_path, "other", curve)
    trust = open_trust(trust_file(tmp_path, ("acme", "acme.pem")))
    file = sign(sealed, read_signing_key(secret))
    verify = ("verify", "key", sealed.path, "--signature", file)
    assert judged(*verify, "--public_key", tmp_path / "acme.pem")
    assert not judged(*verify, "--public_key", tmp_path / "other.pem")
    file.unlink()
    assert judged("sign", "key", sealed.path, "--private_key", secret, "--signature", file)
    trust.require([read(sealed.path)])
    assert signature_of(sealed).statement().predicate["serialization"]["method"] == "files"
    (sealed.path / "ffn.safetensors").write_bytes(b"")
    assert not judged(*verify, "--public_key", tmp_path / "acme.pem")
