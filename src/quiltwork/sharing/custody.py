"""Custody: a file that any t of n custodians open together, and fewer cannot (extra ``sharing``).

The composer's parameters are sealed under a fresh key, and the key is dealt among the custodians:

    sealed = ChaCha20-Poly1305(key, parameters; custody, epoch, custodians)        key: 32 random bytes, used once
    shares = Shamir(key, t of n)                                                   32 bytes a custodian

Fewer than t shares are independent of the key. That they say nothing about the parameters beside their size then rests
on the cipher (RFC 8439), and on nothing else: the sealed file and the statement may be public.

What it does not do. The dealer sees the parameters and the key, and could deal shares that do not fit: before the
original is deleted, custodians should open the custody once. Whoever combines sees the parameters too. Whoever has been
in possession of t shares of one epoch opens that epoch's sealed file for ever, so after a refresh the old shares and
copies of the old sealed file have to be destroyed. Memory is not wiped; Python has no way to.

Custody is about who may learn the parameters. Which parties must be up for a prediction is a quorum, and has nothing to
do with it.

>>> import tempfile, pathlib
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> _ = (folder / "head.safetensors").write_bytes(b"parameters")
>>> made = split(folder / "head.safetensors", folder / "custody", custodians=["ash", "elm", "yew"], threshold=2)
>>> combine(folder / "custody", [folder / "custody" / "shares" / f"{name}.json" for name in ("yew", "ash")])
b'parameters'
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from quiltwork.errors import ForgedShare, InvalidOption, MixedCustodies
from quiltwork.files import new_directory
from quiltwork.sharing import shamir
from quiltwork.sharing.statement import MOST_BYTES, NAME, Share, Statement, decode, digest, encode, read

STATEMENT, SEALED, SHARES = "statement.json", "sealed.bin", "shares"
"""What a custody's directory holds. The first two may be public; each of the shares is for one custodian alone."""

MOST_SEALED = 2**31 - 64
"""No larger file is sealed: the cipher takes it in one piece."""

# no key ever seals twice, so that no nonce is needed to tell two messages apart
_NONCE = bytes(12)

_Path = str | os.PathLike[str]


def split(source: _Path, out: _Path, *, custodians: Sequence[str], threshold: int) -> Statement:
    """Seal a file and deal its key.

    Args:
        source: the file, such as the composer's safetensors; it stays where it is.
        out: the directory to make, readable by its user only: ``statement.json``, ``sealed.bin``, and in ``shares/``
            one file a custodian, to be handed over and deleted here.
        custodians: their names, up to 255, each different: small letters, digits, ``-`` and ``_``.
        threshold: how many open the custody, at least 2.

    Raises:
        InvalidOption: custodians or threshold are not as above, or the file cannot be read or has more than
            `MOST_SEALED` bytes.
        StorageError: ``out`` exists, or cannot be written.
    """
    return _deal(_plain(Path(source)), Path(out), secrets.token_hex(16), 1, custodians, threshold)


def combine(custody: _Path, shares: Iterable[_Path]) -> bytes:
    """The file that was sealed, bit for bit.

    Args:
        custody: the directory with ``statement.json`` and ``sealed.bin``.
        shares: the custodians' files. All that are given must be genuine, also beyond the threshold.

    Raises:
        ForgedShare: a share, the statement or the sealed file was changed; all false shares are named.
        MixedCustodies: a share belongs to another custody, or to another epoch.
        TooFewShares: fewer than the threshold.
        InvalidOption: one custodian's share is given twice.
    """
    return _open(Path(custody), [Path(path) for path in shares])[1]


def refresh(
    custody: _Path,
    shares: Iterable[_Path],
    out: _Path,
    *,
    custodians: Sequence[str] | None = None,
    threshold: int | None = None,
) -> Statement:
    """Deal a custody anew: a new key, a new sealed file, new shares; the old shares do not open the new file.

    It takes t custodians to meet, and whoever runs it sees the parameters, as with `combine`.

    Args:
        custody: as for `combine`.
        shares: as for `combine`.
        out: the directory to make, as for `split`.
        custodians: other custodians from now on; as before where not given.
        threshold: another threshold; as before where not given.

    Raises:
        CustodyError: as `combine`.
        InvalidOption: as `split`.
        StorageError: as `split`.
    """
    old, plain = _open(Path(custody), [Path(path) for path in shares])
    names = old.custodians if custodians is None else custodians
    needed = old.threshold if threshold is None else threshold
    return _deal(plain, Path(out), old.custody, old.epoch + 1, names, needed)


