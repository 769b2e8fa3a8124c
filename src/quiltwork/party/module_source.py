"""An owner's own module, from the owner's own files. Nobody else's: reading these runs their code.

    model.pt2                          a program that torch.export saved
    model.py:build  weights            a function that gives the module, and its weights

What leaves later is data (`quiltwork.party.module`), so that nobody who receives it has to trust these files.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.party.paths import require_readable

_NAME = "quiltwork_owners_module"


def load_module(source: str, weights: Path | None = None) -> nn.Module:
    """The module that ``FILE.pt2`` or ``FILE.py:FUNCTION`` names.

    Args:
        source: a ``.pt2`` file, or a Python file and the function in it that gives the module without arguments, in
            evaluation mode.
        weights: its state dict as safetensors.

    Raises:
        InvalidOption: a file cannot be used; the text says why, and the error of the owner's own code is its cause.
        FragmentError: a file cannot be opened.
    """
    file, _, function = source.rpartition(":") if ".py:" in source else (source, "", "")
    path = Path(file)
    if function:
        module = _built(path, function)
    elif path.suffix == ".pt2":
        module = _program(path)
    else:
        raise InvalidOption(
            f"module '{source}'", why="it is neither FILE.pt2 nor FILE.py:FUNCTION", mend="Write model.py:build, say."
        )
    if weights is not None:
        _load(module, _state(weights), weights)
    return module


def source_file(source: str) -> Path:
    """The file of a source, to be opened."""
    return Path(source.rpartition(":")[0] if ".py:" in source else source)


def _built(path: Path, function: str) -> nn.Module:
    require_readable(path)
    what = f"module '{path}:{function}'"
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    # classes of the file are looked up by their module's name when torch traces them
    sys.modules[_NAME] = code
    try:
        spec.loader.exec_module(code)
        module = getattr(code, function)()
    except Exception as error:
        raise InvalidOption(
            what, why=f"its own code fails ({type(error).__name__})", mend="Call the function by itself and mend it."
        ) from error
    if not isinstance(module, nn.Module):
        raise InvalidOption(
            what, why=f"it gives an object of type {type(module).__name__}", mend="Give a torch.nn.Module."
        )
    return module


def _program(path: Path) -> nn.Module:
    """A saved program as a tree of modules, whose names are the points' names."""
    require_readable(path)
    try:
        return torch.export.unflatten(torch.export.load(path)).eval()
    except Exception as error:
        raise InvalidOption(
            f"module '{path}'",
            why=f"torch.export cannot read it ({type(error).__name__})",
            mend="Save it again with torch.export.save, in this version of torch.",
        ) from error


def _state(path: Path) -> Mapping[str, Tensor]:
    require_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _unusable(path, f"it cannot be read as safetensors ({type(error).__name__})") from error


def _load(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    try:
        odd = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise _unusable(path, "a tensor in it has another shape than the module's") from error
    for names, why in ((odd.missing_keys, "it lacks"), (odd.unexpected_keys, "the module has no")):
        if names:
            raise _unusable(path, f"{why} '{names[0][:80]}'")


def _unusable(path: Path, why: str) -> InvalidOption:
    mend = "Write it with safetensors.torch.save_file(module.state_dict(), FILE), for the same module."
    return InvalidOption(f"weights '{path}'", why=why, mend=mend)
