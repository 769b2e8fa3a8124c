"""``quiltwork split VERB PLAN.toml``: components that learn at their owners, by a plan, one file a verb."""

from __future__ import annotations

from quiltwork.cli.split import align, audit, flower, host, identity, predict, train

NAME = "split"
HELP = """Learn one model of which each owner holds a component, on its own columns of the same cases.

A plan in TOML names the parties, their files, components, the labels and the mode; `quiltwork split train --help`
shows one. `train` makes a run directory, `predict` answers new rows with whichever parties are up, `audit` says what
the run kept and what it did not. `align`, `identity`, `host` and `flower` are for owners on machines of their own:
common cases, keys of masks, and live parties."""
EXAMPLES = """Examples:

`quiltwork split train plan.toml --out run`

`quiltwork split predict plan.toml --run run --data bank=new-bank.csv --data shop=new-shop.csv --out predictions.csv`

`quiltwork split audit plan.toml --run run --retrain --json`"""
KINDS = (train, predict, audit, align, identity, host, flower)
