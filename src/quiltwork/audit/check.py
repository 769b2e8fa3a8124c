"""A check that was run on a run, as a record: what it is evidence for, what it found, and whether it can fail.

A check is worth what it catches. So each carries the outcome of its *control*, the same check on a run with a planted
breach (one cotangent changed, a composer that leaks, a byte too many): a check whose control was not caught proves
nothing and never counts as passed. Equality of hashes and statistics are told apart, and never merged in one number.
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from quiltwork.audit.facts import Digest, Facts, Fixed, digest_of

Evidence = Literal["hash", "exact", "static", "statistical"]
"""Equal digests; equal numbers; a property of declarations; an estimate with an interval."""


class Check(Fixed):
    """One check.

    Attributes:
        name: which.
        run: fingerprint of the run it was about.
        guarantee: what it is evidence for, such as ``"G1"``.
        subject: the party it was about, or "" for all.
        evidence: of what kind it is.
        passed: whether it found no breach.
        control: whether the planted breach was caught; None where none was planted.
        found: numbers and digests, as they came out.
        says: one sentence for people.
    """

    name: str
    run: Digest
    guarantee: str
    subject: str = ""
    evidence: Evidence
    passed: bool
    control: bool | None = None
    found: dict[str, JsonValue]
    says: str

    @property
    def holds(self) -> bool:
        """Passed, and able to fail."""
        return self.passed and self.control is True

    @property
    def digest(self) -> str:
        """SHA-256 by which a certificate names it."""
        return digest_of(self.model_dump(mode="json"))


def check(
    name: str,
    facts: Facts,
    guarantee: str,
    evidence: Evidence,
    *,
    passed: bool,
    control: bool | None,
    says: str,
    subject: str = "",
    found: dict[str, JsonValue],
) -> Check:
    """A check of the run with these facts; fields as in `Check`."""
    return Check(
        name=name,
        run=facts.fingerprint,
        guarantee=guarantee,
        subject=subject,
        evidence=evidence,
        passed=passed,
        control=control,
        found=found,
        says=says,
    )
