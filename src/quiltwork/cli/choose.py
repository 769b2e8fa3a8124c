"""``quiltwork choose``: the number of experts, the place of a stitch, the models that no other beats for all owners."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli import method_options as how
from quiltwork.cli.choose_places import Wanted, choose_places, choose_scored
from quiltwork.cli.inputs import named_directories, pair_of, print_json
from quiltwork.cli.tables import open_mixtures
from quiltwork.cli.trusting import Revocations, TrustFile, read_trusted, refuse_revoked_models, trusted
from quiltwork.errors import DuplicateParty, InvalidOption, MissingPart

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.tables import LikelihoodsMethod
    from quiltwork.contribution.trust import Trust

NAME = "choose"
HELP = """Choose among composed mixtures, among places to stitch networks, or among models that owners scored.

- Mixtures: by the log-likelihoods that the parties state (by BIC). Each party answers with `quiltwork contribute
  likelihoods`; the rows stay where they are, and count through one number a candidate.

- Contributions about networks, with statistics of a pair: every pair of points is ranked by how well each predicts the
  other, with no model run. With `--party` the best few of all depths are evaluated beside the parents and the ensemble.

- Score files that `quiltwork evaluate` wrote at the owners: which models no other beats for all owners at once."""
EXAMPLES = """Examples:

`quiltwork choose k2 k3 k4 --answer answer-a --answer answer-b --json`

`quiltwork choose ash birch ash-statistics birch-statistics --top 20`

`quiltwork choose ash birch ash-statistics --candidates 4 --party ash=ash-test.npz --party birch=birch-test.npz
--out scores.json`

`quiltwork choose ash-scores.json birch-scores.json --costs --json`"""
_NETWORKS = "Networks"


def run(
    candidates: Annotated[
        list[Path],
        typer.Argument(
            metavar="GIVEN...", help="Composed mixtures, or NAME=DIRECTORY; or contributions; or score files."
        ),
    ],
    answer: Annotated[
        list[Path] | None, typer.Option(help="Mixtures: a contribution of kind likelihoods. Repeatable.")
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            help="Two parties whose networks are to be joined: PARTY,PARTY. [default: all that have statistics]",
            rich_help_panel=_NETWORKS,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="How many places to join each pair at are told.", rich_help_panel=_NETWORKS)
    ] = 10,
    count: Annotated[
        int,
        typer.Option(
            "--candidates", help="With --party: how many of the best places are evaluated.", rich_help_panel=_NETWORKS
        ),
    ] = 5,
    party: Annotated[
        list[str] | None,
        typer.Option(help="PARTY=held-out inputs with labels. Repeatable.", rich_help_panel=_NETWORKS),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of labels, where held-out inputs are rows of a table. Repeatable.", rich_help_panel=_NETWORKS
        ),
    ] = None,
    mode: how.Mode = None,
    weighting: Annotated[
        str | None,
        typer.Option(
            help="Joined networks count alike (uniform) or by who has seen such inputs (evidence). [default: uniform]",
            rich_help_panel=_NETWORKS,
        ),
    ] = None,
    costs: Annotated[
        bool,
        typer.Option(
            "--costs",
            help="Weigh what a model costs to run, in multiply-adds, as if it were one more owner's loss.",
            rich_help_panel=_NETWORKS,
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Score file to write, for quiltwork report.", rich_help_panel=_NETWORKS)
    ] = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Choose among mixtures, places, or scored models."""
    whom = trusted(trust, revocations)
    asked = {"--pair": pair, "--party": party, "--mode": mode, "--weighting": weighting, "--out": out}
    if not answer and _all_are(candidates, lambda path: path.is_file()):
        _refuse({**asked, "--target": target, "--trust": trust}, "the models were scored already")
        choose_scored(candidates, costs=costs, json=json)
    elif not answer and _all_are(candidates, lambda path: (path / "contribution.json").is_file()):
        if not party:
            _refuse(
                {"--out": out, "--costs": costs, "--target": target, "--mode": mode, "--weighting": weighting},
                "no --party is given, and nothing is evaluated",
            )
        held, named = party or [], pair_of(pair, "--pair")
        wanted = Wanted(named, mode, weighting, top, count, held, target or [], costs, out, json)
        choose_places(read_trusted(candidates, whom), wanted)
    else:
        _refuse({**asked, "--target": target, "--costs": costs}, "it is for networks")
        _choose_mixture(candidates, answer or [], whom, json)


