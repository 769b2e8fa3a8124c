"""Two assemblies of one base as one: what `quiltwork.models.assembly` takes apart, put together.

    joined(A(S), A(T)) == A(S + T)

Every party's tensors and its share of the router stand under its label, so the union of the tables is the whole.
Settings (how many experts answer, say) are those of the second, which was made from the method's options; the first may
have come from a checkpoint that holds them only as far as they make a difference to S.
"""

from __future__ import annotations

from dataclasses import replace

from quiltwork.errors import CheckpointError, ExportError
from quiltwork.models.assembly import Assembly, Experts, Members
from quiltwork.models.routers import Evidence


def joined(one: Assembly, late: Assembly) -> Assembly:
    """The assembly of the parties of both.

    Args:
        one: a mixture or an ensemble.
        late: of the same kind, of other parties, on the same base.

    Raises:
        ExportError: they are sums, in which no party stands apart.
        CheckpointError: their routers are of different kinds.
    """
    if isinstance(one, Experts) and isinstance(late, Experts):
        if type(one.router) is not type(late.router):
            raise CheckpointError(
                "the router of the composed model",
                why="it is not of the kind that the model's method makes",
                mend="Compose the model again.",
            )
        router = one.router.joined(late.router)  # type: ignore[arg-type] # of one kind, as was just seen
        return replace(one, experts={**one.experts, **late.experts}, router=router)
    if isinstance(one, Members) and isinstance(late, Members):
        return _members(one, late)
    raise ExportError(
        "joining a sum of weights",
        why="it holds no party's share apart, so others' shares of it cannot shrink",
        mend="Run `quiltwork compose` with the contributions of all.",
    )


def _members(one: Members, late: Members) -> Members:
    told, read = one.weighting, late.weighting
    return replace(
        one,
        models={**one.models, **late.models},
        weighting=told.joined(read) if isinstance(told, Evidence) and isinstance(read, Evidence) else read,
        settings=late.settings,
        weights={**late.weights, **one.weights},
    )
