"""``import quiltwork`` is light, and after it plain transformers loads the native formats, whichever came first.

Each case runs in a process of its own, since what is being tested is a process's first imports.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "accelerate",
    "pyarrow",
    "matplotlib",
    "dp_accounting",
    "safetensors",
    "jinja2",
)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def loaded_by(code: str) -> set[str]:
    result = run(f"import sys\n{code}\nprint(*sorted(m for m in {HEAVY!r} if m in sys.modules))")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("code", ["import quiltwork", "import quiltwork.errors, quiltwork.files"])
def test_importing_quiltwork_is_light(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_check_notices_a_heavy_import() -> None:
    assert "numpy" in loaded_by("import quiltwork\nimport quiltwork.evidence.histogram")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import quiltwork.contribution.store", {"torch", "transformers", "pyarrow", "dp_accounting"}),
        ("import quiltwork.compose.mixture, quiltwork.composite", {"transformers", "accelerate", "matplotlib"}),
    ],
)
def test_rooms_leave_heavy_libraries_to_their_functions(code: str, unwanted: set[str]) -> None:
    assert loaded_by(code) & unwanted == set()


@pytest.fixture(scope="module")
def checkpoints(
    tiny_base: Callable[[str], Base],
    contributions: Callable[[str], list[Contribution]],
    public_text: Callable[[str], Mapping[str, TokenHistogram]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    place = tmp_path_factory.mktemp("native")
    base, found = tiny_base("olmo2"), contributions("olmo2")
    ids = torch.arange(1, 20)[None]
    for name, method in {"moe": MixtureOfExperts(PrefixEvidence()), "ensemble": Ensemble("likelihood")}.items():
        composite = compose(found, method, base, public=public_text("olmo2"))
        composite.save(place / name, layout="native")
        with torch.no_grad():
            torch.save(composite.model()(input_ids=ids, use_cache=False).logits, place / f"{name}.pt")
    for family in ("olmo2", "llama"):
        composite = compose(contributions(family), MixtureOfExperts(LearnedRows(top_k=2)), tiny_base(family))
        composite.save(place / family, layout="portable")
        with torch.no_grad():
            torch.save(composite.model()(input_ids=ids, use_cache=False).logits, place / f"{family}.pt")
    return place


LOAD = """
import sys, torch
torch.set_num_threads(1)
for name in {names!r}:
    model, info = AutoModelForCausalLM.from_pretrained("{place}/" + name, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.arange(1, 20)[None], use_cache=False).logits
    expected = torch.load("{place}/" + name + ".pt")
    assert (logits - expected).abs().max() < {tolerance}, (logits - expected).abs().max()
    print(type(model).__name__)
print("quiltwork" in sys.modules)
"""


@pytest.mark.parametrize(
    "first",
    [
        "import quiltwork\nfrom transformers import AutoModelForCausalLM",
        "from transformers import AutoModelForCausalLM\nimport quiltwork",
        "import transformers\nimport quiltwork\nfrom transformers import AutoModelForCausalLM",
        "import quiltwork.models.native.ensemble\nfrom transformers import AutoModelForCausalLM",
        "import quiltwork.models.native.moe\nfrom transformers import AutoModelForCausalLM",
    ],
    ids=["before", "after", "between", "ensemble-first", "moe-first"],
)
def test_native_checkpoints_load_after_one_import(first: str, checkpoints: Path) -> None:
    result = run(first + LOAD.format(names=["moe", "ensemble"], place=checkpoints, tolerance=1e-6))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["QuiltworkMoEForCausalLM", "QuiltworkEnsembleForCausalLM", "True"]


def test_portable_checkpoints_load_where_quiltwork_is_not(checkpoints: Path) -> None:
    code = "from transformers import AutoModelForCausalLM" + LOAD.format(
        names=["olmo2", "llama"], place=checkpoints, tolerance=1e-5
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["FlexOlmoForCausalLM", "MixtralForCausalLM", "False"]


def test_without_the_import_native_checkpoints_do_not_load(checkpoints: Path) -> None:
    code = "from transformers import AutoModelForCausalLM" + LOAD.format(
        names=["moe"], place=checkpoints, tolerance=1.0
    )
    result = run(code)
    assert result.returncode != 0
    assert "quiltwork_moe" in result.stderr
