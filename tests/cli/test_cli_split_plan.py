"""The plan that the help shows: valid, whole, and explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from quiltwork.cli.split import plan_parts
from quiltwork.cli.split.plan import Plan, parsed
from quiltwork.cli.split.plan_example import EXAMPLE
from quiltwork.errors import InvalidOption

PAGE = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text(encoding="utf-8")


def keys() -> list[str]:
    parts = [Plan, *(p for p in vars(plan_parts).values() if isinstance(p, type) and issubclass(p, BaseModel))]
    return sorted({key for part in parts for key in part.model_fields})


def uncommented(text: str, *starts: str) -> str:
    """The example with the comments that begin so taken for lines of the plan."""
    for start in starts:
        assert f"\n# {start}" in text, start
        text = text.replace(f"\n# {start}", f"\n{start}")
    return text


def without(text: str, *starts: str) -> str:
    kept = [line for line in text.splitlines() if not line.startswith(starts)]
    return "\n".join(kept)


def test_it_is_valid_and_states_the_defaults() -> None:
    found = parsed(EXAMPLE, "the example")
    assert found.training == plan_parts.TrainingPart()
    assert found.parties["bank"].component == found.parties["shop"].component == plan_parts.MlpPart()


@pytest.mark.parametrize("key", keys())
def test_every_key_is_in_the_example_and_on_the_page(key: str) -> None:
    written = re.findall(r"(?:^|[{,]|# )\s*\[?(\w+)(?:\]| =|\.\w+\])", EXAMPLE, flags=re.MULTILINE)
    assert key in written
    plans = PAGE[PAGE.index("## Plans") :]
    assert f"`{key}`" in plans or f"[{key}]" in plans or f"[{key}.NAME]" in plans


def test_a_key_that_is_not_there_would_be_missed() -> None:
    written = re.findall(r"(?:^|[{,]|# )\s*\[?(\w+)(?:\]| =|\.\w+\])", EXAMPLE, flags=re.MULTILINE)
    assert {"epsilon", "then", "parties"} <= set(written)
    assert not {"hats", "public", "paths"} & set(written)


def test_what_stands_as_a_comment_is_valid_too() -> None:
    others = uncommented(EXAMPLE, 'party = "registry"', "epsilon = 3.0", "bounds = [", "delta", "clip")
    shop = "[parties.shop]\nbounds = [0.0, 1.0]\nepsilon = 1.0"
    private = parsed(others.replace("[parties.shop]", shop), "private")
    assert private.private
    assert (private.parties["bank"].delta, private.labels.party) == (1e-5, "registry")
    joint = without(uncommented(EXAMPLE, "sum ="), "outputs", "floor").replace('mode = "isolated"', 'mode = "joint"')
    with pytest.raises(ValueError, match="three parties"):
        parsed(joint, "two parties")
    third = joint.replace("[composer]", '[parties.mill]\nfiles = ["mill.csv"]\n[composer]')
    assert parsed(third, "joint").masked


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("sum", ("symbols", "modulus")),
        ("parity", ()),
        ("comparison", ("symbols",)),
        ("rules", ("symbols", "rules = [", "otherwise")),
        ("table", ("table = [",)),
        ("code", ("symbols", "file", "name", "samples")),
    ],
)
def test_every_program_of_the_example_is_valid(kind: str, lines: tuple[str, ...]) -> None:
    text = uncommented(EXAMPLE, "[program]", 'kind = "sum"', "operands", *lines)
    composer = text.index("[composer]")
    text = without(text[:composer] + text[text.index("# sum =") :], "outputs").replace(
        'kind = "sum"', f'kind = "{kind}"'
    )
    text = text.replace(", width = 16 }\n# component", " }\n# component").replace('"isolated"  ', '"program"  ')
    assert parsed(text, kind).operands == ("bank", "shop")


IDLE = {
    "labels.classes": ('task = "classification"', 'task = "regression"', "outputs", "floor"),
    "composer.hidden": ('[composer]\nkind = "mlp"', '[composer]\nkind = "linear"'),
    "composer.floor": ('outputs = "product"', 'outputs = "mean"'),
    "of classes": ('task = "classification"', 'task = "regression"', "outputs", "classes"),
}


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_would_do_nothing_is_refused(key: str) -> None:
    old, new, *left_out = IDLE[key]
    text = without(EXAMPLE, *left_out)
    assert parsed(text, "before").labels.task == "classification"
    with pytest.raises(InvalidOption, match=key):
        parsed(text.replace(old, new), "after")


@pytest.mark.parametrize("key", ['kind = "mlp"', "hidden = [8]"])
def test_a_composer_that_would_learn_nothing_is_refused_in_program_mode(key: str) -> None:
    start = EXAMPLE.index("[composer]")
    text = (
        EXAMPLE[:start].replace(", width = 16 }", " }") + '[program]\nkind = "parity"\n[training]\nmode = "program"\n'
    )
    assert parsed(text, "before").composer == plan_parts.ComposerPart()
    with pytest.raises(InvalidOption, match=f"composer.{key.split()[0]}"):
        parsed(text + f"[composer]\n{key}\n", "after")
