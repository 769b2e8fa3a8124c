"""The half of ``quiltwork choose`` about networks: where to stitch them, and which of the scored models to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.catalog import make_network_method
from quiltwork.cli.evaluate_networks import labelled
from quiltwork.cli.inputs import HeldOutPaths, print_json, say

if TYPE_CHECKING:
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.evaluate.network_choice import RankedPlace, Weighed
    from quiltwork.evaluate.scores import Scores


@dataclass(frozen=True)
class Wanted:
    """How places are looked for; the fields are options of ``quiltwork choose``."""

    pair: tuple[str, str] | None
    mode: str | None
    weighting: str | None
    top: int
    candidates: int
    parties: Sequence[str]
    target: Sequence[str]
    costs: bool
    out: Path | None
    json: bool


def choose_places(given: Sequence[Contribution], wanted: Wanted) -> None:
    """Rank places by released sums and, where owners' held-out data are given, weigh the best few against each other.

    Raises:
        QuiltworkError: contributions that do not belong together, or inputs that do not fit.
    """
    from quiltwork.evaluate.network_choice import ranked, weighed
    from quiltwork.evaluate.scores import save_scores

    places, found = ranked(given, wanted.pair, wanted.top), None
    if wanted.parties:
        scores = _scored(given, wanted)
        found = weighed(scores, costs=wanted.costs)
        if wanted.out is not None:
            save_scores(scores, wanted.out)
            say(f"wrote {wanted.out}")
    if wanted.json:
        print_json({"places": [_told(place) for place in places]} | (_weighed(found) if found else {}))
        return
    _print_places(places)
    if found:
        print_weighed(found)


def choose_scored(paths: Sequence[Path], *, costs: bool, json: bool) -> None:
    """Weigh models against each other by owners' score files.

    Raises:
        InvalidOption: files that disagree, or a model that an owner did not score.
    """
    from quiltwork.evaluate.merging import merge
    from quiltwork.evaluate.network_choice import weighed
    from quiltwork.evaluate.scores import load_scores

    found = weighed(merge(*(load_scores(path) for path in paths)), costs=costs)
    if json:
        print_json(_weighed(found))
    else:
        print_weighed(found)


def _scored(given: Sequence[Contribution], wanted: Wanted) -> Scores:
    """The best few places, each parent and the ensemble, on owners' held-out data."""
    from quiltwork.compose.method import compose
    from quiltwork.compose.stitch_placements import placements
    from quiltwork.evaluate.network_scores import score_networks

    stated = {"pair": wanted.pair, "mode": wanted.mode, "weighting": wanted.weighting}
    method: Any = make_network_method("stitch", {name: value for name, value in stated.items() if value is not None})
    models = {name: compose(given, one) for name, one in placements(given, method, wanted.candidates).items()}
    task = next(iter(models.values())).task
    data = HeldOutPaths.of(wanted.parties, [])
    held_out = {name: labelled(task, paths, wanted.target) for name, paths in data.parties.items()}
    return score_networks(models, held_out, on_row=lambda row: say(f"scoring {row}"))


def _told(place: RankedPlace) -> dict[str, Any]:
    fit = place.fit
    return {
        "parties": list(place.parties),
        "points": [fit.a, fit.b],
        "r2": [fit.a_to_b, fit.b_to_a],
        "cka": fit.cka,
        "depth": list(fit.depth),
        "multiply_adds": place.multiply_adds,
    }


def _weighed(found: Weighed) -> dict[str, Any]:
    return {
        "models": {name: dict(row) for name, row in found.placements.losses.items()},
        "costs": dict(found.placements.costs),
        "front": found.front,
        "hypervolume": found.hypervolume,
        "hypervolume_before": found.hypervolume_before,
    }


def _print_places(places: Sequence[RankedPlace]) -> None:
    cells = [
        [
            *(f"{party} {point}" for party, point in zip(place.parties, (place.fit.a, place.fit.b), strict=True)),
            *(f"{value:.3f}" for value in (place.fit.a_to_b, place.fit.b_to_a, place.fit.cka)),
            f"{place.multiply_adds / 1e6:.2f}",
        ]
        for place in places
    ]
    heads = ("first", "second", "R2 into second", "R2 into first", "CKA", "M multiply-adds")
    _print_table("places, by fit on released sums", dict.fromkeys(heads[:2], "left"), heads, cells)


def print_weighed(found: Weighed) -> None:
    """Losses by owner, a star for what nobody beats for all, and how much of all outcomes is covered."""
    table = found.placements
    rows = [
        [
            "*" if name in found.front else "",
            name,
            *(f"{losses[owner]:.3f}" for owner in table.owners),
            *([f"{table.costs[name] / 1e6:.2f}"] if table.costs else []),
        ]
        for name, losses in table.losses.items()
    ]
    heads = ("", "model", *table.owners, *(["M multiply-adds"] if table.costs else []))
    _print_table("loss by owner, lower is better; * = no other is better for all", {"model": "left"}, heads, rows)
    print(f"hypervolume over owners: {found.hypervolume:.4f}; of parents and ensemble: {found.hypervolume_before:.4f}")


def _print_table(title: str, sides: Mapping[str, Any], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    import sys

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD)
    for head in heads:
        table.add_column(escape(head), justify=sides.get(head, "right"), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    (Console() if sys.stdout.isatty() else Console(width=120)).print(table)
