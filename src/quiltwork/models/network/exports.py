"""A composed network for use elsewhere: a torch.export program, or ONNX.

Both hold the present setting alone, with the normalisation inside, for any batch size. A ``.pt2`` file is torch's own
format: open it where you trust its writer, since reading one can run code; what *crosses* between parties is never such
a file. ONNX (opset 18 or later, extra ``onnx``) is read by most other runtimes.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from quiltwork.errors import ExportError, InvalidOption, StorageError

ExportFormat: TypeAlias = Literal["pt2", "onnx"]
_ROWS = 3


class _OneInput(nn.Module):
    """The model as a function of raw inputs and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.model(x)
        return found


def export(model: nn.Module, shape: tuple[int, ...], path: Path, form: ExportFormat) -> None:
    """Write a model of raw inputs ``[n, *shape]``.

    Args:
        model: a `Network`, a `StitchedNetwork` in its present setting, or any other composed module.
        shape: of one raw input.
        path: a file that is not there yet.
        form: ``"pt2"`` or ``"onnx"``.

    Raises:
        InvalidOption: no such format, or its extra is not installed.
        StorageError: the file is there, or cannot be written.
        ExportError: the format cannot hold the model.
    """
    writers: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {"pt2": _write_pt2, "onnx": _write_onnx}
    if form not in writers:
        raise InvalidOption(
            f"format {form!r}", why="there is no such", mend=f"Choose {' or '.join(get_args(ExportFormat))}."
        )
    if form == "onnx" and not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        raise InvalidOption("format 'onnx'", why="its extra is not installed", mend="pip install 'quiltwork[onnx]'.")
    if path.exists():
        raise StorageError(f"'{path}'", why="it is there already", mend="Choose another name, or remove it.")
    _written(lambda file: writers[form](_OneInput(model).eval(), torch.rand(_ROWS, *shape), file), path, form)


def _written(write: Callable[[Path], None], path: Path, form: str) -> None:
    """Write beside ``path`` and rename."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            file = Path(folder) / f"model.{form}"
            write(file)
            os.replace(file, path)
    except OSError as error:
        raise StorageError(f"'{path}'", why=str(error.strerror), mend="Choose a place that can be written.") from error


def _write_pt2(model: nn.Module, x: Tensor, path: Path) -> None:
    torch.export.save(_program(model, x), path)


def _write_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _program(model, x),
                f=path,
                dynamo=True,
                input_names=["x"],
                output_names=["output"],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _refusal(error) from error


def _program(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return torch.export.export(model, (x,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever a composed module's own code or the exporter raises
        raise _refusal(error) from error


def _refusal(error: Exception) -> ExportError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ExportError(
        "the composed network", why=f"the exporter refuses it: {first[:300]}", mend="Try the other form."
    )
