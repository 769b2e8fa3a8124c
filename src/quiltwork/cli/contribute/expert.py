"""``quiltwork contribute expert``: train a language model's expert next to the data and write what leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli import training_options as how
from quiltwork.cli.contribute.handover import show, show_each
from quiltwork.cli.contribute.sealing import seal_for_text
from quiltwork.cli.inputs import documents_of, read_text, say
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.party.proxies import ProxyChoice
    from quiltwork.party.scopes import Scope

NAME = "expert"
HELP = """Train an expert of a language model on your own text, here, and write one contribution directory.

Nothing but that directory is meant to leave: look at it with `quiltwork inspect` before you hand it over."""
EXAMPLES = """Examples:

`quiltwork contribute expert --base BASE --data notes/ --party acme --out acme`

`quiltwork contribute expert --base BASE --data a.jsonl --data b.parquet --text-field body --party acme --out acme
--scope ffn --scope full --steps 500 --tokens gaussian:epsilon=8,delta=1e-6 --bigrams none --confine`

`quiltwork contribute expert --base BASE --data code/ --party acme --share code --scope lowrank --rank 32 --out code`

An interrupted run goes on when the same command is given again."""

RANK = 16
PROXIES = 64
_TAKEN_BY = {"rank": {"lora", "lowrank"}, "alpha": {"lora", "lowrank"}, "width": {"ffn"}}


def run(
    base: Annotated[Path, typer.Option(help="Directory of the public base checkpoint.")],
    data: Annotated[list[Path], typer.Option(help="Text, JSON lines or Parquet; a file or directory. Repeatable.")],
    party: Annotated[str, typer.Option(help="Your name in the composed model: a-z, 0-9, - and _.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="ffn or lowrank, full or lora, or none (statistics only). Repeatable. [default: ffn]"),
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="Name of one of several experts of yours, this text's: the party is PARTY.SHARE.")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option(
            help="Group the documents in so many, an expert for each: OUT/PARTY.c0 and so on. [default: one expert]"
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="lowrank, lora: columns of the two factors that stand for a change. [default: 16]"),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="lowrank, lora: the factors' product is scaled by alpha / rank. [default: rank]"),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="ffn: neurons of a narrower expert, chosen on your text. [default: the base's]")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many optimiser steps are taken for each scope.")] = 200,
    batch_size: how.BatchSize = 16,
    sequence_length: how.SequenceLength = 192,
    learning_rate: how.LearningRate = 2e-3,
    accumulation: how.Accumulation = 1,
    precision: how.Precision = "no",
    save_every: how.SaveEvery = 100,
    seed: Annotated[
        int, typer.Option(help="Seed of the order in which text is seen, and of what starts at random.")
    ] = 0,
    anchor_share: Annotated[
        float,
        typer.Option(help="ffn, lowrank: share of sequences trained beside the base's own FFN; 0 learns no router."),
    ] = 0.5,
    top_k: Annotated[
        int | None, typer.Option(help="ffn, lowrank: experts a token that you recommend to composers. [default: all]")
    ] = None,
    bias: Annotated[
        float | None,
        typer.Option(help="ffn, lowrank: learn a bias too, from this negative number on, e.g. -0.1. [default: none]"),
    ] = None,
    delta_dtype: Annotated[str, typer.Option(help="full: type of the differences: base, float32, bfloat16.")] = "base",
    tokens: Annotated[
        str,
        typer.Option(
            help="Token histogram: none, exact, min-count:5, laplace:epsilon=1, gaussian:epsilon=8,delta=1e-6."
        ),
    ] = "exact",
    bigrams: Annotated[str, typer.Option(help="Histogram of hashed pairs of tokens: as for --tokens.")] = "exact",
    trigrams: Annotated[str, typer.Option(help="Histogram of hashed triples of tokens: as for --tokens.")] = "none",
    moments: Annotated[
        str,
        typer.Option(help="Means and covariances of the base's inner states over your text: none, diagonal or full."),
    ] = "none",
    proxies: Annotated[
        list[Path] | None,
        typer.Option(help="Public text, of which documents like yours are named for `tune`. Repeatable."),
    ] = None,
    proxy_documents: Annotated[
        int | None, typer.Option(help="--proxies: how many are named, at most. [default: 64]")
    ] = None,
    proxy_diversity: Annotated[
        bool, typer.Option("--proxy-diversity", help="--proxies: name documents that differ from each other.")
    ] = False,
    losses: Annotated[bool, typer.Option(help="State first and last training loss.")] = True,
    licence: Annotated[str, typer.Option(help="Licence of the contribution (SPDX).")] = "LicenseRef-unstated",
    card: Annotated[Path | None, typer.Option(help="File with free text for whoever composes.")] = None,
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    confine: Annotated[
        bool, typer.Option(help="Seal this process: it can open the base, the data and the directories it writes to.")
    ] = False,
    state: Annotated[Path | None, typer.Option(help="Where training keeps its state. [default: OUT.state]")] = None,
    cpu: Annotated[bool, typer.Option(help="Do not use an accelerator.")] = False,
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing contribution.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train an expert of a language model on your own text, here, and write one contribution directory."""
    scopes = scope or ["ffn"]
    _require_agreement(scopes, rank=rank, alpha=alpha, width=width)
    _require_proxies(proxies, {"--proxy-documents": proxy_documents, "--proxy-diversity": proxy_diversity or None})
    refuse_revoked([base], trust, revocations)
    state = state or out.with_name(out.name + ".state")
    text = read_text(card, "--card") if card else ""
    sealing = seal_for_text([base, *data, *(proxies or [])], out, state) if confine else "off"
    say(f"confinement: {sealing}")
    from quiltwork.evidence.release import release_rule
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import Order, contribute, moments_by_name
    from quiltwork.party.fragment import open_fragment
    from quiltwork.party.lora import LoRAScope
    from quiltwork.party.scopes import FFNScope, FullScope, LowRankScope
    from quiltwork.training.loop import TrainingPlan

    columns = RANK if rank is None else rank
    makers: dict[str, Callable[[], Scope]] = {
        "ffn": lambda: FFNScope(anchor_share, bias, top_k, width),
        "lowrank": lambda: LowRankScope(columns, alpha, anchor_share, bias, top_k),
        "full": lambda: FullScope(delta_dtype),
        "lora": lambda: LoRAScope(columns, alpha),
    }
    order = Order(
        party=f"{party}.{share}" if share else party,
        scopes=tuple(one_of(makers, name)() for name in scopes if name != "none"),
        plan=TrainingPlan(
            steps=steps,
            batch_size=batch_size,
            sequence_length=sequence_length,
            learning_rate=learning_rate,
            accumulation=accumulation,
            precision=precision,
            seed=seed,
            save_every=save_every,
        ),
        tokens=None if tokens == "none" else release_rule(tokens),
        bigrams=None if bigrams == "none" else release_rule(bigrams),
        trigrams=None if trigrams == "none" else release_rule(trigrams),
        moments=moments_by_name(moments),
        proxies=_choice(proxies, proxy_documents, proxy_diversity) if proxies else None,
        report_losses=losses,
        licence=licence,
        card=text,
    )
    fragment = open_fragment(data, text_field=text_field)
    if clusters is not None:
        from quiltwork.party.clusters import Clustering, contribute_clusters

        grouping = Clustering(clusters, seed=seed)
        found = contribute_clusters(
            open_base(base),
            fragment,
            out,
            order,
            grouping,
            state_dir=state,
            overwrite=overwrite,
            force_cpu=cpu,
            say=say,
        )
        show_each(found, sealing, json=json)
        return
    contribution = contribute(
        open_base(base), fragment, out, order, state_dir=state, overwrite=overwrite, force_cpu=cpu
    )
    show(contribution, out, sealing, json=json)


