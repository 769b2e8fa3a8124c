"""The page of the split benchmark: what was to be reached, and one table a section."""

from __future__ import annotations

import math
from typing import Any

TITLES = {
    "accuracy": "Accuracy on rows that nobody trained on",
    "heads": "Isolated mode with other heads (digits)",
    "equality": "Equality by hashes, with negative controls (1 = holds in every seed)",
    "bytes": "Bytes against the formula (digits, batch 64)",
    "attacks": "Attacks, beside what the attacker knew anyway",
    "hijack": "A hijacking composer, and the party's scrutiny of cotangents (digits; a gap under 0.3 is an alarm)",
    "membership": "Members found by shadow models (digits, sessions on random halves, each attacked by all others)",
    "label privacy": "Labels randomised before the first step (digits, 10 epochs)",
    "record privacy": "Records: DP-SGD at each party, priced over all four (digits, delta 1e-5)",
    "faults": "Parties that are away, or lie (digits)",
    "steps": "Time of a step, milliseconds (four parties in processes of their own)",
}


# What was to be reached ----------------------------------------------------------


def targets(sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every target of which there are figures: what it was, what was found, whether it is reached."""
    checks: dict[str, dict[str, Any]] = {}

    def add(name: str, found: str, reached: bool) -> None:
        checks[name] = {"found": found, "reached": bool(reached)}

    if "accuracy" in sections:
        rows = sections["accuracy"]["rows"]
        equal = [v for row in rows.values() for v in row["joint equals one process"]["values"]]
        add(
            "joint equals one process bit for bit, every task and seed", f"{sum(equal):.0f} of {len(equal)}", all(equal)
        )
        for task in ("digits", "mfeat"):
            short, error = shortfall(rows[task])
            found = f"joint less isolated {short:+.4f}; standard error over pairs of one seed {error:.4f}"
            add(f"isolated within one standard error of joint, seed by seed, {task}", found, short <= error)
            alone = rows[task]["joint"]["sd"] / math.sqrt(len(rows[task]["joint"]["values"]))
            found = f"joint less isolated {short:+.4f}; standard error of joint's mean {alone:.4f}"
            add(f"isolated within the standard error of joint's mean, {task}", found, short <= alone)
    if "equality" in sections:
        every = [v for row in sections["equality"]["rows"].values() for f in row.values() for v in f["values"]]
        add("replay, swap and leaving hold, every control is caught", f"{sum(every):.0f} of {len(every)}", all(every))
    if "bytes" in sections:
        keys = ("equal", "an undeclared frame shows")
        every = [v for row in sections["bytes"]["rows"].values() for k in keys for v in row[k]["values"]]
        add("bytes equal the formula, an undeclared frame shows", f"{sum(every):.0f} of {len(every)}", all(every))
    if "hijack" in sections:
        rows = sections["hijack"]["rows"]["gap of cotangents, first epoch"]
        caught = rows["hijack is caught"]["values"]
        add("a planted hijack is caught in its first epoch", f"{sum(caught):.0f} of {len(caught)}", all(caught))
    if "membership" in sections:
        rows = {
            name: {key: f["mean"] for key, f in row.items()} for name, row in sections["membership"]["rows"].items()
        }
        leak, private = rows["planted: over-fitted"], rows["isolated, record epsilon 1"]
        for rate in ("1 %", "0.1 %"):
            found = f"found {leak[f'found at {rate}']:.3f}, baseline {leak[f'baseline at {rate}']:.3f}"
            caught = leak[f"low at {rate}"] > leak[f"baseline at {rate}"]
            add(f"a planted over-fitted session is caught at {rate} false alarms", found, caught)
            bound = math.e * float(rate[:-2]) / 100 + 1e-5
            low = private[f"low at {rate}"]
            add(
                f"record epsilon 1: members found at {rate} within the bound", f"{low:.4f} of {bound:.4f}", low <= bound
            )
    if "steps" in sections:
        _add_steps(sections["steps"]["rows"], add)
    return checks


def shortfall(row: dict[str, Any]) -> tuple[float, float]:
    """Joint's accuracy less isolated mode's over the same seeds, and the standard error of that difference."""
    apart = [j - i for j, i in zip(row["joint"]["values"], row["isolated"]["values"], strict=True)]
    mean = sum(apart) / len(apart)
    spread = math.sqrt(sum((d - mean) ** 2 for d in apart) / max(1, len(apart) - 1))
    return mean, spread / math.sqrt(len(apart))


def _add_steps(rows: dict[str, Any], add: Any) -> None:
    for way in ("session", "session, stale"):
        for what in ("p10", "median", "CPU"):
            ratio = rows["large, batch 256"][f"{way} / one process, {what}"]["mean"]
            over = rows["tiny, batch 256"][f"{way} - one process, {what}"]["mean"]
            add(f"{way}, batch 256, over 1e6 parameters, {what}: at most 1.5 times", f"{ratio:.2f}", ratio <= 1.5)
            add(f"{way}, batch 256, tiny components, {what}: at most 3 ms more", f"{over:+.2f} ms", over <= 3)


# The page ------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Split learning",
        "",
        f"Mean ± standard deviation over seeds. Machine: {result['machine']}, 2 cores shared with other work. "
        f"Command: `{result['command']}`.",
        "",
        "| to reach | found | reached |",
        "|---|---|---|",
        *(f"| {n} | {c['found']} | {'yes' if c['reached'] else '**no**'} |" for n, c in result["targets"].items()),
    ]
    for name, title in TITLES.items():
        if name in result["sections"]:
            lines += ["", f"## {title}", "", *_table(result["sections"][name])]
        else:
            lines += ["", f"## {title}", "", "Not measured."]
    return "\n".join(lines) + "\n"


def _table(section: dict[str, Any]) -> list[str]:
    """One table for rows with the same figures; their names stand in the first column."""
    rows, lines = section["rows"], []
    lines.append(f"{section['seeds']} seed(s); {section['cpu_seconds']} CPU seconds; load {section['load']}.")
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, row in rows.items():
        groups.setdefault(tuple(row), []).append(name)
    for keys, names in groups.items():
        if len(keys) > 8:
            lines += ["", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            lines += [f"| {key} | {' | '.join(_cell(rows[n][key]) for n in names)} |" for key in keys]
        else:
            lines += ["", f"| | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
            lines += [f"| {n} | {' | '.join(_cell(rows[n][key]) for key in keys)} |" for n in names]
    return lines


def _cell(figure: dict[str, Any]) -> str:
    mean, sd = figure["mean"], figure["sd"]
    if not sd:
        return f"{mean:.4g}"
    return f"{mean:.3f} ± {sd:.3f}" if abs(mean) < 100 else f"{mean:.4g} ± {sd:.2g}"
