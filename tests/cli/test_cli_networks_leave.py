"""Networks whose method gives a party a weight of its own: the party can leave, and its weight leaves with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import done, files

import network_parties as parties

NAMES = ("ash", "birch", "cedar")


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Path]:
    """Networks of one architecture, so that a soup of them can be made."""
    one = {party: parties.network("ash", seed=number) for number, party in enumerate(NAMES)}
    return {party: parties.release(tmp_path / "made", party, one=one[party]).path for party in NAMES}


@pytest.mark.parametrize("method", ["combine", "network_soup"])
@pytest.mark.parametrize("stated", [("ash", "birch"), ("ash",)])
def test_a_weighted_party_can_leave(
    method: str, stated: tuple[str, ...], made: dict[str, Path], tmp_path: Path
) -> None:
    numbers = {"ash": 2, "birch": 3}
    words = [word for party in stated for word in ("--weight", f"{party}={numbers[party]}")]
    done("compose", *made.values(), "--method", method, *words, "--out", tmp_path / "all")
    done("remove", tmp_path / "all", "--party", "ash", "--out", tmp_path / "left")
    never = [word for party in stated if party != "ash" for word in ("--weight", f"{party}={numbers[party]}")]
    done("compose", made["birch"], made["cedar"], "--method", method, *never, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never")
    assert b'"ash"' not in (tmp_path / "left" / "quiltwork.json").read_bytes()
