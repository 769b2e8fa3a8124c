"""Parties who sign what they hand over, and take it back, as they type it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli_runner import done

from party_keys import new_key, trust_file

NAMES = ("ash", "birch", "cedar")


@dataclass(frozen=True)
class Signed:
    """Contributions of three parties, signed, their keys and a trust file, all below ``place``."""

    place: Path

    def __getitem__(self, party: str) -> Path:
        return self.place / "given" / party

    @property
    def all(self) -> list[Path]:
        return [self[party] for party in NAMES]

    @property
    def trust(self) -> tuple[str, Path]:
        return "--trust", self.place / "trust.toml"

    def taken_back(self, party: str, key: str | None = None) -> tuple[object, ...]:
        """Both options, after the party took its contribution back; ``key``: with another party's key."""
        words = ("revoke", self[party], "--key", self.place / f"{key or party}.key", "--reason", "an error was found")
        done(*words, "--out", self.place / "revoked" / f"{party}.revocation", "--overwrite")
        return (*self.trust, "--revocations", self.place / "revoked")


def signed(place: Path, given: Mapping[str, Path]) -> Signed:
    for party in NAMES:
        shutil.copytree(given[party], place / "given" / party)
        done("sign", place / "given" / party, "--key", new_key(place, party))
    trust_file(place, *((party, f"{party}.pem") for party in NAMES))
    return Signed(place)


def said(party: str) -> tuple[str, ...]:
    return (f"party '{party}' took it back on 20", "an error was found")
