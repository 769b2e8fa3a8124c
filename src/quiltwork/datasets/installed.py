"""Six kinds of real text that every installation holds: four for owners, two for the public base.

Nothing is downloaded or bundled; the text belongs to the packages it is read from. Which packages are
installed decides what is found, so two machines agree only if their environments do. In one environment the
result is a function of the seed and the budget.

A corpus lists its documents by a key (a path, a name), sorts by key, shuffles by seed and reads lazily. A
document is

    cut      at the last line end before 20 000 characters; what follows is dropped
    dropped  if it is not UTF-8, holds a NUL, or has fewer than 200 characters
    dropped  if its SHA-256 after normalising white space was met before (one licence, many packages)

:func:`prepare` splits by whole documents and makes owners and splits disjoint, *near* as in ``overlap.py``:

    held out  are candidates that are not near the shingles of all other candidates, of whatever corpus, in
              the order of SHA-256(seed, d) up to the budget: such text has no close relative among them
    training  are the others that are near nothing kept for another corpus or split, in the order of the seed

Near copies within one training split stay: a licence that many packages carry is trained on, not judged by.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import random
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from quiltwork.datasets.overlap import Keeper, Pool, near, shared, shingles
from quiltwork.errors import FragmentError, InvalidOption

LONGEST, SHORTEST, DOCSTRING = 20_000, 200, 300
"""Longest and shortest document and shortest docstring, in characters."""

PATIENCE = 20
"""Documents in a row that may exceed what is left of a budget."""

Source = dict[str, Callable[[], str]]
"""From the key of a document to the function that reads it; the function may raise OSError or ValueError."""


@dataclass(frozen=True)
class Corpus:
    """A kind of text: where it is from and whose part it plays in a demonstration."""

    name: str
    title: str
    provenance: str
    role: Literal["private", "public"]
    source: Callable[[], Source]


@dataclass(frozen=True)
class Split:
    """Documents to train on and documents to judge by; none is a near copy of one of the other list."""

    train: list[str]
    test: list[str]


# Where the text is ------------------------------------------------------------


def _files(root: Path, pattern: str, without: set[str]) -> dict[str, Path]:
    """Files below ``root`` by relative path, none of whose directories is in ``without``."""
    found = {path.relative_to(root): path for path in root.rglob(pattern)}
    return {key.as_posix(): path for key, path in found.items() if not without.intersection(key.parts)}


def _readers(files: dict[str, Path], read: Callable[[Path], str]) -> Source:
    return {key: partial(read, path) for key, path in files.items()}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _package(name: str) -> Path | None:
    """The directory of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


_TESTS = {"test", "tests", "testing", "idle_test"}
# lib2to3 and distutils are gone from later versions; encodings is tables; pydoc_data is the corpus of topics
_NOT_STDLIB = _TESTS | {"idlelib", "turtledemo", "lib2to3", "distutils", "encodings", "pydoc_data"}
_NOT_STDLIB |= {"site-packages", "dist-packages", "_vendor", "_bundled"}


def _stdlib() -> Source:
    return _readers(_files(Path(sysconfig.get_path("stdlib")), "*.py", _NOT_STDLIB), _text)


def _headers() -> Source:
    root = _package("torch")
    return _readers(_files(root / "include", "*.h", set()), _text) if root else {}


def _licences() -> Source:
    found: dict[str, Path] = {}
    for name, distribution in _distributions():
        for file in distribution.files or ():
            if _LICENCE.match(file.name):
                found[f"{name}/{file.as_posix()}"] = Path(str(file.locate()))
    return _readers(found, _text)


_LICENCE = re.compile(r"(un|mit-|bsd-|apache-)?(licen[cs]e|copying|notice)[^.]*(\.(txt|md|rst|apache|bsd|mit))?$", re.I)


def _distributions() -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """Installed distributions with their names, each once: the first on the path is the one imported."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", _metadata(distribution, "Name")).lower()
        if name and name not in seen:
            seen.add(name)
            yield name, distribution


def _metadata(distribution: importlib.metadata.Distribution, field: str) -> str:
    """A field of the metadata; nothing where a broken installation has none."""
    try:
        fields = distribution.metadata
        return str(fields[field] or "") if field in fields else ""
    except (OSError, ValueError):
        return ""


def _docstrings() -> Source:
    found: dict[str, Path] = {}
    for package in ("numpy", "scipy", "sklearn", "torch"):
        if root := _package(package):
            files = _files(root, "*.py", _TESTS | {"_vendor", "externals"})
            found |= {f"{package}/{key}": path for key, path in files.items()}
    return _readers(found, docstrings)


def docstrings(path: Path) -> str:
    """The docstrings of a source file that have at least 300 characters, in the order of the file.

    The file is parsed, not imported.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8.
        SyntaxError: it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        tree = ast.parse(_text(path))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (ast.get_docstring(node) or "" for node in nodes)
    return "\n\n\n".join(text for text in texts if len(text) >= DOCSTRING)


def _topics() -> Source:
    from pydoc_data.topics import topics

    return {key: partial(str, text) for key, text in topics.items()}


def _descriptions() -> Source:
    found = {name: _metadata(distribution, "Description") for name, distribution in _distributions()}
    return {name: partial(_without_badges, text) for name, text in found.items()}


_BADGE = re.compile(
    r"\s*(\[?!\[|\.\. (\|.*\| )?image::|:(target|alt|width|height|align):|</?(a|p|img|div|br|source)\b)", re.I
)


def _without_badges(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not _BADGE.match(line))


