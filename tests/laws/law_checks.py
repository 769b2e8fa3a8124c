"""The laws of composing as functions that raise AssertionError, and the table of methods that must keep them.

Each check takes what it judges as arguments (a method, a composite, a directory), so that the tests can hand it a
deliberately broken one and see it refused.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quiltwork.compose.btx import BTX
from quiltwork.compose.dare import Dare
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows, Prompts
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.compose.statistics import PublicText
from quiltwork.compose.task_arithmetic import TaskArithmetic
from quiltwork.compose.ties import Ties
from quiltwork.composite import Composite, open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.errors import ExportError
from quiltwork.models.base import Base

FAMILIES = ("olmo2", "llama")
LAYOUTS = ("portable", "native")
PROMPTS = {
    "ash": Prompts(("the river and the ferry", "grey stones before noon")),
    "birch": Prompts(("def return yield", "import class"), ("the ferry",)),
    "cedar": Prompts(("the plaintiff and the court",)),
}
METHODS: Mapping[str, Method] = {
    "soup": Soup(),
    "task-arithmetic": TaskArithmetic(0.7),
    "ties": Ties(0.5, 0.9),
    "dare": Dare(0.6, seed=5),
    "dare-elect": Dare(0.6, elect=True),
    "btx": BTX(),
    "btx-top2": BTX(top_k=2, weights={"base": 2.0}),
    "uniform": Ensemble("uniform"),
    "likelihood": Ensemble("likelihood", temperature=2.0),
    "likelihood-top2": Ensemble("likelihood", top_k=2),
    "rows": MixtureOfExperts(LearnedRows()),
    "rows-top2": MixtureOfExperts(LearnedRows(top_k=2)),
    "rows-bias": MixtureOfExperts(LearnedRows(bias=True)),
    "rows-weighted": MixtureOfExperts(LearnedRows(), weights={"base": 2.0}),
    "lda": MixtureOfExperts(ResidualLDA(temperature=4.0)),
    "lda-plain": MixtureOfExperts(ResidualLDA(temperature=4.0, offsets=False, top_k=2)),
    "lda-public": MixtureOfExperts(ResidualLDA("public", temperature=4.0), weights={"base": 2.0}),
    "lda-public-plain": MixtureOfExperts(ResidualLDA("public", temperature=4.0, offsets=False)),
    "prompts": MixtureOfExperts(PromptRows(PROMPTS, ("a public page",))),
    "prompts-last": MixtureOfExperts(PromptRows(PROMPTS, ("a public page",), "last", top_k=2), weights={"base": 2.0}),
    "both": MixtureOfExperts(RowsAndEvidence(), weights={"base": 2.0}),
    "both-lda": MixtureOfExperts(RowsAndEvidence(ResidualLDA(top_k=2), PrefixEvidence("trigrams"), 0.25)),
    "both-bias": MixtureOfExperts(RowsAndEvidence(LearnedRows(bias=True), PrefixEvidence(switching=0.02), 0.5)),
    "evidence-ffn": MixtureOfExperts(PrefixEvidence()),
    "evidence-ffn-switching": MixtureOfExperts(PrefixEvidence("trigrams", switching=0.02, bound=2.0)),
    "evidence-ffn-tokens": MixtureOfExperts(PrefixEvidence(features="tokens", half_life=9.0, floor=0.5)),
    "evidence-ffn-top1": MixtureOfExperts(PrefixEvidence(floor=0.0, top_k=1)),
    "evidence-full": MixtureOfExperts(PrefixEvidence(), scope="full"),
    "evidence-full-tokens": MixtureOfExperts(
        PrefixEvidence(features="tokens", half_life=9.0, floor=0.5, top_k=2), scope="full"
    ),
}

SUMS = frozenset({"soup", "task-arithmetic", "ties", "dare", "dare-elect"})
"""Methods whose saved model is one dense model, a sum over the parties."""

SEPARABLE = tuple(name for name in METHODS if name not in SUMS | {"btx", "btx-top2"})
"""Methods whose saved model keeps every party apart."""

Composer = Callable[..., Composite]
Public = PublicText


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Permissions and content of every file below a directory, by relative name."""
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(p.relative_to(directory)): (stat.S_IMODE(p.stat().st_mode), p.read_bytes()) for p in found}


def assert_same_files(one: Path, other: Path) -> None:
    """Both directories hold the same files with the same bytes and permissions."""
    left, right = files(one), files(other)
    assert left, f"{one} is empty"
    assert sorted(left) == sorted(right)
    different = [name for name in left if left[name] != right[name]]
    assert not different, f"these files differ: {different}"


def layouts_of(composite: Composite) -> list[str]:
    """The layouts that can hold a composite."""

    def holds(layout: str) -> bool:
        try:
            composite.checkpoint(layout)  # type: ignore[arg-type]
        except ExportError:
            return False
        return True

    return [layout for layout in LAYOUTS if holds(layout)]


