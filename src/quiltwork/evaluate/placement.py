"""The search for where to stitch: candidates are evaluated by owners, and what nobody beats for all is kept.

    parents, ensemble, candidates  ->  losses per owner (and cost)  ->  front, hypervolume over owners

An owner evaluates on its own data and tells numbers; which model of the front to take is a choice between owners that
no average makes for them. Candidates come ranked by fit on statistics alone (`models.network.placement`), so that few
need be evaluated. Cost, such as multiply-adds, may be a column of the front like any owner.

>>> table = {"A": {"ash": 0.1, "birch": 0.6}, "B": {"ash": 0.5, "birch": 0.1}, "mid": {"ash": 0.2, "birch": 0.2}}
>>> found = search(list(table), table.__getitem__)
>>> found.front, round(found.hypervolume(["A", "B"]), 3), round(found.hypervolume(), 3)
(['A', 'B', 'mid'], 0.61, 0.73)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.hypervolume import hypervolume
from quiltwork.evaluate.pareto import front
from quiltwork.progress import Progress


@dataclass(frozen=True)
class Placements:
    """What was evaluated.

    Attributes:
        losses: model -> owner -> loss, lower is better; in the order of evaluation.
        costs: model -> cost; empty where none was asked for.
    """

    losses: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, float]

    @property
    def owners(self) -> tuple[str, ...]:
        """In the order of the first model's losses."""
        return tuple(next(iter(self.losses.values())))

    @property
    def front(self) -> list[str]:
        """Models that no other beats for all owners at once (and in cost, where it counts)."""
        return front({name: self._row(name) for name in self.losses})

    def _row(self, name: str) -> list[float]:
        row = [self.losses[name][owner] for owner in self.owners]
        return [*row, self.costs[name]] if self.costs else row

    def hypervolume(self, names: Sequence[str] | None = None, reference: float = 1.0) -> float:
        """Of some models, or of all, over owners; cost does not enter.

        Args:
            names: models; None for all.
            reference: the loss that counts as worthless, the same for each owner; 1 suits shares of errors.
        """
        rows = [
            [self.losses[name][owner] for owner in self.owners] for name in (self.losses if names is None else names)
        ]
        return hypervolume(rows, [reference] * len(self.owners))


def search(
    names: Sequence[str],
    evaluate: Callable[[str], Mapping[str, float]],
    *,
    cost: Callable[[str], float] | None = None,
    show: bool = False,
) -> Placements:
    """Evaluate models one after the other.

    Args:
        names: of the models: parents, ensemble, candidates.
        evaluate: a model's loss for each owner, lower is better; the same owners each time.
        cost: of a model, where it is to be an objective.
        show: a progress line on standard error.

    Raises:
        InvalidOption: no model, one named twice, or other owners than for the first.
    """
    if not names or len(set(names)) < len(names):
        raise InvalidOption("models to evaluate", why="there are none, or one is named twice", mend="Name each once.")
    losses: dict[str, Mapping[str, float]] = {}
    with Progress("evaluating placements", len(names), enabled=show) as progress:
        for name in names:
            losses[name] = dict(evaluate(name))
            if losses[name].keys() != losses[names[0]].keys():
                raise InvalidOption(
                    f"model '{name[:200]}'",
                    why=f"it was evaluated for {sorted(losses[name])}, the first for {sorted(losses[names[0]])}",
                    mend="Evaluate every model on the data of the same owners.",
                )
            progress.advance(name)
    return Placements(losses, {name: cost(name) for name in names} if cost else {})
