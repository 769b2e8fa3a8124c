"""Composing with a trust file, for contributions of every ground: the same model, or a refusal by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import network_parties
import table_machines
from party_keys import new_key, trust_file
from quiltwork.compose.combine import Combine
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.joining import joined, joined_network
from quiltwork.compose.method import compose
from quiltwork.compose.middle import Middle
from quiltwork.compose.reopen import open_any
from quiltwork.contribution.revocation import revoke
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signature import sign
from quiltwork.contribution.signing_keys import read_signing_key
from quiltwork.contribution.store import read
from quiltwork.contribution.trust import Trust, open_trust
from quiltwork.errors import RevokedContribution, UntrustedContribution
from quiltwork.models.base import Base

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Ground:
    """Contributions of one kind of model, how they are composed, and what composing them would write."""

    contributions: Sequence[Contribution]
    compose: Callable[..., Any]
    join: Callable[..., Any] | None

    @property
    def first(self) -> Contribution:
        return self.contributions[0]


@pytest.fixture(params=["language", "tables", "networks"])
def ground(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_base: Callable[[str], Base],
    contributions: Callable[[str], list[Contribution]],
) -> Ground:
    if request.param == "tables":
        table = table_machines.TABLES["gaussian"]
        given = table_machines.releases(table_machines.machines("gaussian"), table, tmp_path)
        return Ground(given, lambda given, **o: compose(given, Middle(), **o), joined)
    if request.param == "networks":
        given = [network_parties.release(tmp_path, p, one=network_parties.network(p)) for p in network_parties.PARTIES]
        return Ground(given, lambda given, **o: compose(given, Combine(), **o), joined_network)
    given = [read(shutil.copytree(c.path, tmp_path / c.party)) for c in contributions("olmo2")]
    base = tiny_base("olmo2")
    return Ground(given, lambda given, **o: compose(given, Ensemble(weighting="uniform"), base, **o), None)


@pytest.fixture
def trust(ground: Ground, tmp_path: Path) -> Trust:
    """All contributions signed, and a trust file with everybody's key."""
    for contribution in ground.contributions:
        sign(contribution, read_signing_key(new_key(tmp_path, contribution.party)))
    return open_trust(trust_file(tmp_path, *((c.party, f"{c.party}.pem") for c in ground.contributions)))


def saved(composite: Any, place: Path) -> dict[str, bytes]:
    composite.save(place)
    return {str(p.relative_to(place)): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def taken_back(contribution: Contribution, place: Path) -> Trust:
    """The trust file, with that contribution revoked by its party."""
    key = read_signing_key(place / f"{contribution.party}.key")
    file = place / "it.revocation"
    file.write_bytes(revoke(contribution.party, contribution.digest, key, reason="an error was found", at=NOON))
    return open_trust(place / "trust.toml", revocations=[file])


def test_signed_contributions_compose_to_the_same_bytes(ground: Ground, trust: Trust, tmp_path: Path) -> None:
    with_trust = saved(ground.compose(ground.contributions, trust=trust), tmp_path / "with")
    for contribution in ground.contributions:
        (contribution.path / "contribution.sig").unlink()
    assert with_trust == saved(ground.compose(ground.contributions), tmp_path / "without")
    assert not any(name.endswith(".sig") for name in with_trust)


def test_one_unsigned_contribution_is_refused(ground: Ground, trust: Trust) -> None:
    (ground.first.path / "contribution.sig").unlink()
    with pytest.raises(UntrustedContribution, match=rf"'{ground.first.party}'.*not signed"):
        ground.compose(ground.contributions, trust=trust)
    ground.compose(ground.contributions[1:], trust=trust)


def test_a_signature_moved_to_another_party_is_refused(ground: Ground, trust: Trust) -> None:
    one, other = ground.contributions[:2]
    shutil.copy(one.path / "contribution.sig", other.path / "contribution.sig")
    with pytest.raises(UntrustedContribution, match=rf"'{other.party}'.*with a key of '{one.party}'"):
        ground.compose(ground.contributions, trust=trust)


def test_what_was_taken_back_is_refused_in_a_composite_too(ground: Ground, trust: Trust, tmp_path: Path) -> None:
    party = ground.first.party
    ground.compose(ground.contributions, trust=trust).save(tmp_path / "composed")
    later = taken_back(ground.first, tmp_path)
    for attempt in (
        lambda: ground.compose(ground.contributions, trust=later),
        lambda: open_any(tmp_path / "composed", trust=later),
    ):
        with pytest.raises(RevokedContribution, match=rf"'{party}' took it back on 2026-05-04T12:00:00Z.*an error"):
            attempt()
    without = open_any(tmp_path / "composed").without(party)
    without.save(tmp_path / "without")
    assert party not in open_any(tmp_path / "without", trust=later).parties


@pytest.mark.parametrize("ground", ["tables", "networks"], indirect=True)
def test_who_joins_must_be_signed_and_nobody_joins_what_was_taken_back(
    ground: Ground, trust: Trust, tmp_path: Path
) -> None:
    assert ground.join is not None
    *early, late = ground.contributions
    composite = ground.compose(early, trust=trust)
    whole = saved(ground.join(composite, [late], trust=trust), tmp_path / "joined")
    assert whole == saved(ground.compose(ground.contributions), tmp_path / "at-once")
    with pytest.raises(RevokedContribution):
        ground.join(composite, [late], trust=taken_back(ground.first, tmp_path))
    with pytest.raises(RevokedContribution):
        ground.join(composite, [late], trust=taken_back(late, tmp_path))
    (late.path / "contribution.sig").unlink()
    with pytest.raises(UntrustedContribution, match=rf"'{late.party}'"):
        ground.join(composite, [late], trust=trust)
    ground.join(composite, [late])
