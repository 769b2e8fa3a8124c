"""The whole state of a learner in one safetensors file: parameters, buffers and the optimiser's moments.

    module/<name>                  a parameter or buffer
    optimiser/<number>/<key>       what the optimiser holds for its parameter of that number

A learner that is loaded goes on bit for bit as the one that was saved would have.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.files import write_file
from quiltwork.models.split.component import Component


def state_of(component: Component) -> dict[str, Tensor]:
    """Every tensor that the next steps depend on, by the names above."""
    found = {f"module/{name}": tensor for name, tensor in component.module.state_dict().items()}
    if component.optimiser is not None:
        for number, moments in component.optimiser.state_dict()["state"].items():
            found |= {f"optimiser/{number}/{key}": value for key, value in moments.items() if value is not None}
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def restore(component: Component, state: dict[str, Tensor]) -> None:
    """Put a state back; graphs that wait for cotangents are dropped.

    Raises:
        InvalidOption: it is the state of another module.
    """
    module = {name.split("/", 1)[1]: tensor for name, tensor in state.items() if name.startswith("module/")}
    try:
        component.module.load_state_dict(module)
    except RuntimeError as error:
        raise _foreign(component, "its tensors are those of another module") from error
    component.trained = True  # for all that is known of the state
    component.forget()
    if component.optimiser is not None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimiser/"):
                _, number, key = name.split("/", 2)
                moments.setdefault(int(number), {})[key] = tensor
        groups = component.optimiser.state_dict()["param_groups"]
        component.optimiser.load_state_dict({"state": moments, "param_groups": groups})


def save_component(component: Component, path: Path) -> None:
    """Write the state to ``path``, whole or not at all, readable by its writer alone: it is a function of private rows.

    Raises:
        StorageError: the file system refuses.
    """
    write_file(path, save(state_of(component)), private=True)


def load_component(component: Component, path: Path) -> None:
    """Read the state from ``path``.

    Raises:
        InvalidOption: no state is there, or it is another module's.
    """
    try:
        state = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise _foreign(component, f"'{path.name}' cannot be read") from error
    restore(component, state)


def _foreign(component: Component, why: str) -> InvalidOption:
    return InvalidOption(
        f"the state of '{component.name}'", why=why, mend="Start from the state that this learner saved, or anew."
    )
