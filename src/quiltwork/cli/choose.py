"""``quiltwork choose``: the number of experts by one round of the parties' own log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import named_directories, print_json, read_contributions
from quiltwork.cli.tables import open_mixtures
from quiltwork.errors import DuplicateParty, InvalidOption, MissingPart

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.tables import LikelihoodsMethod

NAME = "choose"
HELP = """Choose among composed mixtures by the log-likelihoods that the parties state (by BIC).

Each party answers with `quiltwork contribute likelihoods`; the rows stay where they are, and count through one number a
candidate."""
EXAMPLES = """Example:

`quiltwork choose k2 k3 k4 --answer answer-a --answer answer-b --json`"""


def run(
    candidates: Annotated[list[Path], typer.Argument(help="Composed mixtures, or NAME=DIRECTORY.")],
    answer: Annotated[list[Path], typer.Option(help="A contribution of kind likelihoods. Repeatable.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Choose among composed mixtures by the parties' log-likelihoods."""
    from quiltwork.models.mixture.fingerprint import fingerprint

    composites, _ = open_mixtures(named_directories(candidates, by_method=False))
    marks = {name: fingerprint(composite.mixture) for name, composite in composites.items()}
    given = read_contributions(answer)
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
