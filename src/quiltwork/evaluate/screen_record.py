"""What a screening found, as one record: figures, findings, a verdict for each contribution and advice on all.

Verdicts are the worst level among a contribution's findings:

    note -> clean      something to know, nothing against it
    look -> look       it looks like what a mistake or an attack looks like; a person has to judge
    harm -> harmful    measured: with it, somebody's text is predicted worse, by the rule in ``Rule``

Only the third needs text. A verdict of *clean* says that these checks found nothing, and no more.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from quiltwork.evaluate.scores import Finite, Name, Names, Number, Size, Text

Level: TypeAlias = Literal["note", "look", "harm"]
Verdict: TypeAlias = Literal["clean", "look", "harmful"]
Check: TypeAlias = Literal["loss", "expert", "capture", "claim", "norm", "duplicate", "histogram"]
Kind: TypeAlias = Literal["harm", "cost", "help", "none", "unknown"]
Advice: TypeAlias = Literal["compose", "look first", "compose without some", "do not collaborate"]

_VERDICTS: dict[Level, Verdict] = {"note": "clean", "look": "look", "harm": "harmful"}
_ORDER: tuple[Level, ...] = ("note", "look", "harm")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Record):
    """When a difference of losses counts: it must exceed a share of the loss by more than chance.

    Attributes:
        harm: share of the loss without the contribution from which a text is harmed: how much worse the composer lets
            anybody's text become for the sake of all. What exceeds it may not do so by chance.
        cost: the same from which a difference is told at all. A party more to choose among costs the others a little,
            in the first tokens of every text, however honest it is.
        errors: standard errors of the difference, paired by document, on one text of very many documents. With n
            documents it is widened by sqrt((n - 1) / (n - 3)), the spread of Student's t with n - 1 degrees of freedom;
            where a contribution is judged on m texts, so far that all m together raise a false alarm as often as one.
        documents: fewer are not judged.
    """

    harm: Number = 0.02
    cost: Number = 0.005
    errors: Annotated[Number, Field(ge=0, le=30)] = 2.0
    documents: Annotated[int, Field(ge=4)] = 5


class Finding(_Record):
    """One thing that a check found.

    Attributes:
        check: which.
        level: how much it weighs.
        about: the other party, the text or the tensor that it is about; may be empty.
        what, why, mend: what was seen, why it matters, what can be done.
    """

    check: Check
    level: Level
    about: Text = ""
    what: Text
    why: Text
    mend: Text


class Effect(_Record):
    """One model against another on one text, in bits per byte; positive ``change`` is worse.

    Attributes:
        party: the contribution that makes the difference; "" for the whole composite against the base.
        text: the domain.
        present, absent: the loss with and without it.
        change: present - absent.
        error: standard error of ``change``, paired by document; None with one document.
        chance: what may be chance; None where there are too few documents to say.
        kind: ``harm`` or ``cost``, see ``Rule``; ``help`` where it is better by as much as a cost; else ``none``, and
            ``unknown`` where there are too few documents.
        documents: how many there are.
        round: the first has all contributions; see ``screen``.
    """

    party: Text
    text: Name
    present: Number
    absent: Number
    change: Finite
    error: Number | None
    chance: Number | None
    kind: Kind
    documents: Size
    round: Size = 1


class Capture(_Record):
    """How much of a text a contribution's expert answers.

    Attributes:
        party: whose expert; "base" for the base's own.
        text: the domain.
        share: mean over documents of its weight.
        group: the same of all slots of the expert's owner, who may have several.
        owner: the same of those slots whose text it is: its owner's, or the base's for public text.
        error: standard error of group - owner over documents; None with one.
        spread: standard error of share likewise.
        uniform: the share of every slot if all counted alike.
        documents, round: as of an effect.
    """

    party: Name
    text: Name
    share: Number
    group: Number
    owner: Number
    error: Number | None
    spread: Number | None
    uniform: Number
    documents: Size
    round: Size = 1


class Description(_Record):
    """How well a party's histogram describes a text.

    Attributes:
        party: whose histogram.
        text: the domain.
        gain: nats a symbol by which its row explains the text better than public text's row; mean over documents.
        error: standard error of ``gain`` over documents; None with one.
        documents: how many there are.
    """

    party: Name
    text: Name
    gain: Finite
    error: Number | None
    documents: Size


class Weights(_Record):
    """How far a contribution moved the base.

    Attributes:
        size: root mean square of the change, relative to the base's, over all tensors.
        form: in which its weights are held: of ffn, lowrank, narrow, full and lora those that were weighed.
        others: the median size of other owners' changes of the same form; None where there is none.
        deviations: log(size) above the others' median, in robust standard deviations; None likewise.
        tensors: size of each tensor's change, relative to the base's tensor.
        vectors: those of them that are vectors.
    """

    size: Number
    form: Text = ""
    others: Number | None
    deviations: Finite | None
    tensors: Annotated[dict[Name, Number], Field(max_length=100_000)] = {}
    vectors: Annotated[tuple[Name, ...], Field(max_length=100_000)] = ()


class Likeness(_Record):
    """Two contributions side by side.

    Attributes:
        parties: which.
        cosine: of their changes to the base; None where they changed no tensor in common.
        identical: tensors that are the same bytes, unchanged and empty ones aside.
        compared: tensors that both have.
        common_text: by part, the share of the counted text that must be the same; 0 for independent text of one kind.
    """

    parties: tuple[Name, Name]
    cosine: Annotated[float, Field(ge=-1.001, le=1.001)] | None
    identical: Size
    compared: Size
    common_text: dict[Name, Finite] = {}


class Histogram(_Record):
    """What a histogram of one contribution says by itself.

    Attributes:
        total: its mass.
        information: nats a symbol that it differs from uniform by (Kullback-Leibler), over log of the alphabet's size.
        trained: tokens that the contribution says it was trained on, repetitions counted; None where it says nothing.
        captures: for other parties' (and "public") histograms, nats a symbol by which its row explains *their* counts
            better than their own row does; above zero it would win their text.
    """

    total: Number
    information: Finite
    trained: Size | None
    captures: dict[Name, Finite] = {}


class Screened(_Record):
    """One contribution.

    Attributes:
        party, digest: its name and digest.
        findings: what was found against it.
        set_aside: the round after which it was set aside, so that the others were judged without it; None if never.
        weights, histograms: figures.
    """

    party: Name
    digest: Text
    findings: tuple[Finding, ...] = ()
    set_aside: Size | None = None
    weights: Weights | None = None
    histograms: dict[Name, Histogram] = {}

    @property
    def level(self) -> Level:
        """The worst level among the findings."""
        return max((f.level for f in self.findings), key=_ORDER.index, default="note")

    @property
    def verdict(self) -> Verdict:
        """In a word; see the module's docstring."""
        return _VERDICTS[self.level]


