"""``quiltwork tune``: adapt a composed mixture's router, or the base's own experts, to public text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli import training_options as how
from quiltwork.cli.inputs import documents_of, print_json, read_contributions, say
from quiltwork.cli.trusting import Revocations, TrustFile, trusted
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.proxies import ProxyPlan
    from quiltwork.composite import Composite
    from quiltwork.contribution.sealed import Contribution

NAME = "tune"
HELP = """Tune a composed mixture of experts on public text.

The parties' experts stay bit for bit as they are; what changes is the router's rows (`--what router`), the base's own
feed-forward blocks (`anchor`), or both; of a `btx` model everything (`all`). Beside the public text as it is, a few of
its documents can stand in for each party (`--proxies`), each text in equal parts:

- `none`: public text as it is, nobody stands in.
- `evidence`: the documents that a party's released histogram explains better than public text's own.
- `dpp`: such documents that also differ from each other.
- `classifier`: those that the owner itself named (`quiltwork contribute expert --proxies`).

Nobody can be taken out of the result: what was tuned together is tuned again together."""
EXAMPLES = """Examples:

`quiltwork tune composed --public public.txt --out tuned`

`quiltwork tune composed --public pages.jsonl --proxies dpp --contribution acme --contribution globex --what both
--steps 500 --out tuned`

An interrupted run goes on when the same command is given again."""


def run(
    composed: Annotated[Path, typer.Argument(help="A composed mixture of experts.")],
    public: Annotated[list[Path], typer.Option(help="Public text. Repeatable.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    what: Annotated[
        str, typer.Option(help="What is tuned: router, anchor (the base's own blocks), both, or all of a btx model.")
    ] = "router",
    proxies: Annotated[
        str, typer.Option(help="Which public documents stand in for the parties: none, evidence, dpp or classifier.")
    ] = "none",
    contribution: Annotated[
        list[Path] | None, typer.Option(help="Contribution of a party, for its stand-ins. Repeatable.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(help="--proxies: documents that stand in for a party, at most. [default: 64]")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="--proxies: histograms that documents are chosen by, bigrams or tokens. [default: bigrams]"),
    ] = None,
    steps: Annotated[int, typer.Option(help="How many optimiser steps are taken.")] = 200,
    batch_size: how.BatchSize = 16,
    sequence_length: how.SequenceLength = 192,
    learning_rate: how.LearningRate = 2e-3,
    accumulation: how.Accumulation = 1,
    precision: how.Precision = "no",
    save_every: how.SaveEvery = 100,
    seed: Annotated[int, typer.Option(help="Seed of the order in which text is seen.")] = 0,
    state: Annotated[Path | None, typer.Option(help="Where training keeps its state. [default: OUT.state]")] = None,
    cpu: Annotated[bool, typer.Option(help="Do not use an accelerator.")] = False,
    trust: TrustFile = None,
    revocations: Revocations = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Refuse a contribution of more bytes than this. [default: no limit]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Tune a composed mixture of experts on public text."""
    from quiltwork.compose.tuning import TuningPlan, tune
    from quiltwork.composite import open_composite, saved_layout
    from quiltwork.files import require_absent
    from quiltwork.models.tokenizer_files import load_tokenizer
    from quiltwork.training.loop import TrainingPlan
    from quiltwork.training.processes import processes

    require_absent(out, overwrite)
    training = TrainingPlan(
        steps=steps,
        batch_size=batch_size,
        sequence_length=sequence_length,
        learning_rate=learning_rate,
        accumulation=accumulation,
        precision=precision,
        seed=seed,
        save_every=save_every,
    )
    plan = TuningPlan(what, training, selection=proxies)  # type: ignore[arg-type]
    chooser = _chooser(proxies, documents, features)
    whom = trusted(trust, revocations)
    given = read_contributions(contribution or [], max_bytes)
    composite = open_composite(composed)
    if whom is not None:
        whom.require(given)
        composite.provenance.refuse_revoked(whom)
    texts = {"public": documents_of(public)}
    if chooser is not None:
        texts |= _stand_ins(composite, composed, given, texts["public"], chooser)
    elif given:
        raise InvalidOption(
            "--contribution", why="nobody stands in for a party", mend="Leave it out, or state --proxies."
        )
    place = (state or out.with_name(out.name + ".state")) / "tuning"
    tuned = tune(composite, load_tokenizer(composed), texts, plan, state_dir=place, force_cpu=cpu)
    group = processes()
    if group is not None and not group.is_main_process:
        group.wait_for_everyone()
        return
    tuned.save(out, layout=saved_layout(composed), overwrite=overwrite)
    _forget(place)
    if group is not None:
        group.wait_for_everyone()
    record = tuned.provenance.tuned
    assert record is not None
    say(f"wrote {out}: {what} tuned, loss {record.first_loss:.3f} to {record.last_loss:.3f} nats a token")
    if json:
        print_json({"path": str(out), "parties": list(tuned.parties), "tuned": record.model_dump(mode="json")})


def _chooser(selection: str, documents: int | None, features: str | None) -> ProxyPlan | None:
    """How stand-ins are chosen; None where nobody stands in, and then nothing may be stated about them.

    Raises:
        InvalidOption: something is.
    """
    from quiltwork.compose.proxies import ProxyPlan

    if selection != "none":
        return ProxyPlan(selection, 64 if documents is None else documents, features or "bigrams")  # type: ignore[arg-type]
    if documents is not None or features is not None:
        raise InvalidOption(
            "--documents" if documents is not None else "--features",
            why="it says how documents are chosen that stand in for the parties, and --proxies is none",
            mend="Leave it out, or choose --proxies evidence, dpp or classifier.",
        )
    return None


def _stand_ins(
    composite: Composite, composed: Path, given: list[Contribution], texts: list[str], plan: ProxyPlan
) -> dict[str, list[str]]:
    """The documents that stand in for each party of the composite.

    Raises:
        InvalidOption: a party's contribution is not given, or one is of nobody in the model.
    """
    from quiltwork.compose.proxies import likeness, proxies, require_parties
    from quiltwork.models.tokenizer_files import load_tokenizer, separator_id

    require_parties(given, composite.parties, composite.provenance.base)
    tokenizer = load_tokenizer(composed)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    chosen = proxies(given, texts, ids, separator_id(tokenizer), plan)
    for party, found in chosen.items():
        say(f"{len(found)} public documents stand in for {party}")
    if plan.selection != "classifier":
        _warn(likeness(given, chosen, texts, ids, separator_id(tokenizer), plan.features))
    return chosen


def _warn(scores: Mapping[str, float]) -> None:
    """Say for whom nothing among public text resembles what they have."""
    for party, score in scores.items():
        if score <= 0:
            say(
                f"note: nothing in public text resembles that of {party} ({score:+.2f} nats a symbol), "
                f"and tuning on it may turn the model from what {party} added"
            )


def _forget(place: Path) -> None:
    """Remove what training kept, and nothing that someone else put beside it."""
    shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):
        place.parent.rmdir()
