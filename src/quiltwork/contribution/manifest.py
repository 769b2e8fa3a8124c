"""The manifest: contribution.json, everything a contribution says about itself.

The bytes are the canonical JSON of the fields, and the contribution's name is a digest over them::

    digest = sha256(encode(fields without "digest"))
    bytes  = encode(fields)

The payload's digests are fields, so the one digest covers every byte of the directory. It gives integrity,
and not authorship: whoever changes a contribution can compute a new digest, but then it is another
contribution.

Reading goes from the outside in: JSON, then ``format``, ``version`` and ``kind`` (so that a newer
contribution is called unsupported and not broken), then the schema, the spelling and the digest. Whether the
declared payload is the one that kind and statistics require is the business of ``declared``.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import Field, ValidationError, model_validator

from quiltwork.contribution.canonical import decode, encode, shown
from quiltwork.contribution.fields import Count, Digest, PartyLabel, Positive, Software
from quiltwork.contribution.kinds import ExpertMethod, Part, Statistic, StatisticsMethod
from quiltwork.contribution.manifest_fields import ManifestFields
from quiltwork.contribution.network_manifests import (
    ModuleManifest,
    MomentsManifest,
    OutputsManifest,
    StitchesManifest,
    StitchStatisticsManifest,
)
from quiltwork.contribution.networks import ModuleMethod, MomentsMethod, OutputsMethod
from quiltwork.contribution.stitching import StitchesMethod, StitchStatisticsMethod
from quiltwork.contribution.tables import LikelihoodsMethod, MixtureMethod, TableReference, TableStatistic
from quiltwork.errors import AlteredContribution, MalformedContribution, UnsupportedContribution
from quiltwork.privacy.events import Label, Record, Unit

R = TypeVar("R", bound=Record)

FILE = "contribution.json"
SIGNATURE = "contribution.sig"
"""The one file beside what is declared: a signature over everything else, which no digest covers (docs/signing.md)."""
MAX_BYTES = 4 * 2**20
REWRITE = "The party must write the contribution again with quiltwork; docs/format.md lists the rules."


class BaseReference(Record):
    """The public model that the party started from.

    Attributes:
        digest: of the base checkpoint.
        family: its architecture, e.g. ``"olmo2"``.
        vocabulary_size: number of tokens.
        tokenizer: digest of the tokenizer.
    """

    digest: Digest
    family: Label
    vocabulary_size: Annotated[int, Field(ge=1, le=2**24)]
    tokenizer: Digest


class TrainingSummary(Record):
    """How the weights were trained.

    Attributes:
        steps: optimiser steps.
        tokens: tokens seen, repetitions counted.
        sequence_length: tokens in a sequence.
        batch_size: sequences in a step.
        learning_rate: the peak.
        seed: of order and initialisation.
        loss_first: loss at the first step, in nats a token; a function of private text.
        loss_last: loss at the last step, likewise.
        software: name to version.
    """

    steps: Count
    tokens: Count
    sequence_length: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Field(ge=0)]
    seed: int
    loss_first: float | None = None
    loss_last: float | None = None
    software: Software


class LanguageFields(ManifestFields):
    """What the kinds of language models declare besides; their ``party`` may be ``OWNER.SHARE``."""

    protects: ClassVar[Unit] = "document"

    party: PartyLabel
    base: BaseReference
    method: ExpertMethod | StatisticsMethod
    training: TrainingSummary | None = None
    statistics: Annotated[tuple[Statistic, ...], Field(max_length=16)] = ()

    def parts(self) -> tuple[Part, ...]:
        """Everything that leaves, the method's parts first."""
        return self.method.parts() + tuple(one.part(self.base.vocabulary_size) for one in self.statistics)

    def tells_training(self) -> bool:
        """Whether a figure of the training, a loss on private text, is among the fields."""
        training = self.training
        return training is not None and (training.loss_first is not None or training.loss_last is not None)


class ExpertManifest(LanguageFields):
    """Kind ``expert``."""

    kind: Literal["expert"] = "expert"
    method: ExpertMethod


class StatisticsManifest(LanguageFields):
    """Kind ``statistics``."""

    kind: Literal["statistics"] = "statistics"
    method: StatisticsMethod


