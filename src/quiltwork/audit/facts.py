"""The facts of a run as one JSON text with one spelling, and the digest by which checks and certificates name the run.

    fingerprint = SHA-256 of the canonical JSON (keys sorted, no blanks, ASCII)

Facts are what `SplitRecords` says once the run is over, and nothing that anybody typed. They are judged when they are
read: what was said has to fit what could be said, as counts and as bytes, so that a number changed by hand is refused
even where the fingerprint was made anew. What that cannot find (all of it rewritten by one who knows the rules) is
found by the tape of the session, whose bytes give the transcripts' digests (`quiltwork.audit.tape`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)

from quiltwork.errors import AlteredRecords
from quiltwork.privacy.events import Event, parse_event
from quiltwork.session.channel import Direction
from quiltwork.session.frames import OVERHEAD, Kind
from quiltwork.session.split.records import SplitRecords

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


def _known_kind(name: str) -> str:
    if name not in Kind.__members__:
        raise ValueError("no message is of that kind")
    return name


KindName = Annotated[str, AfterValidator(_known_kind)]


WAYS: tuple[Direction, Direction] = ("down", "up")


class Fixed(BaseModel):
    """Immutable, no field unknown, no value coerced but lists to tuples, as JSON has them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Ways(Fixed):
    """Bytes in the two directions."""

    down: Count
    up: Count


class Transcript(Fixed):
    """Digests of all frames in the two directions."""

    down: Digest
    up: Digest


class Words(Fixed):
    """Kinds that the two directions could carry."""

    down: tuple[KindName, ...]
    up: tuple[KindName, ...]


class Crossing(Fixed):
    """Frames of one kind that crossed in one direction."""

    party: str
    direction: Direction
    kind: KindName
    frames: Annotated[int, Field(ge=1)]
    bytes: Count


class Facts(Fixed):
    """A run; see `SplitRecords` for the fields."""

    format: Literal["quiltwork-split-facts"] = "quiltwork-split-facts"
    version: Literal[1] = 1
    mode: str
    parties: tuple[str, ...]
    label_party: str | None
    rounds: Count
    seed: int
    threads: int
    precision: str
    stale: bool
    left: tuple[str, ...]
    warnings: tuple[str, ...]
    words: dict[str, Words]
    crossed: tuple[Crossing, ...]
    transcripts: dict[str, Transcript]
    formula: dict[str, Ways]
    sealing: dict[str, str]
    digests: dict[str, Digest]
    dependencies: dict[str, tuple[str, ...]]
    events: dict[str, tuple[dict[str, JsonValue], ...]]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if problem := next(_problems(self), None):
            raise ValueError(problem)
        return self

    @property
    def fingerprint(self) -> str:
        """By what checks and certificates name the run."""
        return digest_of(self.model_dump(mode="json"))

    def bytes(self, party: str, direction: Direction) -> int:
        """Bytes that crossed between the composer and a party."""
        return sum(c.bytes for c in self.crossed if (c.party, c.direction) == (party, direction))

    def frames(self, party: str, kind: Kind) -> int:
        """Frames of a kind that crossed, in both directions."""
        return sum(c.frames for c in self.crossed if (c.party, c.kind) == (party, kind.name))

    def privacy_events(self, party: str) -> list[Event]:
        """The privacy events of a party, as the accountant prices them."""
        return [parse_event(event) for event in self.events.get(party, ())]

    def to_json(self) -> str:
        """The text that `read_facts` takes."""
        return canonical({"facts": self.model_dump(mode="json"), "fingerprint": self.fingerprint})


def facts_of(records: SplitRecords) -> Facts:
    """The facts of a run.

    Raises:
        AlteredRecords: the records contradict themselves.
    """
    log, terms = records.log, records.terms
    who = sorted({party for party, _, _ in log.frames} | set(terms))
    raw: dict[str, Any] = {
        name: getattr(records, name)
        for name in ("mode", "parties", "label_party", "rounds", "seed", "threads", "precision", "stale", "left")
    }
    raw |= {
        "warnings": records.warnings,
        "words": {p: {"down": _names(t.down), "up": _names(t.up)} for p, t in terms.items()},
        "crossed": [
            {"party": p, "direction": way, "kind": kind.name, "frames": count, "bytes": log.sizes[p, way, kind]}
            for (p, way, kind), count in sorted(log.frames.items())
        ],
        "transcripts": {p: {"down": log.digest(p, "down"), "up": log.digest(p, "up")} for p in who},
        "formula": {p: {"down": records.formula.bytes(p, "down"), "up": records.formula.bytes(p, "up")} for p in who},
        "sealing": dict(records.sealing),
        "digests": dict(records.digests),
        "dependencies": {p: tuple(sorted(inputs)) for p, inputs in records.dependencies.items()},
        "events": {e.party: tuple(_dumped(event) for event in e.events) for e in records.events},
    }
    return _validated(raw, "the records of the session")


def read_facts(text: str) -> Facts:
    """Facts from the text that `Facts.to_json` wrote.

    Raises:
        AlteredRecords: the text is another, or its numbers contradict each other.
    """
    try:
        raw = json.loads(text)
        facts = _validated(raw["facts"], "the facts of the session")
        fits = raw["fingerprint"] == facts.fingerprint and text.strip() == facts.to_json()
    except (ValueError, KeyError, TypeError) as error:
        raise altered("the facts of the session", "they are no such text") from error
    if not fits:
        raise altered("the facts of the session", "their fingerprint is another than the one written with them")
    return facts


def canonical(value: Any) -> str:
    """The one spelling of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value's one spelling."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def altered(what: str, why: str) -> AlteredRecords:
    """The refusal of what does not fit together."""
    return AlteredRecords(what, why=why, mend="Take them from the session again, as it wrote them.")


def _validated(raw: Any, what: str) -> Facts:
    try:
        return Facts.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        raise altered(what, f"{'.'.join(map(str, first['loc']))[:64]}: {first['msg'][:200]}") from error


def _names(schema: Any) -> tuple[str, ...]:
    return tuple(sorted(kind.name for kind in schema))


def _dumped(event: Any) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = event.model_dump(mode="json") if isinstance(event, BaseModel) else dict(event)
    return found


def _problems(facts: Facts) -> Iterator[str]:
    """What contradicts itself, in words."""
    known = set(facts.words) | set(facts.left)
    for crossing in facts.crossed:
        where = f"{crossing.kind} {crossing.direction} of party '{crossing.party}'"
        if crossing.party not in known:
            yield f"{where}: nobody of that name took part"
        if crossing.bytes < crossing.frames * OVERHEAD:
            yield f"{where}: {crossing.frames} frames have more than {crossing.bytes} bytes"
    for party in {c.party for c in facts.crossed}:
        asked, answered = (sum(c.frames for c in facts.crossed if (c.party, c.direction) == (party, w)) for w in WAYS)
        if answered > asked:
            yield f"party '{party}' answered {answered} frames, and {asked} asked for an answer"
        if party not in facts.transcripts:
            yield f"party '{party}': what crossed has no digest"
    if missing := sorted(set(facts.parties) - set(facts.digests)):
        yield f"component of party '{missing[0]}' has no digest"
    if missing := sorted(set(facts.words) - set(facts.sealing)):
        yield f"party '{missing[0]}': nothing says how it was sealed"
    if missing := sorted(set(facts.parties) - set(facts.dependencies)):
        yield f"party '{missing[0]}': nothing says what its cotangents depend on"
