"""Privacy events: what an owner released, and by which mechanism.

An event is a record, not a claim. It states the mechanism and the numbers that mechanism ran with; what it
costs is computed from the record by the accountant, for whatever epsilon and delta a reader cares about.
Noise is judged by its ratio to the sensitivity, so both are stated::

    Laplace    released = f(D) + Lap(scale)^k        sensitivity = max |f(D) - f(D')|_1
    Gaussian   released = f(D) + N(0, sigma^2 I_k)   sensitivity = max |f(D) - f(D')|_2
    sampled    ``steps`` times a Gaussian of the units that Poisson sampling took, each with ``sampling_rate``
    response   released = the label, or each other of ``classes`` with probability ``flip``

where D and D' differ by the addition or removal of one ``unit``: a document of a text, a row of a table; or, where the
unit is a label, by another value of one label.
`ExactEvent` is everything that no theorem covers: released as it is, or behind a rule (a minimum count, say)
that bounds nothing; it costs infinity.
`OtherEvent` is a mechanism that this installation does not know. Its fields are kept, so that a later
version can price it; here it costs infinity, because silence about a cost must never read as no cost.

>>> event = parse_event({"mechanism": "laplace", "released": "tokens", "unit": "document",
...                      "scale": 100.0, "sensitivity": 50.0})
>>> event.sensitivity / event.scale  # the epsilon of a single Laplace release
0.5
>>> parse_event({"mechanism": "exact", "released": "ffn", "unit": "document", "note": ""}).mechanism
'exact'
>>> parse_event({"mechanism": "skellam", "released": "tokens", "unit": "person", "mu": 4.0}).model_extra
{'mu': 4.0}
"""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from quiltwork.errors import PrivacyError

_MOST_EXTRA_FIELDS = 32
_MOST_EXTRA_DEPTH = 8


def printable(text: str) -> str:
    """Refuse control characters: text that others will print must not drive their terminal."""
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in "\n\t":
            raise ValueError(f"control character U+{ord(character):04X}; only newline and tab are taken")
    return text


Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
"""A short lower-case name: a mechanism, a unit, what was released."""

Note = Annotated[str, StringConstraints(max_length=2000), AfterValidator(printable)]
"""A sentence or two for people; no program reads it."""

Unit: TypeAlias = Literal["document", "row", "label"]
"""What is protected: one document or row, more or less, or the value of one label."""

Positive = Annotated[float, Field(gt=0)]


def _no_cotangent(released: str) -> str:
    """Refuse noise on cotangents as a mechanism; see `NoisyLabel`."""
    if released.startswith("cotangent"):
        raise ValueError(
            "noise on cotangents bounds nothing: the composer's weights carry one label into the cotangents of all "
            "later rows, so no sensitivity holds; randomise labels before the first step instead"
        )
    return released


NoisyLabel = Annotated[Label, AfterValidator(_no_cotangent)]
"""What was released with noise that has a theorem; cotangents of a session have none."""


