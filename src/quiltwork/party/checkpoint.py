"""A model that was tuned elsewhere becomes a contribution, without training here.

    full      tuned - base                                            every tensor
    ffn       tuned feed-forward weights                              refused where anything else differs
    lowrank   U D nearest to tuned - base of each projection          likewise; U D by singular values

Differences are taken in float64 and rounded once. Tensors are read one at a time as they are written, so a model need
not fit into memory; of a low-rank release the factors do. Router rows come only from a contribution that holds some:
a checkpoint has never met a router, so learned rows refuse it by name, and evidence needs histograms of its text.

The truncation after the fact is that of FlexMoRE (arXiv 2602.08818); what share of the squared norm it keeps is told
by layer and projection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from quiltwork.contribution.kinds import ExpertMethod, FFNExpert, FullExpert, LowRankExpert, RetainedShares
from quiltwork.contribution.payload import Array
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.files import require_absent
from quiltwork.models.base import Base
from quiltwork.models.families import ROLES
from quiltwork.models.sources import Source, total
from quiltwork.models.tokenizer_files import separator_id
from quiltwork.party.contribute import Order, reference, tokenised
from quiltwork.party.fragment import Fragment
from quiltwork.party.summaries import summarise
from quiltwork.party.tuned import Kept, Tuned, open_tuned
from quiltwork.privacy.events import Event, ExactEvent
from quiltwork.streaming.layout import Dtype
from quiltwork.streaming.numbers import decode

SCOPES = ("full", "ffn", "lowrank")


@dataclass(frozen=True)
class Taking:
    """What to take of a tuned model.

    Attributes:
        scope: ``"full"``, ``"ffn"`` or ``"lowrank"``.
        rank: of the factors (``lowrank``).
        drop_rest: leave out what differs outside the feed-forward blocks, rather than refuse it; the model that was
            tuned is then not the one that is released.
        dtype: of differences (``full``); None for the base's.
    """

    scope: Literal["full", "ffn", "lowrank"] = "full"
    rank: int = 64
    drop_rest: bool = False
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise InvalidOption(
                f"scope '{self.scope}'", why="nothing of a checkpoint is called so", mend=f"Use {', '.join(SCOPES)}."
            )
        if self.rank < 1:
            raise InvalidOption(f"rank={self.rank}", why="it is a number of columns", mend="Choose 1 or more.")


def contribute_checkpoint(
    base: Base,
    tuned: str | Path,
    target: str | Path,
    taking: Taking,
    order: Order,
    *,
    fragment: Fragment | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Contribution:
    """Write the contribution that a tuned model makes.

    Args:
        base: the public checkpoint that it was tuned from.
        tuned: the directory of a checkpoint, or of a contribution of one's own with the part ``ffn`` or ``full``; the
            statistics and the training summary of the latter go on with it.
        target: directory to make.
        taking: what to take.
        order: party, licence, card, and the statistics of the fragment; its scopes are not looked at.
        fragment: the text it was tuned on, for histograms and moments.
        overwrite: replace an existing contribution.
        say: told what is left out, and what each truncation keeps.

    Raises:
        CheckpointError: it is another model than the base, or differs where the scope holds nothing.
        InvalidOption: the rank is above a projection's smaller side, or statistics would be stated twice.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
    """
    require_absent(Path(target), overwrite)
    model = open_tuned(Path(tuned), base, whole=taking.scope == "full")
    if fragment is not None and model.kept.statistics:
        raise InvalidOption(
            f"text for the contribution '{tuned}'", why="it has statistics already", mend="Leave the text out."
        )
    rest = "" if taking.scope == "full" else _judge_rest(model, base, taking.drop_rest, say)
    method, tensors = _taken(model, base, taking, say)
    kept = model.kept if fragment is None else _summarised(base, order, fragment)
    note = f"taken from a model that was tuned without differential privacy{rest}"
    draft = Draft(
        party=order.party,
        base=reference(base),
        method=method,
        tensors={**tensors, **kept.tensors},
        licence=order.licence,
        training=kept.training,
        statistics=kept.statistics,
        privacy=(ExactEvent(released=taking.scope, note=note), *kept.events),
        card=order.card,
    )
    return write(target, draft, overwrite=overwrite)


def _taken(
    model: Tuned, base: Base, taking: Taking, say: Callable[[str], None]
) -> tuple[ExpertMethod, dict[str, Array]]:
    """What the manifest declares, and the tensors that leave."""
    if taking.scope == "full":
        dtype = taking.dtype or base.dtype
        tensors = {f"full.{n}": total([(1.0, model.tensors[n]), (-1.0, s)], dtype) for n, s in base.tensors.items()}
        return ExpertMethod(full=FullExpert(form="delta")), cast("dict[str, Array]", tensors)
    fields: dict[str, Any] = {
        "layers": base.layers,
        "hidden_size": base.hidden_size,
        "intermediate_size": base.intermediate_size,
        **(model.router or {"top_k": None, "anchor_share": 0.0, "router": False, "bias": False}),
    }
    found: dict[str, Array] = {f"{taking.scope}.{name}": row for name, row in model.rows.items()}
    if taking.scope == "ffn":
        for layer, role in _projections(base):
            source = total([(1.0, model.tensors[base.family.ffn_name(layer, role)])], base.dtype)
            found[f"ffn.layers.{layer}.{role}.weight"] = source
        return ExpertMethod(ffn=FFNExpert(**fields)), found
    factors, retained = _truncated(model, base, taking.rank, say)
    return ExpertMethod(lowrank=LowRankExpert(**fields, rank=taking.rank, retained=retained)), found | factors


def _projections(base: Base) -> list[tuple[int, Any]]:
    return [(layer, role) for layer in range(base.layers) for role in ROLES]


def _truncated(
    model: Tuned, base: Base, rank: int, say: Callable[[str], None]
) -> tuple[dict[str, Array], tuple[RetainedShares, ...]]:
    """The factors of every projection, in the base's dtype, and what they keep of it, by layer."""
    from quiltwork.models.low_rank import truncate

    most = min(base.hidden_size, base.intermediate_size)
    if rank > most:
        raise InvalidOption(
            f"rank={rank}", why=f"the smaller side of the base's projections is {most}", mend="Choose a smaller rank."
        )
    found: dict[str, Array] = {}
    shares: list[dict[str, float]] = [{} for _ in range(base.layers)]
    for layer, role in _projections(base):
        name = base.family.ffn_name(layer, role)
        up, down, kept = truncate(model.tensors[name].load().double() - base.tensors[name].load().double(), rank)
        found[f"lowrank.layers.{layer}.{role}.up"] = up.to(base.torch_dtype).contiguous()
        found[f"lowrank.layers.{layer}.{role}.down"] = down.to(base.torch_dtype).contiguous()
        shares[layer][role] = kept
        say(f"layer {layer}, {role}: rank {rank} keeps {kept:.1%} of the squared norm of the change")
    return found, tuple(RetainedShares(**one) for one in shares)


