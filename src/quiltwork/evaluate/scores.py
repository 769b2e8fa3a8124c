"""The score matrix and what belongs to it, as one file that several owners can write in parts.

Rows are models, columns are held-out data (*domains*), and the file names the one metric of its cells, see
``metrics``: bits per byte of text, nats per row of a table. Lower is better. A party's own held-out data bears
the party's name. Beside the matrix stand the model that each party has *alone*, the matrix again with one party
*left out*, the share of each expert in the answers, what each party released, and sample text with the expert
that answered each token.

The file is strict JSON (RFC 8259: no NaN, no infinity). Where a privacy loss has no bound, ``epsilon`` is
null. Reading is bounded and refuses unknown keys, repeated keys and values outside their range, each by name.

Held-out data need not be pooled either: every owner evaluates its own column, and ``merging.merge`` joins the parts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.metrics import METRICS, Metric, MetricName
from quiltwork.files import write_file

MAX_FILE_BYTES = 64 * 2**20
MAX_NAMES = 1_000
# a share is a float sum over tokens and slots; more than this above one is a mistake, not rounding
SHARE_TOLERANCE = 1e-3

# control characters and those that reverse the direction of text could make a name read as another
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_PLAIN)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NAMES)]
Size = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=10_000)]
Value = TypeVar("Value")
Table = Annotated[dict[Name, Value], Field(max_length=MAX_NAMES)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Record):
    """One model on one domain.

    Attributes:
        value: the metric.
        spread: how sure ``value`` is, in the metric's unit; what it is follows from the metric.
        paired: standard error of the difference, item by item on the same data, from the model that the cell is held
            against: in a method's row what the column's party has alone, in a row without a party the whole method.
        amount, items: how much was scored; what is counted follows from the metric.
        extra: further measures by name.
    """

    value: Finite
    spread: Number | None = None
    paired: Number | None = None
    amount: Size = 0
    items: Size = 0
    extra: Table[Finite] = {}


class Row(_Record):
    """One model.

    Attributes:
        domains: its cells.
        active_params: parameters used per token; None where that has no meaning.
        total_params: parameters in all; None where nobody counted.
        seconds: to make and score it.
        excluded: the parties that the composition left out of itself, each with its reason.
        extra: measures of the model that belong to no domain, the distance to a known truth for instance.
    """

    domains: Table[Cell] = {}
    active_params: Number | None = None
    total_params: Size | None = None
    seconds: Number = 0
    excluded: Table[Text] = {}
    extra: Table[Finite] = {}


class Span(_Record):
    """Who answered the tokens with at least ``start`` others before them, up to the next span's start.

    Attributes:
        start: how many tokens the router had read at least.
        tokens: how many tokens were answered.
        shares: the mean weight of each slot, over tokens and layers.
        firsts: the share of tokens in which a slot has the largest weight, as a mean over layers; equals share.
    """

    start: Size
    tokens: Annotated[int, Field(ge=1, le=2**63 - 1)]
    shares: Annotated[tuple[Number, ...], Field(max_length=MAX_NAMES)]
    firsts: Annotated[tuple[Number, ...], Field(max_length=MAX_NAMES)]


class Routing(_Record):
    """Who answered: ``layers[i][j]`` is the share of ``slots[j]`` in layer i; a layer sums to at most one.

    ``spans`` says the same by position in the text, where that was counted.
    """

    slots: Names
    layers: Annotated[tuple[tuple[Number, ...], ...], Field(max_length=MAX_NAMES)]
    spans: Annotated[tuple[Span, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _shares(self) -> Self:
        named = [(f"layer {index}", layer) for index, layer in enumerate(self.layers)]
        for span in self.spans:
            named += [(f"the span from {span.start}", span.shares), (f"the span from {span.start}", span.firsts)]
        for label, shares in named:
            if len(shares) != len(self.slots):
                raise ValueError(f"{label} has {len(shares)} shares for {len(self.slots)} slots")
            if math.fsum(shares) > 1 + SHARE_TOLERANCE:
                raise ValueError(f"the shares of {label} sum to {math.fsum(shares):.4f}, more than one")
        return self

    def mean(self) -> dict[str, float]:
        """The share of each slot, averaged over the layers."""
        depth = max(len(self.layers), 1)
        return {s: math.fsum(layer[j] for layer in self.layers) / depth for j, s in enumerate(self.slots)}


class Release(_Record):
    """What one party handed over. ``epsilon`` is None where nothing bounds the privacy loss."""

    digest: Text
    bytes: Size
    seconds: Number = 0
    epsilon: Number | None = None

    @field_validator("epsilon", mode="before")
    @classmethod
    def _unbounded(cls, value: object) -> object:
        return None if isinstance(value, float) and value == math.inf else value


class Token(_Record):
    """A token of sample text, the slot with the largest weight in answering it, and that weight."""

    text: Text
    slot: Name
    weight: Annotated[float, Field(ge=0, le=1 + SHARE_TOLERANCE)]


class Sample(_Record):
    """Sample text of one domain as one method answered it."""

    domain: Name
    method: Name
    tokens: Annotated[tuple[Token, ...], Field(max_length=100_000)]


class Scores(_Record):
    """The whole file; see the module's docstring. All but the names are optional.

    Raises:
        pydantic.ValidationError: a value outside its range, or a name used but not listed. ``from_json`` and
            ``load_scores`` raise InvalidOption instead.
    """

    format: Literal["quiltwork-scores"] = "quiltwork-scores"
    version: Literal[2] = 2
    machine: Text = ""
    created: Text | None = None
    metric: MetricName = "bits per byte"
    base: Text | None = None
    parties: Names = ()
    public: Names = ()
    domains: Names = ()
    methods: Table[Row] = {}
    alone: Table[Row] = {}
    leave_one_out: Table[Table[Row]] = {}
    routing: Table[Table[Routing]] = {}
    contributions: Table[Release] = {}
    samples: Annotated[tuple[Sample, ...], Field(max_length=MAX_NAMES)] = ()
    opt_out_identical: bool | None = None
    seconds: Number | None = None

    @model_validator(mode="after")
    def _names_are_listed(self) -> Self:
        for field in ("parties", "public", "domains"):
            _unique(field, getattr(self, field))
        if both := set(self.parties) & set(self.public):
            raise ValueError(f"{sorted(both)} are both parties and public")
        for label, row in self._rows():
            _listed(f"domains of {label}", row.domains, self.domains, "domains")
            _listed(f"excluded of {label}", row.excluded, self.parties, "parties")
        for field, table in (("alone", self.alone), ("contributions", self.contributions)):
            _listed(field, table, self.parties, "parties")
        for method, rows in self.leave_one_out.items():
            _listed(f"leave_one_out of {method!r}", rows, self.parties, "parties")
        for method, domains in self.routing.items():
            _listed(f"routing of {method!r}", domains, self.domains, "domains")
        return self

    @model_validator(mode="after")
    def _ratios_are_not_negative(self) -> Self:
        for label, row in self._rows() if METRICS[self.metric].ratio else ():
            for domain, cell in row.domains.items():
                if cell.value < 0:
                    raise ValueError(f"{label}, domain {domain!r}: {cell.value} is negative, as no {self.metric} are")
        return self

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        for label, row in self._rows() if METRICS[self.metric].points else ():
            for domain, cell in row.domains.items():
                if not 0 <= cell.value <= 1:
                    raise ValueError(f"{label}, domain {domain!r}: {cell.value} is no share")
        return self

    @property
    def measure(self) -> Metric:
        """The metric of the cells, with its words."""
        return METRICS[self.metric]

    def _rows(self) -> Iterable[tuple[str, Row]]:
        yield from ((f"method {name!r}", row) for name, row in self.methods.items())
        yield from ((f"{name!r} alone", row) for name, row in self.alone.items())
        for method, rows in self.leave_one_out.items():
            yield from ((f"{method!r} without {name!r}", row) for name, row in rows.items())

    def row(self, name: str) -> dict[str, float]:
        """The values of method ``name`` by domain.

        Raises:
            InvalidOption: no such method.
        """
        if name not in self.methods:
            raise InvalidOption(
                f"method {name!r}",
                why="the scores have no such row",
                mend=f"Choose one of {sorted(self.methods)}.",
            )
        return {domain: cell.value for domain, cell in self.methods[name].domains.items()}

    def mean(self, name: str, domains: Iterable[str]) -> float:
        """The unweighted mean over ``domains`` of method ``name``, in the metric's unit.

        Raises:
            InvalidOption: no such method, no domains, or a domain that was not scored.
        """
        row, wanted = self.row(name), list(domains)
        if not wanted or (missing := [d for d in wanted if d not in row]):
            raise InvalidOption(
                f"mean of method {name!r}",
                why=f"domains {missing} were not scored" if wanted else "there are no domains to average",
                mend="Score them, or average over domains that the row has.",
            )
        return math.fsum(row[d] for d in wanted) / len(wanted)

    def to_json(self) -> str:
        """Strict JSON with keys in the order of the fields; equal scores give equal text."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _unique(field: str, names: tuple[str, ...]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"{field} repeats {sorted({n for n in names if names.count(n) > 1})}")


