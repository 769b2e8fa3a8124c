"""Owners of images: digits from sources with their own look, owners who hold other classes, and sites of other size.

Every task gives each owner images to train on and images to judge by, as float32 ``[n, 1, 16, 16]`` from 0 to 1. Rows
are drawn by the seed, so that seeds are other splits and other models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

SIDE = 16
TRAIN, TEST = 2000, 500
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Site:
    """One owner's images ``[n, 1, 16, 16]`` and labels ``[n]``."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Task:
    """Owners of one task.

    Attributes:
        name: of it.
        sites: by owner.
        classes: names, in the order of the labels.
        evidence_can_help: whether inputs tell the owners apart; where they do not, no summary of inputs can.
    """

    name: str
    sites: Mapping[str, Site]
    classes: tuple[str, ...]
    evidence_can_help: bool


def sources(data: Path, *owners: str) -> Callable[[int], Task]:
    """Owners of digits that were written and scanned elsewhere."""

    def made(seed: int) -> Task:
        sites = {owner: _site(*_source(data, owner), seed, owner) for owner in owners}
        return Task("-".join(owners), sites, DIGITS, evidence_can_help=True)

    return made


def looks(seed: int) -> Task:
    """The digits of scikit-learn, a third for each owner: as they are, inverted, and lying on their side."""
    images, labels = _installed()
    order = np.random.default_rng(seed).permutation(len(labels))
    thirds = dict(zip(("plain", "inverted", "turned"), np.array_split(order, 3), strict=True))
    look = {"plain": lambda x: x, "inverted": lambda x: 1 - x, "turned": lambda x: x.rot90(1, (2, 3))}
    sites = {o: _site(look[o](images[rows]), labels[rows], seed, o, test=150) for o, rows in thirds.items()}
    return Task("looks", sites, DIGITS, evidence_can_help=True)


def same_inputs(seed: int) -> Task:
    """Two halves of one set, where the second owner calls threes eights and eights threes: inputs tell nothing."""
    images, labels = _installed()
    halves = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    swapped = labels.clone()
    swapped[labels == 3], swapped[labels == 8] = 8, 3
    sites = {
        "usual": _site(images[halves[0]], labels[halves[0]], seed, "usual", test=200),
        "swapped": _site(images[halves[1]], swapped[halves[1]], seed, "swapped", test=200),
    }
    return Task("other meaning", sites, DIGITS, evidence_can_help=False)


def label_skew(data: Path) -> Callable[[int], Task]:
    """One source, where nine of ten of an owner's images are of its half of the classes."""

    def made(seed: int) -> Task:
        images, labels = _source(data, "mnist")
        draw = np.random.default_rng(seed)
        low, high = (draw.permutation(np.flatnonzero(mask)) for mask in (labels < 5, labels >= 5))
        many, few = (TRAIN + TEST) * 9 // 10, (TRAIN + TEST) // 10
        rows = {
            "low": np.concatenate([low[:many], high[:few]]),
            "high": np.concatenate([high[few : few + many], low[many : many + few]]),
        }
        sites = {owner: _site(images[at], labels[at], seed, owner) for owner, at in rows.items()}
        return Task("label skew", sites, DIGITS, evidence_can_help=False)

    return made


def pneumonia(data: Path) -> Callable[[int], Task]:
    """Chest X-rays of one hospital dealt to two sites, one of them with a tenth of the patients."""

    def made(seed: int) -> Task:
        with np.load(data / "pneumoniamnist" / "pneumoniamnist.npz") as file:
            parts = [(file[f"{part}_images"], file[f"{part}_labels"]) for part in ("train", "val")]
        images = _grey(np.concatenate([x for x, _ in parts]) / 255)
        labels = torch.from_numpy(np.concatenate([y for _, y in parts]).astype(np.int64))
        order = np.random.default_rng(seed).permutation(len(labels))
        tenth = 250 + 250
        sites = {
            "large": _site(images[order[tenth : tenth + 2750]], labels[order[tenth : tenth + 2750]], seed, "large"),
            "small": _site(images[order[:tenth]], labels[order[:tenth]], seed, "small", test=250),
        }
        return Task("pneumonia", sites, ("normal", "pneumonia"), evidence_can_help=False)

    return made


def tasks(data: Path | None) -> dict[str, Callable[[int], Task]]:
    """Every task by name; without a data folder, those of installed data alone."""
    found: dict[str, Callable[[int], Task]] = {"looks": looks, "other meaning": same_inputs}
    if data is None:
        return found
    names = ("optdigits", "semeion", "mfeat", "mnist")
    for first, one in enumerate(names):
        for other in names[first + 1 :]:
            found[f"{one}-{other}"] = sources(data, one, other)
    for three in (("semeion", "mfeat", "mnist"), ("optdigits", "semeion", "mfeat")):
        found["-".join(three)] = sources(data, *three)
    return found | {"label skew": label_skew(data), "pneumonia": pneumonia(data)}


def _site(images: Tensor, labels: Tensor, seed: int, owner: str, *, test: int = TEST) -> Site:
    """Rows to judge by and at most 2000 to train on, drawn by seed and owner."""
    rng = np.random.default_rng([seed, *owner.encode()])
    order = torch.from_numpy(rng.permutation(len(labels))[: test + TRAIN])
    judged, taught = order[:test], order[test:]
    return Site(images[taught].contiguous(), labels[taught], images[judged].contiguous(), labels[judged])


@cache
def _source(data: Path, name: str) -> tuple[Tensor, Tensor]:
    """All images and labels of one source, at 16 x 16."""
    if name == "optdigits":
        tables = [np.loadtxt(data / name / f"optdigits.{part}", delimiter=",", skiprows=1) for part in ("tra", "tes")]
        table = np.concatenate(tables)
        return _grey(table[:, :64].reshape(-1, 8, 8) / 16), torch.from_numpy(table[:, 64].astype(np.int64))
    if name == "semeion":
        table = np.loadtxt(data / name / "semeion.data")
        return _grey(table[:, :256].reshape(-1, 16, 16)), torch.from_numpy(table[:, 256:].argmax(1))
    with np.load(data / name / f"{name}.npz") as file:
        if name == "mfeat":
            return _grey(file["pix"].reshape(-1, 16, 15) / 6), torch.from_numpy(file["y"].astype(np.int64))
        draw = np.sort(np.random.default_rng(0).permutation(70_000)[:12_000])
        return _grey(file["x"][draw] / 255), torch.from_numpy(file["y"][draw].astype(np.int64))


@cache
def _installed() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return _grey(images.reshape(-1, 8, 8) / 16), torch.from_numpy(labels.astype(np.int64))


def _grey(images: NDArray[np.generic]) -> Tensor:
    """Images ``[n, h, w]`` from 0 to 1 as float32 ``[n, 1, 16, 16]``; larger ones are smoothed first."""
    x = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]
    if x.shape[-1] > SIDE:
        x = avg_pool2d(interpolate(x, size=(2 * SIDE, 2 * SIDE), mode="bilinear", align_corners=False), 2)
    return (
        x if x.shape[-2:] == (SIDE, SIDE) else interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    )
