"""One custodian's share of a linear head, and the grid of fixed-point numbers that its arithmetic is on.

    w -> round(w 2^a)      h -> round(h 2^c)      b -> round(b 2^(a+c))      logits = integers / 2^(a+c)

A share answers an input with one row of residues a class, ``h W_x^T + b_x (mod p)``; by itself that is uniform. Any two
machines round the same float to the same integer, so custodians need not agree on more than the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from quiltwork.errors import ForgedShare, InvalidOption
from quiltwork.files import write_file
from quiltwork.sharing.prime_field import PRIME, Residues, matmul, plus, residues
from quiltwork.sharing.statement import read

MOST_BYTES = 2**28
"""No file of a head's share is larger."""

_VERSION = 1
_LAYOUT = {"scheme": ("uint64", 1), "most": ("float64", 1), "weight": ("uint64", 2), "bias": ("uint64", 1)}


@dataclass(frozen=True)
class Grid:
    """Fixed-point numbers: how fine, and how large inputs may be.

    Attributes:
        weight_bits: fractional bits of weights, the ``a`` above.
        input_bits: fractional bits of inputs, the ``c`` above.
        most_input: no input is larger in size; one that is, is refused and not clipped.
    """

    weight_bits: int = 20
    input_bits: int = 20
    most_input: float = 64.0

    def __post_init__(self) -> None:
        bits = (self.weight_bits, self.input_bits)
        if not all(0 <= b <= 40 for b in bits) or not 0 < self.most_input * 2.0**self.input_bits <= 2.0**52:
            raise InvalidOption(
                f"a grid of {self.weight_bits} and {self.input_bits} bits for inputs up to {self.most_input}",
                why="bits lie between 0 and 40, and a float64 has to hold an input on the grid exactly",
                mend="Take fewer bits, or scale the inputs.",
            )

    def inputs(self, values: ArrayLike) -> NDArray[np.int64]:
        """Inputs on the grid.

        Raises:
            InvalidOption: not finite, or larger than ``most_input``.
        """
        array = np.asarray(values, dtype=np.float64)
        if not (np.abs(array) <= self.most_input).all():
            raise InvalidOption(
                "the inputs",
                why=f"they are not all finite and at most {self.most_input} in size",
                mend="Scale them, or deal the head for larger ones.",
            )
        return np.rint(array * 2.0**self.input_bits).astype(np.int64)

    def logits(self, integers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of what comes out of the field."""
        return integers.astype(np.float64) / 2.0 ** (self.weight_bits + self.input_bits)

    def error_bound(self, weight: ArrayLike) -> NDArray[np.float64]:
        """How far logits on the grid may lie from exact ones, by class, for any allowed input.

        With half steps u of weights and v of inputs:  sum |w| v + d (most_input u + u v) + u v.
        The last conversion to float64 is beside it: a relative 2^-53.
        """
        table = np.abs(np.asarray(weight, dtype=np.float64))
        u, v = 2.0 ** -(self.weight_bits + 1), 2.0 ** -(self.input_bits + 1)
        bound: NDArray[np.float64] = table.sum(axis=1) * v + table.shape[1] * u * (self.most_input + v) + u * v
        return bound


@dataclass(frozen=True, eq=False, repr=False)
class HeadShare:
    """What one custodian holds of a head of k classes over d inputs.

    Attributes:
        holder: the point x at which it was dealt, from 1.
        threshold: how many answers give logits.
        grid: of its arithmetic.
        weight: residues ``[k, d]``, uint64.
        bias: residues ``[k]``, uint64.
    """

    holder: int
    threshold: int
    grid: Grid
    weight: Residues
    bias: Residues

    def __repr__(self) -> str:
        classes, width = self.weight.shape
        return f"HeadShare(holder={self.holder}, threshold={self.threshold}, {classes} classes over {width} inputs)"

    def answer(self, inputs: ArrayLike) -> Residues:
        """The share of the logits, uint64 ``[b, k]``, of inputs ``[b, d]``.

        Raises:
            InvalidOption: the inputs have another width, are not finite, or are too large for the grid.
        """
        values = self.grid.inputs(inputs)
        if values.ndim != 2 or values.shape[1] != self.weight.shape[1]:
            raise InvalidOption(
                f"inputs of shape {values.shape}",
                why=f"the head takes rows of {self.weight.shape[1]}",
                mend="Give a table [b, d].",
            )
        return plus(matmul(residues(values), self.weight.T), self.bias)

    def save(self, path: Path) -> None:
        """Write it as safetensors, raw numbers only. Whoever reads the file has the share: keep it to its custodian.

        Raises:
            StorageError: the file system refuses.
        """
        scheme = (_VERSION, self.holder, self.threshold, self.grid.weight_bits, self.grid.input_bits)
        tensors = {
            "scheme": np.array(scheme, dtype=np.uint64),
            "most": np.array([self.grid.most_input]),
            "weight": np.ascontiguousarray(self.weight),
            "bias": np.ascontiguousarray(self.bias),
        }
        write_file(path, save(tensors), private=True)

    @classmethod
    def load(cls, path: Path) -> HeadShare:
        """Read what `save` wrote.

        Raises:
            ForgedShare: it is no such file.
        """
        try:
            found = load(read(path, MOST_BYTES))
            share = cls._of(found)
        except (SafetensorError, InvalidOption, ValueError, KeyError, TypeError) as error:
            why = "it is no share of a head in this version's layout"
            raise ForgedShare(f"'{path}'", why=why, mend="Give the file as its dealer wrote it.") from error
        return share

    @classmethod
    def _of(cls, found: dict[str, NDArray[np.generic]]) -> HeadShare:
        if {name: (str(array.dtype), array.ndim) for name, array in found.items()} != _LAYOUT:
            raise ValueError("other tensors than a share has")
        version, holder, threshold, weight_bits, input_bits = (int(number) for number in found["scheme"])
        weight, bias = found["weight"].astype(np.uint64), found["bias"].astype(np.uint64)
        sound = version == _VERSION and 1 <= holder < PRIME and threshold >= 2 and bias.shape == weight.shape[:1]
        if not sound or not weight.size or max(weight.max(), bias.max()) >= PRIME or found["most"].shape != (1,):
            raise ValueError("numbers that no dealer writes")
        grid = Grid(weight_bits, input_bits, float(found["most"].astype(float)[0]))
        return cls(holder, threshold, grid, weight, bias)
