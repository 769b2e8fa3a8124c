"""Points by name: which value of the graph is a submodule's output, and whether replacing one replaces the other.

Forward hooks record what each submodule gives in one eager run; a node of the graph carries it if its value is the
same. Several nodes can (a dropout gives what it took, a convolution may be all positive before its ReLU), so each
candidate is tried: the module with a hook that replaces the submodule's output must give what the graph gives with the
node's value replaced. A module that is called twice or never has no such node, and is no point.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.contribution.canonical import shown
from quiltwork.contribution.network_graph import Form, PointRecord
from quiltwork.errors import InvalidOption
from quiltwork.models.network.cuts import cuts
from quiltwork.models.network.execution import execute
from quiltwork.models.network.network import Network
from quiltwork.models.network.tracing import Plain

_FORMS: Mapping[int, Form] = {4: "map", 3: "tokens", 2: "vector"}
_GRID = ("layer_norm.default", "linear.default", "matmul.default")
_MAP = (
    "_native_batch_norm_legit_no_training.default",
    "avg_pool2d.default",
    "adaptive_avg_pool2d.default",
    "convolution.default",
    "group_norm.default",
    "max_pool2d.default",
)
_LEADING = (0, 1, 2, 5)
_SCALES = (1.0, -10.0, 100.0)
"""Of what replaces an activation; the later ones, where rectifiers swallow the first."""


def first_tensor(out: object) -> Tensor | None:
    """What a submodule gives: a tensor, or the first of several."""
    if isinstance(out, Tensor):
        return out
    if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor):
        return out[0]
    return None


def _with_first(out: Any, value: Tensor) -> Any:
    return value if isinstance(out, Tensor) else type(out)((value, *out[1:]))


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Any], Any]) -> Iterator[None]:
    """A block within which ``hook(name, output)`` sees, and may replace, the modules' outputs."""
    handles = [
        one.register_forward_hook(lambda _module, _taken, out, name=name: hook(name, out))
        for name, one in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class PointFinder:
    """Finds the points of one captured module.

    Args:
        plain: the module.
        network: its capture, without points.
        x: normalised inputs ``[n, ...]``.
        stacks: for each submodule the nodes that it computed.
        forms: overrides by name.
        leading: overrides by name.
    """

    def __init__(
        self,
        plain: Plain,
        network: Network,
        x: Tensor,
        stacks: Mapping[str, tuple[str, ...]],
        forms: Mapping[str, Form],
        leading: Mapping[str, int],
    ) -> None:
        self.plain, self.network, self.x, self.stacks = plain, network, x, stacks
        self.forms, self.leading = forms, leading
        self.modules = {name: one for name, one in plain.module.named_modules() if name}
        self.calls: Counter[str] = Counter()
        self.outputs: dict[str, Tensor | None] = {}
        with _hooked(self.modules, self._record):
            self.due = plain(x)
        self.values = self._values()
        self.cuts = cuts(network.steps, network.graph.input, network.graph.output)
        self.steps = {step.name: step for step in network.steps}

    def find(self, names: Sequence[str] | None) -> tuple[PointRecord, ...]:
        """The records of ``names``; of every cut, each once by its outermost name, where None is given.

        Raises:
            InvalidOption: a name that is no point.
        """
        if names is not None:
            return tuple(self._named(name) for name in names)
        found: dict[str, PointRecord] = {}
        for name in self.modules:
            if self._why_not(name) is None:
                node = self._node(name, only_cuts=True, taken=found.keys())
                if node is not None and node != self.network.graph.output:
                    found[node] = self._point(name, node)
        return tuple(found.values())

    def _record(self, name: str, out: object) -> None:
        self.calls[name] += 1
        tensor = first_tensor(out)
        # a copy, since the next module may write in place
        self.outputs[name] = None if tensor is None else tensor.detach().clone()

    def _values(self) -> dict[str, Tensor]:
        values, device = self._start(), self.x.device
        execute(self.network.steps, values, [self.network.graph.output], device, keep_all=True)
        made = {step.name for step in self.network.steps}
        return {name: one for name, one in values.items() if name in made and isinstance(one, Tensor)}

    def _start(self) -> dict[str, Any]:
        held = self.network.tensors()
        start = {name: held[tensor.entry] for name, tensor in self.network.graph.tensors.items()}
        return start | {self.network.graph.input: self.x}

    def _why_not(self, name: str) -> str | None:
        if name not in self.modules:
            return "the module has no submodule of this name"
        if self.calls[name] != 1:
            return f"it is called {self.calls[name] or 'no'} times for one input, and a point is one place"
        out = self.outputs[name]
        if out is None or not out.is_floating_point() or out.ndim not in _FORMS or len(out) != len(self.x):
            return "its output is no float tensor [n, c, h, w], [n, t, d] or [n, d] with the batch first"
        return None

    def _named(self, name: str) -> PointRecord:
        why = self._why_not(name)
        node = None if why else self._node(name, only_cuts=False)
        if node is not None:
            return self._point(name, node)
        sound = [other for other in self.modules if self._why_not(other) is None and other != name]
        near = difflib.get_close_matches(name, sound, n=3, cutoff=0.0)
        raise InvalidOption(
            f"point {shown(name)}",
            why=why or "replacing its output is not the same as replacing one value of the graph",
            mend=f"Choose another submodule, such as {', '.join(map(repr, near)) or 'one that is called once'}.",
        )

    def _node(self, name: str, *, only_cuts: bool, taken: Any = ()) -> str | None:
        """The node that carries the output of ``name``."""
        out = self.outputs[name]
        inside = set(self.stacks.get(name, ()))
        same = [node for node, value in self.values.items() if _same(value, out)]
        same.sort(key=lambda node: (node in inside, self.network.graph.order[node]), reverse=True)
        for node in same:
            if (not only_cuts or (node in self.cuts and node not in taken)) and self._replaces(name, node):
                return node
        return None

    def _replaces(self, name: str, node: str) -> bool:
        """Whether another output of ``name`` has the same effect as another value of ``node``, and has any."""
        out = self.values[node]
        noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        moved = False
        for scale in _SCALES:
            other = 0.5 * out + scale * (out.std() + 0.1) * noise
            due, found = self._hooked_output(name, other), self._graph_output(node, other)
            if not _close(found, due):
                return False
            moved = moved or not torch.equal(due, self.due)
            if moved:
                break
        return moved

    def _hooked_output(self, name: str, other: Tensor) -> Tensor:
        with _hooked({name: self.modules[name]}, lambda _name, given: _with_first(given, other)):
            due: Tensor = self.plain(self.x)
        return due

    def _graph_output(self, node: str, other: Tensor) -> Tensor:
        values, goal = self._start() | {node: other}, self.network.graph.output
        found: Tensor = execute(self.network.steps, values, [goal], self.x.device)[goal]
        return found

    def _point(self, name: str, node: str) -> PointRecord:
        shape = tuple(self.values[node].shape[1:])
        form = self.forms.get(name) or self._form(node)
        leading = self.leading.get(name, _leading(shape[0]) if form == "tokens" else 0)
        return PointRecord(name=name, node=node, form=form, shape=shape, cut=node in self.cuts, leading=leading)

    def _form(self, node: str) -> Form:
        """How the axes are read; for four, by the layer that the values come from."""
        shape = self.values[node].shape
        while len(shape) == 4 and node in self.steps:
            step = self.steps[node]
            if step.op in _GRID or (step.op == "permute.default" and step.args[1] == [0, 2, 3, 1]):
                return "grid"
            if step.op in _MAP or step.op == "permute.default":
                return "map"
            same = [one for one in step.takes if one in self.values and self.values[one].shape == shape]
            node = same[0] if same else ""
        return _FORMS[len(shape)]


def _same(value: Tensor, out: Tensor | None) -> bool:
    return out is not None and value.shape == out.shape and value.dtype == out.dtype and _close(value, out)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max().clamp(min=1e-3)))


def _leading(tokens: int) -> int:
    """Tokens before those of a square image: none, a class token, two, or one and four registers."""
    return next((n for n in _LEADING if tokens > n and math.isqrt(tokens - n) ** 2 == tokens - n), 0)
