"""``quiltwork contribute KIND``: the owner's side, one file a kind of contribution."""

from __future__ import annotations

from quiltwork.cli.contribute import (
    basis,
    checkpoint,
    expert,
    likelihoods,
    mixture,
    module,
    moments,
    outputs,
    statistics,
    stitches,
    transfer,
)

NAME = "contribute"
HELP = """Work on your own data, here, and write one contribution directory.

Nothing but that directory is meant to leave: look at it with `quiltwork inspect` before you hand it over. Without a
kind, `expert` is meant."""
EXAMPLES = """Examples:

`quiltwork contribute expert --base BASE --data notes/ --party acme --out acme`

`quiltwork contribute mixture --data a.parquet --target y --party a --out a --json`

`quiltwork contribute module --module model.py:build --weights w.safetensors --data scans/ --units 0..1 --party a
--out a --json`"""
KINDS = (expert, checkpoint, mixture, likelihoods, module, moments, statistics, stitches, outputs, transfer, basis)
