"""Keys of parties as PEM files, a trust file, and a writer of signatures that shares no code with the package."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

TYPE = "application/vnd.in-toto+json"
HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
CURVES = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}


def new_key(place: Path, name: str, curve: str = "secp256r1", password: bytes | None = None) -> Path:
    """A new pair ``name.key`` and ``name.pem``; the private one's path."""
    return write_key(place, name, ec.generate_private_key(CURVES[curve]), password)


def write_key(place: Path, name: str, key: Any, password: bytes | None = None) -> Path:
    cover = BestAvailableEncryption(password) if password else NoEncryption()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cover)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (place / f"{name}.pem").write_bytes(public)
    (place / f"{name}.key").write_bytes(secret)
    return place / f"{name}.key"


def other_keys() -> dict[str, Any]:
    """Keys with which nothing here is signed."""
    return {
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
        "RSA": rsa.generate_private_key(65537, 2048),
        "DSA": dsa.generate_private_key(1024),
        "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    }


def certificate(place: Path, name: str, key: Path, since: datetime, until: datetime) -> Path:
    """A certificate of a key, under that key's own signature."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret: Any = load_pem_private_key(key.read_bytes(), None)
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(called).issuer_name(called).public_key(secret.public_key())
    builder = builder.serial_number(1).not_valid_before(since).not_valid_after(until)
    path = place / f"{name}.crt"
    path.write_bytes(builder.sign(secret, hashes.SHA256()).public_bytes(Encoding.PEM))
    return path


def days(number: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=number)


def trust_file(place: Path, *entries: tuple[str, str], more: str = "") -> Path:
    """A trust file of parties and the files of their keys; ``more`` follows each entry."""
    text = "".join(f'[[keys]]\nparty = "{party}"\nkey = "{key}"\n{more}\n' for party, key in entries)
    (place / "trust.toml").write_text(text)
    return place / "trust.toml"


def model_statement(directory: Path, name: str = "somebody") -> dict[str, Any]:
    """What Model Signing states of a directory, from the files themselves."""
    files = sorted(p for p in directory.iterdir() if p.name != "contribution.sig")
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": p.name, "algorithm": "sha256", "digest": d} for p, d in zip(files, digests, strict=True)
            ],
        },
    }


def pre_authentication(payload: bytes) -> bytes:
    return f"DSSEv1 {len(TYPE)} {TYPE} {len(payload)} ".encode() + payload


def bundled(statement: dict[str, Any] | bytes, key: Path, hint: str | None = None) -> bytes:
    """A statement under a key's signature, as other programs write it."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    secret: Any = load_pem_private_key(key.read_bytes(), None)
    payload = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    public = secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = secret.sign(pre_authentication(payload), ec.ECDSA(HASHES[secret.curve.name]))
    material: dict[str, Any] = {"publicKey": {"hint": hint if hint is not None else hashlib.sha256(public).hexdigest()}}
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    bundle = {"mediaType": media, "verificationMaterial": material | {"tlogEntries": []}, "dsseEnvelope": envelope}
    return json.dumps(bundle).encode()