class Screening(_Record):
    """The whole; see the module's docstring.

    Attributes:
        base: digest.
        method: how the contributions were composed; None where only weights and statistics were looked at.
        rule: of harm.
        texts: the domains scored; ``public`` of them are no party's.
        contributions: in the order of parties.
        effects, captures: figures, of all rounds.
        descriptions, likeness: figures that do not depend on rounds.
        notes: what is to be known of the composition as a whole.
        advice: in a word, and ``reason`` in a sentence.
    """

    format: Literal["quiltwork-screening"] = "quiltwork-screening"
    version: Literal[1] = 1
    base: Text
    method: Text | None = None
    rule: Rule = Rule()
    texts: Names = ()
    public: Names = ()
    contributions: tuple[Screened, ...] = ()
    effects: tuple[Effect, ...] = ()
    captures: tuple[Capture, ...] = ()
    descriptions: tuple[Description, ...] = ()
    likeness: tuple[Likeness, ...] = ()
    notes: Annotated[tuple[Text, ...], Field(max_length=16)] = ()
    advice: Advice = "compose"
    reason: Text = ""

    @property
    def found(self) -> bool:
        """Whether some contribution is not clean, or the advice is against composing."""
        return self.advice != "compose"

    def to_json(self) -> str:
        """Strict JSON, verdicts included; equal screenings give equal text."""
        value = self.model_dump(mode="json")
        for row, one in zip(value["contributions"], self.contributions, strict=True):
            row["verdict"] = one.verdict
        return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