def check_opt_out(
    contributions: Sequence[Contribution], method: Method, base: Base, public: Public, party: str, place: Path
) -> None:
    """compose(S).without(p) == compose(S - {p}), byte for byte in every layout that holds the model."""
    left = compose(contributions, method, base, public=public).without(party)
    right = compose([c for c in contributions if c.party != party], method, base, public=public)
    assert left.parties == right.parties
    assert layouts_of(left) == layouts_of(right)
    for layout in layouts_of(right):
        left.save(place / f"without-{layout}", layout=layout)  # type: ignore[arg-type]
        right.save(place / f"never-{layout}", layout=layout)  # type: ignore[arg-type]
        assert_same_files(place / f"without-{layout}", place / f"never-{layout}")


def check_opt_out_from_disk(
    contributions: Sequence[Contribution], method: Method, base: Base, public: Public, party: str, place: Path
) -> None:
    """open(save(compose(S))).without(p) == compose(S - {p}), byte for byte, from the directory alone."""
    whole = compose(contributions, method, base, public=public)
    rest = compose([c for c in contributions if c.party != party], method, base, public=public)
    for layout in layouts_of(whole):
        whole.save(place / f"whole-{layout}", layout=layout)  # type: ignore[arg-type]
        opened = open_composite(place / f"whole-{layout}")
        opened.without(party).save(place / f"removed-{layout}", layout=layout)  # type: ignore[arg-type]
        rest.save(place / f"rest-{layout}", layout=layout)  # type: ignore[arg-type]
        assert_same_files(place / f"removed-{layout}", place / f"rest-{layout}")


def check_order(
    permutations: Sequence[Sequence[Contribution]],
    method: Method,
    base: Base,
    public: Public,
    place: Path,
    composer: Composer = compose,
) -> None:
    """Composing a permutation of S gives the same bytes."""
    for number, permutation in enumerate(permutations):
        composer(permutation, method, base, public=public).save(place / str(number))
        assert_same_files(place / "0", place / str(number))


def check_same_function(one: Any, other: Any, ids: Tensor, *, tolerance: float = 2e-5) -> None:
    """Two models predict the same distribution after every prefix (largest difference of log-probabilities)."""
    with torch.no_grad():
        left = one(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
        right = other(input_ids=ids, use_cache=False).logits.double().log_softmax(-1)
    difference = float((left - right).abs().max())
    assert difference <= tolerance, f"log-probabilities differ by {difference}"


def load(directory: Path, **options: Any) -> Any:
    """A checkpoint as any user loads it; refuses missing, unexpected and mis-shaped keys.

    Its tensors are then laid out in memory as any others are: those of a mapped file begin anywhere, and torch adds
    them up in another order where they do not begin at a multiple of 64 bytes.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {sorted(info[kind])}"
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.eval()


def check_round_trip(
    composite: Composite, layout: str, ids: Tensor, place: Path, loader: Callable[..., Any] = load
) -> None:
    """The saved checkpoint, loaded, gives the logits of the composite's own model, and every key finds its place."""
    composite.save(place, layout=layout)  # type: ignore[arg-type]
    check_same_function(loader(place), composite.model(), ids, tolerance=0.0 if layout == "native" else 2e-6)


def predictions(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    """Log-probabilities ``[batch, tokens, vocabulary]`` in float64."""
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits.double().log_softmax(-1)


def some_ids(base: Base, *, batch: int = 2, tokens: int = 14, seed: int = 0) -> Tensor:
    """Random token ids without the separator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, base.vocabulary_size, (batch, tokens), generator=generator)


def renamed(contribution: Contribution, party: str, place: Path, **changes: Any) -> Contribution:
    """The same release under another party's name; further fields of the draft can be changed."""
    manifest = contribution.manifest
    draft = Draft(
        party=party,
        base=manifest.base,
        method=manifest.method,
        tensors={name: contribution.tensor(name) for name in contribution.tensor_names()},
        licence=manifest.licence,
        training=manifest.training,
        statistics=manifest.statistics,
        privacy=manifest.privacy,
        card=manifest.card,
    )
    return write(place, replace(draft, **changes))


def without_difference(contribution: Contribution, base: Base) -> dict[str, Tensor]:
    """The contribution's tensors with every expert set to the base: zero deltas, the base's own FFN."""
    tensors = {name: contribution.tensor(name) for name in contribution.tensor_names()}
    for name in contribution.tensor_names("full."):
        tensors[name] = torch.zeros_like(tensors[name])
    for (layer, role), source in base.ffn().items():
        tensors[f"ffn.layers.{layer}.{role}.weight"] = source.load()
    return tensors
