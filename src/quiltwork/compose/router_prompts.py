"""``PromptRows``: rows from prompts that the composer writes for each party.

As the hidden-state gates of mergekit's mixtures, but taken at the router's real input: what enters a layer's
feed-forward block when the public base reads a prompt. With m+ and m- the means over the tokens of a party's positive
and negative prompts, M = (m+ + m-) / 2 and d = m+ - m-,

    v = d - (d.M / M.M) M        r = scale v / (|v| rms)        rms^2 = mean over all these tokens of |x - M|^2 / H

v is the difference without its part along M, so that the boundary r.x = 0 between party and base passes through the
middle of the two means: the offset that a public format has no place for. A token that lies one typical step from the
middle along v, of the H directions there are, gets a logit of ``scale``. The base's row is zero.

A row depends on its party's prompts and on nothing that a party released. It knows what the composer wrote and the base
understood, and no more. Prompts are read one by one, so that none is padded for another's sake; the separator before
each is read and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.router import require_dense, require_positive, require_top_k
from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.fields import owner_of
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.routers import Rows
from quiltwork.models.sources import Source
from quiltwork.streaming.numbers import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prompts:
    """What stands for a party: texts such as it should answer, and texts such as it should not.

    Attributes:
        positive: at least one.
        negative: besides those that are negative for all.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptRows:
    """Router of rows from prompts.

    Attributes:
        prompts: by party; a party that takes part must have some, its owner's if it is one of several of one owner.
        negative: prompts that are negative for every party: text that the base should answer.
        pool: ``"mean"`` over the tokens of a prompt, or its ``"last"`` token alone.
        scale: logit at one typical step from the middle.
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one.
    """

    prompts: Mapping[str, Prompts] = field(default_factory=dict)
    negative: tuple[str, ...] = ()
    pool: Literal["mean", "last"] = "mean"
    scale: float = 1.0
    top_k: int | None = None
    renormalise: bool = True

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "last"):
            raise InvalidOption(f"pool={self.pool!r}", why="there is no such way", mend="Use 'mean' or 'last'.")
        require_positive(scale=self.scale)
        require_top_k(self.top_k)
        for party, given in self.prompts.items():
            self._require_both(party, given)

    def _require_both(self, party: str, given: Prompts) -> None:
        for sign, texts in (("positive", given.positive), ("negative", (*given.negative, *self.negative))):
            if not any(text.strip() for text in texts):
                raise InvalidOption(
                    f"the prompts of party '{party}'",
                    why=f"none of them is {sign}, and a row is the difference of the two kinds",
                    mend="Write some of each; negative ones may stand once for all parties.",
                )

    @property
    def name(self) -> str:
        """``prompt_rows``."""
        return "prompt_rows"

    def needs(self) -> frozenset[str]:
        """Nothing besides the expert."""
        return frozenset()

    def routing(
        self,
        base: Base,
        members: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every router
        weights: Mapping[str, float],
    ) -> Rows:
        """The rows, computed now: the base is loaded for it.

        Raises:
            InvalidOption: a party has no prompts, its two kinds of prompts cannot be told apart, or the base is a
                mixture itself.
        """
        require_dense(base, "rows of prompts")
        for contribution in members:
            if self._of(contribution.party) is None:
                known = ", ".join(sorted(self.prompts)) or "nobody"
                raise InvalidOption(
                    f"party '{contribution.party}'",
                    why="there are no prompts for it",
                    mend=f"Write some (--prompts FILE), and compose again; there are prompts for: {known}.",
                )
        reader = _Reader(base)
        shared = [reader.read(text) for text in self.negative]
        rows = {c.party: self._rows(c.party, base, reader, shared) for c in members}
        return Rows(rows=rows, offsets={}, top_k=self.top_k, renormalise=self.renormalise, weights=weights)

    def _of(self, party: str) -> Prompts | None:
        return self.prompts.get(party) or self.prompts.get(owner_of(party))

    def _rows(self, party: str, base: Base, reader: _Reader, shared: list[list[Floats]]) -> list[Source]:
        given = self._of(party)
        assert given is not None
        positive = [reader.read(text) for text in given.positive]
        negative = [*(reader.read(text) for text in given.negative), *shared]
        found = []
        for layer in range(base.layers):
            row = self._row(*(self._pooled(texts, layer) for texts in (positive, negative)))
            if not np.isfinite(row).all():
                raise InvalidOption(
                    f"the prompts of party '{party}'",
                    why=f"in layer {layer} positive and negative ones have one mean",
                    mend="Write prompts that differ.",
                )
            found.append(_source(row, base))
        return found

    def _pooled(self, texts: list[list[Floats]], layer: int) -> Floats:
        read = [text[layer] for text in texts if len(text[layer])]
        return np.concatenate([one[-1:] if self.pool == "last" else one for one in read])

    def _row(self, positive: Floats, negative: Floats) -> Floats:
        plus, minus = positive.mean(axis=0), negative.mean(axis=0)
        middle, difference = (plus + minus) / 2, plus - minus
        along = difference - middle * (difference @ middle / max(middle @ middle, np.finfo(float).tiny))
        spread = np.sqrt(np.square(np.concatenate([positive, negative]) - middle).mean())
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.scale * along / (np.linalg.norm(along) * spread))


class _Reader:
    """The base, reading prompts."""

    def __init__(self, base: Base) -> None:
        self._model: PreTrainedModel = base.load_model()
        self._tokenizer = base.load_tokenizer()
        self._separator = base.separator

    def read(self, text: str) -> list[Floats]:
        """Each layer's feed-forward input ``[tokens, H]`` over a prompt, in float64."""
        import torch

        from quiltwork.models.residual import feed_forward_inputs

        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        found: list[Floats] = []
        with torch.no_grad(), feed_forward_inputs(self._model, lambda _, x: found.append(x[0, 1:].double().numpy())):
            self._model(input_ids=torch.tensor([[self._separator, *ids]]), use_cache=False)
        return found


def _source(row: Floats, base: Base) -> Source:
    return Source.streamed(base.dtype, row.shape, lambda: iter([encode(row, base.dtype).tobytes()]))
