"""Parties in processes that die, fall silent or send what is no number: a clear end, no hang, and training goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cli_runner import done, refused
from cli_split import additive, plan

OWN = """
import os, time
import torch
from torch import nn

class Own(nn.Module):
    rounds = 0

    def __init__(self, columns, width):
        super().__init__()
        self.body = nn.Linear(columns, width)

    def forward(self, rows):
        Own.rounds += 1
        if Own.rounds == 5:
            {what}
        return self.body(rows)
"""

WHAT = {
    "dies": ("os._exit(3)", "party 'bank'"),
    "falls silent": ("time.sleep(600)", "party 'bank'"),
    "sends no number": ("return self.body(rows) * float('nan')", "not finite"),
    "sends another shape": ("return self.body(rows)[:, :2]", "party 'bank'"),
    "fails": ("raise RuntimeError('private row 7')", "failed"),
}


def own(place: Path, what: str) -> None:
    (place / "own.py").write_text(OWN.format(what=what))


def started(place: Path) -> tuple[object, ...]:
    words = plan(place, additive(80), epochs=3, more="processes = true\ntimeout = 8.0")
    mlp = '{ kind = "mlp", hidden = [8], width = 4 }\n[parties.shop]'
    code = '{ kind = "code", file = "own.py", name = "Own", width = 4 }\n[parties.shop]'
    words.write_text(words.read_text().replace(mlp, code))
    return ("split", "train", words, "--trust-code", "bank", "--save-every", 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHAT)
def test_it_ends_clearly_and_training_goes_on(name: str, tmp_path: Path) -> None:
    train = started(tmp_path)
    what, words = WHAT[name]
    own(tmp_path, what)
    begun = time.monotonic()
    said = refused(*train, "--out", tmp_path / "run", names=words).err
    assert time.monotonic() - begun < 120, "it hangs"
    assert "private row 7" not in said
    assert not (tmp_path / "run").exists()
    own(tmp_path, "pass")
    found = done(*train, "--out", tmp_path / "run", "--resume", "--json").json["digests"]
    assert found == done(*train, "--out", tmp_path / "unbroken", "--json").json["digests"]
