"""Tuning a composed mixture on public text, after composing: its router's rows, the base's own experts, or both.

With every expert of a party frozen,

    min over the free tensors of   mean over texts t of  E_{x ~ t} [ -log p(x) ]

where the texts are public: some public text as it is, and for each party a few public documents that resemble its own
(`quiltwork.compose.proxies`). Each text gives the same share of the blocks. Rows: FlexOlmo's router tuning (arXiv
2507.07024, section 3.3). The base's own experts, as the anchor that parties coordinate with: "anchor". Everything,
which only `BTX` asks for: "all".

The base's row stays zero: softmax does not change when one vector is added to all rows, so nothing is lost, and formats
keep what they expect. Tensors that are not free come out bit for bit as they went in, whatever the optimiser does to
its own copies, because only the free ones are taken over.

What was tuned together belongs to nobody alone: `Composite.without` refuses a tuned composite (`NeedsRetraining`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from quiltwork.composite import Composite
from quiltwork.composite.tuned import Tuned, TunedText, What, documents_digest
from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.models.assembly import Experts
from quiltwork.models.averaged import AveragedExperts
from quiltwork.models.base import canonical, sha256
from quiltwork.models.checkpoint import Checkpoint
from quiltwork.models.disassembly import native_experts
from quiltwork.models.discriminants import Discriminants
from quiltwork.models.routers import Rows
from quiltwork.models.routing import Routing, RowsAndEvidence
from quiltwork.models.slots import slot_key
from quiltwork.models.sources import Source, dtype_of
from quiltwork.models.tokenizer_files import separator_id
from quiltwork.training.loop import TrainingPlan, train
from quiltwork.training.mixing import mixed
from quiltwork.training.packing import Block, epochs

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Texts = Mapping[str, Sequence[str]]
"""Public documents by the name of their text: ``public``, or the party that they stand in for."""

_ROUTER = (".mlp.router.weight", ".mlp.router.bias")


@dataclass(frozen=True)
class TuningPlan:
    """What to tune, and how long.

    Attributes:
        what: ``"router"``: rows, and offsets where the router has them; ``"anchor"``: the base's own feed-forward
            blocks; ``"both"``; ``"all"``: every tensor, of `BTX` only.
        training: steps, sizes and rates.
        selection: how the stand-ins were chosen, for the record.
    """

    what: What = "router"
    training: TrainingPlan = field(default_factory=TrainingPlan)
    selection: str = "none"

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise InvalidOption(
                f"what={self.what!r}", why="there is no such part", mend=f"Use one of {', '.join(get_args(What))}."
            )
        if self.what != "anchor" and self.training.weight_decay:
            raise InvalidOption(
                f"weight_decay={self.training.weight_decay}",
                why="it would pull at the base's own rows, which stay where they are",
                mend="Tune rows without weight decay.",
            )


def tune(
    composite: Composite,
    tokenizer: PreTrainedTokenizerBase,
    texts: Texts,
    plan: TuningPlan,
    *,
    state_dir: Path | None = None,
    force_cpu: bool = False,
) -> Composite:
    """The composite after tuning; the one given stays as it is.

    Args:
        composite: a mixture of experts in one body.
        tokenizer: the base's.
        texts: public documents by name; each name gives the same share of the training blocks.
        plan: what, and how long.
        state_dir: where training keeps its state, so that an interrupted run goes on; None keeps none.
        force_cpu: do not use an accelerator that is there.

    Raises:
        InvalidOption: there is nothing to tune in this composite, no text, or sequences are longer than the model
            has positions.
        FragmentError: a text holds no document, or no tokens.
        Interrupted: stopped by the user; with a ``state_dir`` the same call goes on.
    """
    if not texts:
        raise InvalidOption("no texts", why="there is nothing to tune on", mend="Give public text.")
    for name, documents in texts.items():
        if not documents:
            raise FragmentError(f"text '{name}'", why="it holds no document", mend="Give text, or leave it out.")
    experts = _mixture(composite, plan)
    checkpoint = experts.checkpoint("native")
    free = free_tensors(checkpoint, experts.parties, plan.what)
    model = replace(composite, assembly=experts).model()
    plan.training.require_positions(model.config.get_text_config().max_position_embeddings)
    _free(model, free, _own_rows(experts))
    told = {name: TunedText(documents=len(d), digest=documents_digest(d)) for name, d in sorted(texts.items())}
    result = train(
        model,
        partial(_blocks, texts, tokenizer, plan.training),
        plan.training,
        state_dir=state_dir,
        subject=_subject(composite, checkpoint, plan, told),
        label=f"tuning: {plan.what}",
        force_cpu=force_cpu,
    )
    tuned = _retrained(experts, checkpoint, {n: p for n, p in model.named_parameters() if n in free})
    record = Tuned(
        what=plan.what,
        plan=asdict(plan.training),
        selection=plan.selection,
        texts=told,
        first_loss=result.losses[0],
        last_loss=result.losses[-1],
    )
    return replace(composite, assembly=tuned, provenance=replace(composite.provenance, tuned=record))


def _mixture(composite: Composite, plan: TuningPlan) -> Experts:
    """What is tuned, if there is something to tune.

    Raises:
        InvalidOption: there is not.
    """
    if composite.provenance.tuned is not None:
        raise InvalidOption(
            "a composite that was tuned before",
            why="its record tells of one tuning, and the texts of the first would be forgotten",
            mend="Tune the composite from before, with what='both' if rows and anchor are to change.",
        )
    assembly = composite.assembly
    experts = assembly.experts() if isinstance(assembly, AveragedExperts) else assembly
    if not isinstance(experts, Experts):
        raise InvalidOption(
            f"tuning a composite of method {composite.provenance.method}",
            why="it is no mixture of experts in one body",
            mend="Tune what learned_rows, btx or evidence_ffn composed.",
        )
    if plan.what == "all" and not composite.provenance.averaged:
        raise InvalidOption(
            f"what='all' for method {composite.provenance.method}",
            why="the parties' experts stay as they were handed over, except in BTX, whose body is an average anyway",
            mend="Tune the router, the anchor or both.",
        )
    if plan.what in ("router", "both"):
        _require_rows(experts)
    return experts


def _require_rows(experts: Experts) -> None:
    rows = _rows(experts.router)
    if rows is None:
        raise InvalidOption(
            "the router of an evidence composite",
            why="it has no trained parameters: it follows from the released histograms",
            mend="Tune the anchor, or compose with learned rows.",
        )
    if rows.renormalise and rows.active(rows.own_experts + len(experts.parties)) == 1:
        raise InvalidOption(
            "a router with top_k=1 and renormalise=True",
            why="its one weight is always 1, so that rows get no gradient",
            mend="Compose with top_k=2 or more, or with renormalise=False.",
        )


def free_tensors(checkpoint: Checkpoint, parties: Sequence[str], what: What) -> frozenset[str]:
    """Names of the tensors of a native checkpoint that tuning may change."""
    names = frozenset(checkpoint.tensors()) - {"evidence.rows"}
    theirs = tuple(f".mlp.experts.{slot_key(party)}." for party in parties)
    router = {n for n in names if n.endswith(_ROUTER)}
    anchor = {n for n in names if ".mlp.experts." in n and not any(part in n for part in theirs)}
    return {"router": router, "anchor": anchor, "both": router | anchor, "all": names}[what]  # type: ignore[return-value]


def _own_rows(experts: Experts) -> int:
    """How many rows of each layer are the base's."""
    rows = _rows(experts.router)
    return 0 if rows is None else rows.own_experts


