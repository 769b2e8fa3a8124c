"""How contributions stand, for verbs that show them and refuse none: revoked, signed, not signed.

A composed model holds digests and no signatures. So of what is in it only revocations tell, unless the contribution
itself is at hand, whose digest is then held against that of the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import read_contributions
from quiltwork.cli.trusting import require_revocations, trusted
from quiltwork.errors import ContributionError, InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite.provenance import Entry
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.trust import Trust

BAD = ("revoked", "unsigned")


def standing(party: str, digest: str, trust: Trust, contribution: Contribution | None = None) -> dict[str, str]:
    """How a contribution stands, in a word and a sentence.

    Args:
        party: its label.
        digest: its digest.
        trust: keys and revocations.
        contribution: itself, if it is at hand: then its signature is looked at.

    Returns:
        ``standing``: ``revoked``, ``unsigned``, ``signed``, or ``not revoked`` where no signature could be seen; and
        ``detail``: by whom, when and why.
    """
    taken = trust.revocation(party, digest)
    if taken is not None:
        return {"standing": "revoked", "detail": f"its party {taken.told}"}
    if contribution is None:
        return {"standing": "not revoked", "detail": "the contribution is not at hand, so no signature was seen"}
    try:
        key = trust.signer(contribution)
    except ContributionError as error:
        return {"standing": "unsigned", "detail": error.why}
    return {"standing": "signed", "detail": f"with key {key.fingerprint}"}


def standings(
    entries: Iterable[Entry], trust: Path | None, revocations: Sequence[Path] | None, contributions: Sequence[Path]
) -> dict[tuple[str, str], dict[str, str]] | None:
    """How everything in a composed model stands, by party and digest; None if nobody asked.

    A contribution is ``unknown`` where neither it nor any revocations are given.

    Raises:
        InvalidOption: one of the options lacks another, or a contribution is not in the model.
        QuiltworkError: a contribution, a key or a revocation cannot be read.
    """
    opened = trusted(trust, revocations)
    if opened is None:
        if contributions:
            raise InvalidOption(
                "--contribution", why="a signature is held against keys, and none are given", mend="Give --trust too."
            )
        return None
    if not contributions:
        require_revocations(revocations)
    known = {(entry.party, entry.digest) for entry in entries}
    given = {(one.party, one.digest): one for one in read_contributions(contributions)}
    for party, digest in given.keys() - known:
        raise InvalidOption(
            f"the contribution {digest[:19]}… of party '{party}'",
            why="it is not in the composed model",
            mend="Leave it out, or give the one that the model was composed of.",
        )
    unasked = {"standing": "unknown", "detail": "neither the contribution nor revocations are given"}
    return {
        one: standing(*one, opened, given.get(one)) if revocations or one in given else dict(unasked) for one in known
    }


def any_bad(found: Mapping[Any, Mapping[str, str]]) -> bool:
    """Whether anything is revoked or not signed."""
    return any(one["standing"] in BAD for one in found.values())
