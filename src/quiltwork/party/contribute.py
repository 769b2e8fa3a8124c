"""The owner's verb: ``contribute`` trains next to the data and writes what leaves.

    base + fragment  ->  [train each scope]  ->  [summarise]  ->  one contribution directory

Only this room opens private data, and all that leaves is in the directory: weights of the scopes asked for, the
statistics asked for, a training summary without any text, and a privacy event for each of them. Weights and moments are
released as they are, which the events say and the accountant prices at infinity; the token histogram can be released
under differential privacy (see ``evidence/release.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from quiltwork.contribution.kinds import (
    ExpertMethod,
    StatisticsMethod,
)
from quiltwork.contribution.manifest import BaseReference, TrainingSummary
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import InvalidOption, StorageError
from quiltwork.evidence import trigrams
from quiltwork.evidence.bigrams import CELLS, document_cells
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.release import ReleaseRule
from quiltwork.models.base import Base
from quiltwork.models.residual import ResidualMoments, Second, residual_moments
from quiltwork.models.sources import Source
from quiltwork.models.tokenizer_files import separator_id
from quiltwork.party.fragment import Fragment
from quiltwork.party.proxies import ProxyChoice
from quiltwork.party.scopes import FFNScope, Scope
from quiltwork.party.software import versions
from quiltwork.party.summaries import MOMENT_BLOCKS, batched, summarise
from quiltwork.party.words import check_words
from quiltwork.privacy.events import Event, ExactEvent
from quiltwork.training.loop import TrainingPlan, TrainingResult, train
from quiltwork.training.packing import epochs, pack
from quiltwork.training.processes import processes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHUFFLE_BUFFER = 32768
"""Blocks held for shuffling; a fragment with fewer is shuffled as a whole."""

NARROWING_BLOCKS = 64
"""Blocks of text by which the neurons of a narrow expert are chosen."""

MOMENT_LENGTH = 256
"""Tokens of a block of public text that they average over."""


@dataclass(frozen=True)
class Order:
    """What an owner wants to contribute.

    Attributes:
        party: its name, or ``OWNER.SHARE`` where an owner hands over several experts.
        scopes: what to train; an empty sequence makes a contribution of statistics.
        plan: how long to train each scope.
        tokens: the rule for releasing the token histogram, or None to release none.
        bigrams: the rule for releasing the histogram of hashed bigrams, or None to release none.
        trigrams: the rule for releasing the histogram of hashed trigrams, or None to release none.
        moments: release first and second residual moments (``"full"`` or ``"diagonal"``), or None.
        proxies: the public documents to choose stand-ins from, and how; None names none.
        report_losses: state first and last training loss, which are figures of private text.
        licence: of the contribution, an SPDX expression or a sentence.
        card: free text for whoever composes.
    """

    party: str
    scopes: Sequence[Scope] = (FFNScope(),)
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    tokens: ReleaseRule | None = field(default_factory=lambda: ReleaseRule("exact"))
    bigrams: ReleaseRule | None = field(default_factory=lambda: ReleaseRule("exact"))
    trigrams: ReleaseRule | None = None
    moments: Second | None = None
    proxies: ProxyChoice | None = None
    report_losses: bool = True
    licence: str = "LicenseRef-unstated"
    card: str = ""

    def __post_init__(self) -> None:
        check_words({"label": self.party, "licence": self.licence, "card": self.card})
        names = [scope.name for scope in self.scopes]
        if len(set(names)) < len(names):
            raise InvalidOption(f"scopes {names}", why="a scope is given twice", mend="Name each scope once.")
        for forms in (("ffn", "lowrank"), ("full", "lora")):
            if set(forms) <= set(names):
                raise InvalidOption(
                    f"scopes {names}",
                    why=f"'{forms[0]}' and '{forms[1]}' are two forms of one expert",
                    mend="Choose one of the two, or make two contributions, each with a share of its own.",
                )
        if not names and not any((self.tokens, self.bigrams, self.trigrams, self.moments, self.proxies)):
            raise InvalidOption(
                "an empty order", why="it releases nothing", mend="Choose a scope, a histogram, moments or proxies."
            )


def contribute(
    base: Base,
    fragment: Fragment,
    target: str | Path,
    order: Order,
    *,
    state_dir: str | Path | None = None,
    overwrite: bool = False,
    force_cpu: bool = False,
) -> Contribution:
    """Train and summarise on a fragment, and write the contribution.

    Args:
        base: the public checkpoint.
        fragment: the party's documents.
        target: directory to make.
        order: what to release.
        state_dir: where training keeps its state, a folder a scope, so that an interrupted run goes on; these folders
            are removed when done, and ``state_dir`` too if nothing else is in it.
        overwrite: replace an existing contribution.
        force_cpu: do not use an accelerator that is there.

    Returns:
        The contribution as it was written.

    Raises:
        FragmentError: the fragment has fewer than two documents, or bytes that are not text.
        InvalidOption: sequences are to be longer than the base has positions.
        StorageError: the target exists, or the file system refuses; nothing half-written stays.
        Interrupted: stopped by the user; the same call goes on.
    """
    if Path(target).exists() and not overwrite:
        raise StorageError(
            f"target '{target}'",
            why="something is already there",
            mend="Choose another target, remove it, or ask for overwriting.",
        )
    if order.scopes:
        order.plan.require_positions(int(base.config["max_position_embeddings"]))
    fragment.require_documents(2)
    tokenizer = base.load_tokenizer()
    documents = partial(tokenised, fragment, tokenizer)
    tensors: dict[str, Tensor] = {}
    results: dict[str, TrainingResult] = {}
    for scope in order.scopes:
        place = Path(state_dir) / scope.name if state_dir else None
        model = base.load_model()
        subject = {"base": base.digest, "party": order.party, "scope": repr(scope)}
        results[scope.name] = _train_scope(
            model, scope, order, documents, separator_id(tokenizer), place, subject, force_cpu
        )
        tensors |= scope.tensors(model, base)
    group = processes()
    if group is not None and not group.is_main_process:
        group.wait_for_everyone()
        return read(target)
    statistics, events = summarise(base, order, fragment, documents, separator_id(tokenizer), tensors)
    draft = Draft(
        party=order.party,
        base=reference(base),
        method=_method(order.scopes, base),
        tensors=tensors,
        licence=order.licence,
        training=_training_summary(order, results),
        statistics=statistics,
        privacy=[*_weight_events(order, results), *events],
        card=order.card,
    )
    contribution = write(target, draft, overwrite=overwrite)
    if state_dir is not None:
        _forget(Path(state_dir), order.scopes)
    if group is not None:
        group.wait_for_everyone()
    return contribution


def _forget(state_dir: Path, scopes: Sequence[Scope]) -> None:
    """Remove what training kept, and nothing that someone else put there."""
    for scope in scopes:
        shutil.rmtree(state_dir / scope.name, ignore_errors=True)
    with suppress(OSError):
        state_dir.rmdir()


def reference(base: Base) -> BaseReference:
    """How a manifest names the base."""
    return BaseReference(
        digest=base.digest,
        family=base.model_type,
        vocabulary_size=base.vocabulary_size,
        tokenizer=base.tokenizer_digest,
    )


def tokenised(fragment: Fragment | Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Token ids of each document, without special tokens, as a stream."""
    documents = fragment.documents() if isinstance(fragment, Fragment) else iter(fragment)
    while batch := list(islice(documents, 64)):
        yield from tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]


