"""Every composition of the text benchmark, by the name of its row.

Rows whose name ends in a scope are evidence mixtures of experts of that scope. Tuned rows start from a composition of
the same name and are tuned on public text alone; their stand-ins are chosen from the public training documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from text_parts import Settings, base_text, party_name, party_text, place, plan

DELTA = 1e-6
TUNING_STEPS = 100
STAND_INS = 64

# what a composer who knows the domains would write down for each; other domains have no prompts
PROMPTS = {
    "code_python": (
        "def read(path):\n    with open(path) as file:\n        return file.read()\n",
        "import os\n\nclass Queue:\n",
    ),
    "math_word": (
        "Anna has 12 apples. She gives 5 of them to Ben and buys 8 more. How many apples does she have?",
        "A train travels 60 miles in 2 hours. At the same speed, how far does it travel in 5 hours?",
    ),
    "medical_qa": (
        "What are the symptoms of pneumonia? Patients often have fever, cough and chest pain.",
        "Which drug is given first in the treatment of high blood pressure in adults with diabetes?",
    ),
    "law_german": (
        "Die Klage ist zulässig, aber unbegründet. Der Kläger hat keinen Anspruch auf Zahlung.",
        "§ 1 Dieses Gesetz gilt für Verträge, die nach seinem Inkrafttreten geschlossen werden.",
    ),
    "fiction": (
        '"You came back," she said, and looked past him into the rain. He put down the lamp and did not answer.',
        "The old man walked slowly along the shore, thinking of the house where he had been a child.",
    ),
}
GENERAL = (
    "The city lies on the river and was founded in the twelfth century.",
    "My fellow citizens, we meet today to speak of the future of our country.",
    "The force on a body equals its mass times its acceleration.",
)


def main_methods(parties: int) -> dict[str, Any]:
    """Compositions of ffn and full experts and histograms."""
    from quiltwork.compose.ensemble import Ensemble
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_evidence import PrefixEvidence
    from quiltwork.compose.router_rows import LearnedRows
    from quiltwork.compose.soup import Soup

    full = {
        "evidence_full": PrefixEvidence(),
        "evidence_full_k2": PrefixEvidence(top_k=2),
        "evidence_full_k2_t2": PrefixEvidence(top_k=2, temperature=2.0),
        "evidence_full_all_t4": PrefixEvidence(top_k=1 + parties, temperature=4.0),
        "evidence_full_tokens": PrefixEvidence(features="tokens"),
    }
    return {
        "soup": Soup(),
        "uniform_ensemble": Ensemble("uniform"),
        "btm": Ensemble("likelihood"),
        "learned_rows": MixtureOfExperts(LearnedRows()),
        "learned_rows_k2": MixtureOfExperts(LearnedRows(top_k=2)),
        "evidence_ffn": MixtureOfExperts(PrefixEvidence()),
        "evidence_ffn_tokens": MixtureOfExperts(PrefixEvidence(features="tokens")),
        **{name: MixtureOfExperts(router, scope="full") for name, router in full.items()},
    }


def router_methods(settings: Settings) -> dict[str, Any]:
    """Compositions by the other routers, and weight-space baselines."""
    from quiltwork.compose.btx import BTX
    from quiltwork.compose.dare import Dare
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_both import RowsAndEvidence
    from quiltwork.compose.router_evidence import PrefixEvidence
    from quiltwork.compose.router_lda import ResidualLDA
    from quiltwork.compose.router_prompts import PromptRows, Prompts
    from quiltwork.compose.task_arithmetic import TaskArithmetic
    from quiltwork.compose.ties import Ties

    rows: dict[str, Any] = {
        "residual_lda": ResidualLDA(),
        "residual_lda_t4": ResidualLDA(temperature=4.0),
        "residual_lda_rows_only": ResidualLDA(offsets=False),
        "evidence_rows": RowsAndEvidence(),
        "evidence_lda": RowsAndEvidence(rows=ResidualLDA(), share=0.25),
        "evidence_ffn_trigrams": PrefixEvidence(features="trigrams"),
        "evidence_ffn_unbounded": PrefixEvidence(bound=None),
        "evidence_ffn_switching": PrefixEvidence(switching=1e-4, temperature=2.0),
    }
    if set(settings.parties) <= set(PROMPTS):
        prompts = {party_name(d): Prompts(PROMPTS[d]) for d in settings.parties}
        rows["prompt_rows"] = PromptRows(prompts, negative=GENERAL, scale=4.0)
    return {
        **{name: MixtureOfExperts(router) for name, router in rows.items()},
        "evidence_full_trigrams": MixtureOfExperts(PrefixEvidence(features="trigrams"), scope="full"),
        "evidence_full_unbounded": MixtureOfExperts(PrefixEvidence(bound=None), scope="full"),
        "evidence_full_switching": MixtureOfExperts(PrefixEvidence(switching=1e-4, temperature=2.0), scope="full"),
        "task_arithmetic_0.4": TaskArithmetic(0.4),
        "ties": Ties(),
        "dare_linear": Dare(scale=1 / len(settings.parties)),
        "dare_ties": Dare(elect=True, scale=1.0),
        "btx": BTX(),
    }


def known(settings: Settings) -> list[str]:
    """Names of rows in the order of a page; rows that are tuned, or of one party alone, come after them."""
    return ["base", "pooled", *main_methods(len(settings.parties)), *router_methods(settings)]


def forgetting() -> dict[str, Any]:
    """Routers for texts that change domain."""
    from quiltwork.compose.ensemble import Ensemble
    from quiltwork.compose.mixture import MixtureOfExperts
    from quiltwork.compose.router_both import RowsAndEvidence
    from quiltwork.compose.router_evidence import PrefixEvidence
    from quiltwork.compose.router_rows import LearnedRows

    def evidence(scope: Any, **options: Any) -> Any:
        return MixtureOfExperts(PrefixEvidence(**options), scope=scope)

    ways: dict[str, dict[str, float]] = {"": {}}
    ways |= {f"_half_life_{n}": {"half_life": float(n)} for n in (20, 50)}
    ways |= {f"_switching_{a:g}": {"switching": a} for a in (1e-4, 1e-2)}
    ways["_switching_0.0001_t2"] = {"switching": 1e-4, "temperature": 2.0}
    return {
        **{f"evidence_full{way}": evidence("full", **options) for way, options in ways.items()},
        **{f"evidence_ffn{way}": evidence("ffn", **options) for way, options in ways.items()},
        "learned_rows": MixtureOfExperts(LearnedRows()),
        "evidence_rows": MixtureOfExperts(RowsAndEvidence()),
        "evidence_rows_switching_0.0001_t2": MixtureOfExperts(
            RowsAndEvidence(evidence=PrefixEvidence(switching=1e-4, temperature=2.0))
        ),
        "btm": Ensemble("likelihood"),
    }


def tuned(
    composites: Mapping[str, Any], contributions: Sequence[Any], settings: Settings, base: Any, regime: str, seed: int
) -> dict[str, Callable[[], Any]]:
    """Makers of tuned compositions, from the compositions of the same names.

    Public text is what the base has seen: some of it is of each party's kind in the near regime, none in the far one.
    """
    from quiltwork.compose.proxies import ProxyPlan, proxies
    from quiltwork.compose.tuning import TuningPlan, tune
    from quiltwork.party.contribute import tokenised

    tokenizer = base.load_tokenizer()
    public = base_text(settings, regime)
    ids = list(tokenised(public, tokenizer))
    training = plan(settings, steps=TUNING_STEPS, rate=settings.rate_near, seed=seed)

    def stand_ins(selection: Any) -> dict[str, Sequence[str]]:
        if selection == "none":
            return {"public": public}
        if selection == "classifier":
            return {"public": public} | _classified(settings, public, regime, seed)
        chosen = proxies(contributions, public, ids, base.separator, ProxyPlan(selection, STAND_INS))
        return {"public": public} | chosen

    def tuning(name: str, what: Any, selection: str) -> Callable[[], Any]:
        def make() -> Any:
            goal = TuningPlan(what, training, selection)
            return tune(composites[name], tokenizer, stand_ins(selection), goal)

        return make

    rows = {
        f"learned_rows tuned, {s}": tuning("learned_rows", "router", s)
        for s in ("none", "evidence", "dpp", "classifier")
    }
    return rows | {
        "learned_rows anchor": tuning("learned_rows", "anchor", "none"),
        "evidence_ffn anchor": tuning("evidence_ffn", "anchor", "none"),
        "btx tuned, none": tuning("btx", "router", "none"),
        "btx tuned, evidence": tuning("btx", "router", "evidence"),
        "btx all, evidence": tuning("btx", "all", "evidence"),
    }


def _classified(settings: Settings, public: Sequence[str], regime: str, seed: int) -> dict[str, list[str]]:
    from quiltwork.party.proxies import ProxyChoice, chosen_proxies

    choice = ProxyChoice(public, STAND_INS, seed=seed)
    return {party_name(d): chosen_proxies(party_text(settings, d, regime), choice) for d in settings.parties}


def private_rows(composite: Any, settings: Settings, regime: str, seed: int, epsilon: float) -> Any:
    """The same composite, routed by token histograms with Gaussian noise."""
    import numpy as np
    import torch

    from quiltwork.evidence.release import gaussian
    from quiltwork.models.sources import Source
    from quiltwork.models.tokenizer_files import load_tokenizer
    from quiltwork.party.contribute import tokenised

    tokenizer = load_tokenizer(place(settings, regime, seed) / "base")
    rows = {}
    for domain in settings.parties:
        ids = tokenised(party_text(settings, domain, regime), tokenizer)
        # a seeded generator, so that the benchmark repeats; a real release never uses one
        noise = np.random.default_rng([seed, int(epsilon), settings.parties.index(domain)])
        histogram, _ = gaussian(ids, len(tokenizer), epsilon, DELTA, rng=noise)
        rows[party_name(domain)] = Source.of(torch.from_numpy(histogram.log_probabilities()).float())
    assembly = composite.assembly
    holder = "router" if hasattr(assembly, "router") else "weighting"
    evidence = replace(getattr(assembly, holder), rows=rows)
    return replace(composite, assembly=replace(assembly, **{holder: evidence}))
