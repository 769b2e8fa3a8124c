"""Several networks and their splices as one module, in which each network and the ensemble are settings.

    setting "<party>"    f_m(x)
    setting "ensemble"   rule( f_1(x), ..., f_M(x) )
    setting "stitched"   rule( tails of the spliced networks )

The rule is that of ``combining``, with the weights of a weigher per input if there is one; the same weights, of the
parties that meet there, mix activations where a splice averages. The main form is a pair of splices, both ways, both
tails (arXiv 2512.17592, as far as its abstract says). Networks stay frozen; adapters train.

Laws: a party's setting gives its network's outputs, and "ensemble" those of `CombinedNetworks`, exactly; splicing
copies of one network with identity adapters leaves every activation as it is, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.combining import Task, combine, require_rule
from quiltwork.models.network.execution import Step, execute
from quiltwork.models.network.network import OUTPUT, Network
from quiltwork.models.network.splices import SHARES, Place, Splice, bound, merged, of_party, of_splice, require_splices

ENSEMBLE, STITCHED = "ensemble", "stitched"


class StitchedNetwork(nn.Module):
    """Raw inputs ``[n, *shape]`` to logits, log-probabilities or numbers ``[n, outputs]``.

    Args:
        networks: by party, of one task; their order is that of a weigher's columns.
        splices: where they are joined.
        adapters: for each splice, one for each of its sources; None: identities on common channels.
        rule: how outputs of several tails are combined; None: ``"probability"``, or ``"mean"`` for numbers.
        weigher: raw inputs to shares ``[n, networks]``; None weighs all alike.
        weighted_points: whether the weigher's shares also mix activations where a splice averages.
        tails: the parties whose outputs count when stitched; None: all.
        setting: a party, ``"ensemble"`` or ``"stitched"``.

    Raises:
        InvalidOption: networks of several tasks, splices that are not possible, a name that means nothing here.
    """

    def __init__(
        self,
        networks: Mapping[str, Network],
        splices: Sequence[Splice],
        adapters: Sequence[Sequence[Adapter]] | None = None,
        *,
        rule: str | None = None,
        weigher: nn.Module | None = None,
        weighted_points: bool = True,
        tails: Sequence[str] | None = None,
        setting: str = STITCHED,
    ) -> None:
        super().__init__()
        self.parties, self.splices = tuple(networks), tuple(splices)
        self.networks = nn.ModuleList(networks.values())
        require_one_task(networks)
        require_splices(networks, self.splices)
        self.adapters = nn.ModuleList(nn.ModuleList(row) for row in _adapters(networks, self.splices, adapters))
        self.task: Task = "numbers" if self[self.parties[0]].signature.classes is None else "classes"
        self.rule = rule or ("probability" if self.task == "classes" else "mean")
        require_rule(self.rule, self.task)
        self.weigher, self.weighted_points = weigher, weighted_points and weigher is not None
        self.tails = self._known(self.parties if tails is None else tuple(tails))
        self._steps = merged(networks, self.splices)
        self.set(setting)

    def __getitem__(self, party: str) -> Network:
        network = self.networks[self.parties.index(party)]
        assert isinstance(network, Network)
        return network

    def adapters_of(self, place: int) -> tuple[Adapter, ...]:
        """The adapters of a splice, one for each source."""
        row = self.adapters[place]
        assert isinstance(row, nn.ModuleList)
        return tuple(one for one in row if isinstance(one, Adapter))

    @property
    def settings(self) -> tuple[str, ...]:
        """What this network can be: each party's own, the ensemble, the stitched one."""
        return (*self.parties, ENSEMBLE, STITCHED)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All operations of all networks, and the splices as such."""
        return self._steps

    def set(self, setting: str) -> StitchedNetwork:
        """Choose what `forward` computes."""
        if setting not in self.settings:
            raise InvalidOption(
                f"setting {setting!r}", why="there is no such", mend=f"Choose one of {', '.join(self.settings)}."
            )
        self.setting = setting
        return self

    def forward(self, x: Tensor, setting: str | None = None) -> Tensor:
        """Outputs in the present setting, or in another one for this call."""
        setting = setting or self.setting
        if setting in self.parties:
            found: Tensor = self[setting](x)
            return found
        weights = None if self.weigher is None else self.weigher(x)
        if setting == ENSEMBLE:
            outputs = {party: self[party](x) for party in self.parties}
        else:
            tails = self._run(x, [Place(party, OUTPUT) for party in self.tails], weights)
            outputs = {place.party: value for place, value in tails.items()}
        return self._combined(outputs, weights)

    def start(self, x: Tensor, weights: Tensor | None) -> dict[str, Any]:
        """What the steps begin with: every network's tensors and normalised input, and the shares."""
        values: dict[str, Any] = {SHARES: weights}
        for party in self.parties:
            values |= {of_party(party, name): value for name, value in self[party].start(x).items()}
        return values

    def goals(self) -> dict[str, str]:
        """For each tail the value that is its output."""
        return {party: self._reached(Place(party, OUTPUT)) for party in self.tails}

    def run(self, x: Tensor, want: Sequence[Place]) -> dict[Place, Tensor]:
        """Values within the stitched network, whatever the setting; only what they stand on is computed.

        Args:
            x: raw inputs ``[n, *shape]``.
            want: points, whose values are those after what is spliced into them; the point ``"output"`` of a party is
                what its tail gives.
        """
        return self._run(x, want, None if self.weigher is None else self.weigher(x))

    def _run(self, x: Tensor, want: Sequence[Place], weights: Tensor | None) -> dict[Place, Tensor]:
        names = {place: self._reached(place) for place in want}
        found = execute(bound(self._steps, self._mixing), self.start(x, weights), names.values(), x.device)
        return {place: found[name] for place, name in names.items()}

    def _reached(self, place: Place) -> str:
        """The value at a place that the rest of its network goes on with."""
        node = self._raw(place)
        spliced = {self._raw(splice.into): of_splice(i) for i, splice in enumerate(self.splices)}
        return spliced.get(node, node)

    def _combined(self, outputs: Mapping[str, Tensor], weights: Tensor | None) -> Tensor:
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        shares = None if weights is None else self._shares(weights, tuple(outputs))
        return combine(torch.stack(list(outputs.values())), shares, self.rule, self.task)

    def _shares(self, weights: Tensor, parties: Sequence[str]) -> Tensor:
        """The weigher's columns of some parties, brought to a sum of one; alike where all of them vanish."""
        if tuple(parties) == self.parties:
            return weights
        columns = weights[:, [self.parties.index(party) for party in parties]] + 1e-12
        return columns / columns.sum(dim=1, keepdim=True)

    def _mixing(self, place: int) -> Callable[..., Tensor]:
        splice = self.splices[place]

        def mix(weights: Tensor | None, raw: Tensor, *sources: Tensor) -> Tensor:
            row = self.adapters_of(place)
            values = [adapter(source) for adapter, source in zip(row, sources, strict=True)]
            parties = [source.party for source in splice.sources]
            if splice.mode == "average":
                values, parties = [raw, *values], [splice.into.party, *parties]
            return self._mixed(values, parties, weights)

        return mix

    def _mixed(self, values: Sequence[Tensor], parties: Sequence[str], weights: Tensor | None) -> Tensor:
        if len(values) == 1:
            return values[0]
        if weights is None or not self.weighted_points:
            return torch.stack(list(values)).mean(dim=0)
        shares = self._shares(weights, parties)
        axes = [1] * (values[0].ndim - 1)
        parts = [value * shares[:, i].reshape(-1, *axes) for i, value in enumerate(values)]
        return torch.stack(parts).sum(dim=0)

    def _raw(self, place: Place) -> str:
        return of_party(place.party, self[place.party].node_of(place.point))

    def _known(self, tails: tuple[str, ...]) -> tuple[str, ...]:
        if not tails or not set(tails) <= set(self.parties) or {ENSEMBLE, STITCHED} & set(self.parties):
            raise InvalidOption(
                f"tails {list(tails)} of parties {list(self.parties)}",
                why="tails are some of the parties, and none is called 'ensemble' or 'stitched'",
                mend="Name parties whose networks are there.",
            )
        return tuple(party for party in self.parties if party in tails)