def text_histograms(base: Base, texts: Fragment | Iterable[str]) -> dict[str, TokenHistogram]:
    """Exact histograms of public text, by feature; for a composer who describes it without a contribution."""
    ids = list(tokenised(texts, base.load_tokenizer()))
    return {
        "tokens": TokenHistogram.from_documents(ids, base.vocabulary_size),
        "bigrams": TokenHistogram.from_documents(document_cells(ids, base.separator), CELLS),
        "trigrams": TokenHistogram.from_documents(trigrams.document_cells(ids, base.separator), CELLS),
    }


def text_moments(base: Base, texts: Fragment | Iterable[str], *, second: Second = "full") -> ResidualMoments:
    """Residual moments of public text, taken with the base; for a composer who describes it without a contribution."""
    blocks = islice(pack(tokenised(texts, base.load_tokenizer()), MOMENT_LENGTH, base.separator), MOMENT_BLOCKS)
    batches = (np.stack(batch) for batch in batched(blocks, 8))
    tensors, rows = residual_moments(base.load_model(), batches, second=second)
    return ResidualMoments.of({name: Source.of(tensor) for name, tensor in tensors.items()}, rows)


def block_stream(
    documents: Callable[[], Iterable[Sequence[int]]], plan: TrainingPlan, separator: int
) -> Callable[[], Iterator[np.ndarray]]:
    """The endless stream of training blocks of a plan."""
    return partial(
        epochs,
        documents,
        length=plan.sequence_length,
        separator=separator,
        buffer=SHUFFLE_BUFFER,
        seed=plan.seed,
    )


