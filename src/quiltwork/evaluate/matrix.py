"""The score matrix: run every model on every domain.

Rows are the public base, each party alone, each composition, and each composition without each party; columns are
held-out texts. Models are built one at a time and dropped, so memory holds one of them.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from quiltwork.composite import Composite
from quiltwork.contribution.fields import owner_of
from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.evaluate.bits_per_byte import score
from quiltwork.evaluate.routing import measures, routing
from quiltwork.evaluate.scores import Cell, Routing, Row, Sample, Scores, Token
from quiltwork.evaluate.trace import Trace, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class HeldOut:
    """What models are scored on.

    Attributes:
        domains: documents by domain; a party's own text bears the party's name.
        parties: which domains are parties'.
        max_length: tokens a window.
        batch_size: windows at a time.
    """

    domains: Mapping[str, Sequence[str]]
    parties: tuple[str, ...]
    max_length: int = 192
    batch_size: int = 16

    def __post_init__(self) -> None:
        for option in ("max_length", "batch_size"):
            if getattr(self, option) < 1:
                raise InvalidOption(
                    f"{option}={getattr(self, option)}", why="it must be positive", mend="Choose 1 or more."
                )
        for name, documents in self.domains.items():
            if not any(documents):
                raise InvalidOption(
                    f"domain '{name}'",
                    why="it holds no text to score",
                    mend="Give held-out documents, or leave it out.",
                )

    @property
    def public(self) -> tuple[str, ...]:
        """The domains that are no party's."""
        return tuple(d for d in self.domains if d not in self.parties)


@dataclass
class Findings:
    """One model's row and how it routed."""

    row: Row
    routing: dict[str, Routing] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)


def machine() -> str:
    """The machine in words: processor, threads in use, Python and torch."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    return (
        f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} thread(s), {accelerator}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    *,
    prefix: int,
    slots: Sequence[str] = (),
    name: str = "",
    sample_tokens: int = 0,
) -> Findings:
    """Score one model on all domains.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        held_out: domains and window size.
        prefix: token before each document.
        slots: names of the router's slots, for routing shares and samples.
        name: what samples call the model.
        sample_tokens: show the router's choice on so many tokens of one document a domain.

    Raises:
        CheckpointError: the model's loss on a domain is not finite.
    """
    began = time.monotonic()
    cells: dict[str, Cell] = {}
    findings = Findings(Row())
    with Trace(model) as trace:
        for domain, documents in held_out.domains.items():
            result = score(
                model,
                tokenizer,
                documents,
                prefix=prefix,
                max_length=held_out.max_length,
                batch_size=held_out.batch_size,
                on_batch=trace.begin_batch,
            )
            if not math.isfinite(result.nats):
                raise _unpredictable(name, domain)
            tallies = trace.tallies()
            if tallies and slots:
                findings.routing[domain] = routing(slots, tallies)
            cells[domain] = Cell(
                value=result.bits_per_byte,
                amount=result.bytes,
                items=result.documents,
                extra=measures(findings.routing[domain], domain) if domain in findings.routing else {},
            )
        seconds = time.monotonic() - began
        active = trace.active_parameters()
        if sample_tokens and slots:
            findings.samples = [
                _sample(
                    model, tokenizer, trace, domain, next(filter(None, documents)), prefix, slots, name, sample_tokens
                )
                for domain, documents in held_out.domains.items()
            ]
    total = sum(p.numel() for p in model.parameters())
    findings.row = Row(domains=cells, active_params=active, total_params=total, seconds=seconds)
    return findings


def _unpredictable(name: str, domain: str) -> CheckpointError:
    return CheckpointError(
        f"model '{name}'",
        why=f"its loss on '{domain}' is not finite: among its weights are some out of all proportion",
        mend="Find out whose with `quiltwork screen --weights-only`, and compose without that contribution.",
    )


def _sample(
    model: Any,
    tokenizer: Any,
    trace: Trace,
    domain: str,
    text: str,
    prefix: int,
    slots: Sequence[str],
    name: str,
    length: int,
) -> Sample:
    """The first tokens of a document, each with the slot that had the largest weight in predicting it."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:length]
    put_in = torch.tensor([[prefix, *ids[:-1]]], device=next(model.parameters()).device)
    trace.begin_batch(torch.ones(1, put_in.shape[1], dtype=torch.long), [0])
    with torch.no_grad():
        model(input_ids=put_in, use_cache=False)
    weights = torch.stack(trace.weights).mean(dim=0)[0]
    tokens = []
    for piece, share in zip(token_texts(tokenizer, ids), weights, strict=True):
        best = int(share.argmax())
        tokens.append(Token(text=piece, slot=slots[best], weight=float(share[best])))
    return Sample(domain=domain, method=name, tokens=tuple(tokens))


