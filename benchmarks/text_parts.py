"""What the text benchmark trains and keeps: bases, contributions of owners, pooled models.

Everything lies under ``--work``, a folder a regime and seed, so an interrupted benchmark goes on. Owners of a domain
train on its documents; 10 % of the documents, by a hash of their text, are held out and never trained on.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

TEST_CHARACTERS = 8000
NEAR_SHARE = 0.08


@dataclass(frozen=True)
class Settings:
    """What one benchmark does; written into its result."""

    data: str
    public: tuple[str, ...]
    parties: tuple[str, ...]
    base_steps: int
    steps: int
    base_rate: float
    rate_far: float
    rate_near: float
    batch_size: int
    sequence_length: int
    vocabulary: int
    test_bytes: int
    anchor_share: float
    rank: int
    width: int
    pooled_seeds: int
    rows: tuple[str, ...]
    work: str

    @property
    def domains(self) -> tuple[str, ...]:
        return self.public + self.parties


def party_name(domain: str) -> str:
    return domain.lower().replace(" ", "-")


def documents(settings: Settings, domain: str) -> list[str]:
    with gzip.open(Path(settings.data) / f"{domain}.txt.gz", "rt", encoding="utf-8") as file:
        return [text for text in file.read().split("\f") if text.strip()]


def split(settings: Settings, domain: str) -> tuple[list[str], list[str]]:
    """Training and held-out documents; of the latter the first characters of each, up to the byte budget."""
    from quiltwork.party.fragment import is_held_out

    everything = documents(settings, domain)
    train = [text for text in everything if not is_held_out(text, 0.1)]
    test: list[str] = []
    size = 0
    for text in (t for t in everything if is_held_out(t, 0.1)):
        if size >= settings.test_bytes:
            break
        test.append(text[:TEST_CHARACTERS])
        size += len(test[-1].encode())
    return train, test


def public_text(settings: Settings) -> list[str]:
    return [text for domain in settings.public for text in split(settings, domain)[0]]


def base_text(settings: Settings, regime: str) -> list[str]:
    from quiltwork.party.fragment import is_held_out

    texts = public_text(settings)
    if regime == "near":
        for domain in settings.parties:
            texts += [t for t in split(settings, domain)[0] if is_held_out(t, NEAR_SHARE, "near")]
    return texts


def party_text(settings: Settings, domain: str, regime: str) -> list[str]:
    """An owner's training text. ``DOMAIN/0`` and ``DOMAIN/1`` are halves of a domain, by a hash of the document."""
    from quiltwork.party.fragment import is_held_out

    name, _, half = domain.partition("/")
    train = split(settings, name)[0]
    if half:
        train = [t for t in train if hashlib.sha256(t.encode()).digest()[0] % 2 == int(half)]
    return train if regime == "far" else [t for t in train if not is_held_out(t, NEAR_SHARE, "near")]


def plan(settings: Settings, *, steps: int, rate: float, seed: int) -> Any:
    from quiltwork.training.loop import TrainingPlan

    return TrainingPlan(
        steps=steps,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        learning_rate=rate,
        seed=seed,
    )


def rate(settings: Settings, regime: str) -> float:
    return settings.rate_far if regime == "far" else settings.rate_near


def place(settings: Settings, regime: str, seed: int) -> Path:
    return Path(settings.work) / f"{regime}-{seed}"


def train_base(settings: Settings, regime: str, seed: int) -> Path:
    """The tiny base of one regime and seed."""
    from quiltwork.files import new_directory
    from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
    from quiltwork.party.contribute import block_stream, tokenised
    from quiltwork.training.loop import train

    target = place(settings, regime, seed) / "base"
    if target.exists():
        return target
    texts = base_text(settings, regime)
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    size = TinySize(vocabulary=len(tokenizer), positions=max(512, settings.sequence_length))
    model = tiny_model("olmo2", size, seed=seed)
    steps = plan(settings, steps=settings.base_steps, rate=settings.base_rate, seed=seed)
    train(model, block_stream(partial(tokenised, texts, tokenizer), steps, 0), steps, label=f"{regime}-{seed} base")
    with new_directory(target) as partial_directory:
        model.save_pretrained(partial_directory)
        tokenizer.save_pretrained(partial_directory)
    return target


def train_party(
    settings: Settings, regime: str, seed: int, domain: str, folder: str, scopes: Sequence[Any], steps: int
) -> None:
    """One owner's contribution of some scopes, with exact histograms and moments, in ``folder``."""
    from quiltwork.evidence.release import ReleaseRule
    from quiltwork.files import write_file
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import Order, contribute
    from quiltwork.party.fragment import open_fragment

    here = place(settings, regime, seed)
    name = party_name(domain).replace("/", "-")
    if (here / folder / name).exists():
        return
    fragment = here / "fragments" / f"{name}.txt"
    if not fragment.exists():
        write_file(fragment, "\f".join(party_text(settings, domain, regime)))
    order = Order(
        party=name,
        scopes=tuple(scopes),
        plan=plan(settings, steps=steps, rate=rate(settings, regime), seed=seed),
        trigrams=ReleaseRule("exact"),
        moments="full",
    )
    began = time.monotonic()
    contribute(open_base(here / "base"), open_fragment([fragment]), here / folder / name, order)
    write_file(here / "seconds" / folder / f"{name}.json", json.dumps(time.monotonic() - began))


def train_pooled(settings: Settings, regime: str, seed: int) -> None:
    """A dense model on everybody's text together, for as many steps as all parties together."""
    from quiltwork.files import new_directory
    from quiltwork.models.base import open_base
    from quiltwork.party.contribute import block_stream, tokenised
    from quiltwork.training.loop import train

    here = place(settings, regime, seed)
    if (here / "pooled").exists():
        return
    base = open_base(here / "base")
    tokenizer = base.load_tokenizer()
    texts = public_text(settings)
    texts += [t for d in settings.parties for t in party_text(settings, d, regime)]
    # the stream's shuffle buffer is smaller than the pool: domain after domain, it would never reach the last ones
    random.Random(seed).shuffle(texts)
    steps = plan(settings, steps=settings.steps * len(settings.parties), rate=rate(settings, regime), seed=seed)
    model = base.load_model()
    train(model, block_stream(partial(tokenised, texts, tokenizer), steps, 0), steps, label=f"{regime}-{seed} pooled")
    with new_directory(here / "pooled") as partial_directory:
        model.save_pretrained(partial_directory)
        tokenizer.save_pretrained(partial_directory)