def _require_agreement(scopes: Sequence[str], **stated: float | None) -> None:
    """Refuse scopes that contradict each other, and options of scopes that were not asked for.

    Raises:
        InvalidOption: ``none`` stands beside a scope, or an option is none of any scope's.
    """
    if "none" in scopes and len(scopes) > 1:
        raise InvalidOption(
            f"scopes {', '.join(scopes)}",
            why="'none' means that no weights leave",
            mend="Leave it, or the others, out.",
        )
    for name, value in stated.items():
        if value is not None and not _TAKEN_BY[name] & set(scopes):
            raise InvalidOption(
                f"--{name} with the scope {', '.join(scopes)}",
                why=f"it is an option of {' and '.join(sorted(_TAKEN_BY[name]))}",
                mend="Leave it out, or choose that scope.",
            )


def _require_proxies(proxies: Sequence[Path] | None, stated: Mapping[str, object]) -> None:
    """Refuse options about public documents where no public text is given to name some of.

    Raises:
        InvalidOption: naming the option.
    """
    for name, value in stated.items():
        if value is not None and not proxies:
            raise InvalidOption(
                name,
                why="it says which documents of public text are named, and no public text is given",
                mend="Give public text with --proxies, or leave it out.",
            )


def _choice(proxies: Sequence[Path], documents: int | None, diversity: bool) -> ProxyChoice:
    from quiltwork.party.proxies import ProxyChoice

    return ProxyChoice(documents_of(proxies), PROXIES if documents is None else documents, diversity)


def one_of(makers: Mapping[str, Callable[[], Scope]], name: str) -> Callable[[], Scope]:
    """What makes the scope of a name.

    Raises:
        InvalidOption: there is no such scope.
    """
    if name not in makers:
        raise InvalidOption(
            f"scope '{name}'", why="there is no such scope", mend=f"Use one of {', '.join(makers)}, or none."
        )
    return makers[name]
