"""The outcome of an attack, beside what the attacker had without the session.

    success     the measure with the session's messages
    baseline    the same measure with the attacker's own features alone, or with no access to what is attacked
    interval    95 % around the success, by Wilson's score where it is a share (JASA 22, 1927, 209)

A success without its baseline says little: labels that follow from a party's own columns are no leak of the session.
"""

from __future__ import annotations

import math

from pydantic import Field, JsonValue

from quiltwork.audit.facts import Facts, Fixed, digest_of

_Z = 1.959963984540054


class Attack(Fixed):
    """One attack.

    Attributes:
        name: which.
        party: whose messages it used.
        adversary: who could do this, and what else it has to know.
        measure: of what the numbers are.
        when: the rounds that it used.
        success: with the messages.
        baseline: without them.
        low: lower end of a 95 % interval of the success; None where none is known.
        high: its upper end.
        cases: on how many cases.
        further: other numbers, by name.
        run: fingerprint of the run that was attacked; "" before `on`.
    """

    name: str
    party: str
    adversary: str
    measure: str
    when: str = "all rounds"
    success: float
    baseline: float
    low: float | None = None
    high: float | None = None
    cases: int
    further: dict[str, JsonValue] = Field(default_factory=dict)
    run: str = ""

    def on(self, facts: Facts) -> Attack:
        """The same, as an attack on the run with these facts."""
        return self.model_copy(update={"run": facts.fingerprint})

    @property
    def digest(self) -> str:
        """SHA-256 by which a certificate names it."""
        return digest_of(self.model_dump(mode="json"))

    @property
    def gained(self) -> bool:
        """Whether the messages gave more than the attacker had, beyond chance where an interval is known."""
        return (self.success if self.low is None else self.low) > self.baseline


def wilson(hits: float, cases: int) -> tuple[float, float]:
    """A 95 % interval of a share.

    >>> [round(end, 3) for end in wilson(0, 100)]
    [0.0, 0.037]
    """
    share, z2 = hits / cases, _Z**2
    centre = share + z2 / (2 * cases)
    half = _Z * math.sqrt(share * (1 - share) / cases + z2 / (4 * cases**2))
    return max(0.0, (centre - half) / (1 + z2 / cases)), min(1.0, (centre + half) / (1 + z2 / cases))
