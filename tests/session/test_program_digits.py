"""Digits are learned from sums alone, as the example does it; from remainders they are learned shifted."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quiltwork.session.split.programs import total

EXAMPLE = Path(__file__).parents[2] / "examples" / "split_digit_sum.py"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](epochs=1)
    said = capsys.readouterr().out
    assert "the sum: the outcome settles every symbol" in said
    assert "its last digit: the outcome does not settle what components read: 9 relabellings" in said
    assert said.count("digits read right") == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sums_teach_digits(seed: int) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    run, digits = example["started"](total([10, 10]), 8, seed)
    run.train()
    outcome, read = example["judged"](run, total([10, 10]), digits)
    assert outcome > 0.88
    assert read.min() > 0.93


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_last_digits_teach_digits_but_for_a_shift(seed: int) -> None:
    program = total([10, 10], modulus=10)
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    run, digits = example["started"](program, 8, seed)
    run.train()
    outcome, _ = example["judged"](run, program, digits)
    new = np.arange(example["TRAIN"], len(digits))
    read = run.mode.symbols(run.activations(new)).numpy()
    shifts = [
        np.bincount((column - truth) % 10, minlength=10) for column, truth in zip(read.T, digits[new].T, strict=True)
    ]
    assert outcome > 0.88
    assert all(shift.max() > 0.93 * len(new) for shift in shifts)
    assert sum(shift.argmax() for shift in shifts) % 10 == 0
