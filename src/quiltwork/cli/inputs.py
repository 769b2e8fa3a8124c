"""What several verbs read in the same way: ``NAME=VALUE`` arguments, contributions, public text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import PublicText
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.models.base import Base


def named(argument: str, what: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``.

    Raises:
        InvalidOption: there is no ``=``, or a side of it is empty.
    """
    name, equals, value = argument.partition("=")
    if not (name and equals and value):
        raise InvalidOption(
            f"{what} '{argument}'", why="it is not of the form NAME=VALUE", mend=f"Write {what} NAME=VALUE."
        )
    return printable_name(name), value


def printable_name(name: str) -> str:
    """``name``, if a table can show it.

    Raises:
        InvalidOption: it is empty, longer than 200 characters, or holds control characters.
    """
    if not (0 < len(name) <= 200 and name.isprintable()):
        raise InvalidOption(
            f"name {name[:100]!r}", why="a table cannot show it", mend="Use 1 to 200 printable characters."
        )
    return name


def named_paths(arguments: Sequence[str], what: str) -> dict[str, list[Path]]:
    """Paths by name; a name given several times has several paths."""
    table: dict[str, list[Path]] = {}
    for argument in arguments:
        name, value = named(argument, what)
        table.setdefault(name, []).append(Path(value))
    return table


def named_directories(arguments: Sequence[Path], *, by_method: bool = True) -> dict[str, Path]:
    """Directories by name: as stated, else (if ``by_method``) as their method is called, else as the directory is.

    Raises:
        InvalidOption: two have one name, one has the base's, or a directory holds a contribution.
    """
    from quiltwork.composite import PROVENANCE
    from quiltwork.models.json_files import read_json

    found: dict[str, Path] = {}
    for argument in arguments:
        name, _, rest = ("", "", str(argument)) if argument.exists() else str(argument).rpartition("=")
        path = Path(rest)
        if (path / "contribution.json").is_file():
            raise InvalidOption(
                f"model '{path}'",
                why="it is a contribution, and no composed model",
                mend="Compose it first, alone if need be: quiltwork compose.",
            )
        told = by_method and (path / PROVENANCE).is_file()
        known = read_json(path / PROVENANCE).get("method") if told else None
        name = printable_name(name or str(known or path.name))
        if name in found or name == "base":
            raise InvalidOption(
                f"model '{name}'", why="two rows would have that name", mend="Name them: NAME=DIRECTORY."
            )
        found[name] = path
    return found


@dataclass(frozen=True)
class HeldOutPaths:
    """Where held-out data lie: of parties and public ones, by name."""

    parties: Mapping[str, list[Path]]
    public: Mapping[str, list[Path]]

    @classmethod
    def of(cls, party: Sequence[str], public: Sequence[str]) -> HeldOutPaths:
        """From ``NAME=PATH`` arguments.

        Raises:
            InvalidOption: one is not of that form, or a name is a party's and public.
        """
        found = cls(named_paths(party, "--party"), named_paths(public, "--public"))
        for name in found.parties.keys() & found.public.keys():
            raise InvalidOption(
                f"domain '{name}'", why="it is given as a party's and as public", mend="Rename one of them."
            )
        return found


def weights(arguments: Sequence[str]) -> dict[str, float]:
    """``PARTY=WEIGHT`` arguments.

    Raises:
        InvalidOption: a weight is not a number.
    """
    table = {}
    for argument in arguments:
        name, value = named(argument, "--weight")
        try:
            table[name] = float(value)
        except ValueError:
            raise InvalidOption(
                f"--weight '{argument}'", why="the weight is not a number", mend="Write --weight PARTY=0.5, say."
            ) from None
    return table


def listed(arguments: Sequence[str]) -> list[str]:
    """Names separated by commas, of an option that may be given several times."""
    return [name.strip() for argument in arguments for name in argument.split(",") if name.strip()]


def pair_of(argument: str | None, what: str) -> tuple[str, str] | None:
    """Two names with a comma between them; None stays None.

    Raises:
        InvalidOption: they are not two.
    """
    if argument is None:
        return None
    words = [word.strip() for word in argument.split(",")]
    if len(words) != 2 or not all(words):
        raise InvalidOption(f"{what} '{argument}'", why="it is not two names", mend=f"Write {what} ONE,OTHER.")
    return words[0], words[1]


