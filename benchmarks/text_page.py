"""The text benchmark's figures over seeds, what was to be reached, and the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from text_parts import Settings, party_name

Rows = Mapping[str, Mapping[str, Any]]


def groups(settings: Settings) -> dict[str, list[str]]:
    private = [party_name(d) for d in settings.parties]
    public = [party_name(d) for d in settings.public]
    return {"private": private, "public": public, "all": public + private}


def combine(settings: Settings, runs: Sequence[Rows]) -> dict[str, Any]:
    """Means and standard deviations over the seeds that have a row."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    table = {name: _row(settings, [run.get(name) for run in runs]) for name in names}
    return {"methods": table, "seeds": len(runs)}


def _row(settings: Settings, seeds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    runs = [run for run in seeds if run is not None]
    domains = {
        d: dict(zip(("bpb", "bpb_std"), spread(run["bpb"][d] for run in runs), strict=True)) for d in runs[0]["bpb"]
    }
    row: dict[str, Any] = {
        "seeds": len(runs),
        "domains": domains,
        "active_params": statistics.fmean(run["active_params"] for run in runs),
        "total_params": statistics.fmean(run["total_params"] for run in runs),
        "seconds": statistics.fmean(run["seconds"] for run in runs),
    }
    for label, chosen in groups(settings).items():
        means = [run and statistics.fmean(run["bpb"][d] for d in chosen) for run in seeds]
        mean, std = spread(value for value in means if value is not None)
        row |= {f"mean_{label}": mean, f"mean_{label}_std": std, f"means_{label}": means}
    return row


def spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation where there are several values."""
    several = list(values)
    return statistics.fmean(several), statistics.stdev(several) if len(several) > 1 else None


def tree_spread(runs: Sequence[Any]) -> Any:
    """Nested tables of numbers, one a seed, as one table of [mean, standard deviation or None]."""
    if isinstance(runs[0], Mapping):
        return {key: tree_spread([run[key] for run in runs]) for key in runs[0] if all(key in run for run in runs)}
    return list(spread(runs))


# (regime, row, compared with, texts, at most)
TARGETS = (
    ("far", "evidence_ffn", "learned_rows", "private", -0.20),
    ("far", "evidence_full", "btm", "private", 0.02),
    ("far", "evidence_full", "base", "public", 0.01),
    ("far", "evidence_ffn", "base", "public", 0.01),
    ("far", "evidence_full", "pooled", "all", 0.0),
    ("near", "evidence_ffn", "learned_rows", "private", 0.0),
    ("near", "evidence_full", "btm", "private", 0.02),
)
HARM = 0.005
"""An owner who comes later may make no old domain worse by more."""


def targets(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that the project set out to reach, and whether it did; rows are compared over their common seeds."""
    checks: dict[str, dict[str, Any]] = {}
    for regime, one, other, label, limit in TARGETS:
        methods = result.get(regime, {}).get("methods", {})
        if one in methods and other in methods:
            pairs = zip(methods[one][f"means_{label}"], methods[other][f"means_{label}"], strict=True)
            common = [pair for pair in pairs if None not in pair]
            value = sum(ours for ours, _ in common) / sum(theirs for _, theirs in common) - 1
            texts = "all domains" if label == "all" else label
            checks[f"{regime}: {one} against {other}, {texts}"] = _check(value, limit)
    for method, parties in result.get("coming", {}).items():
        if method.startswith("evidence"):
            worst = max(figures["worst"][0] for figures in parties.values())
            checks[f"a later owner, {method}: harm to the worst old domain"] = _check(worst, HARM)
    return checks


def _check(value: float, limit: float) -> dict[str, Any]:
    return {"value": value, "limit": limit, "reached": value <= limit}


def page(settings: Settings, result: Mapping[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Text: experts of several owners, composed",
        "",
        "Bits per byte on held-out text, mean over seeds ± standard deviation; lower is better.",
        f"Machine: {result['machine']}. Command: `{result['command']}`.",
        f"Base: {settings.base_steps} steps; each party: {settings.steps} steps a scope of {settings.batch_size} x "
        f"{settings.sequence_length} tokens; pooled: {settings.steps * len(settings.parties)} steps.",
        "The first seeds come first: rows of one seed and rows of five differ by the seeds too, by about .01.",
        "",
        *result.get("remarks", []),
    ]
    for regime in ("far", "near"):
        if regime in result:
            lines += _methods(regime, result[regime])
    if "growth" in result:
        lines += _growth(result["growth"])
    if "coming" in result:
        lines += _coming(result["coming"])
    if "change" in result:
        lines += _change(result["change"])
    return "\n".join(lines + _targets(result["targets"])) + "\n"


def _methods(regime: str, result: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            name,
            *(pm(row[f"mean_{label}"], row[f"mean_{label}_std"]) for label in ("private", "public", "all")),
            f"{row['active_params'] / 1e6:.2f} M",
            f"{row['total_params'] / 1e6:.2f} M",
            str(row["seeds"]),
        ]
        for name, row in result["methods"].items()
    ]
    names = list(next(iter(result["methods"].values()))["domains"])
    domains = [[name, *(f"{row['domains'][d]['bpb']:.3f}" for d in names)] for name, row in result["methods"].items()]
    return [
        f"## {regime} regime",
        "",
        *table(["model", "private", "public", "all", "active", "total", "seeds"], rows),
        "",
        "By domain:",
        "",
        *table(["model", *names], domains),
        "",
    ]


def _growth(result: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, count, *(pm(*figures[kind]) if kind in figures else "–" for kind in ("covered", "uncovered", "public"))]
        for name, counts in result.items()
        for count, figures in counts.items()
    ]
    return [
        "## 2 to 16 owners",
        "",
        "Every private domain in two halves, an owner each; the first eight owners hold the first halves.",
        "",
        *table(["method", "owners", "domains that somebody covers", "others", "public"], rows),
        "",
    ]


def _coming(result: Mapping[str, Any]) -> list[str]:
    rows = [
        [method, party, *(f"{figures[kind][0]:+.2%}" for kind in ("worst", "mean", "own"))]
        for method, parties in result.items()
        for party, figures in parties.items()
    ]
    return [
        "## A fifth owner who comes later, or one who leaves",
        "",
        "Change of bits per byte by the presence of an owner: the composition of all five against that of the other",
        "four. Read it as arrival; leaving gives the same back.",
        "",
        *table(["method", "owner", "worst other domain", "mean of other domains", "its own domain"], rows),
        "",
    ]


def _change(result: Mapping[str, Any]) -> list[str]:
    places = list(next(iter(result.values())))
    rows = [[name, *(pm(*figures[place]) for place in places)] for name, figures in result.items()]
    return [
        "## Documents that change domain half-way, and mixed documents",
        "",
        "Bits a token: the first 128 tokens of one domain, then by place the 128 tokens of another; mixed documents",
        "take turns of 24 tokens.",
        "",
        *table(["model", *places], rows),
        "",
    ]


def _targets(checks: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f"{c['value']:+.2%}", f"{c['limit']:+.1%}", "yes" if c["reached"] else "no"]
        for name, c in checks.items()
    ]
    return ["## What was to be reached", "", *table(["figure", "measured", "at most", "reached"], rows)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *("| " + " | ".join(row) + " |" for row in rows)]


def pm(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {std:.3f}" if std is not None else "")
