"""The error tree: as drawn, three parts each, and nothing else is raised on purpose."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from pathlib import Path

import pytest

import quiltwork
from quiltwork import errors
from quiltwork.errors import InvalidOption, QuiltworkError

SOURCE = Path(quiltwork.__file__).parent
TREE = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, QuiltworkError)]


def drawn() -> dict[str, str]:
    """Each class and its parent, as the module's docstring draws them."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+)(?:  |$)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            if depth:
                parents[match[2]] = path[depth - 1]
    return parents


def test_the_tree_is_as_drawn() -> None:
    assert drawn() == {c.__name__: c.__bases__[0].__name__ for c in TREE if c is not QuiltworkError}
    assert len(TREE) > 15


def test_every_class_says_what_it_is_for() -> None:
    for one in TREE:
        assert (one.__doc__ or "").strip().endswith(".") or "Args:" in (one.__doc__ or "")


@pytest.mark.parametrize("one", TREE)
@pytest.mark.parametrize("why", ["it broke", "it broke."])
def test_the_message_has_what_why_and_mend(one: type[QuiltworkError], why: str) -> None:
    error = one("part 'x'", why=why, mend="Mend it.")
    assert str(error) == "part 'x': it broke. Mend it."
    assert (error.what, error.why, error.mend) == ("part 'x'", why, "Mend it.")


def test_why_and_mend_are_not_optional() -> None:
    with pytest.raises(TypeError):
        QuiltworkError("part")  # type: ignore[call-arg]


def test_invalid_options_are_value_errors() -> None:
    with pytest.raises(ValueError, match="x: y"):
        raise InvalidOption("x", why="y", mend="z")
    assert not issubclass(errors.StorageError, ValueError)


# What the source raises by name.

ALLOWED = {
    "ValueError": "pydantic turns it into a schema refusal",
    "AssertionError": "a defect of quiltwork itself",
    "RuntimeError": "a defect of quiltwork itself",
    "KeyError": "caught in the same function",
    "OSError": "caught in the same module and turned into a refusal",
    "TimeoutError": "an OSError of a socket like those of the system; callers turn both into refusals",
    "PermissionError": "what a confined process meets instead of the file",
    "NotImplementedError": "an operation that a wrapped interface asks for and nobody uses",
}


def raised(tree: ast.AST) -> set[str]:
    """Names of the exception classes that a module raises directly."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if isinstance(called, ast.Name):
                names.add(called.id)
    return names


def foreign(names: set[str]) -> set[str]:
    """Those of them that are built-in exceptions without a reason to be raised."""
    return {
        name
        for name in names - ALLOWED.keys()
        if isinstance(getattr(builtins, name, None), type) and issubclass(getattr(builtins, name), BaseException)
    }


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_refusals_are_of_the_tree(path: Path) -> None:
    assert foreign(raised(ast.parse(path.read_text(encoding="utf-8")))) == set()


def test_the_check_notices_a_foreign_exception() -> None:
    assert foreign(raised(ast.parse("def f():\n    raise TypeError('x')\n"))) == {"TypeError"}
    assert foreign(raised(ast.parse("try:\n    pass\nexcept OSError as e:\n    raise Exception from e\n"))) == {
        "Exception"
    }
    assert foreign(raised(ast.parse("raise InvalidOption('x', why='y', mend='z')"))) == set()