_TABLE = (
    Corpus(
        "stdlib",
        "Python's standard library",
        "sources of the running Python, without tests and tables",
        "private",
        _stdlib,
    ),
    Corpus("headers", "C++ headers", "header files that torch installs", "private", _headers),
    Corpus("licences", "licence texts", "licence files of the installed distributions", "private", _licences),
    Corpus(
        "docstrings",
        "scientific documentation",
        "docstrings in the sources of numpy, torch and, if installed, scipy and scikit-learn",
        "private",
        _docstrings,
    ),
    Corpus("topics", "the Python language reference", "help topics of the running Python", "public", _topics),
    Corpus(
        "descriptions",
        "package descriptions",
        "long descriptions in package metadata",
        "public",
        _descriptions,
    ),
)

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _TABLE}


# Reading it ------------------------------------------------------------


def corpus(name: str, budget: int = 8_000_000, seed: int = 0) -> list[str]:
    """Documents of one corpus, no two alike, in the order of the seed, that fit in ``budget`` bytes of UTF-8.

    Raises:
        InvalidOption: there is no corpus of that name, or the budget is not positive.
    """
    if name not in CORPORA:
        names = ", ".join(CORPORA)
        raise InvalidOption(f"corpus '{name}'", why="it is unknown", mend=f"Choose one of {names}.")
    _require_budget(budget)
    return _within(budget, _new(_documents(CORPORA[name], seed), set()))


def _require_budget(budget: int) -> None:
    if budget <= 0:
        raise InvalidOption(f"budget of {budget} bytes", why="nothing fits", mend="Give 1500000, say.")


def _documents(entry: Corpus, seed: int) -> Iterator[str]:
    source = entry.source()
    keys = sorted(source)
    random.Random(seed).shuffle(keys)
    for key in keys:
        text = _cut(_read(source[key]))
        if len(text) >= SHORTEST and "\0" not in text:
            yield text


def _read(load: Callable[[], str]) -> str:
    """The text, or nothing where a file is missing, not UTF-8 or not Python."""
    try:
        return load()
    except (OSError, ValueError, SyntaxError):
        return ""


def _cut(text: str) -> str:
    """At most 20 000 characters, ending at a line end if there is one."""
    if len(text) <= LONGEST:
        return text
    return text[: text.rfind("\n", 0, LONGEST) + 1] or text[:LONGEST]


def _new(documents: Iterable[str], digests: set[bytes]) -> Iterator[str]:
    """The documents whose words were not met before; ``digests`` remembers them."""
    for text in documents:
        digest = hashlib.sha256(" ".join(text.split()).encode()).digest()
        if digest not in digests:
            digests.add(digest)
            yield text


def _within(budget: int, documents: Iterable[str]) -> list[str]:
    """Documents that fit in ``budget`` bytes, in their order, until 20 in a row did not."""
    taken: list[str] = []
    misses = 0
    for text in documents:
        if (size := _size(text)) <= budget:
            taken.append(text)
            budget, misses = budget - size, 0
        elif (misses := misses + 1) == PATIENCE:
            break
    return taken


def _size(text: str) -> int:
    return len(text.encode())


# Keeping owners and splits apart ------------------------------------------------------------


def prepare(budget_bytes_per_corpus: int = 1_500_000, held_out: float = 0.1, seed: int = 0) -> dict[str, Split]:
    """All corpora, split into training and held-out documents, disjoint across owners and splits.

    Args:
        budget_bytes_per_corpus: bytes of UTF-8 at most, both splits together.
        held_out: share of the bytes that is held out, as far as there is text without close relatives.
        seed: decides the order in which documents are taken, and the split.

    Raises:
        InvalidOption: the budget is not positive, or the share is not between 0 and 1.
        FragmentError: a corpus has no document for one of its splits.
    """
    _require_budget(budget_bytes_per_corpus)
    if not 0.0 < held_out < 1.0:
        raise InvalidOption(f"held-out share {held_out}", why="both splits need text", mend="Give 0.1, say.")
    pools = _pools(budget_bytes_per_corpus, seed)
    common = shared(pools.values())
    keeper = Keeper()
    test, train = {}, {}
    for name, pool in pools.items():
        quota = round(held_out * min(budget_bytes_per_corpus, sum(map(_size, pool))))
        lonely = sorted((text for text in pool if not near(pool[text], common)), key=partial(_lot, seed))
        test[name] = _within(quota, lonely)
        keeper.add((pool[text] for text in test[name]), (name, "test"))
    for name, pool in pools.items():
        left = budget_bytes_per_corpus - sum(map(_size, test[name]))
        rest = {text: found for text, found in pool.items() if text not in set(test[name])}
        train[name] = _within(left, keeper.apart(rest, (name, "train")))
        keeper.add((pool[text] for text in train[name]), (name, "train"))
    splits = {name: Split(train[name], test[name]) for name in pools}
    _require_documents(splits)
    return splits


def _pools(budget: int, seed: int) -> dict[str, Pool]:
    """Candidates, no two alike: half as many again as the budget, since some are dropped later."""
    digests: set[bytes] = set()
    pools = {}
    for name, entry in CORPORA.items():
        texts = _within(budget * 3 // 2, _new(_documents(entry, seed), digests))
        pools[name] = {text: shingles(text) for text in texts}
    return pools


def _lot(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def _require_documents(splits: dict[str, Split]) -> None:
    for name, split in splits.items():
        if not split.train or not split.test:
            raise FragmentError(
                f"corpus '{name}'",
                why=f"{len(split.train)} training and {len(split.test)} held-out documents are left",
                mend=f"Raise budget or share, or install more: it is {CORPORA[name].provenance}.",
            )