def _judge_rest(model: Tuned, base: Base, drop: bool, say: Callable[[str], None]) -> str:
    """Refuse differences outside the feed-forward blocks, or tell that they are left out."""
    different = [name for name, item in base.body().items() if not _same(model.tensors[name], item)]
    if not different:
        return ""
    more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
    if not drop:
        raise CheckpointError(
            f"tensor '{different[0]}'{more} of the tuned model",
            why="it differs from the base's, and a feed-forward expert holds nothing of it",
            mend="Take the scope 'full', or drop the rest (--drop-rest) and evaluate what remains.",
        )
    say(f"left out, though tuned: '{different[0]}'{more}; what is released is not the model that was tuned")
    return f"; its changes to {len(different)} tensors outside the feed-forward blocks were left out"


def _same(one: Source, other: Source) -> bool:
    """Whether two tensors of one shape hold the same numbers, whatever their dtypes."""
    if one is other:
        return True
    pieces = zip(one.pieces(), other.pieces(), strict=True)
    return all(bool((decode(a, one.dtype) == decode(b, other.dtype)).all()) for a, b in pieces)


def _summarised(base: Base, order: Order, fragment: Fragment) -> Kept:
    """The statistics of the owner's text, with their events."""
    tokenizer = base.load_tokenizer()
    tensors: dict[str, Any] = {}
    fragment.require_documents(2)
    documents = partial(tokenised, fragment, tokenizer)
    statistics, events = summarise(base, order, fragment, documents, separator_id(tokenizer), tensors)
    stated: tuple[Event, ...] = tuple(events)
    return Kept(tuple(statistics), {name: Source.of(tensor) for name, tensor in tensors.items()}, stated)