def _train_scope(
    model: object,
    scope: Scope,
    order: Order,
    documents: Callable[[], Iterable[Sequence[int]]],
    separator: int,
    place: Path | None,
    subject: dict[str, str],
    force_cpu: bool,
) -> TrainingResult:
    blocks = block_stream(documents, order.plan, separator)

    def text() -> Iterator[Tensor]:
        first = islice(blocks(), NARROWING_BLOCKS)
        return (torch.from_numpy(np.stack(batch)) for batch in batched(first, order.plan.batch_size))

    # the seed is set again inside ``train``; preparing draws nothing from the global generator
    scope.prepare(model, order.party, text)  # type: ignore[arg-type]
    return train(
        model,  # type: ignore[arg-type]
        blocks,
        order.plan,
        state_dir=place,
        subject=subject,
        label=f"{order.party}: {scope.name} expert",
        force_cpu=force_cpu,
    )


def _method(scopes: Sequence[Scope], base: Base) -> ExpertMethod | StatisticsMethod:
    if not scopes:
        return StatisticsMethod()
    declared: dict[str, Any] = {scope.name: scope.method(base) for scope in scopes}
    return ExpertMethod(**declared)


def _training_summary(order: Order, results: dict[str, TrainingResult]) -> TrainingSummary | None:
    if not results:
        return None
    runs = list(results.values())
    told = order.report_losses and all(run.losses for run in runs)
    plan = order.plan
    return TrainingSummary(
        steps=plan.steps * len(runs),
        tokens=sum(run.tokens for run in runs),
        sequence_length=plan.sequence_length,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        seed=plan.seed,
        loss_first=runs[-1].losses[0] if told else None,
        loss_last=runs[-1].losses[-1] if told else None,
        software=versions("quiltwork", "torch", "transformers", *(["peft"] if "lora" in results else [])),
    )


def _weight_events(order: Order, results: dict[str, TrainingResult]) -> list[Event]:
    note = "trained without differential privacy"
    events: list[Event] = [ExactEvent(released=scope.name, note=note) for scope in order.scopes]
    if results and order.report_losses:
        events.append(ExactEvent(released="training", note="first and last training loss"))
    return events


def moments_by_name(name: str) -> Second | None:
    """The moments that a command line names.

    Raises:
        InvalidOption: the name is none of ``none``, ``diagonal``, ``full``.
    """
    if name == "none":
        return None
    if name == "diagonal":
        return "diagonal"
    if name == "full":
        return "full"
    raise InvalidOption(f"moments '{name}'", why="there are no such moments", mend="Use none, diagonal or full.")
