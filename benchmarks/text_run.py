"""What the text benchmark scores in one regime and seed: sections of rows, each row once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import text_change
import text_growth
import text_methods
from text_parts import Settings, party_name, place, public_text, split, train_base, train_party, train_pooled

MORE = ("academic", "reddit", "shakespeare")
"""Further private domains for 16 owners, where the folder has them."""


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def train_main(settings: Settings, regime: str, seed: int) -> None:
    """Base, contributions of the main rows, and for the first seeds the pooled model."""
    from quiltwork.party.scopes import FFNScope, FullScope

    train_base(settings, regime, seed)
    for domain in settings.parties:
        scopes = (FFNScope(anchor_share=settings.anchor_share), FullScope())
        train_party(settings, regime, seed, domain, "contributions", scopes, settings.steps)
    if seed < (settings.pooled_seeds if regime == "far" else 1):
        train_pooled(settings, regime, seed)


def scopes(settings: Settings) -> dict[str, Any]:
    """Scopes beside ffn and full, by the folder of their contributions."""
    from quiltwork.party.lora import LoRAScope
    from quiltwork.party.scopes import FFNScope, LowRankScope

    return {
        "lowrank": LowRankScope(rank=settings.rank, anchor_share=settings.anchor_share),
        "narrow": FFNScope(anchor_share=settings.anchor_share, width=settings.width),
        "lora": LoRAScope(rank=settings.rank),
    }


class Bench:
    """One regime and seed: what is composed of, and rows that are scored once."""

    def __init__(self, settings: Settings, regime: str, seed: int) -> None:
        from quiltwork.contribution.store import read
        from quiltwork.models.base import open_base

        self.settings, self.regime, self.seed = settings, regime, seed
        self.here = place(settings, regime, seed)
        self.base = open_base(self.here / "base")
        self.tokenizer = self.base.load_tokenizer()
        self.parties = tuple(party_name(d) for d in settings.parties)
        self.contributions = [read(self.here / "contributions" / party) for party in self.parties]
        self.public = public_statistics(settings, self.base)
        self.held_out = {party_name(d): split(settings, d)[1] for d in settings.domains}

    def compose(self, method: Any, contributions: Sequence[Any] | None = None) -> Any:
        from quiltwork.compose.method import compose

        return compose(contributions or self.contributions, method, self.base, public=self.public)

    def row(self, name: str, build: Callable[[], Any]) -> dict[str, Any]:
        """The scores of a model, from the folder if it has been scored before."""
        from quiltwork.evaluate.matrix import HeldOut, run
        from quiltwork.files import write_file

        kept = self.here / "rows" / f"{name.replace(' ', '_')}.json"
        with suppress(FileNotFoundError):
            return dict(json.loads(kept.read_text()))
        say(f"{self.regime}-{self.seed}: scoring {name}")
        held_out = HeldOut(self.held_out, self.parties, max_length=self.settings.sequence_length)
        row = run(build(), self.tokenizer, held_out, prefix=self.base.separator).row
        scored = {
            "name": name,
            "bpb": {d: cell.value for d, cell in row.domains.items()},
            "active_params": row.active_params,
            "total_params": row.total_params,
            "seconds": round(row.seconds, 1),
        }
        write_file(kept, json.dumps(scored))
        return scored

    def rows(self, methods: Mapping[str, Any], contributions: Sequence[Any] | None = None) -> dict[str, Any]:
        return {name: self.row(name, lambda m=m: self.compose(m, contributions).model()) for name, m in methods.items()}


def public_statistics(settings: Settings, base: Any) -> Any:
    """What describes the public training text: histograms and residual moments."""
    from quiltwork.party.contribute import text_histograms, text_moments

    texts = public_text(settings)
    return text_histograms(base, texts) | {"moments": text_moments(base, texts)}


def main_rows(bench: Bench) -> dict[str, Any]:
    from quiltwork.compose.alone import Alone
    from quiltwork.models.base import open_base

    methods = text_methods.main_methods(len(bench.parties))
    builders: dict[str, Callable[[], Any]] = {"base": bench.base.load_model}
    builders |= {name: lambda m=m: bench.compose(m).model() for name, m in methods.items()}
    for name in ("evidence_ffn", "evidence_full"):
        for epsilon in (1, 8):
            builders[f"{name}_eps{epsilon}"] = lambda m=methods[f"{name}_tokens"], e=epsilon: text_methods.private_rows(
                bench.compose(m), bench.settings, bench.regime, bench.seed, e
            ).model()
    if (bench.here / "pooled").exists():
        builders["pooled"] = open_base(bench.here / "pooled").load_model
    for one in bench.contributions:
        builders[f"alone:{one.party}"] = lambda one=one: bench.compose(Alone(), [one]).model()
    wanted = bench.settings.rows or tuple(builders)
    return {name: bench.row(name, build) for name, build in builders.items() if name in wanted}


def tuned_rows(bench: Bench) -> dict[str, Any]:
    methods = text_methods.main_methods(len(bench.parties)) | text_methods.router_methods(bench.settings)
    composites = {name: bench.compose(methods[name]) for name in ("learned_rows", "evidence_ffn", "btx")}
    made = text_methods.tuned(composites, bench.contributions, bench.settings, bench.base, bench.regime, bench.seed)
    return {name: bench.row(name, lambda make=make: make().model()) for name, make in made.items()}


def scope_rows(bench: Bench) -> dict[str, Any]:
    """Evidence mixtures of experts of the other scopes, trained, and of low rank after the fact."""
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_evidence import PrefixEvidence
    from quiltwork.contribution.store import read

    settings, rows = bench.settings, {}
    for folder, scope in scopes(settings).items():
        for domain in settings.parties:
            train_party(settings, bench.regime, bench.seed, domain, folder, [scope], settings.steps)
        given = [read(bench.here / folder / party) for party in bench.parties]
        of = "full" if folder == "lora" else "ffn"
        rows |= bench.rows({f"evidence_{folder}": MixtureOfExperts(PrefixEvidence(), scope=of)}, given)
    return rows


def coming(bench: Bench) -> dict[str, Any]:
    methods = text_methods.main_methods(len(bench.parties))
    result = {}
    for name in ("soup", "learned_rows", "evidence_ffn", "evidence_full", "evidence_full_k2_t2"):
        composed = bench.compose(methods[name])

        def without(party: str, name: str = name, composed: Any = composed) -> Mapping[str, float]:
            scored = bench.row(f"{name}-without-{party}", lambda: composed.without(party).model())
            return dict(scored["bpb"])

        full = bench.row(name, composed.model)["bpb"]
        result[name] = text_growth.coming_and_going(
            bench.parties, full, without, lambda m, name=name: say(f"{name} {m}")
        )
    return result


def growth(bench: Bench) -> dict[str, Any]:
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_evidence import PrefixEvidence
    from quiltwork.compose.router_rows import LearnedRows
    from quiltwork.compose.soup import Soup

    settings = bench.settings
    more = [d for d in MORE if d not in settings.domains and (Path(settings.data) / f"{d}.txt.gz").exists()]
    domains = [*settings.parties, *more]
    text_growth.train_owners(settings, bench.seed, domains)
    methods = {
        "soup": Soup(),
        "learned_rows": MixtureOfExperts(LearnedRows()),
        "evidence_ffn": MixtureOfExperts(PrefixEvidence()),
        "evidence_full": MixtureOfExperts(PrefixEvidence(), scope="full"),
        "evidence_full_k2_t2": MixtureOfExperts(PrefixEvidence(top_k=2, temperature=2.0), scope="full"),
    }
    from quiltwork.evaluate.bits_per_byte import score

    def scored(composite: Any, held_out: Mapping[str, Sequence[str]]) -> Mapping[str, float]:
        model = composite.model()
        options: dict[str, Any] = {"prefix": bench.base.separator, "max_length": settings.sequence_length}
        return {d: score(model, bench.tokenizer, texts, **options).bits_per_byte for d, texts in held_out.items()}

    return text_growth.many(settings, bench.seed, domains, methods, bench.public, scored, say)


def change(bench: Bench) -> dict[str, Any]:
    from quiltwork.compose.alone import Alone

    builders: dict[str, Callable[[], Any]] = {"base": bench.base.load_model}
    builders |= {n: lambda m=m: bench.compose(m).model() for n, m in text_methods.forgetting().items()}
    experts: dict[str, Callable[[], Any]] = {party_name(d): bench.base.load_model for d in bench.settings.public}
    experts |= {c.party: lambda c=c: bench.compose(Alone(), [c]).model() for c in bench.contributions}
    return text_change.measure(
        builders, experts, bench.held_out, bench.tokenizer, bench.base.separator, count=12, seed=bench.seed, said=say
    )


ROWS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "methods": main_rows,
    "routers": lambda bench: bench.rows(text_methods.router_methods(bench.settings)),
    "tuned": tuned_rows,
    "scopes": scope_rows,
}


def kept(settings: Settings, regime: str, seed: int) -> dict[str, Any]:
    """Whatever has been scored of one regime and seed."""
    order = {f"{name}.json": at for at, name in enumerate(text_methods.known(settings))}
    folder = place(settings, regime, seed) / "rows"
    files = sorted(folder.glob("*.json"), key=lambda path: (order.get(path.name, len(order)), path.name))
    found: dict[str, Any] = {path.stem.removeprefix("section-"): json.loads(path.read_text()) for path in files}
    rows = {row["name"]: row for row in found.values() if "name" in row and "-without-" not in row["name"]}
    return ({"rows": rows} if rows else {}) | {name: found[name] for name in TREES if name in found}


TREES: Mapping[str, Callable[[Bench], dict[str, Any]]] = {"coming": coming, "growth": growth, "change": change}
