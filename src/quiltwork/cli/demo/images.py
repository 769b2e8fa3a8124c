"""``quiltwork demo images``: the story of owners who join classifiers of images that they trained apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import say

NAME = "images"
HELP = """Three owners publish image classifiers of different architectures and join them, in about two minutes.

Deals the digits of scikit-learn to three sites, each with a look of its own, where a network of another architecture is
trained. Each publishes its network and summaries as a process that can open only its own images; then they are composed
in every way, an owner leaves, all are scored on everybody's images, and a report is written."""
EXAMPLES = """Examples:

`quiltwork demo images`

`quiltwork demo images --out demo-images --steps 200 --seed 1 --json`"""


def run(
    out: Annotated[Path, typer.Option(help="Directory to write; a former demo is replaced.")] = Path("demo-images"),
    steps: Annotated[int, typer.Option(help="Optimiser steps of each owner's network.")] = 400,
    stitch_steps: Annotated[int, typer.Option(help="Optimiser steps of the stitches that one owner trains.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Three owners join image classifiers that they trained apart."""
    from quiltwork.cli.evaluate import print_scores
    from quiltwork.cli.image_story import ImageStory
    from quiltwork.evaluate.scores import load_scores

    story = ImageStory(out, steps, stitch_steps, seed)
    story.tell()
    scores = load_scores(out / "scores.json")
    if json:
        print(scores.to_json())
        return
    print_scores(scores)
    same = "byte for byte what it would have been" if scores.opt_out_identical else "NOT what it would have been"
    print(f"\nTaking out '{story.leaver}': the composed model is {same} without that owner.")
    say(f"report: {out / 'report.html'}   model: {out / 'composed'}")
