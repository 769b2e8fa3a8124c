"""Narrow experts: a feed-forward block with I' of the base's I intermediate neurons.

    M(x) = W_down h,   h = act(W_gate x) * (W_up x)          W_gate, W_up: [I, H], W_down: [H, I]

Neuron j adds ``h_j(x) * W_down[:, j]`` to the output. ``importance`` is the mean size of that over a text,

    s_j = mean_x |h_j(x)| * |W_down[:, j]|_2

(the criterion of Wanda, Sun et al., arXiv 2306.11695, taken of whole neurons), and ``narrowed`` keeps the I' neurons
for which it is largest, in the base's order.

A narrow expert fits a format of one width when it is padded with neurons of zero: ``act(0) * 0 = 0``, and a column of
zeros adds nothing whatever its neuron does. So ``padded`` is exact.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quiltwork.models.sources import Source

if TYPE_CHECKING:
    from torch import Tensor, nn


def padded(source: Source, shape: tuple[int, ...]) -> Source:
    """A source of the same tensor with zeros after its elements along each side, up to ``shape``."""
    if source.shape == shape:
        return source

    def load() -> Tensor:
        import torch

        tensor = source.load()
        wide = torch.zeros(shape, dtype=tensor.dtype)
        wide[tuple(slice(size) for size in tensor.shape)] = tensor
        return wide

    return Source(source.dtype, shape, load)


def importance(model: nn.Module, blocks: Sequence[Any], batches: Iterable[Tensor]) -> list[Tensor]:
    """What each intermediate neuron adds to its block's output on a text, by block: float64 ``[I]``.

    Args:
        model: takes ``input_ids``; it runs without gradients.
        blocks: its feed-forward blocks, each with a ``down_proj``.
        batches: token ids ``[batch, tokens]``; all of them together are the text.
    """
    import torch

    sums = [torch.zeros(block.down_proj.in_features, dtype=torch.float64) for block in blocks]
    tokens = 0

    def watch(number: int) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            sums[number] += inputs[0].detach().double().abs().flatten(0, -2).sum(dim=0).cpu()

        return blocks[number].down_proj.register_forward_pre_hook(add)

    hooks = [watch(number) for number in range(len(blocks))]
    try:
        with torch.no_grad():
            for ids in batches:
                model(input_ids=ids, use_cache=False)
                tokens += ids.numel()
    finally:
        for hook in hooks:
            hook.remove()
    columns = [block.down_proj.weight.detach().double().norm(dim=0).cpu() for block in blocks]
    return [total / max(tokens, 1) * column for total, column in zip(sums, columns, strict=True)]


def resized(block: Any, width: int | None) -> nn.Module:
    """A copy of a block with ``width`` intermediate neurons, their weights not set; None: a copy as it is."""
    from torch import nn

    if width is None or width == block.down_proj.in_features:
        return copy.deepcopy(block)  # type: ignore[no-any-return]
    parts: dict[str, nn.Linear] = {}
    for role in ("gate_proj", "up_proj", "down_proj"):
        old = getattr(block, role)
        put_in, out = (width, old.out_features) if role == "down_proj" else (old.in_features, width)
        parts[role] = nn.Linear(put_in, out, bias=False, device=old.weight.device, dtype=old.weight.dtype)
    return _with_parts(block, parts, width)


def narrowed(block: Any, scores: Tensor, width: int) -> nn.Module:
    """A copy of a block with the ``width`` neurons of the highest scores, in their order."""
    kept = scores.topk(width).indices.sort().values.to(block.down_proj.weight.device)
    parts = {role: _cut(getattr(block, role), kept, role) for role in ("gate_proj", "up_proj", "down_proj")}
    return _with_parts(block, parts, width)


def _with_parts(block: Any, parts: Mapping[str, nn.Linear], width: int) -> nn.Module:
    # parts in the memo are taken as their own copies: nothing but them is copied, and the block keeps its class
    small: Any = copy.deepcopy(block, {id(getattr(block, role)): one for role, one in parts.items()})
    small.intermediate_size = width
    return small  # type: ignore[no-any-return]


def _cut(linear: nn.Linear, kept: Tensor, role: str) -> nn.Linear:
    """A linear map without the neurons that are not kept: columns of the down projection, rows of the others."""
    from torch import nn

    rows = role != "down_proj"
    weight = linear.weight.detach()[kept] if rows else linear.weight.detach()[:, kept]
    cut = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    cut.weight = nn.Parameter(weight.clone())
    return cut
