"""Four small architectures that owners train apart, and what they are compared with: pooled, averaged, distilled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.utils.data import DataLoader, TensorDataset

BATCH, RATE = 64, 2e-3
STEPS: Mapping[str, int] = {"cnn": 500, "residual": 500, "vit": 1200, "mixer": 1200}
"""Optimiser steps, fewer owners' rows or more: those after which an architecture no longer gains much."""
ROUNDS = 15


def cnn(classes: int) -> nn.Module:
    """Two stages of plain convolutions."""

    def layer(inside: int, outside: int, *, shrink: bool = False) -> nn.Module:
        parts = [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*parts, *([nn.MaxPool2d(2)] if shrink else []))

    return nn.Sequential(
        layer(1, 16), layer(16, 24, shrink=True), layer(24, 32), layer(32, 48, shrink=True),
        nn.Flatten(), nn.Linear(48 * 16, 48), nn.ReLU(), nn.Linear(48, classes),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions with normalisation, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def residual(classes: int) -> nn.Module:
    """A residual network."""

    def down(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU())

    stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, classes))
    return nn.Sequential(stem, Residual(16), down(16, 32), Residual(32), down(32, 48), Residual(48), *head)


class Patches(nn.Module):
    """Patches of 4 x 4 as tokens ``[n, 16, width]``, with learned places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(1, width, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 16, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2) + self.place


class TokenMean(nn.Module):
    """The mean token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean(dim=1)


class Attention(nn.Module):
    """A transformer block, normalised first."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.first, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


def vit(classes: int) -> nn.Module:
    """A small vision transformer."""
    return nn.Sequential(
        Patches(48), Attention(48), Attention(48), Attention(48), TokenMean(48), nn.Linear(48, classes)
    )


class Mixing(nn.Module):
    """A mixer block: one layer over places, one over channels."""

    def __init__(self, width: int, tokens: int = 16) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.second(x))


def mixer(classes: int) -> nn.Module:
    """A small mixer."""
    return nn.Sequential(Patches(48), Mixing(48), Mixing(48), Mixing(48), TokenMean(48), nn.Linear(48, classes))


ARCHITECTURES: Mapping[str, Callable[[int], nn.Module]] = {
    "cnn": cnn, "residual": residual, "vit": vit, "mixer": mixer,
}  # fmt: skip


def made(architecture: str, classes: int, seed: int) -> nn.Module:
    """A network at its start."""
    torch.manual_seed(seed)
    return ARCHITECTURES[architecture](classes)


def trained(architecture: str, classes: int, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """A network trained on labels: AdamW with a cosine; in eval mode."""
    module = made(architecture, classes, seed)
    return _fitted(module, x, y, seed, STEPS[architecture], lambda logits, _, labels: cross_entropy(logits, labels))


def distilled(
    architecture: str, classes: int, teacher: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, seed: int
) -> nn.Module:
    """One network taught by probabilities ``teacher(x)`` and, half and half, by the labels of one owner."""

    def loss(logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher(rows)
        return 0.5 * kl_div(log_softmax(logits, -1), target, reduction="batchmean") + 0.5 * cross_entropy(
            logits, labels
        )

    return _fitted(made(architecture, classes, seed), x, y, seed, STEPS[architecture], loss)


def averaged(
    architecture: str, classes: int, sites: Sequence[tuple[Tensor, Tensor]], seed: int, rounds: int = ROUNDS
) -> nn.Module:
    """FedAvg (McMahan et al. 2017): an epoch at each owner a round, weights by rows."""
    module = made(architecture, classes, seed)
    rows = sum(len(y) for _, y in sites)
    for round_ in range(rounds):
        states = []
        for number, (x, y) in enumerate(sites):
            local = made(architecture, classes, seed)
            local.load_state_dict(module.state_dict())
            rate = RATE * (1 - round_ / rounds)
            states.append((len(y) / rows, _epoch(local, x, y, rate, seed * 1000 + round_ * 10 + number).state_dict()))
        module.load_state_dict(_mean(states))
    return module.eval()


def souped(modules: Sequence[nn.Module], like: nn.Module) -> nn.Module:
    """The plain mean of weights; of networks that started apart."""
    like.load_state_dict(_mean([(1 / len(modules), module.state_dict()) for module in modules]))
    return like.eval()


def accuracy(answers: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest answer is the label."""
    return float((answers.argmax(-1) == labels).double().mean())


@torch.no_grad()
def probabilities(module: nn.Module, x: Tensor) -> Tensor:
    """Probabilities ``[n, k]``."""
    return softmax(module.eval()(x), -1)


def _mean(states: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    first = states[0][1]
    return {
        name: sum(weight * state[name] for weight, state in states) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _loader(x: Tensor, y: Tensor, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(x, y), BATCH, shuffle=True, generator=order, drop_last=len(y) > BATCH)


def _epoch(module: nn.Module, x: Tensor, y: Tensor, rate: float, seed: int) -> nn.Module:
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3)
    for rows, labels in _loader(x, y, seed):
        optimiser.zero_grad()
        cross_entropy(module(rows), labels).backward()
        optimiser.step()
    return module


def _fitted(
    module: nn.Module, x: Tensor, y: Tensor, seed: int, steps: int, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> nn.Module:
    module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=1e-3)
    loader = _loader(x, y, seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for rows, labels in islice(chain.from_iterable(repeat(loader)), steps):
        optimiser.zero_grad()
        loss(module(rows), rows, labels).backward()
        optimiser.step()
        schedule.step()
    return module.eval()
