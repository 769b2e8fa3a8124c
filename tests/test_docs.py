"""What the pages say is held against the code: links, command lines, options, examples.

A block of Python after ``<!-- runnable -->`` is run, a page's blocks one after the other in one namespace, in a
directory with a tiny base and owners' texts. The first namespace is empty for pages that tell a whole story, and holds
what the text presumes for the others.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import typer

from quiltwork.cli.app import app
from quiltwork.cli.catalog import METHODS
from quiltwork.contribution.sealed import Contribution
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)

_BLOCK = re.compile(r"(?P<mark><!-- runnable -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def blocks(text: str, language: str, *, runnable: bool | None = None) -> list[str]:
    """The fenced blocks of a language."""
    found = [m for m in _BLOCK.finditer(text) if m["language"] == language]
    return [m["text"] for m in found if runnable is None or bool(m["mark"]) == runnable]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", text)


# Links ------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(text), re.M)
    kept = (re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h).lower()) for h in headings)
    return {slug.replace(" ", "-") for slug in kept}


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for target in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        missing = not place.exists() or ROOT not in place.parents
        if missing or (anchor and anchor not in anchors(text if place == page else place.read_text("utf-8"))):
            broken.append(target)
    return broken


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text("utf-8"), page) == []


def test_the_check_of_links_refuses_a_missing_file_and_a_missing_heading() -> None:
    text = "# Here\n[a](nowhere.md) [b](docs/format.md#no) [c](#here) [d](docs/format.md#the-directory) [e](#there)\n"
    assert broken_links(text, ROOT / "README.md") == ["nowhere.md", "docs/format.md#no", "#there"]


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = (t.partition("#")[0] for t in _LINK.findall(prose(page.read_text("utf-8"))) if ":" not in t)
        found = {(page.parent / t).resolve() for t in targets if t.endswith(".md")}
        waiting += sorted(found - reached - set(waiting))
    assert set(PAGES) <= reached


def test_the_picture_is_sound_and_says_what_it_shows() -> None:
    root = ElementTree.parse(ROOT / "docs" / "picture.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == space + "svg"
    assert root.find(space + "title") is not None
    assert root.find(space + "desc") is not None


# Command lines ------------------------------------------------------------


@cache
def verbs() -> dict[str, Any]:
    """The commands behind ``quiltwork``, by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@cache
def options(verb: str) -> frozenset[str]:
    """The options of a verb, of all its kinds if it has several, with the negations of flags."""
    kinds = getattr(verbs()[verb], "commands", {verb: verbs()[verb]}).values()
    params = [p for kind in kinds for p in kind.params]
    found = (option for p in params for option in (*p.opts, *p.secondary_opts) if option.startswith("-"))
    return frozenset(found) | {"--help"}


