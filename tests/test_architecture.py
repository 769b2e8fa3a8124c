"""The walls: imports point down, only the command line opens the owner's room, and data never names code.

The contracts of pyproject.toml are run by import-linter; what it cannot see (type-checking imports, forbidden calls,
names of files) is read from the syntax trees here. Each check is tried on a small tree that breaks the rule.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "quiltwork"
MODULES = sorted(SOURCE.rglob("*.py"))

ORDER = (
    ("cli",),
    ("audit",),
    ("evaluate",),
    ("session", "compose"),
    ("composite",),
    ("party",),
    ("training",),
    ("models",),
    ("contribution",),
    ("evidence",),
    ("privacy", "sharing"),
    ("datasets",),
    ("streaming",),
    ("files", "progress"),
    ("errors",),
)


def imports(path: Path, source: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth and under TYPE_CHECKING too, as a dotted name."""
    here = ("quiltwork", *path.relative_to(source).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (package, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """The room of a dotted name inside quiltwork, or the empty string."""
    parts = name.split(".")
    return parts[1] if parts[0] == "quiltwork" and len(parts) > 1 else ""


def openers(source: Path) -> list[str]:
    """Files outside the owner's room and the command line that import the owner's room in any way."""
    return [
        str(path.relative_to(source))
        for path in sorted(source.rglob("*.py"))
        if path.relative_to(source).parts[0] not in ("cli", "party")
        and any(room(name) == "party" for name in imports(path, source))
    ]


def upward(source: Path) -> list[str]:
    """Imports that point up, type-checking ones included."""
    level = {name: number for number, names in enumerate(ORDER) for name in names}
    found = []
    for path in sorted(source.rglob("*.py")):
        own = path.relative_to(source).with_suffix("").parts[0]
        for target in {room(name) for name in imports(path, source)}:
            if own in level and target in level and target != own and level[target] <= level[own]:
                found.append(f"{path.relative_to(source)} -> {target}")
    return found


FORBIDDEN = {
    "pickle": "unpickling runs code",
    "cPickle": "unpickling runs code",
    "dill": "unpickling runs code",
    "cloudpickle": "unpickling runs code",
    "joblib": "unpickling runs code",
    "marshal": "loads code objects",
    "shelve": "unpickling runs code",
    "torch.load": "unpickling runs code",
    "numpy.load": "unpickling runs code where allow_pickle is set",
    "np.load": "unpickling runs code where allow_pickle is set",
    "eval": "runs text",
    "exec": "runs text",
    "compile": "runs text",
    "__import__": "imports by a name that data may give",
    "importlib.import_module": "imports by a name that data may give",
    "import_module": "imports by a name that data may give",
    "trust_remote_code": "runs code from a checkpoint",
}
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("party/local_fits.py", "joblib"): "hands an owner's own fits to its own workers, and reads no file with it",
}
"""(file, forbidden name) -> why it is needed there."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"


def dangers(path: Path, source: Path) -> set[str]:
    """Forbidden modules and calls in a file."""
    found = {name.split(".")[0] for name in imports(path, source)} & FORBIDDEN.keys()
    found |= set(imports(path, source)) & FORBIDDEN.keys()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            found |= {dotted(node.func)} & FORBIDDEN.keys()
            found |= {keyword.arg for keyword in node.keywords if keyword.arg} & FORBIDDEN.keys()
    return found


def lint_imports(directory: Path, config: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """Import-linter's contracts of a configuration, in a process of their own."""
    code = "import sys; from importlinter.cli import lint_imports; "
    code += f"sys.exit(lint_imports(config_filename={str(config)!r}, no_cache=True))"
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )


