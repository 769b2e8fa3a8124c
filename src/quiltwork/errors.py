"""Everything quiltwork refuses, as one tree.

Each error says three things: *what* is wrong (the offending part by name), *why* it is refused, and what would
*mend* it. The command line prints the three and exits with 1; a library user catches the branch of interest::

    QuiltworkError
    ├── ContributionError            a directory that claims to be a contribution
    │   ├── MalformedContribution    its bytes do not follow docs/format.md
    │   ├── AlteredContribution      it parses, but a digest, a size or a value betrays a change
    │   ├── UnsupportedContribution  a version or kind that this installation does not know
    │   ├── UntrustedContribution    no sound signature by a key of its party
    │   └── RevokedContribution      its party took it back
    ├── CompatibilityError           sound parts that do not belong together
    │   ├── BaseMismatch             trained from another base checkpoint
    │   ├── TokenizerMismatch        another tokenizer or vocabulary
    │   ├── TensorMismatch           tensors missing, extra, tied or of another shape
    │   ├── TableMismatch            fitted to tables of other features, units, targets or classes
    │   ├── TaskMismatch             networks of other inputs, units, classes or outputs, or statistics of other weights
    │   ├── DuplicateParty           two contributions of one party
    │   └── MissingPart              the method needs a part that the contribution does not hold
    ├── CheckpointError              a base or composed checkpoint that cannot be read
    │   └── AlteredCheckpoint        a composed directory is not what was written
    ├── FragmentError                a party's own data cannot be used
    ├── ExportError                  the format cannot hold the model
    ├── PrivacyError                 a release that the accountant cannot price or the caller did not allow
    ├── SessionError                 a composition with live parties cannot go on
    │   ├── AlteredFrame             a frame was changed, replayed, or is not what was declared
    │   ├── AlteredRecords           records or a certificate of a session that do not fit together
    │   ├── LostParty                a party died, fell silent or refused
    │   └── NeedsRetraining          a party cannot be taken out of what was learned jointly
    ├── CustodyError                 shares of a secret that do not give it back
    │   ├── TooFewShares             fewer than the threshold
    │   ├── ForgedShare              a share, a statement or a sealed file that its dealer did not write
    │   └── MixedCustodies           sound shares of different custodies or epochs
    ├── StorageError                 the file system refused: full, read-only, already there
    ├── Interrupted                  stopped by the user; says how to resume
    ├── BrokenPromise                a computation broke what its theory promises; ours to mend
    └── InvalidOption                a parameter outside its domain (also a ValueError)
"""

from __future__ import annotations

from functools import partial


class QuiltworkError(Exception):
    """Root of the tree.

    Args:
        what: the offending part, by name.
        why: the rule it breaks.
        mend: what the reader can do about it.

    >>> print(QuiltworkError("party 'acme'", why="it appears twice", mend="Drop one of the two."))
    party 'acme': it appears twice. Drop one of the two.
    """

    def __init__(self, what: str, *, why: str, mend: str) -> None:
        super().__init__(what, why, mend)
        self.what = what
        self.why = why
        self.mend = mend

    def __reduce__(self) -> tuple[partial[QuiltworkError], tuple[str]]:
        # an error crosses from a worker process to its caller as it is
        return partial(type(self), why=self.why, mend=self.mend), (self.what,)

    def __str__(self) -> str:
        return f"{self.what}: {self.why.rstrip('.')}. {self.mend}"


class ContributionError(QuiltworkError):
    """A directory that claims to be a contribution is refused."""


class MalformedContribution(ContributionError):
    """The bytes do not follow docs/format.md."""


class AlteredContribution(ContributionError):
    """The contribution parses, but a digest, a size or a value betrays a change."""


class UnsupportedContribution(ContributionError):
    """A format version or kind that this installation does not know."""


class UntrustedContribution(ContributionError):
    """There is no sound signature by a key that counts for the contribution's party."""


class RevokedContribution(ContributionError):
    """The party took the contribution back, under its signature."""


class CompatibilityError(QuiltworkError):
    """Sound parts that do not belong together."""


class BaseMismatch(CompatibilityError):
    """A contribution was trained from another base checkpoint."""


class TokenizerMismatch(CompatibilityError):
    """A contribution was trained with another tokenizer or vocabulary."""


class TensorMismatch(CompatibilityError):
    """Tensors are missing, extra, tied or of another shape or dtype."""


class TableMismatch(CompatibilityError):
    """Mixtures were fitted to tables that differ in features, units, target, classes or family."""


class TaskMismatch(CompatibilityError):
    """Networks that differ in inputs, units, classes or outputs, or statistics that are of other weights."""


class DuplicateParty(CompatibilityError):
    """Two contributions carry the name of one party."""


class MissingPart(CompatibilityError):
    """The method needs a part (a scope, a statistic) that a contribution does not hold."""


class CheckpointError(QuiltworkError):
    """A base or composed checkpoint cannot be read."""


class AlteredCheckpoint(CheckpointError):
    """A file of a composed directory is not the one that was written there, is gone, or was put there by others."""


class FragmentError(QuiltworkError):
    """A party's own data cannot be used."""


class ExportError(QuiltworkError):
    """The requested format cannot hold the model."""


class PrivacyError(QuiltworkError):
    """A release that the accountant cannot price, or that the caller did not allow."""


class SessionError(QuiltworkError):
    """A composition with live parties cannot go on."""


class AlteredFrame(SessionError):
    """A frame was changed, replayed, or is not what was declared."""


class AlteredRecords(SessionError):
    """Records or a certificate of a session do not fit together: somebody changed them."""


class LostParty(SessionError):
    """A party died, fell silent or refused."""


class NeedsRetraining(SessionError):
    """A party cannot be taken out of what was learned jointly."""


class CustodyError(QuiltworkError):
    """Shares of a secret do not give it back."""


class TooFewShares(CustodyError):
    """Fewer shares than the threshold; together they say nothing about the secret."""


class ForgedShare(CustodyError):
    """A share, a statement or a sealed file is not what its dealer wrote."""


class MixedCustodies(CustodyError):
    """Sound shares that belong to different custodies, or to different epochs of one."""


class StorageError(QuiltworkError):
    """The file system refused: full, read-only, or the target is already there."""


class Interrupted(QuiltworkError):
    """The user stopped the work; the message says how to resume."""


class BrokenPromise(QuiltworkError):
    """A computation broke what its theory promises; a defect of the program or numbers out of all proportion."""


class InvalidOption(QuiltworkError, ValueError):
    """A parameter lies outside its domain."""
