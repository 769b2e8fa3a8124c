"""A directory of class directories of image files, decoded into one array of bytes.

    scans/normal/0001.png   scans/pneumonia/0001.png   ...        the directory below the root is the class

Files are read in order of their names, by decoders of a closed list of formats. All have one size and one number of
channels; pixels are eight bits, 0 ... 255, and brought to the bounds that the units state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.examples import Examples, bounds_of, codes_of
from quiltwork.party.paths import found, refuse, require_readable, resolved

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".ppm": "PPM", ".pgm": "PPM", ".webp": "WEBP"}

MOST_PIXELS = 2**24
"""Pixels of one image, before it is resampled."""

_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
_CHANNELS = {1: "L", 3: "RGB"}


def is_image_folder(path: Path) -> bool:
    """Whether a directory holds directories and no files of its own, but hidden ones."""
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    return bool(entries) and all(entry.is_dir() for entry in entries)


def read_folder(
    path: Path, *, units: str, classes: tuple[str, ...] | None, channels: int | None, size: tuple[int, int] | None
) -> Examples:
    """The examples of a directory of class directories.

    Raises:
        FragmentError: a file is no image of a known format, or differs in size or channels.
        InvalidOption: the channels are not 1 or 3, the units state no bounds, or Pillow is not installed.
    """
    if channels not in (None, 1, 3):
        raise InvalidOption(f"channels={channels}", why="an image has 1 or 3 here", mend="Convert it, or give an .npz.")
    place, files = f"directory '{path}'", found([path])
    words = [_class_of(file, resolved(path)) for file in files]
    labels, known = codes_of(words, classes, place)
    return Examples(place, _in_units(_decoded(files, channels, size), units), units, labels, known)


def _class_of(file: Path, root: Path) -> str:
    inside = file.relative_to(root).parts
    if len(inside) < 2:
        refuse(f"file '{file}'", "it lies in no class directory", "Put it into the directory of its class.")
    if file.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        refuse(f"file '{file}'", "its name is not that of an image", f"Leave it out, or convert it to one of {known}.")
    return inside[0]


def _in_units(pixels: NDArray[np.uint8], units: str) -> NDArray[Any]:
    """Bytes as numbers from the least to the most that the units state."""
    least, most = bounds_of(units)
    if not math.isfinite(least + most):
        raise InvalidOption(
            f"units '{units}'",
            why="pixels of files lie between two bounds, and it states none",
            mend="State 0..1, say.",
        )
    if (least, most) == (0.0, 255.0):
        return pixels
    # in float32 as a whole, so that the largest byte is the upper bound and not a rounding above it
    scaled = np.float32(least) + pixels * np.float32((most - least) / 255.0)
    return np.asarray(np.clip(scaled, least, most), dtype=np.float32)


def _decoded(files: Sequence[Path], channels: int | None, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """uint8 ``[n, c, h, w]``."""
    pixels: NDArray[np.uint8] | None = None
    for number, file in enumerate(files):
        image = _image(file, channels, size)
        if pixels is None:
            pixels = np.empty((len(files), *image.shape), dtype=np.uint8)
        if image.shape != pixels.shape[1:]:
            why = f"it has shape {image.shape}, and the first file {pixels.shape[1:]}"
            refuse(f"file '{file}'", why, "Name a size and the channels, and all are brought to them.")
        pixels[number] = image
    assert pixels is not None
    return pixels


def _image(file: Path, channels: int | None, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """One file as uint8 ``[c, h, w]``."""
    require_readable(file)
    library = _pillow()
    try:
        # a warning of the library about a huge image is an error here
        with (
            warnings.catch_warnings(action="error"),
            library.open(file, formats=[FORMATS[file.suffix.lower()]]) as image,
        ):
            _require_plain(image, file)
            array = np.asarray(_converted(image, channels, size))
    except FragmentError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged bytes
        refuse(f"file '{file}'", f"it cannot be decoded ({type(error).__name__})", "Leave it out, or write it again.")
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _require_plain(image: Image, file: Path) -> None:
    if image.mode not in _EIGHT_BITS or image.width * image.height > MOST_PIXELS:
        why = "its pixels have more than eight bits, or there are more than 2^24"
        refuse(f"file '{file}'", why, "Convert it, or give an .npz of numbers in declared units.")


def _converted(image: Image, channels: int | None, size: tuple[int, int] | None) -> Image:
    grey = image.mode in ("1", "L", "LA")
    plain = image.convert(_CHANNELS[channels or (1 if grey else 3)])
    if size is None or plain.size == (size[1], size[0]):
        return plain
    return plain.resize((size[1], size[0]), resample=_pillow().Resampling.BILINEAR)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InvalidOption(
            "image files",
            why="decoding them needs the package 'pillow', which is not installed",
            mend="Install the extra: pip install 'quiltwork[images]'.",
        ) from None
    return Image
