"""``quiltwork demo text``: the story of a language model, on text that every installation holds."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import say

NAME = "text"
HELP = """Four owners compose one language model without sharing text; nothing is downloaded.

Trains a tiny public base, runs each owner as a process that can open only its own fragment, composes with every method,
scores them, takes one owner out and checks that nothing of it is left, and writes a report."""
EXAMPLES = """Examples:

`quiltwork demo text`

`quiltwork demo text --out demo-out --steps 60 --base-steps 150`"""


def run(
    out: Annotated[Path, typer.Option(help="Directory to write; a former demo is replaced.")] = Path("demo-out"),
    base_steps: Annotated[int, typer.Option(help="Steps of the public base.")] = 300,
    steps: Annotated[int, typer.Option(help="Steps of each owner and scope.")] = 100,
    budget: Annotated[int, typer.Option(help="Bytes of text an owner.")] = 1_500_000,
    test_bytes: Annotated[int, typer.Option(help="Held-out bytes scored a domain.")] = 24_000,
    jobs: Annotated[int, typer.Option(help="Owners at work at a time.")] = 2,
    pooled: Annotated[bool, typer.Option(help="Also train the bound: one model on everybody's text.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Four owners compose one language model without sharing text."""
    from quiltwork.cli.story import Story
    from quiltwork.evaluate.scores import load_scores

    story = Story(out, base_steps, steps, budget, test_bytes, jobs, pooled, seed)
    story.tell()
    if json:
        print(jsonlib.dumps(jsonlib.loads((out / "scores.json").read_text()), indent=1))
        return
    from quiltwork.cli.evaluate import print_scores

    scores = load_scores(out / "scores.json")
    print_scores(scores)
    same = "byte for byte what it would have been" if scores.opt_out_identical else "NOT what it would have been"
    print(f"\nTaking out '{story.leaver}': the composed model is {same} without that owner.")
    say(f"report: {out / 'report.html'}   portable: {out / 'composed'}   native: {out / 'composed-native'}")
