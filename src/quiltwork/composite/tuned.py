"""What was done to a composed language model after composing: tuning on public text.

Tuning sees all parties' experts at once, so what it changed cannot be divided among them. The record says what was
changed, how, and on which texts; each text is a list of documents named by the digest

    SHA-256( SHA-256(d_1) SHA-256(d_2) ... )        of the documents in UTF-8, hexadecimal
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from quiltwork.privacy.events import Label, Record

What: TypeAlias = Literal["router", "anchor", "both", "all"]
"""What is tuned: the router's rows, the base's own feed-forward blocks, both of these, or every tensor."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class TunedText(Record):
    """A public text that a model was tuned on: number of documents and their digest."""

    documents: Annotated[int, Field(ge=1)]
    digest: Digest


class Tuned(Record):
    """How a composed model was tuned.

    Attributes:
        what: which tensors changed.
        plan: steps, sizes and rates, by the names of `quiltwork.training.loop.TrainingPlan`.
        selection: how the parties' stand-ins were chosen among public documents.
        texts: public texts by name, mixed in equal parts: ``public``, and the stand-ins of each party.
        first_loss: mean loss of the first step, nats a token.
        last_loss: that of the last step.
    """

    what: What
    plan: dict[Label, int | float | str]
    selection: Label
    texts: Annotated[dict[Annotated[str, StringConstraints(max_length=128)], TunedText], Field(min_length=1)]
    first_loss: float
    last_loss: float


def documents_digest(documents: Iterable[str]) -> str:
    """The digest of a list of documents, as in the module's docstring.

    >>> documents_digest(["a rose"]) == documents_digest(["a", " rose"])
    False
    """
    parts = "".join(hashlib.sha256(document.encode()).hexdigest() for document in documents)
    return "sha256:" + hashlib.sha256(parts.encode()).hexdigest()
