"""A signed statement on disk: a Sigstore bundle, a DSSE envelope, an in-toto statement.

    bundle    = {mediaType, verificationMaterial: {publicKey: {hint}}, dsseEnvelope}      JSON, version 0.3
    envelope  = {payload: base64(statement), payloadType, signatures: [{sig, keyid}]}
    signature = ECDSA over  "DSSEv1" | type's length | type | statement's length | statement
    statement = {_type, subject: [{name, digest}], predicateType, predicate}

This is the form of OpenSSF Model Signing 1.0 with a local key, so other programs read ours and we read theirs. The
signature is over the statement's bytes and nothing else: what stands in the bundle around them (the hint of a key,
say) proves nothing. A reader therefore holds the signature against keys that it has from elsewhere, and looks into the
statement afterwards. Reading is total: whatever the bytes, the outcome is an envelope or `MalformedContribution`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from quiltwork.contribution.canonical import decode, encode, shown
from quiltwork.contribution.signing_keys import SigningKey, VerifyingKey
from quiltwork.errors import MalformedContribution

MAX_BYTES = 2**18
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

M = TypeVar("M", bound="Read")


@dataclass(frozen=True)
class Envelope:
    """A statement under a signature that nobody has checked yet.

    Attributes:
        payload: the statement's bytes, as signed.
        signature: DER.
        hint: fingerprint of the key that it says it is signed by; empty if it does not say. Not signed itself.
        where: the file it is from, for messages.
    """

    payload: bytes
    signature: bytes
    hint: str
    where: str

    def maker(self, keys: Iterable[VerifyingKey]) -> VerifyingKey | None:
        """The first of ``keys`` that made the signature; None if none did."""
        text = encoding(self.payload)
        return next((k for k in keys if self.hint in ("", k.fingerprint) and k.made(self.signature, text)), None)

    def statement(self) -> Statement:
        """What is stated; to be asked for after the signature was checked.

        Raises:
            MalformedContribution: it is no in-toto statement about one subject.
        """
        return validated(Statement, decode(self.payload, f"the statement of {self.where}"), self.where)


def encoding(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding.

    >>> encoding(b"{}")
    b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
    """
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def seal(statement: Mapping[str, Any], key: SigningKey) -> bytes:
    """The bundle of a statement; the same bytes for the same statement and key."""
    payload = encode(statement)
    signature = base64.b64encode(key.sign(encoding(payload))).decode()
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public.fingerprint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": signature, "keyid": ""}],
        },
    }
    return (json.dumps(bundle) + "\n").encode()


def unseal(data: bytes, where: str) -> Envelope:
    """The envelope of a bundle that a stranger wrote.

    Args:
        data: the bundle.
        where: what it is, for messages.

    Raises:
        MalformedContribution: it is no bundle of version 0.3 with one signature by a key.
    """
    bundle = validated(_Bundle, decode(data, where), where)
    envelope = bundle.dsse_envelope
    hint = bundle.verification_material.public_key.hint or ""
    return Envelope(envelope.payload, envelope.signatures[0].sig, hint, where)


def _base64(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("it is no text in base64")
    return base64.b64decode(value.encode("ascii"), validate=True)


_Bytes = Annotated[bytes, BeforeValidator(_base64)]
_Digests = Annotated[dict[str, str], Field(min_length=1, max_length=16)]


class Read(BaseModel):
    """Fields of a stranger; those that are not known here are passed over, as the bundle's own format has it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _PublicKey(Read):
    hint: str | None = None


class _Material(Read):
    public_key: Annotated[_PublicKey, Field(alias="publicKey")]


class _Signature(Read):
    sig: _Bytes


class _Envelope(Read):
    payload: _Bytes
    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")]
    signatures: Annotated[list[_Signature], Field(min_length=1, max_length=1)]


class _Bundle(Read):
    media_type: Annotated[Literal["application/vnd.dev.sigstore.bundle.v0.3+json"], Field(alias="mediaType")]
    verification_material: Annotated[_Material, Field(alias="verificationMaterial")]
    dsse_envelope: Annotated[_Envelope, Field(alias="dsseEnvelope")]


class Subject(Read):
    """What a statement is about: a name for people, and digests by algorithm."""

    name: str = ""
    digest: _Digests


class Statement(Read):
    """An in-toto statement about one subject."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicate_type: Annotated[str, Field(alias="predicateType")]
    predicate: dict[str, Any]


def validated(model: type[M], value: object, where: str) -> M:
    """A stranger's JSON under a schema.

    Raises:
        MalformedContribution: it does not follow the schema; the field is named.
    """
    try:
        return model.model_validate(value)
    except (ValidationError, RecursionError) as error:
        raise refusal(where, _first(error)) from error


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it nests too deeply"
    one = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"field {shown('.'.join(map(str, one['loc'])))}: {one['msg'][:200]}"


def refusal(where: str, why: str) -> MalformedContribution:
    """A file that is no signature or statement as docs/signing.md has them."""
    return MalformedContribution(where, why=why, mend="Ask its party to sign again: quiltwork sign.")
