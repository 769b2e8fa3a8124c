"""The page of results: which targets are reached, and a table for each task."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from statistics import mean, stdev

import torch

Results = Mapping[str, Mapping]
EVIDENT = ("ensemble, evidence", "ensemble, evidence by class")
PLAIN, OWN, POOLED = "ensemble, probabilities", "own model", "pooled training (nobody may)"


def page(results: Results) -> str:
    """Everything, as Markdown."""
    by_task = _by_task(results)
    machine = f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    lines = [
        "# Networks trained apart, joined",
        "",
        "Share of an owner's held-out images that are right, mean ± standard deviation over seeds. Machine: "
        f"{machine}, {os.cpu_count()} cores shared with other work, one thread. Command: "
        "`python benchmarks/stitching.py --data DIR --seeds 5 --json OUT`. The better of two places to stitch is "
        "chosen on the rows that it is shown for, which flatters stitches a little.",
        "",
        *_table(["to reach", "found", "reached"], [[*row] for row in targets(by_task)]),
        "",
    ]
    for task, runs in by_task.items():
        lines += ["", f"## {task}", "", _words(runs), "", *_accuracies(runs), "", *_pairs(runs)]
    return "\n".join(lines) + "\n"


def targets(by_task: Mapping[str, list[Mapping]]) -> Iterable[tuple[str, str, str]]:
    """What was asked for, over the tasks where inputs tell owners apart, and what came out."""
    for task, runs in by_task.items():
        if not runs[0]["evidence can help"]:
            continue
        for way in EVIDENT:
            worst = min(_mean(runs, way, o) - _mean(runs, OWN, o) for o in runs[0]["owners"])
            yield (
                f"{task}: {way} at most 0.005 below each own model",
                f"worst owner {worst:+.4f}",
                _yes(worst >= -0.005),
            )
        above = min(_mean(runs, EVIDENT[0], o) - _mean(runs, PLAIN, o) for o in runs[0]["owners"])
        yield f"{task}: evidence above the plain ensemble for every owner", f"worst owner {above:+.4f}", _yes(above > 0)
        plain, mine, bound = (
            mean(_mean(runs, way, o) for o in runs[0]["owners"]) for way in (PLAIN, EVIDENT[0], POOLED)
        )
        share = (mine - plain) / (bound - plain) if bound > plain else float("inf")
        yield f"{task}: half of the gap to pooled training closed", f"{share:.2f}", _yes(share >= 0.5)
    for task, runs in by_task.items():
        for name in runs[0]["pairs"]:
            yield _hypervolumes(task, name, [run["pairs"][name] for run in runs])
            yield from _one_owner(task, name, [run["pairs"][name] for run in runs])


def _hypervolumes(task: str, name: str, pairs: list[Mapping]) -> tuple[str, str, str]:
    gains = [
        pair["hypervolume"]["and stitches trained at one owner"] - pair["hypervolume"]["parents and ensemble"]
        for pair in pairs
    ]
    all_ = [pair["hypervolume"]["all"] - pair["hypervolume"]["parents and ensemble"] for pair in pairs]
    what = f"{task}, {name}: hypervolume above that of parents and ensemble"
    return what, f"stitches of one owner {_spread(gains)}, all {_spread(all_)}", _yes(mean(gains) > 0)


WAYS = {
    "": "",
    ", averaged with the ensemble": ", outputs averaged with the ensemble's",
    ", evidence": ", evidence weights",
}


def _one_owner(task: str, name: str, pairs: list[Mapping]) -> Iterable[tuple[str, str, str]]:
    """Stitches that only one owner trained: does the front of each seed hold a point with both wishes?"""
    first, second = name.split(" + ")
    for owner, other in ((first, second), (second, first)):
        for way, said in WAYS.items():
            found = [_best_at(pair["accuracy"], owner, other, way) for pair in pairs]
            own, foreign, above = (mean(row[i] for row in found) for i in range(3))
            yield (
                f"{task}: stitches trained at {owner} alone{said}: own data within 0.02 of the own model, {other} "
                "within 0.05 of the ensemble and far above the own model",
                f"own {own:+.3f}, foreign {foreign:+.3f} of the ensemble, {above:+.3f} of the own model",
                _yes(own >= -0.02 and foreign >= -0.05 and above > 0.02),
            )


def _best_at(rows: Mapping[str, Mapping[str, float]], owner: str, other: str, way: str) -> tuple[float, float, float]:
    """Of what was trained at one owner: least in default of both wishes."""
    wanted = [row for name, row in rows.items() if name.endswith(f"steps at {owner}{way}")]
    gaps = [
        (row[owner] - rows[owner][owner], row[other] - rows["ensemble"][other], row[other] - rows[owner][other])
        for row in wanted
    ]
    return max(gaps, key=lambda gap: min(gap[0] + 0.02, gap[1] + 0.05, 0.0) + 1e-3 * (gap[0] + gap[1]))


def _accuracies(runs: list[Mapping]) -> list[str]:
    owners = list(runs[0]["owners"])
    rows = [[way, *(_spread([run["accuracy"][way][o] for run in runs]) for o in owners)] for way in runs[0]["accuracy"]]
    return _table(["", *owners], rows)


def _pairs(runs: list[Mapping]) -> list[str]:
    lines: list[str] = []
    for name in runs[0]["pairs"]:
        pairs = [run["pairs"][name] for run in runs]
        first, second = name.split(" + ")
        lines += [f"### {name}, stitched", ""]
        groups = _grouped(pairs)
        rows = [[way, *(_spread([row[o] for row in found]) for o in (first, second))] for way, found in groups.items()]
        lines += _table(["the best place of each seed, for the worse-off owner", first, second], rows)
        volumes = pairs[0]["hypervolume"]
        lines += ["", *_table(["hypervolume over both owners", ""], [
            [way, _spread([pair["hypervolume"][way] for pair in pairs])] for way in volumes])]  # fmt: skip
        sent = mean(pair["bytes of statistics"] for pair in pairs)
        lines += ["", f"{pairs[0]['candidates']} candidate places, ranked from {sent / 1e6:.2f} MB of sums.", ""]
    return lines


def _grouped(pairs: list[Mapping]) -> dict[str, list[Mapping[str, float]]]:
    """Over places, the row of each way of fitting that is best for the owner who is worse off."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for pair in pairs:
        ways: dict[str, list[Mapping[str, float]]] = {}
        for name, row in pair["accuracy"].items():
            if " - " in name:
                ways.setdefault(name.split(", ", 1)[1], []).append(row)
        for way, rows in ways.items():
            found.setdefault(way, []).append(max(rows, key=lambda row: (min(row.values()), sum(row.values()))))
    return found


def _words(runs: list[Mapping]) -> str:
    owners = ", ".join(f"{o} ({x['architecture']}, {x['rows']} images)" for o, x in runs[0]["owners"].items())
    seconds = mean(run["CPU seconds"] for run in runs)
    told = "" if runs[0]["evidence can help"] else " Inputs do not tell these owners apart."
    return f"{owners}; {len(runs)} seed(s), {seconds:.0f} CPU seconds each.{told}"


def _by_task(results: Results) -> dict[str, list[Mapping]]:
    found: dict[str, list[Mapping]] = {}
    for run in results.values():
        found.setdefault(run["task"], []).append(run)
    return found


def _mean(runs: list[Mapping], way: str, owner: str) -> float:
    return mean(run["accuracy"][way][owner] for run in runs)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