def _listed(what: str, used: Iterable[str], listed: tuple[str, ...], field: str) -> None:
    if strangers := sorted(set(used) - set(listed)):
        raise ValueError(f"{what}: {strangers} are not listed under {field!r}")


def from_json(text: str | bytes, *, source: str = "scores") -> Scores:
    """Read scores from strict JSON.

    Raises:
        InvalidOption: not strict JSON, or not a score file of this version; names the place.
    """
    try:
        raw = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise _bad(source, f"it is not strict JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != "quiltwork-scores":
        raise _bad(source, "it is not a score file (its 'format' is not 'quiltwork-scores')")
    try:
        return Scores.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise _bad(source, first_problem(error)) from error


def _bad(source: str, why: str) -> InvalidOption:
    return InvalidOption(source, why=why, mend="Write the file with quiltwork evaluate, or correct it.")


def first_problem(error: ValidationError) -> str:
    """Where pydantic first saw a problem, what it is, and how many more there are."""
    problems = error.errors(include_url=False, include_input=False)
    place = ".".join(str(part) for part in problems[0]["loc"]) or "the file"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {problems[0]['msg']}{more}"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)!r} is repeated")
    return record


def load_scores(path: str | os.PathLike[str]) -> Scores:
    """Read a score file of at most 64 MiB.

    Raises:
        InvalidOption: it cannot be read, is too large, or is not a score file.
    """
    source = f"score file '{path}'"
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidOption(
            source, why=error.strerror or str(error), mend="Name a file that quiltwork evaluate wrote."
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise _bad(source, f"it is larger than {MAX_FILE_BYTES} bytes")
    return from_json(data, source=source)


def save_scores(scores: Scores, path: str | os.PathLike[str]) -> Path:
    """Write a score file whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    return write_file(path, scores.to_json())