def _rows(router: Routing) -> Rows | None:
    """The rows that logits are made of, computed ones as they come out; None where there are none."""
    if isinstance(router, RowsAndEvidence):
        router = router.rows
    if isinstance(router, Discriminants):
        return router.in_rows()
    return router if isinstance(router, Rows) else None


def _free(model: PreTrainedModel, free: frozenset[str], own: int) -> None:
    """Let gradients reach the free parameters, and of the rows only those of parties; at least in float32."""
    import torch

    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model.float()

    def theirs(gradient: Tensor) -> Tensor:
        kept = gradient.clone()
        kept[:own] = 0
        return kept

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in free)
        if name in free and name.endswith(_ROUTER):
            parameter.register_hook(theirs)


def _blocks(texts: Texts, tokenizer: PreTrainedTokenizerBase, plan: TrainingPlan) -> Iterator[Block]:
    """The endless stream: rounds of one block from each text."""

    def start(name: str) -> Iterator[Block]:
        ids = tokenizer(list(texts[name]), add_special_tokens=False, verbose=False)["input_ids"]
        seed = int.from_bytes(hashlib.sha256(f"{plan.seed}\0{name}".encode()).digest()[:4], "big")
        return epochs(lambda: ids, length=plan.sequence_length, separator=separator_id(tokenizer), seed=seed)

    return mixed([partial(start, name) for name in sorted(texts)], plan.seed)


def _subject(
    composite: Composite, checkpoint: Checkpoint, plan: TuningPlan, texts: Mapping[str, TunedText]
) -> dict[str, str]:
    """What a run that goes on must have in common with the one that began."""
    provenance = composite.provenance
    return {
        "what": plan.what,
        "base": str(provenance.base),
        "contributions": sha256(canonical([e.digest for e in provenance.contributions])),
        "config": sha256(json.dumps(dict(checkpoint.config), sort_keys=True).encode()),
        "texts": sha256(canonical({name: text.digest for name, text in texts.items()})),
    }


def _retrained(experts: Experts, checkpoint: Checkpoint, trained: Mapping[str, Tensor]) -> Experts:
    """The mixture with the trained tensors, each rounded once to the dtype that it had."""
    before = checkpoint.tensors()

    def rounded(name: str, tensor: Tensor) -> Source:
        value = tensor.detach().to("cpu", before[name].torch_dtype).clone()
        assert dtype_of(value) == before[name].dtype
        return Source.of(value)

    tensors = before | {name: rounded(name, tensor) for name, tensor in trained.items()}
    return native_experts(dict(checkpoint.config), tensors, experts.parties)
