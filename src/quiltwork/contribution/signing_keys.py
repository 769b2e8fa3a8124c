"""Keys that sign: points on the NIST curves, as PEM files.

The private key stays with its owner; the public one goes into other people's trust files, as itself or in a
certificate, of which only the key and its dates are used. A key is called by its fingerprint, the SHA-256 of its PEM,
which is what OpenSSF Model Signing calls it by. Signatures are ECDSA (FIPS 186-5) with the hash of the curve's size,
and deterministic (RFC 6979): one key and one text give the same bytes each time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate

from quiltwork.errors import InvalidOption

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_MOST_BYTES = 2**16
_MAKE = "Make a pair: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem; openssl ec -in KEY.pem -pubout."


@dataclass(frozen=True)
class VerifyingKey:
    """A public key, and the days on which it counts.

    Attributes:
        fingerprint: 64 hexadecimal digits, the SHA-256 of its PEM.
        since: the first day; None: always was.
        until: the last day; None: always will be.
    """

    fingerprint: str
    since: date | None
    until: date | None
    _key: ec.EllipticCurvePublicKey = field(compare=False, repr=False)

    def made(self, signature: bytes, text: bytes) -> bool:
        """Whether ``signature`` is this key's for ``text``."""
        try:
            self._key.verify(signature, text, ec.ECDSA(_HASHES[self._key.curve.name]))
        except InvalidSignature:
            return False
        return True

    def within(self, since: date | None, until: date | None) -> VerifyingKey:
        """The same key on those of its days that also lie within another term."""
        first = max((day for day in (self.since, since) if day), default=None)
        last = min((day for day in (self.until, until) if day), default=None)
        return replace(self, since=first, until=last)

    def counts(self, on: date) -> bool:
        """Whether the key counts on a day."""
        return (self.since is None or self.since <= on) and (self.until is None or on <= self.until)


@dataclass(frozen=True)
class SigningKey:
    """A private key."""

    _key: ec.EllipticCurvePrivateKey = field(compare=False, repr=False)

    def sign(self, text: bytes) -> bytes:
        """The signature of ``text``, DER; always the same one."""
        return self._key.sign(text, ec.ECDSA(_HASHES[self._key.curve.name], deterministic_signing=True))

    @property
    def public(self) -> VerifyingKey:
        """The public half, without dates."""
        return _verifying(self._key.public_key())


def read_signing_key(path: str | Path, password: str | None = None) -> SigningKey:
    """A private key from a PEM file.

    Args:
        path: of the file.
        password: if it is encrypted.

    Raises:
        InvalidOption: the file cannot be read, holds no private key or one of another kind, or the password is wrong.
    """
    try:
        key = load_pem_private_key(_read(Path(path)), password.encode() if password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = f"it holds no private key that can be read ({str(error)[:120]})"
        raise InvalidOption(f"key '{path}'", why=why, mend=_MAKE) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise _other_kind(f"key '{path}'", key)
    return SigningKey(key)


def read_verifying_key(path: str | Path) -> VerifyingKey:
    """A public key from a PEM file, or from a certificate with the days on which that one is valid.

    Raises:
        InvalidOption: the file cannot be read, or holds no public key of the NIST curves.
    """
    return verifying_key(_read(Path(path)), f"public key '{path}'")


def verifying_key(pem: bytes, what: str) -> VerifyingKey:
    """A public key or a certificate as PEM; nobody's signature on the certificate is checked.

    Raises:
        InvalidOption: it is neither, or of another kind of key.
    """
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            certificate = load_pem_x509_certificate(pem)
            dates = certificate.not_valid_before_utc.date(), certificate.not_valid_after_utc.date()
            key, (since, until) = certificate.public_key(), dates
        else:
            key, since, until = load_pem_public_key(pem), None, None  # type: ignore[assignment]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidOption(what, why="it is no public key and no certificate as PEM", mend=_MAKE) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise _other_kind(what, key)
    return _verifying(key, since, until)


def _verifying(key: ec.EllipticCurvePublicKey, since: date | None = None, until: date | None = None) -> VerifyingKey:
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return VerifyingKey(hashlib.sha256(pem).hexdigest(), since, until, key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        mend = "Name a readable PEM file."
        raise InvalidOption(f"key '{path}'", why=f"it cannot be read ({error.strerror})", mend=mend) from error
    if len(data) > _MOST_BYTES:
        raise InvalidOption(f"key '{path}'", why=f"it holds more than {_MOST_BYTES} bytes", mend="Name a PEM file.")
    return data


def _other_kind(what: str, key: object) -> InvalidOption:
    curve = f"on the curve {key.curve.name}" if hasattr(key, "curve") else f"a {type(key).__name__.lstrip('_')}"
    return InvalidOption(what, why=f"it is {curve}, and signatures are made on {', '.join(_HASHES)}", mend=_MAKE)