def _all_are(paths: Sequence[Path], is_one: Callable[[Path], bool]) -> bool:
    """Whether all paths are of one kind.

    Raises:
        InvalidOption: some are and some are not.
    """
    found = [path for path in paths if is_one(path)]
    if found and len(found) < len(paths):
        raise InvalidOption(
            f"'{found[0]}'", why="it is of another kind than the others", mend="Choose among things of one kind."
        )
    return bool(found)


def _refuse(stated: Mapping[str, object], why: str) -> None:
    for name, value in stated.items():
        if value:
            raise InvalidOption(name, why=why, mend="Leave it out.")


def _choose_mixture(candidates: Sequence[Path], answer: Sequence[Path], trust: Trust | None, json: bool) -> None:
    from quiltwork.models.mixture.fingerprint import fingerprint

    if not answer:
        raise typer.BadParameter("name the parties' answers about the mixtures with --answer")
    directories = named_directories(candidates, by_method=False)
    refuse_revoked_models(list(directories.values()), trust)
    composites, _ = open_mixtures(directories)
    marks = {name: fingerprint(composite.mixture) for name, composite in composites.items()}
    given = read_trusted(answer, trust)
    _require_one_each(given)
    totals = {name: sum(_value(one, mark, name) for one in given) for name, mark in marks.items()}
    result = _criteria(composites, totals, sum(_method(one).rows for one in given))
    chosen = min(result, key=lambda name: (result[name]["bic"], name))
    if json:
        print_json({"chosen": chosen, "candidates": result})
        return
    for name, row in result.items():
        told = f"{row['experts']:.0f} experts, {row['log_likelihood']:,.1f} nats, BIC {row['bic']:,.1f}"
        print(f"{'*' if name == chosen else ' '} {name}: {told}")


def _criteria(
    composites: Mapping[str, TableComposite], totals: Mapping[str, float], rows: int
) -> dict[str, dict[str, float]]:
    """BIC = parameters log N - 2 log-likelihood, over the rows of all who answered."""
    from quiltwork.compose.reduction import free_parameters

    found = {}
    for name, composite in composites.items():
        count = free_parameters(composite.mixture)
        bic = math.log(rows) * count - 2 * totals[name]
        found[name] = {
            "experts": composite.mixture.n_experts,
            "parameters": count,
            "log_likelihood": totals[name],
            "bic": bic,
        }
    return found


def _method(answer: Contribution) -> LikelihoodsMethod:
    from quiltwork.contribution.manifest import LikelihoodsManifest

    if not isinstance(answer.manifest, LikelihoodsManifest):
        raise MissingPart(
            f"the contribution of party '{answer.party}'",
            why=f"it is of kind '{answer.kind}', and states no likelihoods",
            mend="Ask the party for quiltwork contribute likelihoods.",
        )
    return answer.manifest.method


def _value(answer: Contribution, mark: str, name: str) -> float:
    known = _method(answer).candidates
    if mark not in known:
        raise InvalidOption(
            f"candidate '{name}'",
            why=f"the answer of party '{answer.party}' says nothing about it",
            mend="Ask every party about the same candidates.",
        )
    return float(answer.tensor("likelihoods.values")[known.index(mark)])


def _require_one_each(answers: Sequence[Contribution]) -> None:
    parties = [one.party for one in answers]
    for party in sorted({p for p in parties if parties.count(p) > 1}):
        raise DuplicateParty(f"party '{party}'", why="two answers carry its name", mend="Give one of the two.")
