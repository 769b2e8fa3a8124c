"""Splices and adapters as contributions hold them, and adapters from the statistics of pairs.

    contribution of kind stitch_statistics  ->  PairStatistics
    contribution of kind stitches           ->  Stitches: splices by party, a weight and a bias for each source
    statistics, splices                     ->  adapters in closed form

A grid of a point and that of its statistics may differ (pooled cells): a linear map of channels is the same for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from quiltwork.contribution.network_graph import PointRecord
from quiltwork.contribution.networks import ModuleReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.stitching import NetworkPoint, SpliceRecord, StitchesMethod, StitchStatisticsMethod
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.network.adapters import Adapter
from quiltwork.models.network.network import Network
from quiltwork.models.network.pair_moments import PairStatistics
from quiltwork.models.network.regression import Fit, fit
from quiltwork.models.network.splices import Place, Splice


class Stitches(NamedTuple):
    """Trained or fitted stitches.

    Attributes:
        networks: that they are for.
        splices: where they join, by party.
        maps: for each splice, for each of its sources, weight ``[C_t, C_s]`` and bias ``[C_t]``, float32.
        rests_on: digests of the contributions whose numbers went in.
    """

    networks: tuple[ModuleReference, ...]
    splices: tuple[Splice, ...]
    maps: tuple[tuple[tuple[Tensor, Tensor], ...], ...]
    rests_on: tuple[str, ...]

    def adapters(self, networks: Mapping[str, Network]) -> tuple[tuple[Adapter, ...], ...]:
        """An adapter for each source of each splice.

        Args:
            networks: by party, the very ones that these stitches are for.

        Raises:
            InvalidOption: a network is missing, or is another.
            TensorMismatch: a map is not of its points.
        """
        for reference in self.networks:
            if reference.party not in networks or networks[reference.party].digest != reference.digest:
                raise InvalidOption(
                    f"the network of party '{reference.party}'",
                    why="the stitches are for another one, or it is not there",
                    mend="Give the networks that the stitches were made for.",
                )
        return tuple(
            tuple(
                Adapter.linear(_record(networks, source), _record(networks, splice.into), *one)
                for source, one in zip(splice.sources, maps, strict=True)
            )
            for splice, maps in zip(self.splices, self.maps, strict=True)
        )


def _record(networks: Mapping[str, Network], place: Place) -> PointRecord:
    return networks[place.party].point(place.point)


def read_pair_statistics(contribution: Contribution) -> PairStatistics:
    """The sums that a contribution holds.

    Raises:
        MissingPart: it is of another kind.
        AlteredContribution: a tensor is not the one that was checked.
        InvalidOption: there are no rows behind the sums.
    """
    method = contribution.manifest.method
    if not isinstance(method, StitchStatisticsMethod):
        raise _missing(contribution, "pair", "stitch_statistics")
    tensors = {name: np.asarray(contribution.tensor(name)) for name in contribution.tensor_names("pair.")}
    return PairStatistics(method.layout, tensors)


def read_stitches(contribution: Contribution) -> Stitches:
    """The splices and maps that a contribution holds.

    Raises:
        MissingPart: it is of another kind.
        AlteredContribution: a tensor is not the one that was checked.
    """
    method = contribution.manifest.method
    if not isinstance(method, StitchesMethod):
        raise _missing(contribution, "stitches", "stitches")
    parties = [reference.party for reference in method.networks]

    def place(point: NetworkPoint) -> Place:
        return Place(parties[point.network], point.point)

    splices = tuple(Splice(place(s.into), tuple(map(place, s.sources)), s.mode) for s in method.splices)
    maps = tuple(
        tuple(_map(contribution, f"stitches.{s}.{k}") for k in range(len(splice.sources)))
        for s, splice in enumerate(splices)
    )
    return Stitches(method.networks, splices, maps, method.rests_on)


def _map(contribution: Contribution, name: str) -> tuple[Tensor, Tensor]:
    weight, bias = (contribution.tensor(f"{name}.{part}").float() for part in ("weight", "bias"))
    return weight, bias


def _missing(contribution: Contribution, part: str, kind: str) -> MissingPart:
    return MissingPart(
        f"part '{part}'",
        why=f"the contribution of party '{contribution.party}' is of kind '{contribution.kind}'",
        mend=f"Give one of kind '{kind}'.",
    )


def splice_records(networks: Mapping[str, Network], splices: Sequence[Splice]) -> tuple[SpliceRecord, ...]:
    """Splices as a manifest names them: networks by their place in the mapping's order."""
    places = {party: number for number, party in enumerate(networks)}

    def point(place: Place) -> NetworkPoint:
        record = networks[place.party].point(place.point)
        return NetworkPoint(network=places[place.party], point=place.point, channels=record.channels)

    return tuple(
        SpliceRecord(into=point(s.into), sources=tuple(point(source) for source in s.sources), mode=s.mode)
        for s in splices
    )


def adapter_tensors(adapters: Sequence[Sequence[Adapter]]) -> dict[str, Tensor]:
    """Weights and biases by the names of the format."""
    found = {}
    for s, row in enumerate(adapters):
        for k, adapter in enumerate(row):
            found[f"stitches.{s}.{k}.weight"] = adapter.weight.detach().clone()
            found[f"stitches.{s}.{k}.bias"] = adapter.bias.detach().clone()
    return found


def fitted_adapters(
    networks: Mapping[str, Network],
    splices: Sequence[Splice],
    statistics: Mapping[tuple[str, str], PairStatistics],
    ridge: float | None = None,
) -> tuple[tuple[Adapter, ...], ...]:
    """Adapters in closed form.

    Args:
        networks: by party.
        splices: where they are joined.
        statistics: of the owners together, by the pair of parties, the earlier name first.
        ridge: strength; None: the best on held-out rows.

    Raises:
        InvalidOption: there are no statistics of a pair, or not of its points.
    """
    return tuple(
        tuple(_fitted(networks, source, splice.into, statistics, ridge) for source in splice.sources)
        for splice in splices
    )


def _fitted(
    networks: Mapping[str, Network],
    source: Place,
    into: Place,
    statistics: Mapping[tuple[str, str], PairStatistics],
    ridge: float | None,
) -> Adapter:
    found = fit_between(source, into, statistics, ridge)
    weight, bias = torch.from_numpy(found.weight), torch.from_numpy(found.bias)
    return Adapter.linear(_record(networks, source), _record(networks, into), weight, bias)


def fit_between(
    source: Place, into: Place, statistics: Mapping[tuple[str, str], PairStatistics], ridge: float | None = None
) -> Fit:
    """The regression from one place to another.

    Raises:
        InvalidOption: there are no statistics of the two parties, or not of the points.
    """
    a, b = sorted((source, into))
    if (a.party, b.party) not in statistics:
        raise InvalidOption(
            f"statistics of the networks of {a.party} and {b.party}",
            why="there are none to fit a stitch by",
            mend="Give a contribution of kind 'stitch_statistics' about the two.",
        )
    return fit(statistics[a.party, b.party], a.point, b.point, into="a" if into is a else "b", ridge=ridge)
