"""Writing a basis that all owners summarise their inputs in: principal components of public rows, as a network.

It is a contribution of kind ``module`` with one linear layer, whose outputs are the components. Owners name its point
as the embedding of their moments. Who composes with those moments needs the basis too; it embeds, and has no vote.

The directions are exact functions of the rows, and the contribution says so with an event of no bound. An owner that
made a basis of its own rows would release them in part; random projections need no rows at all.
"""

from __future__ import annotations

from pathlib import Path

from quiltwork.contribution.manifest import stated
from quiltwork.contribution.network_graph import Signature
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.network.principal import POINT, Principal
from quiltwork.party.examples import Examples
from quiltwork.party.module import ModuleOrder, contribute_module
from quiltwork.privacy.events import ExactEvent

_SAID = "principal directions of the rows given, without noise: they are to be public"


def contribute_basis(
    public: Examples,
    target: str | Path,
    party: str,
    dimension: int = 40,
    *,
    licence: str = "LicenseRef-unstated",
    card: str = "",
    overwrite: bool = False,
) -> Contribution:
    """Take principal components of public inputs and write them as a network.

    Args:
        public: inputs that nobody needs to protect; labels are not looked at.
        target: directory to make.
        party: who publishes; no owner that publishes a network too, since a party has one.
        dimension: how many components.
        licence: of the contribution.
        card: free text.
        overwrite: replace an existing contribution.

    Raises:
        InvalidOption: the inputs do not vary in so many directions.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    module = Principal.of(public.inputs(0, len(public)), dimension)
    signature = stated(
        Signature, shape=public.shape, units=public.units, mean=(0.0,), std=(1.0,), classes=None, outputs=dimension
    )
    order = ModuleOrder(
        party=party,
        points=(POINT,),
        role="embeds",
        rows=len(public),
        note=f"the first {dimension} principal components of public inputs",
        privacy=(ExactEvent(released="module", unit="row", note=_SAID),),
        licence=licence,
        card=card,
    )
    return contribute_module(module, signature, target, order, examples=public, overwrite=overwrite)