def test_the_contracts_of_the_project_hold() -> None:
    result = lint_imports(ROOT, ROOT / "pyproject.toml", ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 2 kept, 0 broken." in result.stdout


def test_the_contracts_cover_every_room() -> None:
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers, wall = contracts
    named = {part.strip() for layer in layers["layers"] for part in layer.split("|")}
    assert named == {f"quiltwork.{name}" for names in ORDER for name in names}
    rooms = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.stem for path in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert {f"quiltwork.{name}" for name in rooms | files} == named
    assert wall["forbidden_modules"] == ["quiltwork.party"]
    below = rooms | {"composite"}
    assert set(wall["source_modules"]) == {f"quiltwork.{name}" for name in below - {"cli", "party"}}


def test_only_the_command_line_opens_the_owner_s_room() -> None:
    assert openers(SOURCE) == []


def test_no_import_points_up_not_even_for_types() -> None:
    assert upward(SOURCE) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_is_unpickled_and_nothing_named_by_data_is_run(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    excused = {forbidden for file, forbidden in EXCEPTIONS if file == name}
    assert dangers(path, SOURCE) - excused == set()


def test_every_exception_is_still_needed() -> None:
    for file, forbidden in EXCEPTIONS:
        assert forbidden in dangers(SOURCE / file, SOURCE)


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_no_file_is_called_utils(folder: str) -> None:
    names = {path.stem for path in (ROOT / folder).rglob("*.py")} | {path.name for path in (ROOT / folder).rglob("*")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_file_opens_with_its_idea_and_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name not in ("__main__.py",):
        assert ast.get_docstring(ast.parse(text)), "a file opens with what it is about"
    assert len(text.splitlines()) <= 420


# Negative controls: a small house that breaks each rule.


@pytest.fixture
def house(tmp_path: Path) -> Path:
    source = tmp_path / "quiltwork"
    for name in ("cli", "evaluate", "compose", "party", "models"):
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").write_text("")
    (source / "__init__.py").write_text("")
    (source / "errors.py").write_text("")
    (source / "party" / "fragment.py").write_text("def open_fragment(): ...\n")
    (source / "cli" / "contribute.py").write_text("from quiltwork.party.fragment import open_fragment\n")
    return source


def test_a_sound_house_passes(house: Path) -> None:
    assert openers(house) == []
    assert upward(house) == []


@pytest.mark.parametrize(
    "text",
    [
        "import quiltwork.party\n",
        "import quiltwork.party.fragment as f\n",
        "from quiltwork import party\n",
        "from quiltwork.party import fragment\n",
        "from ..party import fragment\n",
        "def lazy():\n    from quiltwork.party.fragment import open_fragment\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from quiltwork.party.fragment import open_fragment\n",
    ],
)
def test_every_way_into_the_owner_s_room_is_noticed(house: Path, text: str) -> None:
    (house / "compose" / "soup.py").write_text(text)
    assert openers(house) == ["compose/soup.py"]


def test_an_import_that_points_up_is_noticed(house: Path) -> None:
    (house / "models" / "bank.py").write_text("def f():\n    from quiltwork.compose import soup\n")
    assert upward(house) == ["models/bank.py -> compose"]


CONTRACTS = """
[tool.importlinter]
root_package = "quiltwork"

[[tool.importlinter.contracts]]
name = "only the command line opens the owner's room"
type = "forbidden"
source_modules = ["quiltwork.compose"]
forbidden_modules = ["quiltwork.party"]
"""


def test_import_linter_notices_a_lazy_way_into_the_owner_s_room(house: Path) -> None:
    (house.parent / "pyproject.toml").write_text(CONTRACTS)
    sound = lint_imports(house.parent, house.parent / "pyproject.toml", house.parent)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    (house / "compose" / "soup.py").write_text("def f():\n    from quiltwork.party import fragment\n")
    broken = lint_imports(house.parent, house.parent / "pyproject.toml", house.parent)
    assert broken.returncode != 0
    assert "quiltwork.compose.soup -> quiltwork.party" in broken.stdout


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("import pickle\n", "pickle"),
        ("from pickle import loads\n", "pickle"),
        ("def f():\n    import joblib\n", "joblib"),
        ("import torch\ntorch.load('x')\n", "torch.load"),
        ("from torch import load\n", "torch.load"),
        ("import numpy as np\nnp.load('x')\n", "np.load"),
        ("eval('1')\n", "eval"),
        ("import importlib\nimportlib.import_module('x')\n", "importlib.import_module"),
        ("from importlib import import_module\n", "importlib.import_module"),
        ("__import__('x')\n", "__import__"),
        ("AutoModel.from_pretrained('x', trust_remote_code=True)\n", "trust_remote_code"),
    ],
)
def test_every_danger_is_noticed(house: Path, text: str, name: str) -> None:
    (house / "models" / "bad.py").write_text(text)
    assert name in dangers(house / "models" / "bad.py", house)


def test_model_eval_is_no_danger(house: Path) -> None:
    (house / "models" / "good.py").write_text("model.eval()\nre.compile('x')\n")
    assert dangers(house / "models" / "good.py", house) == set()
