"""The posterior over parties: whose component to trust, given the prefix of a text or one input.

Hypotheses h are "this text comes from fragment h": one a party, besides the public text and "none of them".
Each votes for a model slot; slot 0 is the base. For the tokens x_1..x_t of a text, naive Bayes over the
prefix gives

    s_t(h) = lambda s_{t-1}(h) + log u_h(x_t) / temperature        s_0 = 0,   lambda = 2^(-1 / half_life)
    log w_t(slot) = log sum over h of the slot of softmax_h(log prior_h + s_t(h))

and w_t weighs the slots' predictions of x_{t+1}: it depends on x_1..x_t alone, so it is causal and its state
is one number a hypothesis. With a half-life the past fades, for texts that change domain; without one lambda
is 1.

With ``switching`` a, the author may change before any token instead (fixed share, a hidden Markov model whose filter
is p_t):

    p_t(h)  ~  u_h(x_t)^(1 / temperature) [(1 - a) p_{t-1}(h) + a pi(h)]        p_0 = pi, the normalised prior

Rows enter only through their own hypothesis, so taking a party out (`PrefixPosterior.select`) gives bit for
bit the posterior built without it. The evidence sees p(x) alone: parties whose texts look alike and whose
answers differ cannot be told apart by it.

The recurrences are in `quiltwork.evidence.forgetting`. The state is s kept relative to its largest entry, which changes
no weight; under switching it is p itself.

>>> from quiltwork.evidence.histogram import TokenHistogram
>>> parties = [TokenHistogram([9.0, 1.0]), TokenHistogram([1.0, 9.0])]
>>> both = PrefixPosterior.from_histograms(parties, floor=0.0)
>>> log_weights, state = both.advance(torch.tensor([[0, 0]]), both.initial_state(1))
>>> [[round(w, 3) for w in row] for row in log_weights[0].exp().tolist()]
[[0.333, 0.576, 0.091], [0.246, 0.735, 0.018]]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.evidence.forgetting import fading_sum, fixed_share, require_forgetting
from quiltwork.evidence.histogram import TokenHistogram

_BLOCK = 256


@dataclass(frozen=True, eq=False)
class PrefixPosterior:
    """Naive Bayes over the prefix of a text, for H hypotheses, V tokens and S slots.

    Attributes:
        log_likelihood: floating ``[H, V]``, natural logarithms of each token's probability under each
            hypothesis; finite (a non-finite row gives weights that are not numbers).
        log_prior: floating ``[H]``, unnormalised; minus infinity rules a hypothesis out.
        slot: for each hypothesis the slot that it votes for; slot 0 is the base model's.
        slots: S; a slot without hypothesis has weight 0.
        temperature: divides the evidence; above 1 the posterior is less sure.
        half_life: tokens after which evidence counts half; None keeps it for good.
        switching: probability that the author changes before a token; None for texts of one author.

    Raises:
        InvalidOption: the parts do not fit each other, or both half_life and switching are given.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    slot: tuple[int, ...]
    slots: int
    temperature: float = 1.0
    half_life: float | None = None
    switching: float | None = None

    def __post_init__(self) -> None:
        hypotheses = len(self.slot)
        if hypotheses == 0:
            raise InvalidOption("hypotheses", why="there are none", mend="Give a party, a public histogram or a floor.")
        if self.log_likelihood.ndim != 2 or self.log_likelihood.shape[0] != hypotheses:
            raise _misfit("log_likelihood", self.log_likelihood, f"({hypotheses}, V)")
        if self.log_prior.shape != (hypotheses,):
            raise _misfit("log_prior", self.log_prior, f"({hypotheses},)")
        _require_slots(self.slot, self.slots)
        require_forgetting(self.temperature, self.half_life, self.switching)

    @classmethod
    def from_histograms(
        cls,
        parties: Sequence[TokenHistogram],
        *,
        public: TokenHistogram | None = None,
        floor: float | None = None,
        prior: Sequence[float] | None = None,
        smoothing: float = 0.5,
        temperature: float = 1.0,
        half_life: float | None = None,
        switching: float | None = None,
    ) -> PrefixPosterior:
        """The posterior over the base (slot 0) and ``parties`` (slots 1..C in their order).

        Args:
            parties: one histogram each, over one vocabulary.
            public: the histogram of public text; votes for slot 0.
            floor: "none of them", votes for slot 0: every token has the log-probability ``floor - log V``,
                that is ``floor`` nats above uniform text. 0 is uniform text; a larger floor asks more of the
                parties.
            prior: a weight for each slot, the base first, in any scale; None weighs all alike. A slot's
                weight is shared equally by its hypotheses. Without public and floor slot 0 has no hypothesis,
                and weight 0.
            smoothing: added to each count.
            temperature: divides the evidence.
            half_life: tokens after which evidence counts half; None keeps it for good.
            switching: probability that the author changes before a token; None for texts of one author.

        Raises:
            InvalidOption: vocabularies differ, the prior does not fit, or an option lies outside its domain.
        """
        histograms = [*([] if public is None else [public]), *parties]
        size = _one_vocabulary(histograms)
        rows = [torch.from_numpy(histogram.log_probabilities(smoothing)) for histogram in histograms]
        slot = [*([] if public is None else [0]), *range(1, len(parties) + 1)]
        if floor is not None:
            place = len(histograms) - len(parties)
            rows.insert(place, torch.full((size,), _require_floor(floor) - math.log(size), dtype=torch.float64))
            slot.insert(place, 0)
        return cls(
            log_likelihood=torch.stack(rows),
            log_prior=_log_prior(prior, slot, len(parties) + 1),
            slot=tuple(slot),
            slots=len(parties) + 1,
            temperature=temperature,
            half_life=half_life,
            switching=switching,
        )

    def to(self, device: torch.device | str) -> PrefixPosterior:
        """The same posterior on another device; float32 where that device has no float64."""
        device = torch.device(device)

        def moved(part: Tensor) -> Tensor:
            return part.to(device, _state_dtype(device) if part.dtype == torch.float64 else part.dtype)

        return dataclasses.replace(self, log_likelihood=moved(self.log_likelihood), log_prior=moved(self.log_prior))

    def select(self, keep: Iterable[int]) -> PrefixPosterior:
        """The posterior over the slots ``keep`` alone: bit for bit the one built without the others.

        Slots keep their order and are numbered anew from 0. Slot 0 stays the base's: where it is not kept, it
        loses its hypotheses and has weight 0.

        Raises:
            InvalidOption: there is no such slot, or no hypothesis of positive prior weight would be left.
        """
        kept = sorted(set(keep))
        _require_slots(kept, self.slots)
        order = {old: new for new, old in enumerate(kept if kept[:1] == [0] else [0, *kept])}
        rows = [h for h, slot in enumerate(self.slot) if slot in kept]
        if bool((self.log_prior[rows] == -math.inf).all()):
            raise InvalidOption(
                f"slots {kept}",
                why="they leave no hypothesis of positive prior weight",
                mend="Keep a slot that has one.",
            )
        return dataclasses.replace(
            self,
            log_likelihood=self.log_likelihood[rows],
            log_prior=self.log_prior[rows],
            slot=tuple(order[self.slot[h]] for h in rows),
            slots=len(order),
        )

    def initial_state(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """The state before the first token: zeros ``[batch, H]``, or the prior under switching.

        float64, float32 on devices without it.
        """
        device = torch.device(device)
        if self.switching is None:
            return torch.zeros(batch, len(self.slot), dtype=_state_dtype(device), device=device)
        return self._prior().to(device, _state_dtype(device)).repeat(batch, 1)

    def advance(self, ids: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take in tokens. In any chunks the weights are the same, up to rounding.

        Args:
            ids: integer ``[B, T]``; the ids under a False of the mask may be anything.
            state: ``[B, H]``, from `initial_state` or from the call for the tokens before these.
            mask: bool ``[B, T]``, False for padding, which adds no evidence and lets none fade; None if there
                is none.

        Returns:
            Log-weights float32 ``[B, T, S]``, normalised over slots, where position t has taken in x_1..x_t
            and weighs the prediction of x_{t+1}; and the state after the last token, like ``state``.

        Raises:
            InvalidOption: an id is outside ``[0, V)``, or the shapes do not fit.
        """
        seen = self._check(ids, state, mask)
        if seen is not None:
            ids = ids.masked_fill(~seen, 0)
        pieces = [state.new_zeros(ids.shape[0], 0, self.slots, dtype=torch.float32)]
        for start in range(0, ids.shape[1], _BLOCK):
            piece = slice(start, start + _BLOCK)
            part = None if seen is None else seen[:, piece]
            evidence = self.log_likelihood[:, ids[:, piece]].movedim(0, -1).to(state.dtype) / self.temperature
            logits, state = self._take_in(evidence, state, part)
            pieces.append(_over_slots(logits, self.slot, self.slots).float())
        return torch.cat(pieces, dim=1), state

    def _take_in(self, evidence: Tensor, state: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """Unnormalised log-posteriors ``[B, T, H]`` from evidence ``[B, T, H]``, and the state after it."""
        if self.switching is not None:
            shares = fixed_share(evidence, state, seen, self._prior().to(state), self.switching)
            return shares.log(), shares[:, -1]
        totals = fading_sum(evidence, state, seen, self.half_life)
        return self.log_prior.to(state.dtype) + totals, totals[:, -1] - totals[:, -1].amax(dim=-1, keepdim=True)

    def _prior(self) -> Tensor:
        """The normalised prior ``[H]``."""
        return self.log_prior.softmax(dim=-1)

    def _check(self, ids: Tensor, state: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask as bool, once everything fits."""
        if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise _misfit("ids", ids, "(B, T), of int64")
        if state.shape != (ids.shape[0], len(self.slot)) or not state.is_floating_point():
            raise _misfit("state", state, f"({ids.shape[0]}, {len(self.slot)}), floating")
        if mask is not None and mask.shape != ids.shape:
            raise _misfit("mask", mask, str(tuple(ids.shape)))
        seen = None if mask is None else mask.bool()
        wrong = (ids < 0) | (ids >= self.log_likelihood.shape[1])
        if bool((wrong if seen is None else wrong & seen).any()):
            raise InvalidOption(
                "ids",
                why=f"one is outside 0..{self.log_likelihood.shape[1] - 1}, the tokens counted",
                mend="Use the tokenizer of the base, and mask padding.",
            )
        return seen


def posterior(
    log_densities: Tensor | NDArray[Any],
    log_prior: Tensor | NDArray[Any] | Sequence[float],
    slot: Sequence[int],
    *,
    slots: int | None = None,
    floor: float | None = None,
) -> Tensor:
    """The posterior over slots of single inputs, from each hypothesis's log-density of them.

    Serves Gaussian evidence: column h is ``GaussianSummary.log_density(x)`` of fragment h, all over one
    space.

    Args:
        log_densities: ``[n, H]``; minus infinity rules a hypothesis out for that input.
        log_prior: ``[H]``, unnormalised.
        slot: for each hypothesis the slot that it votes for.
        slots: S; None for the largest slot and those before it.
        floor: the constant log-density of one more hypothesis, "none of them", which votes for slot 0 with
            log-prior 0. In the units of the inputs: a density, so it changes with their scale.

    Returns:
        Log-weights float64 ``[n, S]``, normalised over slots.

    Raises:
        InvalidOption: shapes do not fit, a density is not a number or is infinite, or an input has density 0
            everywhere.
    """
    table = torch.as_tensor(log_densities, dtype=torch.float64)
    prior = torch.as_tensor(log_prior, dtype=torch.float64)
    if table.ndim != 2 or table.shape[1] != len(slot):
        raise _misfit("log_densities", table, f"(n, {len(slot)})")
    if prior.shape != (len(slot),):
        raise _misfit("log_prior", prior, f"({len(slot)},)")
    logits, votes = table + prior, tuple(slot)
    if floor is not None:
        nowhere = logits.new_full((len(logits), 1), _require_floor(floor))
        logits = torch.cat([logits, nowhere], dim=1)
        votes = (*votes, 0)
    slots = max(votes, default=0) + 1 if slots is None else slots
    _require_slots(votes, slots)
    if not votes or not bool(logits.amax(dim=1).isfinite().all()):
        raise InvalidOption(
            "log_densities",
            why="an input has no finite density under any hypothesis, or one that is not a number",
            mend="Give a floor, so that inputs far from all go to the base, and leave out broken rows.",
        )
    return _over_slots(logits, votes, slots)


def _over_slots(logits: Tensor, slot: Sequence[int], slots: int) -> Tensor:
    """Log of the softmax over hypotheses ``[..., H]``, summed within each slot: ``[..., S]``."""
    log_weights = torch.log_softmax(logits, dim=-1)
    columns = []
    for wanted in range(slots):
        votes = [h for h, voted in enumerate(slot) if voted == wanted]
        if len(votes) == 1:
            columns.append(log_weights[..., votes[0]])
        elif votes:
            columns.append(log_weights[..., votes].logsumexp(dim=-1))
        else:
            columns.append(torch.full_like(log_weights[..., 0], -math.inf))
    return torch.stack(columns, dim=-1)


def _log_prior(weights: Sequence[float] | None, slot: Sequence[int], slots: int) -> Tensor:
    """Each slot's weight, shared by its hypotheses; not normalised, so a row owes nothing to the others."""
    weights = [1.0] * slots if weights is None else list(weights)
    if len(weights) != slots or not all(0 <= weight < math.inf for weight in weights):
        raise InvalidOption(
            "prior",
            why=f"it must hold {slots} finite weights, none negative: the base's, then each party's",
            mend="Give one weight for each slot, or none at all.",
        )
    if not any(weights[s] > 0 for s in slot):
        raise InvalidOption("prior", why="it leaves no hypothesis possible", mend="Give a slot a positive weight.")
    logs = [math.log(weights[s]) - math.log(slot.count(s)) if weights[s] > 0 else -math.inf for s in slot]
    return torch.tensor(logs, dtype=torch.float64)


def _one_vocabulary(histograms: Sequence[TokenHistogram]) -> int:
    sizes = [histogram.vocabulary_size for histogram in histograms]
    if not sizes:
        raise InvalidOption("histograms", why="there are none", mend="Give a party's or a public histogram.")
    if len(set(sizes)) > 1:
        raise InvalidOption(
            "histograms",
            why=f"they count over vocabularies of different sizes, {', '.join(map(str, sizes))}",
            mend="Count all with the base's tokenizer.",
        )
    return sizes[0]


def _require_floor(floor: float) -> float:
    if not math.isfinite(floor):
        raise InvalidOption(f"floor={floor}", why="it is a number of nats", mend="Choose a finite one, or None.")
    return float(floor)


def _require_slots(slot: Sequence[int], slots: int) -> None:
    wrong = [s for s in slot if not 0 <= s < slots]
    if wrong:
        raise InvalidOption(f"slot {wrong[0]}", why=f"slots are 0..{slots - 1}", mend="Name one of these.")


def _misfit(name: str, tensor: Tensor, wanted: str) -> InvalidOption:
    return InvalidOption(
        name,
        why=f"it has shape {tuple(tensor.shape)} and dtype {tensor.dtype}, not {wanted}",
        mend="Give it that shape and dtype.",
    )


def _state_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
