"""``quiltwork split train``: train by a plan, and write what was learned with its records."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import print_json, say
from quiltwork.cli.split.plan_example import EXAMPLE
from quiltwork.errors import InvalidOption, StorageError

if TYPE_CHECKING:
    from quiltwork.audit.certificate import Certificate
    from quiltwork.cli.split.build import Started
    from quiltwork.cli.split.plan import Plan
    from quiltwork.cli.split.rows import Cases
    from quiltwork.models.split.component import Component
    from quiltwork.privacy.labels import ReleasedLabels
    from quiltwork.session.split.run import SplitRun

NAME = "train"
HELP = f"""Train the components of a plan and write a run directory.

A plan is a TOML file. Only files, the labels' column and the parties are needed; this is all that there is:

```
{EXAMPLE}```

Rows held out are never trained on; they judge what was learned, and in isolated mode they say where no fragment alone
tells the label. In program mode the command says, before the first round, what the outcome leaves open of the symbols
and what cotangents tell. Labels can be recovered from what parties receive, unless labels.epsilon randomises those of
training before the first round; scores on held-out rows are of the true labels.

With parties.epsilon each component is trained at home, with its head, and only outputs of other rows cross. Claimed is
what the released model tells of a row, at a price composed over all parties; not what held-out rows tell when they are
scored, and not which rows there are.

With `training.processes = true` each party lives in a process of its own that can open its own files only; without it
all live in this one, and the records say so. This process reads the labels in either case, to judge. With
`align = "common"` the cases that all have are found by private set intersection, which tells parties how many cases
each other has. With --tape every message is kept, and `quiltwork split audit` plays it to each party again; a tape
tells of labels and is as secret as they are.

Training that was interrupted goes on with --resume, bit for bit, if states were saved: --save-every."""
EXAMPLES = """Examples:

`quiltwork split train plan.toml --out run`

`quiltwork split train plan.toml --out run --save-every 100 --resume --json`

`quiltwork split train plan.toml --out run --tape --trust-code program`"""


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    save_every: Annotated[int, typer.Option(min=0, help="Rounds between states for resuming; 0 for none.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on from the last state, if there is one.")] = False,
    tape: Annotated[bool, typer.Option(help="Keep every message, so that audit can replay each party.")] = False,
    trust_code: Annotated[list[str] | None, typer.Option(help="Whose own code may run. Repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train the components of a plan and write a run directory."""
    from quiltwork.cli.split.plan import read_plan
    from quiltwork.cli.split.programs import with_outcomes
    from quiltwork.cli.split.summing import require_installed

    trusted = tuple(trust_code or ())
    words = with_outcomes(read_plan(plan), plan.parent, trusted)
    if out.exists():
        raise StorageError(f"target '{out}'", why="something is already there", mend="Choose another --out.")
    require_installed(words)
    if words.private:
        _require_private(save_every, tape)
    _told(_trained(words, plan, out, (save_every, resume, tape), trusted), json)


def _trained(
    words: Plan, plan: Path, out: Path, wishes: tuple[int, bool, bool], trusted: tuple[str, ...]
) -> dict[str, object]:
    """Train, judge and write; ``wishes`` are rounds between states, whether to go on, and whether to keep a tape."""
    from quiltwork.cli.split.build import parted, session
    from quiltwork.cli.split.home import events
    from quiltwork.cli.split.owners import processes, saved
    from quiltwork.cli.split.programs import note_openings
    from quiltwork.cli.split.rows import read_cases

    save_every, resume, tape = wishes
    cases = read_cases(words, plan.parent, covariates=not words.training.processes)
    events(words, len(parted(words, len(cases))[0]))  # a budget that cannot be is refused before labels are released
    # labels that were randomised are kept from the start: to begin again with others would be another release
    kept = save_every or resume or words.labels.epsilon is not None or words.training.processes
    states = states_of(out, plan.read_bytes(), resume) if kept else None
    released = released_labels(words, cases, states)
    channel = None
    if words.training.processes and states is not None:
        channel = processes(words, cases, plan.parent.resolve(), trusted, states.resolve(), released)
    try:
        started = session(
            words, cases, plan.parent, trusted=trusted, folder=states, save_every=save_every,
            released=released, channel=channel, taped=tape,
        )  # fmt: skip
        live = started.run
        resumed = _resumed(live, tape) if resume else 0
        note_openings(live)
        live.train()
        components = (lambda: saved(live, states)) if channel is not None and states else lambda: started.components
        result = write_finished(
            words, plan.read_bytes(), cases, (started, released), (out, components), save_every, resumed
        )
    finally:
        if channel is not None:
            channel.close()
    if states is not None:
        shutil.rmtree(states, ignore_errors=True)
    return result


def _require_private(save_every: int, tape: bool) -> None:
    """Refuse what a training under a budget for each record has no use for, and what it cannot do without."""
    from quiltwork.cli.split.home import require_installed

    require_installed()
    if save_every or tape:
        raise InvalidOption(
            "--tape" if tape else f"--save-every {save_every}",
            why="components with a budget for each record are trained at home, and no round crosses",
            mend="Leave it out; a training that was interrupted has released nothing but labels, and begins again.",
        )


def _resumed(live: SplitRun, tape: bool) -> int:
    """Go on from the last state; its round."""
    found = live.resume()
    if tape and found:
        raise InvalidOption(
            "--tape", why=f"training goes on from round {found}, and a tape begins with the first", mend="Leave it out."
        )
    say(f"going on from round {found}")
    return found


