"""Weights as they are sent and as they are held.

What leaves a party is floating point. A graph's whole numbers and truth values travel as float64, which holds every
integer up to 2^53 exactly, and are cast back to what the graph declares; weights are float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quiltwork.contribution.canonical import shown
from quiltwork.contribution.network_graph import Graph, GraphTensor
from quiltwork.errors import MalformedContribution, TensorMismatch
from quiltwork.models.network.execution import MEND
from quiltwork.models.network.operators import DTYPES


def cast_weights(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The graph's tensors by entry, each in the dtype that the graph declares; a copy where it is another.

    Raises:
        TensorMismatch: tensors missing, too many or of another shape.
        MalformedContribution: values that are not finite, or that the declared dtype cannot hold.
    """
    declared = {tensor.entry: tensor for tensor in graph.tensors.values()}
    odd = sorted(declared.keys() ^ tensors.keys())
    if odd:
        why = "the graph names it, and it is not there" if odd[0] in declared else "the graph does not name it"
        raise TensorMismatch(f"tensor {shown(odd[0])} of a network", why=why, mend=MEND)
    return {entry: _cast(tensors[entry], tensor) for entry, tensor in declared.items()}


def sent_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network as they leave: float32 as it is, all else as float64."""
    return {entry: one if one.dtype == torch.float32 else one.double() for entry, one in tensors.items()}


def _cast(found: Tensor, declared: GraphTensor) -> Tensor:
    what = f"tensor '{declared.entry}' of a network"
    if tuple(found.shape) != declared.shape:
        why = f"its shape is {list(found.shape)}, and the graph declares {list(declared.shape)}"
        raise TensorMismatch(what, why=why, mend=MEND)
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise MalformedContribution(what, why="it holds a value that is not finite", mend=MEND)
    cast = found.detach().to(DTYPES[declared.dtype])
    if declared.dtype != "float32" and not torch.equal(cast.to(found.dtype), found):
        raise MalformedContribution(what, why=f"it holds a value that {declared.dtype} cannot", mend=MEND)
    if declared.dtype == "float32" and not torch.isfinite(cast).all():
        raise MalformedContribution(what, why="it holds a value beyond float32", mend=MEND)
    return cast.contiguous()