def require_one_task(networks: Mapping[str, Network]) -> None:
    """Refuse networks that do not take the same raw inputs to the same outputs.

    Raises:
        InvalidOption: names what differs.
    """
    if not networks:
        raise InvalidOption("networks", why="there are none", mend="Give one network a party.")
    first, *others = networks.items()
    for party, network in others:
        for field in ("shape", "units", "classes", "outputs"):
            mine, theirs = getattr(first[1].signature, field), getattr(network.signature, field)
            if mine != theirs:
                raise InvalidOption(
                    f"the networks of {first[0]} and {party}",
                    why=f"their {field} differ: {mine} and {theirs}",
                    mend="Networks are joined where they have one task: the same inputs, units and outputs in order.",
                )


def _adapters(
    networks: Mapping[str, Network], splices: Sequence[Splice], given: Sequence[Sequence[Adapter]] | None
) -> list[list[Adapter]]:
    """An adapter for each source of each splice, between the points that it is for."""
    due = [
        [(networks[s.party].point(s.point), networks[one.into.party].point(one.into.point)) for s in one.sources]
        for one in splices
    ]
    if given is None:
        return [[Adapter.linear(*ends) for ends in row] for row in due]
    found = [list(row) for row in given]
    if [[(adapter.source, adapter.target) for adapter in row] for row in found] != due:
        raise InvalidOption(
            "adapters",
            why="they are not for the sources and points of the splices",
            mend="Give one a source, in order.",
        )
    return found