@dataclass(frozen=True)
class Candidates:
    """The models to score, each built when its turn comes.

    Attributes:
        base: the public base.
        methods: compositions by name.
        alone: each party's own model.
        leave_one_out: names of the methods to score again without each owner.
        others: further models by name, such as the pooled-data bound.
    """

    base: Callable[[], PreTrainedModel]
    methods: Mapping[str, Composite]
    alone: Mapping[str, Composite] = field(default_factory=dict)
    leave_one_out: Sequence[str] = ()
    others: Mapping[str, Callable[[], PreTrainedModel]] = field(default_factory=dict)


def score_matrix(
    candidates: Candidates,
    tokenizer: PreTrainedTokenizerBase,
    held_out: HeldOut,
    *,
    prefix: int,
    sample_methods: Sequence[str] = (),
    device: str = "cpu",
    on_row: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score every candidate on every domain.

    Args:
        candidates: the models.
        tokenizer: of the base.
        held_out: the domains.
        prefix: token before each document.
        sample_methods: methods whose routing of sample text is kept.
        device: where to run.
        on_row: called with the name of each row before it is scored.
    """
    methods: dict[str, Row] = {}
    routing: dict[str, dict[str, Routing]] = {}
    samples: list[Sample] = []

    def score_one(label: str, model: PreTrainedModel, slots: Sequence[str] = (), keep: bool = False) -> Findings:
        on_row(label)
        return run(
            model.to(device),  # type: ignore[arg-type]
            tokenizer,
            held_out,
            prefix=prefix,
            slots=slots,
            name=label,
            sample_tokens=160 if keep else 0,
        )

    methods["base"] = score_one("base", candidates.base()).row
    for name, composite in candidates.methods.items():
        found = score_one(name, composite.model(), composite.slots, name in sample_methods)
        methods[name] = found.row
        if found.routing:
            routing[name] = found.routing
        samples += found.samples
    for name, make in candidates.others.items():
        methods[name] = score_one(name, make()).row
    alone = {p: score_one(f"{p} alone", c.model()).row for p, c in candidates.alone.items()}
    left_out = {m: _left_out(candidates.methods[m], m, score_one) for m in candidates.leave_one_out}
    return Scores(
        machine=machine(),
        # an owner who scores its own text only still leaves the others out, one by one
        parties=tuple(dict.fromkeys((*held_out.parties, *alone, *(p for rows in left_out.values() for p in rows)))),
        public=held_out.public,
        domains=tuple(held_out.domains),
        methods=methods,
        alone=alone,
        leave_one_out=left_out,
        routing=routing,
        samples=tuple(samples),
    )


def _left_out(composite: Composite, name: str, score_one: Callable[..., Findings]) -> dict[str, Row]:
    # an owner of several experts takes all of them along
    owners = list(dict.fromkeys(map(owner_of, composite.parties)))
    owners = owners if len(owners) > 1 else []
    return {p: score_one(f"{name} without {p}", composite.without(p).model()).row for p in owners}