class Record(BaseModel):
    """How every record that crosses a border is set: immutable, no field unknown, no value coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LaplaceEvent(Record):
    """Independent Laplace noise of one ``scale`` was added to every coordinate.

    Attributes:
        released: what left, e.g. ``"tokens"``.
        unit: what is protected: one document or row, more or less, or one label's value.
        scale: the scale b of the noise density exp(-|x|/b) / 2b.
        sensitivity: the most one unit can change the noiseless value, in the L1 norm.
    """

    mechanism: Literal["laplace"] = "laplace"
    released: NoisyLabel
    unit: Unit = "document"
    scale: Positive
    sensitivity: Positive


class GaussianEvent(Record):
    """Independent Gaussian noise of standard deviation ``sigma`` was added to every coordinate.

    Attributes:
        released: what left.
        unit: what is protected: one document or row, more or less, or one label's value.
        sigma: the standard deviation of the noise.
        sensitivity: the most one unit can change the noiseless value, in the L2 norm.
    """

    mechanism: Literal["gaussian"] = "gaussian"
    released: NoisyLabel
    unit: Unit = "document"
    sigma: Positive
    sensitivity: Positive


class SampledGaussianEvent(Record):
    """So many steps, each with Gaussian noise on a sum over a fresh Poisson sample (DP-SGD, arXiv 1607.00133).

    Attributes:
        released: what left: all that follows from the noisy sums, such as ``"component"``.
        unit: what is protected: one document or row, more or less.
        sigma: the standard deviation of the noise on each coordinate of a sum.
        sensitivity: the most one unit can change the noiseless sum, in the L2 norm: the clipping norm.
        sampling_rate: the probability with which each unit entered a step, independently of all others.
        steps: how many.
    """

    mechanism: Literal["sampled_gaussian"] = "sampled_gaussian"
    released: NoisyLabel
    unit: Literal["document", "row"] = "row"
    sigma: Positive
    sensitivity: Positive
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1, le=10**6)]


class RandomisedResponseEvent(Record):
    """Each label was released as it is, or as any one of the other classes (Warner 1965; k-ary: arXiv 1407.1338).

    Attributes:
        released: what left, e.g. ``"labels"``.
        unit: the value of one label.
        classes: their number k.
        flip: the probability of each single other class, below 1/k.
    """

    mechanism: Literal["randomised_response"] = "randomised_response"
    released: NoisyLabel = "labels"
    unit: Literal["label"] = "label"
    classes: Annotated[int, Field(ge=2)]
    flip: Positive

    @model_validator(mode="after")
    def _says_something(self) -> RandomisedResponseEvent:
        if not self.flip * self.classes < 1:
            raise ValueError("the true class must be likelier than each other: flip < 1 / classes")
        return self


class ExactEvent(Record):
    """Released as it is, or protected only by a rule without a theorem. No finite bound holds.

    Attributes:
        released: what left.
        unit: the unit that is *not* protected.
        note: the rule, if there was one ("cells seen in fewer than 5 documents set to zero").
    """

    mechanism: Literal["exact"] = "exact"
    released: Label
    unit: Unit = "document"
    note: Note = ""


class OtherEvent(Record):
    """A mechanism that this installation does not know: kept in full, priced at infinity.

    Attributes:
        mechanism: any name but those known here.
        released: what left.
        unit: what the mechanism is said to protect.

    Further fields are kept as they came: JSON values, finite, at most 32 of them and at most 8 levels deep.
    """

    model_config = ConfigDict(extra="allow")

    mechanism: Label
    released: Label
    unit: Label
    __pydantic_extra__: dict[Label, JsonValue]

    @model_validator(mode="after")
    def _is_unknown_and_bounded(self) -> OtherEvent:
        if self.mechanism in _KNOWN:
            raise ValueError(f"mechanism {self.mechanism!r} is known, and has its own fields")
        if len(self.__pydantic_extra__) > _MOST_EXTRA_FIELDS:
            raise ValueError(f"more than {_MOST_EXTRA_FIELDS} further fields")
        for name, value in self.__pydantic_extra__.items():
            _require_plain(name, value, depth=1)
        return self


_KNOWN = ("laplace", "gaussian", "sampled_gaussian", "randomised_response", "exact")


def _require_plain(name: str, value: JsonValue, depth: int) -> None:
    """Refuse what does not survive a round trip through JSON, or nests deeper than any sane parameter."""
    if depth > _MOST_EXTRA_DEPTH:
        raise ValueError(f"field {name!r} nests deeper than {_MOST_EXTRA_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"field {name!r} holds a number that is not finite")
    if isinstance(value, str):
        printable(value)
    if isinstance(value, dict):
        for key in value:
            printable(key)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        _require_plain(name, child, depth + 1)


def _mechanism(event: Any) -> str:
    name = event.get("mechanism") if isinstance(event, dict) else getattr(event, "mechanism", None)
    return name if isinstance(name, str) and name in _KNOWN else "other"


Event: TypeAlias = Annotated[
    Annotated[LaplaceEvent, Tag("laplace")]
    | Annotated[GaussianEvent, Tag("gaussian")]
    | Annotated[SampledGaussianEvent, Tag("sampled_gaussian")]
    | Annotated[RandomisedResponseEvent, Tag("randomised_response")]
    | Annotated[ExactEvent, Tag("exact")]
    | Annotated[OtherEvent, Tag("other")],
    Discriminator(_mechanism),
]
"""Any event, told apart by its ``mechanism``."""

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(record: object) -> Event:
    """Read one event from a JSON object.

    Raises:
        PrivacyError: the record is not an event; the message names the field.
    """
    try:
        return EVENT.validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"][1:]) or "the record itself"
        raise PrivacyError(
            f"privacy event, {field[:200]!a}",
            why=first["msg"],
            mend="Give the fields that quiltwork.privacy.events documents for this mechanism.",
        ) from error
