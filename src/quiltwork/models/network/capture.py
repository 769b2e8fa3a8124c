"""From an owner's module to a `Network`: the owner's side, where the module's own code runs for the last time.

    module.eval()  ->  torch.export, batch size open  ->  operators  ->  data  ->  compared with the module

Any module that torch.export can follow and whose operators are on the closed list will do: torchvision, timm, Hugging
Face vision models, one's own. Before anything is believed, the module is asked twice for the same inputs, and the
network is compared with it on one input and on several.

>>> _ = torch.manual_seed(0)
>>> module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
>>> signature = Signature(shape=(1, 2, 2), units="0..1", outputs=2)
>>> network = capture(module, torch.rand(5, 1, 2, 2), signature=signature)
>>> [(point.name, point.form, point.shape) for point in network.points.values()]
[('0', 'vector', (4,)), ('1', 'vector', (3,)), ('2', 'vector', (3,))]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quiltwork.contribution.network_graph import Form, Signature
from quiltwork.errors import ExportError, InvalidOption, MalformedContribution
from quiltwork.models.network.network import Network
from quiltwork.models.network.points import PointFinder
from quiltwork.models.network.tracing import Plain, Trace, traced

_ROWS = 3
_TRACED_ROWS = (3, 7, 13)
_CLOSE = 1e-5
_APART = 1e-3


def capture(
    module: nn.Module,
    example: Tensor,
    *,
    signature: Signature,
    points: Sequence[str] | None = None,
    forms: Mapping[str, Form] | None = None,
    leading: Mapping[str, int] | None = None,
) -> Network:
    """The network that computes what ``module`` computes, as data.

    Args:
        module: takes normalised inputs ``[n, *shape]``, gives ``[n, outputs]`` or an object with ``.logits``; in
            evaluation mode, float32.
        example: raw inputs ``[n, *shape]``, in the units of the signature; real ones, so that points can be told apart.
        signature: its ``mean`` and ``std`` are applied inside the network.
        points: names of submodules; None takes every submodule whose output is a cut.
        forms: how a point's axes are read, where that cannot be seen: ``"grid"`` for ``[n, h, w, d]``.
        leading: number of tokens before those of the image, where their number does not show it.

    Raises:
        InvalidOption: a module in training mode, not deterministic, not float32 or not of one input at a time, an
            example of another shape, a name that is no point.
        ExportError: control flow that depends on values, a fixed batch size, an operator outside the closed list.
    """
    _require_still(module)
    x = _normalised(example, signature)
    plain = Plain(module).eval()
    with torch.no_grad(), _small_operators():
        _require_deterministic(plain, x, signature)
        trace, network = _open_batch(plain, x, signature)
        _require_equal(plain, network, example, x)
        _require_apart(plain, x)
        found = PointFinder(plain, network, x, trace.stacks, forms or {}, leading or {}).find(points)
    return Network.from_parts(signature, trace.graph, found, trace.tensors)


@contextmanager
def _small_operators() -> Iterator[None]:
    """A block within which torch's own attention layers run their parts, not one fused operator for all of them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _require_still(module: nn.Module) -> None:
    for name, one in module.named_modules():
        if one.training:
            raise InvalidOption(
                f"submodule '{name}'" if name else "the module",
                why="it is in training mode, so its output depends on the batch or on chance",
                mend="Call .eval() on the whole module first.",
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise InvalidOption(
                f"'{name}'", why=f"it is {tensor.dtype}, and networks are float32", mend="Call .float()."
            )


def _open_batch(plain: Plain, x: Tensor, signature: Signature) -> tuple[Trace, Network]:
    """A graph for any batch size: the exporter can take a size of the module for the batch where the two are equal."""
    refused: MalformedContribution | None = None
    for rows in _TRACED_ROWS:
        trace = traced(plain, x[torch.arange(rows) % len(x)])
        try:
            return trace, Network.from_parts(signature, trace.graph, (), trace.tensors)
        except MalformedContribution as error:
            refused = error
    raise ExportError(
        f"the module {type(plain.module).__name__}",
        why=f"its graph does not hold for every batch size, or is beyond the limits: {refused}",
        mend="Compute with x.shape[0] rather than with a number.",
    ) from refused


def _normalised(example: Tensor, signature: Signature) -> Tensor:
    """At least three rows of normalised inputs."""
    if example.ndim < 2 or tuple(example.shape[1:]) != signature.shape or len(example) == 0:
        raise InvalidOption(
            f"the example of shape {list(example.shape)}",
            why=f"the signature declares inputs {list(signature.shape)}",
            mend="Give a batch of raw inputs [n, *shape].",
        )
    axes = (len(signature.mean), *[1] * (len(signature.shape) - 1))
    mean, std = torch.tensor(signature.mean).reshape(axes), torch.tensor(signature.std).reshape(axes)
    rows = example.float()[torch.arange(max(_ROWS, min(len(example), 8))) % len(example)]
    return (rows - mean) / std


def _require_deterministic(plain: Plain, x: Tensor, signature: Signature) -> None:
    first, second = plain(x), plain(x)
    if not isinstance(first, Tensor) or tuple(first.shape) != (len(x), signature.outputs):
        shape = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise InvalidOption(
            f"the module's output {shape} for {len(x)} inputs",
            why=f"the signature declares {signature.outputs} outputs an input",
            mend="Declare the outputs that the module has, or wrap it in a module that gives its logits.",
        )
    if not torch.equal(first, second):
        raise InvalidOption(
            "the module",
            why="it gives two outputs for the same inputs",
            mend="Take out what draws random numbers or counts calls.",
        )


def _require_apart(plain: Plain, x: Tensor) -> None:
    """An input's output is a function of that input: owners' sums and their prices stand on it."""
    together, alone = plain(x), torch.cat([plain(row) for row in x.split(1)])
    if not torch.allclose(together, alone, rtol=_APART, atol=_APART * float(together.abs().max().clamp(min=1e-6))):
        raise InvalidOption(
            "the module",
            why="what it gives for an input depends on the others of its batch",
            mend="Take out what is computed over a batch, such as normalisation without running statistics.",
        )


def _require_equal(plain: Plain, network: Network, example: Tensor, x: Tensor) -> None:
    """The network must give what the module gives, alone and in a batch."""
    for rows in (1, len(x)):
        due = plain(x[:rows])
        found = network(example.float()[torch.arange(rows) % len(example)])
        if not torch.allclose(due, found, rtol=_CLOSE, atol=_CLOSE * float(due.abs().max().clamp(min=1e-6))):
            raise ExportError(
                f"the module {type(plain.module).__name__}",
                why=f"its graph gives other outputs than itself for {rows} inputs",
                mend="Take out what depends on values or on the batch size.",
            )