def commands(script: str) -> Iterator[list[str]]:
    """The quiltwork commands of a shell script, as words after ``quiltwork``."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if set(word) <= set("&|;"):
                if words[:1] == ["quiltwork"]:
                    yield words[1:]
                words = []
            else:
                words.append(word)


def parse(words: list[str]) -> None:
    """Let a verb parse its arguments as the command line would, without running it."""
    context = verbs()[words[0]].make_context(words[0], words[1:])
    if hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, kind, rest = context.command.resolve_command(context, rest)
        kind.make_context(name, rest, parent=context)


@each_page
def test_shell_blocks_are_shell_and_their_commands_parse(page: Path) -> None:
    for script in blocks(page.read_text("utf-8"), "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        for words in commands(script):
            parse(words)


@pytest.mark.parametrize(
    "line",
    [
        "quiltwork compose a --base b --method soup --out c --no-such-option",
        "quiltwork evaluate a --party p=q --max-length many --base b",
        "quiltwork contribute --base b --data d --party p --out o --steps many",
        "quiltwork contribute expert --data d --party p --out o",
    ],
)
def test_the_check_of_commands_refuses_what_the_command_line_refuses(line: str) -> None:
    (words,) = commands(line)
    with pytest.raises(Exception, match=r"no-such-option|base|valid integer"):
        parse(words)


def test_commands_are_found_in_scripts() -> None:
    script = "make demo  # quiltwork nothing\ntrue && quiltwork inspect \\\n  a --json; quiltwork report s | cat\n"
    assert list(commands(script)) == [["inspect", "a", "--json"], ["report", "s"]]


def unknown_options(text: str) -> list[str]:
    """Options in the prose of a page that no verb has, or not the verb named beside them."""
    every = frozenset().union(*(options(verb) for verb in verbs()))
    unknown = []
    for code in _INLINE.findall(prose(text)):
        verb = re.match(r"quiltwork ([a-z]+)", code)
        if verb and verb[1] not in verbs():
            unknown.append(code)
        elif verb or code.startswith("--"):
            known = options(verb[1]) if verb else every
            unknown += [option for option in _OPTION.findall(code) if option not in known]
    return unknown


@each_page
def test_options_named_in_the_text_exist(page: Path) -> None:
    assert unknown_options(page.read_text("utf-8")) == []


def test_the_check_of_options_refuses_strangers() -> None:
    text = "`--no-losses` `--lossy` `quiltwork inspect --json` `quiltwork inspect --steps` `quiltwork divine`"
    assert unknown_options(text) == ["--lossy", "--steps", "quiltwork divine"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_place_in_readme_and_method_pages(name: str) -> None:
    assert f"`{name}`" in (ROOT / "README.md").read_text("utf-8")
    assert any(f"`{name}`" in page.read_text("utf-8") for page in (ROOT / "docs" / "methods").glob("*.md"))


@pytest.mark.parametrize("verb", ["compose", "contribute"])
def test_every_option_of_the_two_main_verbs_is_explained_or_plain(verb: str) -> None:
    written = " ".join(page.read_text("utf-8") for page in PAGES)
    plain = {"--help", "--json", "--overwrite", "--no-overwrite", "--cpu", "--no-cpu", "--steps", "--batch-size"}
    plain |= {"--sequence-length", "--learning-rate", "--accumulation", "--precision", "--seed", "--delta-dtype"}
    plain |= {"--layout", "--include", "--smoothing", "--no-confine", "--renormalise", "--no-bias", "--no-precision"}
    assert sorted(option for option in options(verb) - plain if option not in written) == []


# Python ------------------------------------------------------------


@each_page
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page.read_text("utf-8"), "python"):
        ast.parse(block)


@pytest.fixture
def place(
    tiny_base: Callable[[str], Base], fragments: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A directory with what the pages presume, as working directory."""
    shutil.copytree(tiny_base("olmo2").path, tmp_path / "base")
    for name, path in fragments.items():
        shutil.copy(path, tmp_path / f"{name}.txt")
    (tmp_path / "public.txt").write_text("a public page about nothing in particular\fand another one\n", "utf-8")
    sample = {"domain": "acme", "method": "base", "tokens": [{"text": "private", "slot": "base", "weight": 1.0}]}
    scores = {"format": "quiltwork-scores", "version": 2, "parties": ["acme"], "domains": ["acme"], "samples": [sample]}
    (tmp_path / "acme.json").write_text(json.dumps(scores), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def presumed(base: Base, contributions: list[Contribution]) -> dict[str, Any]:
    """Names that pages use without having made them."""
    from quiltwork.compose.method import compose
    from quiltwork.evidence.gaussian import GaussianSummary
    from quiltwork.party.fragment import open_fragment

    rows = np.random.default_rng(0).normal(size=(2, 20, 3)) + np.arange(2)[:, None, None]
    return {
        "np": np,
        "base": base,
        "compose": compose,
        "contributions": contributions,
        "contribution": contributions[0],
        "open_fragment": open_fragment,
        "law_ids": [[1, 2, 3], [2, 2]],
        "code_ids": [[4, 5], [5, 6, 6]],
        "ids": torch.tensor([[1, 2, 2]]),
        "separator": 0,
        "vocabulary_size": 8,
        "public_histogram": TokenHistogram(np.ones(8)),
        "summaries": [GaussianSummary.from_rows(r) for r in rows],
        "x": rows[0],
    }


def run_blocks(page: Path, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the runnable blocks of a page in their order."""
    for number, block in enumerate(blocks(page.read_text("utf-8"), "python", runnable=True), start=1):
        exec(compile(block, f"{page.name}, runnable block {number}", "exec"), namespace)
    return namespace


def runnable_pages() -> list[Path]:
    return [p for p in PAGES if blocks(p.read_text("utf-8"), "python", runnable=True)]


STORIES = ("README.md", "python-api.md")


def test_the_readme_example_does_what_it_says(place: Path) -> None:
    run_blocks(ROOT / "README.md", {})
    assert {p.name for p in (place / "given").iterdir()} == {"ash", "birch", "cedar"}
    assert (place / "composed" / "expert-birch.safetensors").exists()
    assert not (place / "without-birch" / "expert-birch.safetensors").exists()
    config = json.loads((place / "composed" / "config.json").read_text("utf-8"))
    assert config["model_type"] == "flex_olmo"


def test_the_tour_of_the_python_interface_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks(ROOT / "docs" / "python-api.md", {})
    assert "inf" in capsys.readouterr().out.split()
    config = json.loads((place / "native-without-birch" / "config.json").read_text("utf-8"))
    assert config["parties"] == ["ash", "cedar"]
    assert json.loads((place / "scores.json").read_text("utf-8"))["samples"] == []
    left = json.loads((place / "composed-without-birch" / "quiltwork.json").read_text("utf-8"))
    assert [entry["party"] for entry in left["contributions"]] == ["ash", "cedar"]


@pytest.mark.parametrize("page", [p for p in runnable_pages() if p.name not in STORIES], ids=lambda p: p.name)
def test_examples_run(
    page: Path, place: Path, tiny_base: Callable[[str], Base], contributions: Callable[[str], list[Contribution]]
) -> None:
    run_blocks(page, presumed(tiny_base("olmo2"), contributions("olmo2")))
    if page.name == "evaluation.md":
        assert json.loads((place / "acme.json").read_text("utf-8"))["samples"] == []


def test_pages_with_examples_are_found() -> None:
    names = {page.name for page in runnable_pages()}
    assert {*STORIES, "soup.md", "ensemble.md", "alone.md", "mixture-of-experts.md", "evidence.md"} <= names


def test_a_broken_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- runnable -->\n```python\nfrom quiltwork.compose.soup import Broth\n```\n", "utf-8")
    with pytest.raises(ImportError, match="Broth"):
        run_blocks(page, {})
