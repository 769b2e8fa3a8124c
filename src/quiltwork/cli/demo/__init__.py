"""``quiltwork demo STORY``: a whole story on data that needs no download, one file a story."""

from __future__ import annotations

from quiltwork.cli.demo import images, tables, text

NAME = "demo"
HELP = """Play a whole story on this machine: owners contribute, a model is composed, one leaves, a report is drawn.

Nothing is downloaded. `text` is the story of a language model, and told where no name is given; `tables` that of a
regression whose rows lie on several machines, `images` that of classifiers that owners trained apart."""
EXAMPLES = """Examples:

`quiltwork demo`

`quiltwork demo text --out demo-out --steps 60 --base-steps 150 --json`

`quiltwork demo tables`

`quiltwork demo images`"""
KINDS = (text, tables, images)
