"""The page of the reduction benchmark: what was to be reached, and one table a section."""

from __future__ import annotations

from typing import Any

REFERENCE = {
    "source": "reference implementation (public repository of arXiv 2312.09877) under Octave, one other data seed, "
    "N = 100 000, M = 64, no bad fit; recorded, not run here",
    "global": {"loglik_per_row": -2.4241, "rpe": 0.1174, "parameter_error": 0.0009, "cpu_seconds": 220.0},
    "reduction": {"loglik_per_row": -2.5149, "rpe": 0.160, "parameter_error": 0.150, "cpu_seconds": 227.0},
    "truth": {"loglik_per_row": -2.4234},
    "mm_step_seconds": 0.71,
}


# What was to be reached ----------------------------------------------------------


def targets(design: str, sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    checks: dict[str, dict[str, Any]] = {}
    if design != "paper":
        return checks
    runs = sections["paper"]["seeds"]

    def add(name: str, values: list[float], limit: float) -> None:
        checks[name] = {"values": values, "limit": limit, "reached": max(values) <= limit}

    def each(method: str, measure: str) -> list[float]:
        return [run[method][measure] for run in runs]

    def ratio(one: list[float], other: list[float]) -> list[float]:
        return [a / b for a, b in zip(one, other, strict=True)]

    level, best = each("reduction", "loglik_per_row"), each("global", "loglik_per_row")
    add("log-likelihood per row below the global fit", [b - a for a, b in zip(level, best, strict=True)], 0.002)
    add(
        "RPE against the global fit's, relative",
        [r - 1 for r in ratio(each("reduction", "rpe"), each("global", "rpe"))],
        0.01,
    )
    if "bad_effect" in runs[0]["reduction"]:
        add("change by the bad fits, nats per row", [abs(v) for v in each("reduction", "bad_effect")], 1e-12)
    slowest = ratio(each("reduction", "learning_cpu_seconds"), each("global", "cpu_seconds"))
    total = ratio(each("reduction", "cpu_seconds"), each("global", "cpu_seconds"))
    add("slowest local and composition against the global fit, CPU", slowest, 1 / 20)
    add("all locals and composition against the global fit, CPU", total, 1.0)
    add("global fit, CPU seconds", each("global", "cpu_seconds"), REFERENCE["global"]["cpu_seconds"] / 10)
    return checks


# The page ------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Reduction: the {result['design']} design",
        "",
        f"Mean over {result['n_seeds']} seed(s) ± standard deviation. Machine: {result['machine']}. "
        f"Command: `{result['command']}`.",
        "",
        "`below global`: nats per row under the fit on all rows, 0 is as good. `CPU`: all local contributions and the",
        "composition. `learning`: slowest local contribution and the composition, CPU. Nothing that is sent is a row.",
    ]
    for name, section in result["sections"].items():
        lines += ["", f"## {name}", "", *_table(section["results"], section["seeds"])]
        lines += _advice(section["seeds"])
    if result["targets"]:
        lines += ["", "## What was to be reached", "", "| figure | by seed | at most | reached |", "|---|---|---|---|"]
        for name, check in result["targets"].items():
            values = ", ".join(f"{v:.3g}" for v in check["values"])
            lines.append(f"| {name} | {values} | {check['limit']:.3g} | {'yes' if check['reached'] else '**no**'} |")
    if result["design"] == "paper":
        g, r = REFERENCE["global"], REFERENCE["reduction"]
        lines += ["", f"For orientation, {REFERENCE['source']}: global {g['loglik_per_row']}, {g['cpu_seconds']:.0f} "
                  f"CPU s; aggregate {r['loglik_per_row']}, RPE {r['rpe']}, {r['cpu_seconds']:.0f} CPU s."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _table(results: dict[str, Any], runs: list[dict[str, Any]]) -> list[str]:
    head = (
        "method",
        "log-lik / row",
        "below global",
        "RPE",
        "param. error",
        "ARI",
        "CPU s",
        "learning s",
        "bytes sent",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    best = results["global.loglik_per_row"]["mean"]
    for name in runs[0]:
        if "refused" in runs[0][name]:
            lines.append(f"| {name} | refused: {runs[0][name]['refused'].splitlines()[0]} |" + " |" * (len(head) - 2))
            continue
        level = results[f"{name}.loglik_per_row"]
        cells = [_pm(level, 4), f"{best - level['mean']:.4f}"]
        cells += [_pm(results.get(f"{name}.{m}"), 4) for m in ("rpe", "parameter_error", "ari")]
        cells += [_pm(results.get(f"{name}.{m}"), 2) for m in ("cpu_seconds", "learning_cpu_seconds")]
        sent = results.get(f"{name}.bytes_sent")
        lines.append(f"| {name} | " + " | ".join([*cells, f"{sent['mean']:,.0f}" if sent else ""]) + " |")
    low, high = results["local.loglik_per_row_worst"]["mean"], results["local.loglik_per_row_best"]["mean"]
    lines += ["", f"Machines alone, worst to best: {low:.4f} to {high:.4f}. Costs of `local` are those of one machine."]
    excluded = [f"seed {s}: {', '.join(run['reduction'].get('excluded', {})) or 'none'}" for s, run in enumerate(runs)]
    return [*lines, "", "Excluded by the reduction: " + "; ".join(excluded) + "."]


def _advice(runs: list[dict[str, Any]]) -> list[str]:
    """What the score matrix says to each seed's machines, judged on their own held-out rows."""
    told = [(seed, run["reduction"]) for seed, run in enumerate(runs) if "advice" in run["reduction"]]
    lines = [f"- seed {seed}: **{row['advice']}**. {row['headline']}" for seed, row in told]
    return ["", "Judged on each machine's own held-out rows, against its own fit:", "", *lines] if lines else []


def _pm(value: dict[str, Any] | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value['mean']:.{digits}f}" + (f" ± {value['sd']:.{digits}f}" if value["sd"] is not None else "")
