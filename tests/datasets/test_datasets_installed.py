"""The installed text: the real corpora, and the rules on made-up ones against brute force."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quiltwork.datasets import installed as module
from quiltwork.datasets.installed import CORPORA, Corpus, Split, corpus, docstrings, prepare
from quiltwork.errors import FragmentError, InvalidOption

BUDGET = 80_000


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def runs(text: str, width: int = 13) -> set[tuple[str, ...]]:
    """The 13-word runs themselves, without hashing."""
    words = text.split()
    width = min(width, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)}


def share(text: str, others: list[str]) -> float:
    """The part of the runs of ``text`` that occur in ``others``."""
    own = runs(text)
    return len(own & set().union(*map(runs, others))) / len(own)


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return prepare(BUDGET)


# The real corpora ------------------------------


def test_four_corpora_are_private_and_two_public() -> None:
    roles = [(entry.name, entry.role) for entry in CORPORA.values()]
    assert roles == [
        *((name, "private") for name in ("stdlib", "headers", "licences", "docstrings")),
        *((name, "public") for name in ("topics", "descriptions")),
    ]
    assert all(CORPORA[name].name == name and entry.title and entry.provenance for name, entry in CORPORA.items())


@pytest.mark.parametrize("name", CORPORA)
def test_documents_keep_the_stated_bounds(name: str) -> None:
    documents = corpus(name, BUDGET)
    assert 20_000 < size(documents) <= BUDGET
    assert all(200 <= len(text) <= 20_000 and "\0" not in text for text in documents)
    assert len({" ".join(text.split()) for text in documents}) == len(documents)


def test_the_seed_decides_the_order() -> None:
    assert corpus("topics") == corpus("topics")
    assert corpus("topics") != corpus("topics", seed=1)
    assert sorted(corpus("topics")) == sorted(corpus("topics", seed=1))


def test_corpora_are_what_their_titles_say() -> None:
    assert any("#include" in text for text in corpus("headers", BUDGET))
    assert any("WITHOUT WARRANTY" in text.upper() for text in corpus("licences", BUDGET))
    assert any("Parameters" in text for text in corpus("docstrings", BUDGET))
    assert any("statement" in text for text in corpus("topics", BUDGET))
    parsed = 0
    for text in corpus("stdlib", BUDGET):
        if len(text) < 18_000:  # not cut
            ast.parse(text)
            parsed += 1
    assert parsed


def test_the_public_topics_are_not_in_the_private_sources() -> None:
    keys = module._stdlib()
    assert "abc.py" in keys
    assert "json/decoder.py" in keys
    for absent in ("test", "site-packages", "idlelib", "pydoc_data"):
        assert not any(absent in key.split("/")[:-1] for key in keys)


def test_packages_are_found_without_importing_them() -> None:
    code = (
        "import sys; from quiltwork.datasets.installed import corpus\n"
        "assert corpus('headers', 50_000) and corpus('docstrings', 50_000)\n"
        "print([name for name in ('torch', 'scipy', 'sklearn', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_prepare_fills_the_budget_with_both_splits(splits: dict[str, Split]) -> None:
    assert list(splits) == list(CORPORA)
    for name, split in splits.items():
        assert 0.5 * BUDGET < size(split.train) + size(split.test) <= BUDGET, name
        assert 0 < size(split.test) <= 0.1 * BUDGET, name


def test_prepare_is_a_function_of_its_arguments(splits: dict[str, Split]) -> None:
    assert prepare(BUDGET) == splits
    assert prepare(BUDGET, seed=1) != splits


def test_prepared_text_is_disjoint_across_owners_and_splits(splits: dict[str, Split]) -> None:
    """Brute force on the words: each held-out document against all that was kept elsewhere."""
    places = {(name, part): getattr(split, part) for name, split in splits.items() for part in ("train", "test")}
    everything = {place: set().union(*map(runs, texts)) for place, texts in places.items()}
    for place, texts in places.items():
        if place[1] == "test":
            others = set().union(*(found for other, found in everything.items() if other != place))
            assert all(len(runs(text) & others) <= len(runs(text)) / 2 for text in texts)
    normalised = [" ".join(text.split()) for texts in places.values() for text in texts]
    assert len(set(normalised)) == len(normalised)


def test_without_the_rule_the_licences_would_not_be_disjoint() -> None:
    """Negative control: a blind split of the same documents leaves near copies on both sides."""
    documents = corpus("licences", 600_000)
    train, test = documents[::2], documents[1::2]
    known = set().union(*map(runs, train))
    assert any(len(runs(text) & known) > len(runs(text)) / 2 for text in test)


# The rules on made-up corpora ------------------------------


def words(start: int, number: int, prefix: str = "word") -> str:
    return " ".join(f"{prefix}{i}" for i in range(start, start + number))


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, str]]]:
    """Two corpora whose texts a test may change: ten unrelated documents each."""
    texts = {owner: {str(i): words(1000 * i, 100, owner) for i in range(10)} for owner in ("one", "two")}
    table = {
        owner: Corpus(owner, owner, "made up", "private", lambda owner=owner: sources(texts[owner]))  # type: ignore[misc]
        for owner in texts
    }
    monkeypatch.setattr(module, "CORPORA", table)
    return texts


def sources(texts: dict[str, str]) -> module.Source:
    return {key: lambda text=text: text for key, text in texts.items()}  # type: ignore[misc]


def all_texts(split: Split) -> set[str]:
    return {*split.train, *split.test}


def test_unrelated_documents_all_stay(made_up: dict[str, dict[str, str]]) -> None:
    splits = prepare(held_out=0.25)
    for owner, texts in made_up.items():
        assert all_texts(splits[owner]) == set(texts.values())
        assert len(splits[owner].test) == 2


def test_exact_copies_stay_with_the_first_owner_only(made_up: dict[str, dict[str, str]]) -> None:
    copy = made_up["two"]["0"] = made_up["one"]["0"].replace(" ", "\n  ")
    splits = prepare(held_out=0.25)
    assert made_up["one"]["0"] in all_texts(splits["one"])
    assert copy not in all_texts(splits["two"])


@pytest.mark.parametrize(("changed", "stays"), [(10, False), (40, False), (60, True), (90, True)])
def test_near_copies_of_another_owner_are_dropped(
    made_up: dict[str, dict[str, str]], changed: int, stays: bool
) -> None:
    original = made_up["one"]["0"]
    relative = " ".join(original.split()[changed:]) + " " + words(0, changed, "new")
    made_up["two"]["0"] = relative
    assert (share(relative, [original]) <= 0.5) == stays
    for seed in range(4):
        splits = prepare(held_out=0.25, seed=seed)
        assert (relative in all_texts(splits["two"])) == stays
        assert original in all_texts(splits["one"])


def test_near_copies_of_one_owner_stay_and_are_never_held_out(made_up: dict[str, dict[str, str]]) -> None:
    copies = {str(i): made_up["one"]["0"] + f" copyright holder {i}" for i in range(10, 30)}
    made_up["one"] |= copies
    for seed in range(4):
        split = prepare(held_out=0.25, seed=seed)["one"]
        assert set(copies.values()) <= set(split.train)
        assert split.test


def test_a_corpus_of_copies_has_nothing_to_hold_out(made_up: dict[str, dict[str, str]]) -> None:
    made_up["one"] = {str(i): words(0, 100) + f" holder {i}" for i in range(10)}
    with pytest.raises(FragmentError, match=r"corpus 'one': 10 training and 0 held-out documents.*made up"):
        prepare()


def test_a_fragment_of_a_longer_held_out_text_is_not_trained_on(made_up: dict[str, dict[str, str]]) -> None:
    for seed in range(4):
        whole = prepare(held_out=0.25, seed=seed)["one"].test[0]
        part = made_up["two"]["part"] = " ".join(whole.split()[:40])
        split = prepare(held_out=0.25, seed=seed)
        assert not (whole in split["one"].test and part in all_texts(split["two"]))


def test_unreadable_documents_are_left_out(made_up: dict[str, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "latin.py").write_bytes(b"\xe9" * 300)
    (tmp_path / "broken.py").write_text("def f(:\n" * 100)
    (tmp_path / "nul.py").write_text("\0" * 300)
    (tmp_path / "short.py").write_text("x" * 199)
    (tmp_path / "fine.py").write_text("x" * 200)
    names = ("absent", "latin", "broken", "nul", "short", "fine")
    files = {name: tmp_path / f"{name}.py" for name in names}
    for reader, kept in ((module._text, ["x" * 200, "def f(:\n" * 100]), (docstrings, [])):
        source = module._readers(files, reader)
        module.CORPORA["one"] = Corpus("one", "one", "made up", "private", lambda source=source: source)  # type: ignore[misc]
        assert sorted(corpus("one")) == sorted(kept)


def test_long_documents_are_cut_at_a_line_end(made_up: dict[str, dict[str, str]]) -> None:
    line = "x" * 98 + "\n"
    made_up["one"] = {"lines": line * 1000, "one line": "y" * 30_000}
    assert sorted(corpus("one")) == [line * (20_000 // 99), "y" * 20_000]


def test_the_budget_is_in_bytes_and_passes_over_what_does_not_fit(made_up: dict[str, dict[str, str]]) -> None:
    made_up["one"] = {"a": "\u00e9" * 300, "b": "b" * 300, "c": "c" * 300}
    for seed in range(4):
        assert (
            sorted(corpus("one", budget=650, seed=seed)) == ["b" * 300, "c" * 300]
            or size(corpus("one", budget=650, seed=seed)) == 600
        )
    assert corpus("one", budget=300, seed=0) in (["b" * 300], ["c" * 300])
    assert size(corpus("one", budget=1200)) == 1200


def test_wrong_options_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"corpus 'novels'.*stdlib, headers"):
        corpus("novels")
    with pytest.raises(InvalidOption, match="budget of 0 bytes"):
        corpus("stdlib", 0)
    with pytest.raises(InvalidOption, match="budget"):
        prepare(-1)
    for wrong in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(InvalidOption, match="held-out share"):
            prepare(held_out=wrong)


# Docstrings, badges, licences ------------------------------


def test_docstrings_are_taken_from_the_source_in_order(tmp_path: Path) -> None:
    long = [letter * 300 for letter in "abcd"]
    source = f'''"""{long[0]}"""
raise RuntimeError("never imported")
class A:
    """{long[1]}"""
    def f(self):
        """too short"""
    async def g(self):
        """{long[2]}"""
def h():
    "{long[3]}"
    "\\d is an invalid escape"
'''
    path = tmp_path / "m.py"
    path.write_text(source)
    assert docstrings(path) == "\n\n\n".join(long)


def test_badges_are_stripped_from_descriptions() -> None:
    kept = ["# Title", "Plain text with [a link](x).", "a <b> c", "![not at the start]"[1:]]
    badges = [
        "[![CI](x)](y)",
        "![logo](x)",
        ".. image:: x",
        "   :target: y",
        '<p align="center">',
        "</p>",
        ".. |b| image:: x",
    ]
    assert module._without_badges("\n".join(kept + badges)) == "\n".join(kept)


@pytest.mark.parametrize(
    ("name", "is_licence"),
    [
        ("LICENSE", True),
        ("LICENCE.txt", True),
        ("COPYING", True),
        ("NOTICE.md", True),
        ("LICENSE-MIT", True),
        ("LICENSE.APACHE", True),
        ("UNLICENSE", True),
        ("LICENSE_bundled.txt", True),
        ("license.py", False),
        ("notices.json", False),
        ("METADATA", False),
    ],
)
def test_licences_are_known_by_their_names(name: str, is_licence: bool) -> None:
    assert bool(module._LICENCE.match(name)) == is_licence


def test_broken_installations_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @property
        def metadata(self) -> object:
            raise FileNotFoundError("METADATA")

    class Fine:
        metadata = {"Name": "Some_Thing", "Description": "text"}  # noqa: RUF012
        files = None

    monkeypatch.setattr(module.importlib.metadata, "distributions", lambda: [Broken(), Fine(), Fine()])
    assert [name for name, _ in module._distributions()] == ["some-thing"]
    assert module._licences() == {}
    assert module._descriptions()["some-thing"]() == "text"
