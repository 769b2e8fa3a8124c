"""Watching a composed model work: who answered which token, and how many parameters took part.

Hooks on routers record their weights; hooks on experts and members count the tokens that each one processed. So the
routing share and the active parameters are observed, not derived from settings:

    active = parameters outside experts + sum over experts of parameters * tokens processed / tokens put in

Routers are this package's own and those of transformers' mixtures (the portable layouts), whose top-k weights are put
back in their places. The experts of the latter are one tensor, so their tokens cannot be counted; but k of n answer
each token, whichever they are, and k / n of their parameters count.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quiltwork.evaluate.routing import Tally
from quiltwork.models.bank import ExpertBank

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def routers(model: nn.Module) -> list[nn.Module]:
    """The modules that decide: one a layer for rows, one for the whole model otherwise.

    Where rows and evidence are put together the rows' modules hold the result; the rows by which a mixture divides its
    own share among the experts of its base decide nothing between parties.
    """
    from quiltwork.models.evidence_router import EvidenceRouter
    from quiltwork.models.native.ensemble import MemberWeights

    modules = list(model.modules())
    rows: list[nn.Module] = [m.router for m in modules if isinstance(m, ExpertBank) and m.router is not None]
    return rows or [m for m in modules if isinstance(m, EvidenceRouter | MemberWeights) or _is_portable(m)]


def _is_portable(module: nn.Module) -> bool:
    """Whether a module is the router of one of transformers' mixtures."""
    kind = type(module)
    return kind.__module__.startswith("transformers.models.") and kind.__name__.endswith("TopKRouter")


def _weights(router: nn.Module, output: Any) -> Tensor:
    """What a router decided, ``[..., slots]``."""
    if not _is_portable(router):
        return output[0] if isinstance(output, tuple) else output  # type: ignore[no-any-return]
    logits, top, index = output
    return torch.zeros_like(logits, dtype=top.dtype).scatter(-1, index, top)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int], *, skip_special: bool = False) -> list[str]:
    """The text that each token adds; together they are the text of all.

    A token that ends amid a character adds nothing, and the one that completes the character all of it.
    """
    pieces: list[str] = []
    told = 0
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(ids[:end], skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))
        if end < len(ids):
            text = text.rstrip("\ufffd")
        pieces.append(text[told:])
        told = max(told, len(text))
    return pieces


class Trace:
    """Records one model's work while it is entered.

    Args:
        model: any causal language model; a dense one has no routers and all its parameters are active.

    Attributes:
        weights: of the last pass, one tensor ``[batch, tokens, slots]`` a router.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.weights: list[Tensor] = []
        self._routers = routers(model)
        self._units = _units(model)
        self._tokens = [0.0] * len(self._units)
        self._put_in = 0
        self._mask: Tensor | None = None
        self._tallies: list[Tally] = []
        self._documents: Sequence[int] = ()
        self._fixed = _parameters(model) - _resting(model) - sum(_parameters(unit) for unit in self._units)
        self._hooks: list[Any] = []

    def __enter__(self) -> Trace:
        for number, router in enumerate(self._routers):
            self._hooks.append(router.register_forward_hook(lambda _, __, out, n=number: self._routed(n, out)))
        for number, unit in enumerate(self._units):
            hook = unit.register_forward_pre_hook(
                lambda _, args, kwargs, n=number: self._count(n, args, kwargs), with_kwargs=True
            )
            self._hooks.append(hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def begin_batch(self, mask: Tensor, documents: Sequence[int]) -> None:
        """Announce a batch: ``mask`` ``[batch, tokens]`` is one where a token is real; padding stands on the right.

        ``documents`` has for each row the number of the document that it is a piece of.
        """
        self._mask, self._documents = mask, documents
        self._put_in += mask.numel()
        self.weights = [torch.empty(0)] * len(self._routers)

    def _routed(self, number: int, output: Any) -> None:
        weights = _weights(self._routers[number], output).detach().float().cpu()
        assert self._mask is not None
        weights = weights.reshape(*self._mask.shape, -1)
        self.weights[number] = weights
        while number >= len(self._tallies):
            self._tallies.append(Tally(weights.shape[-1]))
        self._tallies[number].add(weights.double().numpy(), self._mask.bool().numpy(), self._documents)

    def _count(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        self._tokens[number] += ids.numel() if ids is not None else args[0].shape[:-1].numel()

    def tallies(self) -> list[Tally]:
        """What each router decided since the last call."""
        result, self._tallies = self._tallies, []
        return result

    def active_parameters(self) -> float:
        """Parameters that took part, averaged over the tokens put in."""
        work = sum(_parameters(unit) * n for unit, n in zip(self._units, self._tokens, strict=True))
        return self._fixed + work / max(self._put_in, 1)


def _resting(model: nn.Module) -> float:
    """Parameters of the experts in transformers' mixtures that a token does not use."""
    blocks: list[Any] = [m for m in model.modules() if hasattr(m, "experts") and hasattr(m, "gate")]
    mixtures = [block for block in blocks if _is_portable(block.gate)]
    return sum((_parameters(m.experts) * (1 - m.gate.top_k / m.gate.num_experts) for m in mixtures), 0.0)


def _units(model: nn.Module) -> list[nn.Module]:
    """The parts that may or may not run: experts of banks, members of ensembles."""
    banks = [expert for m in model.modules() if isinstance(m, ExpertBank) for expert in m.experts.values()]
    members = getattr(model, "members", None)
    return banks + (list(members.values()) if members is not None else [])