def states_of(out: Path, plan: bytes, resume: bool) -> Path:
    """The folder of states beside the run directory; it holds those of one plan."""
    from quiltwork.cli.split.folder import plan_digest
    from quiltwork.files import storage_error, write_file

    place = out.with_name(f"{out.name}.states")
    mark = place / "plan.sha256"
    if place.exists() and not resume:
        raise StorageError(
            f"states '{place}'", why="they are of a training that did not end", mend="Say --resume, or remove them."
        )
    if mark.is_file() and mark.read_text() != plan_digest(plan):
        raise InvalidOption(
            f"states '{place}'", why="they are of another plan", mend="Restore that plan, or remove them."
        )
    try:
        # parties and composer save what they learned in it, and a party's own output lies there
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
    except OSError as error:
        raise storage_error(place, error) from error
    write_file(mark, plan_digest(plan), private=True)
    return place


def released_labels(plan: Plan, cases: Cases, states: Path | None) -> ReleasedLabels | None:
    """Labels randomised now, or before an interruption; None where the plan asks for none."""
    from quiltwork.cli.split.release import RELEASED, kept, release, response, written
    from quiltwork.files import write_file

    mechanism = response(plan, cases)
    if mechanism is None:
        return None
    say(mechanism.describe())
    if states is not None and (states / RELEASED).exists():
        return kept(states, mechanism, cases)
    found = release(mechanism, plan, cases)
    if states is not None:
        write_file(states / RELEASED, written(found), private=True)
    return found


def write_finished(
    plan: Plan,
    plan_bytes: bytes,
    cases: Cases,
    learned: tuple[Started, ReleasedLabels | None],
    places: tuple[Path, Callable[[], Mapping[str, Component | Path]]],
    save_every: int = 0,
    resumed: int = 0,
) -> dict[str, object]:
    """Judge, record and write a finished run.

    Args:
        plan: of what.
        plan_bytes: its file's.
        cases: the rows.
        learned: the run, and the released labels where there are any.
        places: the run directory to make, and what gives the parties' components, or files that they wrote; it is
            called when the records are taken.
        save_every: rounds between states.
        resumed: the round from which it went on last.

    Returns:
        What the command prints.
    """
    import json as jsonlib

    from quiltwork.audit.certificate import certify
    from quiltwork.audit.facts import facts_of
    from quiltwork.cli.split.folder import CERTIFICATE, LOSSES, RECORDS, RunNote, plan_digest, write_run
    from quiltwork.cli.split.home import stated_delta
    from quiltwork.cli.split.release import RELEASED, written
    from quiltwork.cli.split.scores import held_out_scores
    from quiltwork.cli.split.stacked import write_stacked
    from quiltwork.cli.split.taping import write_tape
    from quiltwork.files import new_directory

    (started, released), (out, components) = learned, places
    live = started.run
    scores, held = held_out_scores(plan, cases, live)
    facts, learners = facts_of(live.records()), live.mode.learners()
    certificate = certify(facts, tape=started.tape, delta=stated_delta(plan))
    losses = jsonlib.dumps([dict(loss) for loss in live.losses], allow_nan=False)
    documents = {RECORDS: facts.to_json(), CERTIFICATE: certificate.to_json(), LOSSES: losses}
    if released is not None:
        documents[RELEASED] = written(released)
    with new_directory(out, private=True) as place:
        if started.tape is not None:
            write_tape(place, started.tape)
        here = components()
        note = RunNote(
            plan=plan_digest(plan_bytes), columns=dict(cases.columns), classes=cases.classes, prior=_prior(live),
            centre=cases.centre, scale=cases.scale, learners=tuple(learners), cases=(len(cases), held), scores=scores,
            save_every=save_every, resumed=resumed, stacked=write_stacked(place, live),
            away=tuple(party for party in facts.parties if party not in here),
        )  # fmt: skip
        write_run(place, plan_bytes, note, (here, learners), documents)
    live.close()
    return {
        "path": str(out), "scores": scores, "mode": facts.mode, "parties": list(facts.parties), "rounds": facts.rounds,
        "digests": facts.digests, "warnings": list(facts.warnings), "held": list(certificate.held),
        "not_held": list(certificate.not_held), "privacy": _spent(plan, certificate),
    }  # fmt: skip


def _spent(plan: Plan, certificate: Certificate) -> list[dict[str, object]]:
    """What one label and one row paid, over all parties, where the plan has budgets."""
    if plan.labels.epsilon is None:
        return []
    due = ("label-ledger", *(["record-ledger"] if plan.private else []))
    return [{"says": c.says, **c.found} for c in certificate.checks if c.name in due]


def _prior(live: SplitRun) -> tuple[float, ...]:
    from quiltwork.session.split.isolated import Isolated
    from quiltwork.session.split.outputs import Product

    found = live.mode.composition if isinstance(live.mode, Isolated) else None
    k = live.labels.outputs
    return tuple(found.prior.tolist()) if isinstance(found, Product) else (1 / k,) * k


def _told(result: dict[str, object], json: bool) -> None:
    if json:
        print_json(result)
        return
    # what a program leaves open was said before its first round
    warnings = result["warnings"] if isinstance(result["warnings"], list) and result["mode"] != "program" else []
    for warning in warnings:
        say(f"noticed: {warning}")
    for line in result["privacy"] if isinstance(result["privacy"], list) else ():
        say(f"{line['says']} Not covered: {'; '.join(line['not_covered'])}.")
    scores = result["scores"] if isinstance(result["scores"], dict) else {}
    for name, score in scores.items():
        print(f"{name:>20}  {score:.4f}")
    say(f"wrote {result['path']}: {result['rounds']} rounds; look at its certificate: quiltwork split audit")