class MixtureManifest(ManifestFields):
    """Kind ``mixture``: no base; the table that the rows are of."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["mixture"] = "mixture"
    table: TableReference
    method: MixtureMethod
    statistics: Annotated[tuple[TableStatistic, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> MixtureManifest:
        self.method.require_table(self.table)
        self.parts()
        return self

    def parts(self) -> tuple[Part, ...]:
        """Everything that leaves, the mixture first."""
        return self.method.parts() + tuple(one.part(self.method) for one in self.statistics)

    def tells_training(self) -> bool:
        """Whether a figure of the fit, the likelihood of private rows, is among the fields."""
        return self.method.log_likelihood is not None


class LikelihoodsManifest(ManifestFields):
    """Kind ``likelihoods``: an answer to candidates over one table."""

    protects: ClassVar[Unit] = "row"

    kind: Literal["likelihoods"] = "likelihoods"
    table: TableReference
    method: LikelihoodsMethod

    def parts(self) -> tuple[Part, ...]:
        """The values."""
        return self.method.parts()

    def tells_training(self) -> bool:
        """Nothing was trained."""
        return False


NetworkManifest: TypeAlias = (
    ModuleManifest | MomentsManifest | OutputsManifest | StitchStatisticsManifest | StitchesManifest
)
NetworkMethod: TypeAlias = ModuleMethod | MomentsMethod | OutputsMethod | StitchStatisticsMethod | StitchesMethod
Manifest: TypeAlias = ExpertManifest | StatisticsManifest | MixtureManifest | LikelihoodsManifest | NetworkManifest
Method: TypeAlias = ExpertMethod | StatisticsMethod | MixtureMethod | LikelihoodsMethod | NetworkMethod
MANIFESTS: dict[str, type[Manifest]] = {
    "expert": ExpertManifest,
    "statistics": StatisticsManifest,
    "mixture": MixtureManifest,
    "likelihoods": LikelihoodsManifest,
    "module": ModuleManifest,
    "moments": MomentsManifest,
    "stitch_statistics": StitchStatisticsManifest,
    "stitches": StitchesManifest,
    "outputs": OutputsManifest,
}


def canonical_bytes(manifest: Manifest) -> bytes:
    """The one spelling of a manifest."""
    return encode(manifest.model_dump(mode="json"))


def digest_of(manifest: Manifest) -> str:
    """The contribution's name: SHA-256 over the canonical bytes of all fields but ``digest``."""
    return "sha256:" + hashlib.sha256(encode(manifest.model_dump(mode="json", exclude={"digest"}))).hexdigest()


def parse(data: bytes) -> Manifest:
    """Read the bytes of contribution.json and check them against schema, spelling and digest.

    Raises:
        MalformedContribution: the bytes do not follow docs/format.md.
        UnsupportedContribution: a version or kind that this installation does not know.
        AlteredContribution: the fields do not match the digest.
    """
    kind = _recognise(decode(data, FILE))
    try:
        manifest = MANIFESTS[kind].model_validate_json(data)
    except ValidationError as error:
        raise schema_refusal(error) from error
    if canonical_bytes(manifest) != data:
        raise MalformedContribution(FILE, why="its bytes are not the canonical spelling of its fields", mend=REWRITE)
    if digest_of(manifest) != manifest.digest:
        raise AlteredContribution(
            f"'digest' in {FILE}",
            why="it is not the digest of the other fields, so one of them was changed",
            mend="Fetch the contribution again from its party.",
        )
    return manifest


def _recognise(value: object) -> str:
    """The kind, once format, version and kind are known to be ours."""
    if not isinstance(value, dict) or value.get("format") != "quiltwork-contribution":
        raise MalformedContribution(FILE, why="'format' is not 'quiltwork-contribution'", mend=REWRITE)
    version, kind = value.get("version"), value.get("kind")
    if type(version) is not int:
        raise MalformedContribution(f"'version' in {FILE}", why="it is not an integer", mend=REWRITE)
    if not isinstance(kind, str):
        raise MalformedContribution(f"'kind' in {FILE}", why="it is not a string", mend=REWRITE)
    mend = "Upgrade quiltwork, or ask the party for a contribution that this version reads."
    if version != 1:
        raise UnsupportedContribution(f"version {version}", why="this installation reads version 1", mend=mend)
    if kind not in MANIFESTS:
        *most, last = (f"'{name}'" for name in MANIFESTS)
        known = f"{', '.join(most)} and {last}"
        raise UnsupportedContribution(f"kind {shown(kind)}", why=f"this installation knows {known}", mend=mend)
    return kind


def stated(record: type[R], **fields: object) -> R:
    """A record of an owner's options.

    Raises:
        MalformedContribution: a field lies outside its bounds; it is named.
    """
    try:
        return record(**fields)
    except ValidationError as error:
        raise schema_refusal(error) from error


def schema_refusal(error: ValidationError) -> MalformedContribution:
    """The first broken field, named."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole"
    # some messages of the schema quote the stranger's value
    why = "".join(character if character.isprintable() else "?" for character in first["msg"][:300])
    return MalformedContribution(f"field {shown(field, 200)} in {FILE}", why=why, mend=REWRITE)