def numbers(argument: str, what: str) -> list[float]:
    """Numbers separated by commas.

    Raises:
        InvalidOption: one of them is none.
    """
    try:
        return [float(word) for word in argument.split(",")]
    except ValueError:
        raise InvalidOption(
            f"{what} '{argument}'", why="it is not a list of numbers", mend=f"Write {what} 0.05,0.5,0.95, say."
        ) from None


def read_contributions(paths: Sequence[Path], max_bytes: int | None = None) -> list[Contribution]:
    """Read and verify contributions, two at a time: it is hashing for the most part, which lets other threads run.

    Raises:
        InvalidOption: a directory is there and holds no contribution.
        QuiltworkError: a contribution is not as it was declared.
    """
    from concurrent.futures import ThreadPoolExecutor

    from quiltwork.contribution.store import read

    for path in paths:
        require_contribution(path)
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda path: read(path, max_bytes=max_bytes), paths))


def require_contribution(path: Path) -> None:
    """Refuse a directory that holds no contribution, by name; what is no directory is left to the reader.

    Raises:
        InvalidOption: it holds none.
    """
    from quiltwork.composite import PROVENANCE
    from quiltwork.contribution.manifest import FILE

    if not path.is_dir() or (path / FILE).exists():
        return
    if (path / PROVENANCE).is_file():
        raise InvalidOption(
            f"contribution '{path}'",
            why="it is a composed model, and contributions are what models are composed of",
            mend="Name the contributions of its parties.",
        )
    checkpoint = (path / "config.json").is_file()
    raise InvalidOption(
        f"contribution '{path}'",
        why=f"the directory is {'a checkpoint, and ' if checkpoint else ''}no contribution: it holds no {FILE}",
        mend="Give the directory that the party wrote, as it was written"
        + (", or make one of the checkpoint: quiltwork contribute checkpoint." if checkpoint else "."),
    )


def public_text(paths: Sequence[Path], base: Base, *, moments: bool = False) -> PublicText | Contribution | None:
    """What describes public text: a contribution of statistics, or text files to count here.

    Args:
        paths: the contribution's directory, or files.
        base: whose tokenizer counts.
        moments: take residual moments of text files too; the base reads some of them.

    Raises:
        InvalidOption: there is no text in the files.
    """
    from quiltwork.contribution.manifest import FILE
    from quiltwork.contribution.store import read

    if not paths:
        return None
    if len(paths) == 1 and (paths[0] / FILE).exists():
        return read(paths[0])
    # the owner's side counts, and brings torch with it
    from quiltwork.party.contribute import text_histograms, text_moments
    from quiltwork.party.fragment import open_fragment

    fragment = open_fragment(list(paths))
    if next(fragment.documents(), None) is None:
        raise InvalidOption(
            f"public text {', '.join(map(str, paths))}", why="it holds no document", mend="Give text, or leave it out."
        )
    found = text_histograms(base, fragment)
    return {**found, "moments": text_moments(base, fragment)} if moments else found


def documents_of(paths: Sequence[Path], limit: int | None = None) -> list[str]:
    """Documents of some files, at most ``limit`` bytes of them."""
    from quiltwork.party.fragment import open_fragment

    taken: list[str] = []
    size = 0
    for document in open_fragment(list(paths)).documents():
        if limit is not None and taken and size + len(document.encode()) > limit:
            break
        taken.append(document)
        size += len(document.encode())
    return taken


def check_device(name: str) -> str:
    """``name``, if torch can compute there.

    Raises:
        InvalidOption: it cannot.
    """
    import torch

    try:
        torch.ones(1, device=name).tolist()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(":")[0]
        raise InvalidOption(
            f"--device '{name}'", why=f"torch cannot compute there ({reason})", mend="Use cpu, or leave it out."
        ) from error
    return name


def read_text(path: Path, what: str) -> str:
    """A small text file that an option names.

    Raises:
        InvalidOption: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidOption(
            f"{what} '{path}'", why=f"it cannot be read ({error.strerror})", mend="Name a readable text file."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"{what} '{path}'", why="it is not UTF-8 text", mend="Name a text file.") from error


def print_json(value: Any) -> None:
    """A result for programs, on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def legible(text: str) -> str:
    """A text that may quote names of a stranger's files: what would drive a terminal is written out.

    >>> legible("read\\x1b[31m me")
    'read\\\\x1b[31m me'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def say(text: str) -> None:
    """A note for people, on standard error; where several processes train together the first one speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(legible(text), file=sys.stderr, flush=True)
