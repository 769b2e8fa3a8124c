"""What every verb that trains asks about the training itself."""

from __future__ import annotations

from typing import Annotated

import typer

BatchSize = Annotated[int, typer.Option(help="How many sequences a step sees.")]
SequenceLength = Annotated[int, typer.Option(help="How many tokens a sequence has.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate at its peak; it warms up to it and falls to zero.")]
Accumulation = Annotated[int, typer.Option(help="Divide each step's sequences into so many parts, to save memory.")]
Precision = Annotated[str, typer.Option(help="Numbers that training computes in: no (the weights' own), bf16 or fp16.")]
SaveEvery = Annotated[
    int, typer.Option(help="How many steps lie between saved states, from which an interrupted run goes on.")
]
