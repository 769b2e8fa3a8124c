"""What is composed through the command line, made once: a base and three contributions, five machines' mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
from cli_runner import done
from cli_tables import NAMES, contribute, machine_tables


@pytest.fixture(scope="session")
def base(tiny_base) -> Path:
    return tiny_base("olmo2").path


@pytest.fixture(scope="session")
def given(contributions) -> Mapping[str, Path]:
    """Contribution directories by party."""
    return {c.party: c.path for c in contributions("olmo2")}


@pytest.fixture(scope="session")
def public(fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Public text: a third of everybody's documents."""
    path = tmp_path_factory.mktemp("public") / "public.txt"
    texts = [text for file in fragments.values() for text in file.read_text().split("\f")[:20]]
    path.write_text("\f".join(texts))
    return path


@pytest.fixture(scope="session")
def composed(
    base: Path, given: Mapping[str, Path], public: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """``composed(method)``: all three parties, composed with default options."""
    place = tmp_path_factory.mktemp("composed")

    @cache
    def build(method: str) -> Path:
        out = place / method
        done("compose", *given.values(), "--base", base, "--method", method, "--public", public, "--out", out)
        return out

    return build


@pytest.fixture(scope="session")
def score_files(
    base: Path,
    composed: Callable[[str], Path],
    given: Mapping[str, Path],
    fragments: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Path]:
    """A score file of each of two owners, who evaluate on their own text only."""
    place = tmp_path_factory.mktemp("scores")
    for party in ("ash", "birch"):
        models = ("evaluate", composed("learned_rows"), composed("evidence_ffn"), "--base", base)
        own = ("--party", f"{party}={fragments[party]}", "--contribution", given[party])
        size = ("--max-bytes", 600, "--max-length", 48, "--leave-one-out", "evidence_ffn")
        done(*models, *own, *size, "--out", place / f"{party}.json")
    return {party: place / f"{party}.json" for party in ("ash", "birch")}


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A CSV file a machine, and ``test``."""
    return machine_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="session")
def machines(tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Each machine's contribution, with all that it may declare."""
    place = tmp_path_factory.mktemp("machines")
    for name in NAMES:
        contribute(tables[name], place / name, name, "--precision", "--units", "height=m")
    return {name: place / name for name in NAMES}


@pytest.fixture(scope="session")
def composed_tables(machines: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``composed_tables(method)``: all machines, composed with default options."""
    place = tmp_path_factory.mktemp("composed-tables")

    @cache
    def build(method: str) -> Path:
        done("compose", *machines.values(), "--method", method, "--out", place / method)
        return place / method

    return build
