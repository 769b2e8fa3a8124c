"""What the tests of composing networks stand on: three parties' modules with statistics, made once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import network_parties as parties
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.network.network import Network


@pytest.fixture(scope="session")
def nets() -> Mapping[str, Network]:
    """A network of each party, by its name."""
    return {party: parties.network(party) for party in parties.PARTIES}


@pytest.fixture(scope="session")
def modules(nets: Mapping[str, Network], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Contribution]:
    """Their contributions, with both statistics."""
    place = tmp_path_factory.mktemp("modules")
    return {p: parties.release(place, p, one=one, parts=("inputs", "classes")) for p, one in nets.items()}


@pytest.fixture(scope="session")
def sums(modules: Mapping[str, Contribution], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Contribution]:
    """What each owner says of the networks of ash and birch."""
    place = tmp_path_factory.mktemp("sums")
    return {p: parties.release_pair(place, p, modules["ash"], modules["birch"]) for p in parties.PARTIES}


@pytest.fixture(scope="session")
def chain(
    nets: Mapping[str, Network],
    sums: Mapping[str, Contribution],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Contribution]:
    """Stitches that ash trained from everybody's sums, cedar went on from, and ash once more."""
    place, pair = tmp_path_factory.mktemp("chain"), {name: nets[name] for name in ("ash", "birch")}
    points = {"ash": "first", "birch": "deep"}
    first = parties.release_stitches(place, "ash", pair, points, tuple(sums.values()), seed=1)
    second = parties.release_stitches(place, "cedar", pair, points, (first,), seed=2)
    third = parties.release_stitches(place, "ash", pair, points, (second,), seed=3)
    return {"first": first, "second": second, "third": third}
