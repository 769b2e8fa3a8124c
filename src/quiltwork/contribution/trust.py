"""Whom to trust: a file that says which keys are whose, and until when.

    [[keys]]
    party = "acme"
    key = "acme.pem"        # beside this file; or the PEM itself
    from = 2026-01-01       # optional
    until = 2027-12-31      # optional

Trust is the reader's own: the keys come from the parties by another way than their contributions do. A contribution
passes where a key of its own party, on a day when that key counts, made a sound signature over exactly its files. A
revocation counts where any key of that party made it, also one that has run out: it must always be possible to take
something back, and a key that was stolen belongs out of the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from quiltwork.contribution.fields import PartyName, owner_of
from quiltwork.contribution.revocation import Revocation, SignedRevocation, read_revocations
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import require_statement, signature_of
from quiltwork.contribution.signing_keys import VerifyingKey, read_verifying_key, verifying_key
from quiltwork.errors import InvalidOption, RevokedContribution, UntrustedContribution
from quiltwork.privacy.events import Record


@dataclass(frozen=True)
class Trust:
    """Keys by party, the day, and what was taken back.

    Attributes:
        keys: each owner's; what it hands over as ``OWNER.SHARE`` is signed with them too.
        on: the day on which keys must count.
        revoked: what owners took back, by owner and digest: nobody can take back what is another's.
        notes: files that claim to be revocations and are none, in words.
    """

    keys: Mapping[str, tuple[VerifyingKey, ...]]
    on: date
    revoked: Mapping[tuple[str, str], Revocation]
    notes: tuple[str, ...] = ()

    def require(self, contributions: Iterable[Contribution]) -> None:
        """Refuse what is not signed by its party, and what its party took back.

        Raises:
            UntrustedContribution: a contribution is not signed, by a key that is not its party's or does not count
                today, or the signature is of something else.
            RevokedContribution: its party took it back.
            MalformedContribution: a signature does not follow the format.
        """
        for contribution in contributions:
            self.refuse_revoked(contribution.party, contribution.digest)
            self.signer(contribution)

    def signer(self, contribution: Contribution) -> VerifyingKey:
        """The key of its party that signed a contribution.

        Raises:
            UntrustedContribution, MalformedContribution: as `require`.
        """
        own = self.keys.get(owner_of(contribution.party), ())
        if not own:
            why = "the trust file names no key of that party"
            raise _untrusted(contribution, why, "Add its public key, which the party gives you by another way.")
        return signer(contribution, own, self.on, self.keys)

    def revocation(self, party: str, digest: str) -> Revocation | None:
        """By which a contribution, given by party and digest, was taken back; None if it was not."""
        return self.revoked.get((owner_of(party), digest))

    def refuse_revoked(self, party: str, digest: str, mend: str = "Leave it out.") -> None:
        """Refuse a contribution, by party and digest, that its party took back.

        Raises:
            RevokedContribution: it did; by whom, when and why is said.
        """
        found = self.revocation(party, digest)
        if found is not None:
            raise RevokedContribution(
                f"contribution {digest[:19]}… of party '{party}'",
                why=f"party '{owner_of(party)}' {found.told}",
                mend=mend,
            )


def signer(
    contribution: Contribution,
    keys: Sequence[VerifyingKey],
    on: date,
    others: Mapping[str, Sequence[VerifyingKey]] | None = None,
) -> VerifyingKey:
    """The one of some keys that signed a contribution, on a day when it counts.

    Args:
        contribution: whose signature lies with it.
        keys: of its party.
        on: the day.
        others: keys of all parties, to say whose key it was instead.

    Raises:
        UntrustedContribution: it is not signed, by another key, by one that does not count, or over other files.
        MalformedContribution: the signature does not follow the format.
    """
    envelope = signature_of(contribution)
    # of one key under several terms, the term in which it counts
    made = envelope.maker(sorted(keys, key=lambda key: not key.counts(on)))
    if made is None:
        whose = sorted(name for name, theirs in (others or {}).items() if envelope.maker(theirs))
        hint = f"it claims key {envelope.hint[:16]!a}…" if envelope.hint else "it names no key"
        why = (
            f"it is signed with a key of '{whose[0]}'" if whose else f"no key of that party made its signature; {hint}"
        )
        raise _untrusted(contribution, why, "Ask the party to sign it anew, or which key it signs with.")
    if not made.counts(on):
        why = f"its key {made.fingerprint[:16]}… counts {_term(made)}, and today is {on}"
        raise _untrusted(contribution, why, "Ask the party for its new key, and to sign again with it.")
    require_statement(contribution, envelope)
    return made


def open_trust(path: str | Path, *, revocations: Iterable[str | Path] = (), on: date | None = None) -> Trust:
    """Read a trust file, and revocations by its parties.

    Args:
        path: TOML as above.
        revocations: files, and directories of files ``*.revocation``.
        on: the day on which keys must count; None: today in UTC.

    Raises:
        InvalidOption: the trust file or a key in it cannot be used, or a path of revocations does not exist.
        MalformedContribution: a file of revocations is none.
    """
    keys = _keys(Path(path))
    revoked: dict[tuple[str, str], Revocation] = {}
    notes = []
    for signed in sorted(read_revocations(revocations), key=lambda one: one.revocation.revoked):
        note = _no_revocation(signed, keys)
        if note is None:
            one = signed.revocation
            revoked.setdefault((owner_of(one.party), one.contribution), one)
        else:
            notes.append(note)
    return Trust(keys, on or datetime.now(UTC).date(), revoked, tuple(notes))


def _no_revocation(signed: SignedRevocation, keys: Mapping[str, tuple[VerifyingKey, ...]]) -> str | None:
    """Why a file is no revocation by the party that it names; None if it is one."""
    party = owner_of(signed.revocation.party)
    own = keys.get(party, ())
    if signed.envelope.maker(own) is not None:
        return None
    why = f"it is not signed with a key of '{party}'" if own else f"the trust file names no key of '{party}'"
    return f"{signed.envelope.where} is no revocation: {why}"


class _Key(Record):
    party: PartyName
    key: str
    since: Annotated[date | None, Field(alias="from")] = None
    until: date | None = None


class _File(Record):
    keys: Annotated[list[_Key], Field(min_length=1, max_length=10_000)]


def _keys(path: Path) -> dict[str, tuple[VerifyingKey, ...]]:
    found: dict[str, tuple[VerifyingKey, ...]] = {}
    for entry in _file(path).keys:
        found[entry.party] = (*found.get(entry.party, ()), _key(entry, path))
    return found


def _file(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise _refused(path, f"it cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _refused(path, f"{'.'.join(map(str, first['loc']))}: {first['msg'][:200]}") from error
    except ValueError as error:
        raise _refused(path, f"it is not TOML ({str(error)[:200]})") from error


def _key(entry: _Key, path: Path) -> VerifyingKey:
    inline = entry.key.lstrip().startswith("-----BEGIN")
    what = f"key of '{entry.party}' in '{path}'"
    one = verifying_key(entry.key.encode(), what) if inline else read_verifying_key(path.parent / entry.key)
    return one.within(entry.since, entry.until)


def _refused(path: Path, why: str) -> InvalidOption:
    mend = 'Write for each key: [[keys]], party = "acme", key = "acme.pem", and from and until as dates if you like.'
    return InvalidOption(f"trust file '{path}'", why=why, mend=mend)


def _untrusted(contribution: Contribution, why: str, mend: str) -> UntrustedContribution:
    return UntrustedContribution(f"the contribution of party '{contribution.party}'", why=why, mend=mend)


def _term(key: VerifyingKey) -> str:
    since = f"from {key.since}" if key.since else ""
    return f"{since} {f'until {key.until}' if key.until else ''}".strip()
