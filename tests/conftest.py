"""What most tests stand on: one tiny base a family, three parties' fragments, and their contributions.

Everything is built once a session, on one thread, without network.
"""

from __future__ import annotations

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.evidence.release import ReleaseRule
from quiltwork.models.base import Base, open_base
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.party.contribute import Order, contribute, text_histograms, text_moments
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope, FullScope
from quiltwork.training.loop import TrainingPlan

torch.set_num_threads(1)
# a deadline is a timed assertion, and a busy machine fails it
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PARTIES = ("ash", "birch", "cedar")
SIZE = {"hidden": 32, "intermediate": 48, "layers": 2, "heads": 4, "positions": 128}
_WORDS = {
    "ash": "the river runs over grey stones and the ferry crosses before noon",
    "birch": "def return yield import class lambda raise except finally while",
    "cedar": "plaintiff court appeal statute counsel verdict damages clause tort bail",
}


def documents(party: str) -> list[str]:
    """Sixty short documents of a party, of words that no other party uses."""
    words = _WORDS[party].split()
    return [" ".join(words[(i * k + k * k) % len(words)] for k in range(1, 9 + i % 7)) + f" {i}." for i in range(60)]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """``tiny_base(family)``: an untrained base; ``olmo2`` with tied embeddings, the others without."""

    @cache
    def build(family: str) -> Base:
        tokenizer = train_tokenizer([text for party in PARTIES for text in documents(party)], 300)
        model = tiny_model(family, TinySize(vocabulary=len(tokenizer), **SIZE), seed=0, tie=family == "olmo2")
        place = tmp_path_factory.mktemp(f"base-{family}")
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        return open_base(place)

    return build


@pytest.fixture(scope="session")
def fragments(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Each party's documents as a text file with form feeds between them."""
    place = tmp_path_factory.mktemp("fragments")
    for party in PARTIES:
        (place / f"{party}.txt").write_text("\f".join(documents(party)), encoding="utf-8")
    return {party: place / f"{party}.txt" for party in PARTIES}


@pytest.fixture(scope="session")
def contributions(
    tiny_base: Callable[[str], Base], fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Contribution]]:
    """``contributions(family)``: one a party, with both scopes and every statistic, after a little training."""

    @cache
    def build(family: str) -> tuple[Contribution, ...]:
        place = tmp_path_factory.mktemp(f"contributions-{family}")
        plan = TrainingPlan(steps=6, batch_size=4, sequence_length=32, learning_rate=1e-2)
        for party in PARTIES:
            order = Order(
                party=party,
                scopes=(FFNScope(bias=-0.1), FullScope()),
                plan=plan,
                trigrams=ReleaseRule("exact"),
                moments="full",
                licence=f"LicenseRef-{party}",
            )
            # whoever asks first may be under torch.no_grad()
            with torch.enable_grad():
                contribute(tiny_base(family), open_fragment([fragments[party]]), place / party, order, force_cpu=True)
        return tuple(read(place / party) for party in PARTIES)

    return lambda family: list(build(family))


@pytest.fixture(scope="session")
def public_text(tiny_base: Callable[[str], Base]) -> Callable[[str], PublicText]:
    """``public_text(family)``: histograms and moments of public text, a little of everything."""

    @cache
    def build(family: str) -> PublicText:
        base, some = tiny_base(family), [text for party in PARTIES for text in documents(party)[:20]]
        texts = [*some, "a public page about nothing in particular"] * 2
        return {**text_histograms(base, texts), "moments": text_moments(base, texts)}

    return build
