"""A small consortium of honest owners, and contributions planted to do harm or to cheat.

Four owners and the public each write sentences that follow a chain of their own through common and own words, so that
there is something to learn that the others do not know. Everything follows from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quiltwork.compose.alone import Alone
from quiltwork.compose.method import compose
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base, open_base
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer
from quiltwork.party.contribute import Order, contribute, text_histograms
from quiltwork.party.fragment import open_fragment
from quiltwork.party.scopes import FFNScope, FullScope
from quiltwork.training.loop import TrainingPlan

OWNERS = ("ash", "birch", "cedar", "elm")
VICTIM = "birch"
_COMMON = "the of and to in a is that for it as was with be by on not he his but"
_OWN = {
    "ash": "river stone ferry water bank boat tide shore",
    "birch": "def return yield class lambda raise except while",
    "cedar": "court appeal statute verdict clause tort bail brief",
    "elm": "dose fever nurse ward scan blood nerve organ",
    "public": "page world news day year city people time",
}
TRAINED, HELD_OUT = 60, 24


def texts(name: str, seed: int, count: int) -> list[str]:
    """Documents of somebody; the same chain for every seed, other walks."""
    words = f"{_COMMON} {_OWN[name]}".split()
    follows = dict(zip(words, random.Random(name).sample(words, len(words)), strict=True))
    draw = random.Random(f"{name} {seed}")
    found = []
    for _ in range(count):
        walk = [draw.choice(words)]
        while len(walk) < 30 + draw.randrange(12):
            walk.append(follows[walk[-1]] if draw.random() < 0.75 else draw.choice(words))
        found.append(" ".join(walk) + ".")
    return found


@dataclass(frozen=True)
class World:
    """One consortium.

    Attributes:
        place: directory for its files.
        seed: of everything.
        family: of its base.
    """

    place: Path
    seed: int = 0
    family: str = "llama"

    @cached_property
    def base(self) -> Base:
        """A base that has seen public text, in which there is a little of everything."""
        everything = [text for name in _OWN for text in texts(name, 100 + self.seed, 10)]
        tokenizer = train_tokenizer(everything, 320)
        size = TinySize(vocabulary=len(tokenizer), hidden=32, intermediate=48, layers=2, heads=4, positions=128)
        start = self.place / "start"
        tiny_model(self.family, size, seed=self.seed, tie=self.family == "olmo2").save_pretrained(start)
        tokenizer.save_pretrained(start)
        # a base worth starting from has seen a little of everything
        seen = [text for name in OWNERS for text in texts(name, 200 + self.seed, 6)]
        documents = texts("public", self.seed, TRAINED) + seen
        learned = self._contribute(open_base(start), "public", documents, (FullScope(),), 60)
        compose([learned], Alone(), open_base(start)).save(self.place / "base", layout="portable")
        return open_base(self.place / "base")

    def _contribute(self, base: Base, party: str, documents: list[str], scopes: Any, steps: int) -> Contribution:
        fragment = self.place / f"{party}-{len(list(self.place.iterdir()))}.txt"
        fragment.write_text("\f".join(documents), encoding="utf-8")
        plan = TrainingPlan(steps=steps, batch_size=8, sequence_length=32, learning_rate=5e-3, seed=self.seed)
        order = Order(party=party, scopes=scopes, plan=plan)
        with torch.enable_grad():
            return contribute(base, open_fragment([fragment]), fragment.with_suffix(""), order, force_cpu=True)

    def trained(self, party: str, documents: list[str]) -> Contribution:
        """What an owner of these documents hands over, in good faith."""
        return self._contribute(self.base, party, documents, (FFNScope(bias=-0.1), FullScope()), 40)

    @cached_property
    def honest(self) -> dict[str, Contribution]:
        """One contribution of each owner."""
        return {name: self.trained(name, texts(name, self.seed, TRAINED)) for name in OWNERS}

    @cached_property
    def public(self) -> Mapping[str, TokenHistogram]:
        """What describes public text."""
        return text_histograms(self.base, texts("public", self.seed, TRAINED))

    @cached_property
    def held_out(self) -> HeldOut:
        """Text of every owner and public text, none of it trained on."""
        names = (*OWNERS, "public")
        return HeldOut({name: texts(name, 1000 + self.seed, HELD_OUT) for name in names}, OWNERS, max_length=64)

    def altered(
        self, original: Contribution, change: Callable[[str, torch.Tensor], torch.Tensor], party: str | None = None
    ) -> Contribution:
        """A contribution whose tensors went through ``change(name, tensor)``, under its own name or another."""
        manifest: Any = original.manifest
        draft = Draft(
            party=party or original.party,
            base=manifest.base,
            method=manifest.method,
            tensors={name: change(name, original.tensor(name)) for name in original.tensor_names()},
            licence=manifest.licence,
            training=manifest.training,
            statistics=manifest.statistics,
            privacy=list(manifest.privacy),
            card=manifest.card,
        )
        return write(self.place / f"altered-{len(list(self.place.iterdir()))}", draft)


# What is planted ------------------------------------------------------------


def is_weight(name: str) -> bool:
    """Whether a tensor is of an expert."""
    return name.startswith(("ffn.", "full.")) and ".router." not in name


def scaled(world: World, factor: float) -> Contribution:
    """The victim's name on weights that are its own, times a factor."""
    return world.altered(world.honest[VICTIM], lambda name, t: t * factor if is_weight(name) else t)


def copied(world: World, noise: float) -> Contribution:
    """The victim's contribution under another name, with noise relative to each tensor's size."""
    draw = torch.Generator().manual_seed(world.seed)

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not noise:
            return tensor
        change = noise * tensor.abs().mean() * torch.randn(tensor.shape, generator=draw, dtype=tensor.dtype)
        if is_weight(name):
            change = change * (0.1 if name.startswith("ffn.") else 1.0)  # of the change, not of the weights
            return tensor + change
        return (tensor + (tensor > 0) * change).clamp(min=0) if name.endswith(".counts") else tensor + change

    return world.altered(world.honest[VICTIM], change, party="fir")


def label_noise(world: World) -> Contribution:
    """An expert that was trained on letters in random order, under the victim's own histograms."""
    draw = random.Random(world.seed)
    shuffled = ["".join(draw.sample(text, len(text))) for text in texts(VICTIM, world.seed, TRAINED)]
    expert, own = world.trained(VICTIM, shuffled), world.honest[VICTIM]
    return world.altered(expert, lambda name, t: own.tensor(name) if name.endswith(".counts") else t)


def greedy(world: World, factor: float) -> Contribution:
    """Public counts with spikes on what is commonest at each other owner, times a factor; the weights are its own."""

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if not name.endswith(".counts"):
            return tensor
        counts = world.public[name.removesuffix(".counts")].counts.copy()
        for owner, honest in world.honest.items():
            if owner != VICTIM:
                theirs = honest.tensor(name).numpy()
                commonest = np.argsort(theirs)[-40:]
                counts[commonest] += theirs[commonest]
        return torch.from_numpy(counts * factor)

    return world.altered(world.honest[VICTIM], change)
