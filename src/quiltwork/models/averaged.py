"""Experts on an averaged body: each whole model's feed-forward tensors apart, all else averaged.

    body        theta_0 + sum_i w_i delta_i / (w_0 + sum_j w_j)        every tensor outside the feed-forward blocks
    expert i    theta_0 + delta_i                                      inside them; expert 0 is the base's own

While the differences are apart a party leaves exactly. What is written has the sum only: of a saved one nobody can be
taken out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from quiltwork.models.assembly import FFN, DenseBody, Experts, Layout, add_deltas
from quiltwork.models.checkpoint import Checkpoint
from quiltwork.models.families import Role
from quiltwork.models.routers import Rows
from quiltwork.models.sources import Source, Sources


@dataclass(frozen=True)
class AveragedExperts:
    """Whole models as experts of one mixture.

    Attributes:
        body: the base.
        deltas: each party's difference from the base, by tensor, complete.
        weights: weight of each party in the averaged body, the base under the empty name.
        router: rows, one a party and layer.
    """

    body: DenseBody
    deltas: Mapping[str, Sources]
    weights: Mapping[str, float]
    router: Rows

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties, sorted."""
        return tuple(sorted(self.deltas))

    def without(self, party: str) -> AveragedExperts:
        """The other parties: another mean, one expert and one row fewer."""
        return replace(
            self,
            deltas={p: d for p, d in self.deltas.items() if p != party},
            weights={p: w for p, w in self.weights.items() if p != party},
            router=self.router.without(party),
        )

    def experts(self) -> Experts:
        """The mixture, in which the parties' shares of the body are summed."""
        places = self._places()
        total = self.weights[""] + sum(self.weights[p] for p in self.parties)
        tensors = {
            name: source if name in places else self._mean(name, source, total)
            for name, source in self.body.tensors.items()
        }
        experts: dict[str, FFN] = {
            p: {
                place: add_deltas(self.body.tensors[name], [(1.0, self.deltas[p][name])])
                for name, place in places.items()
            }
            for p in self.parties
        }
        return Experts(replace(self.body, tensors=tensors), experts, self.router)

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """As `Experts.checkpoint`.

        Raises:
            ExportError: as there.
        """
        return self.experts().checkpoint(layout)

    def _places(self) -> dict[str, tuple[int, Role]]:
        """Layer and role of each feed-forward tensor, by its name in the base."""
        family = self.body.family
        layers = range(int(self.body.config["num_hidden_layers"]))
        return {family.ffn_name(n, role): (n, role) for n in layers for role in family.moe.roles}

    def _mean(self, name: str, source: Source, total: float) -> Source:
        return add_deltas(source, [(self.weights[p] / total, self.deltas[p][name]) for p in self.parties])