def _deal(plain: bytes, out: Path, custody: str, epoch: int, custodians: Sequence[str], threshold: int) -> Statement:
    names = _names(custodians)
    shamir.require_scheme(threshold, len(names), shamir.MOST_HOLDERS)
    key = secrets.token_bytes(32)
    sealed = ChaCha20Poly1305(key).encrypt(_NONCE, plain, _bound(custody, epoch, threshold, names))
    dealt = shamir.deal(key, threshold=threshold, holders=len(names))
    statement = Statement(
        custody=custody,
        epoch=epoch,
        threshold=threshold,
        custodians=names,
        shares=tuple(digest(share) for share in dealt.values()),
        sealed=digest(sealed),
        bytes=len(sealed),
    )
    written = encode(statement)
    with new_directory(out, private=True) as partial:
        (partial / STATEMENT).write_bytes(written)
        (partial / SEALED).write_bytes(sealed)
        (partial / SHARES).mkdir()
        for name, share in zip(names, dealt.values(), strict=True):
            record = Share(custody=custody, epoch=epoch, custodian=name, statement=digest(written), key=share.hex())
            (partial / SHARES / f"{name}.json").write_bytes(encode(record))
    return statement


def _open(custody: Path, paths: Sequence[Path]) -> tuple[Statement, bytes]:
    written = read(custody / STATEMENT, MOST_BYTES)
    statement = decode(Statement, written, f"'{custody / STATEMENT}'")
    shares = [decode(Share, read(path, MOST_BYTES), f"'{path}'") for path in paths]
    _require_one_custody(statement, digest(written), shares)
    keys = _genuine(statement, shares)
    if len(keys) < statement.threshold:
        raise shamir.too_few(len(keys), statement.threshold)
    sealed = read(custody / SEALED, MOST_SEALED)
    if len(sealed) != statement.bytes or digest(sealed) != statement.sealed:
        raise _forged(f"'{custody / SEALED}'", "it is not the file that the statement names")
    key = shamir.combine(keys, threshold=statement.threshold)
    bound = _bound(statement.custody, statement.epoch, statement.threshold, statement.custodians)
    try:
        return statement, ChaCha20Poly1305(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag as error:
        why = "all shares are as stated, and the key that they give does not open it; its dealer dealt falsely"
        raise _forged(f"custody '{custody}'", why) from error


def _require_one_custody(statement: Statement, written: str, shares: Sequence[Share]) -> None:
    seen: set[str] = set()
    for share in shares:
        if (share.custody, share.epoch) != (statement.custody, statement.epoch):
            raise MixedCustodies(
                f"the share of '{share.custodian}'",
                why=f"it is of custody {share.custody}, epoch {share.epoch}, "
                f"and the statement of {statement.custody}, epoch {statement.epoch}",
                mend="Bring statement, sealed file and shares of one custody and one epoch together.",
            )
        if share.statement != written:
            raise _forged(f"the share of '{share.custodian}', or the statement", "the share names another statement")
        if share.custodian in seen:
            raise InvalidOption(
                f"the share of '{share.custodian}'", why="it is given twice", mend="Give each share once."
            )
        seen.add(share.custodian)


def _genuine(statement: Statement, shares: Sequence[Share]) -> dict[int, bytes]:
    """Key shares by point, if the statement commits to all of them."""
    points = {name: x for x, name in enumerate(statement.custodians, start=1)}
    keys = {share.custodian: bytes.fromhex(share.key) for share in shares}
    false = [
        name
        for name, key in keys.items()
        if name not in points or not hmac.compare_digest(digest(key), statement.shares[points[name] - 1])
    ]
    if false:
        named = ", ".join(f"'{name}'" for name in sorted(false))
        raise _forged(f"the share of {named}", "the dealer's statement commits to another")
    return {points[name]: key for name, key in keys.items()}


def _names(custodians: Sequence[str]) -> tuple[str, ...]:
    names = tuple(custodians)
    if len(set(names)) != len(names) or not all(re.fullmatch(NAME, name) for name in names):
        raise InvalidOption(
            f"custodians {', '.join(map(ascii, names))[:200]}",
            why="their names are told apart, and are of small letters, digits, '-' and '_', up to 64",
            mend="Name each custodian so, once.",
        )
    return names


def _bound(custody: str, epoch: int, threshold: int, custodians: Sequence[str]) -> bytes:
    """What the cipher binds to the sealed file, beside the parameters."""
    return f"quiltwork custody {custody}, epoch {epoch}, {threshold} of {','.join(custodians)}".encode()


def _plain(source: Path) -> bytes:
    try:
        if source.stat().st_size > MOST_SEALED:
            raise InvalidOption(
                f"'{source}'", why=f"it has more than {MOST_SEALED} bytes", mend="Split it into several custodies."
            )
        return source.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidOption(f"'{source}'", why=f"it cannot be read ({reason})", mend="Give a file.") from error


def _forged(what: str, why: str) -> ForgedShare:
    return ForgedShare(what, why=why, mend="Leave it out, or get it from its custodian or dealer again.")
