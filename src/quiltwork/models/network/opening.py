"""A published network, from the contribution that holds it: data in, a frozen module out, and its name held to it."""

from __future__ import annotations

from quiltwork.contribution.networks import ModuleMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import AlteredContribution, MissingPart
from quiltwork.models.network.network import Network


def open_network(contribution: Contribution) -> Network:
    """The network of a contribution of kind ``module``; no code of its owner runs.

    Raises:
        MissingPart: the contribution holds none.
        AlteredContribution: a tensor is not the one that was checked, or the network not the one that it names.
        ContributionError: graph, points or weights are none that may be loaded.
        TensorMismatch: tensors are missing, too many or of another shape.
    """
    method = contribution.manifest.method
    if not isinstance(method, ModuleMethod):
        raise MissingPart(
            "part 'module'",
            why=f"the contribution of party '{contribution.party}' is of kind '{contribution.kind}'",
            mend="Give the contribution that holds its network.",
        )
    names = contribution.tensor_names("module.")
    tensors = {name.removeprefix("module."): contribution.tensor(name) for name in names}
    network = Network.from_parts(method.signature, method.graph, method.points, tensors)
    if network.digest != method.network:
        raise AlteredContribution(
            f"the network of party '{contribution.party}'",
            why=f"it calls itself {method.network[:19]}…, and is {network.digest[:19]}…",
            mend="Ask the party to contribute it again.",
        )
    return network
