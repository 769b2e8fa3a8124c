"""The help of every verb: each option has a sentence, says what happens without it, and says so truly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import typer
from cli_runner import done
from typer.core import TyperGroup

from quiltwork.cli.app import app
from quiltwork.compose.combine import Combine
from quiltwork.compose.dare import Dare
from quiltwork.compose.gaussian_head import GaussianHead
from quiltwork.compose.middle import Middle
from quiltwork.compose.network_evidence import Evidence
from quiltwork.compose.proxies import ProxyPlan
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.stitch import Stitch
from quiltwork.compose.task_arithmetic import TaskArithmetic
from quiltwork.compose.ties import Ties
from quiltwork.party.proxies import ProxyChoice

_DEFAULT = re.compile(r"\[default: (.+)\]")


def verbs(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb and kind by what is typed."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield before + name, command


VERBS = dict(verbs())


def options(verb: str) -> Iterator[tuple[str, Any]]:
    """The parameters of a verb by what is typed; of arguments, by name."""
    for one in VERBS[verb].params:
        if one.name != "help":
            yield max(one.opts, key=len), one


def stated(verb: str, option: str) -> str:
    """What the help of an option says that its default is."""
    found = _DEFAULT.search(dict(options(verb))[option].help)
    assert found is not None, option
    return found[1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_sentence(verb: str) -> None:
    assert len((VERBS[verb].help or "").split()) > 5
    assert VERBS[verb].epilog
    for name, one in options(verb):
        words = one.help or ""
        assert len(words.split()) >= 2, name
        assert words[-1] in ".])", f"{name}: {words}"
        assert not one.hidden, name


@pytest.mark.parametrize("verb", VERBS)
def test_a_number_or_a_switch_says_what_it_is_without_being_given(verb: str) -> None:
    for name, one in options(verb):
        numeric = one.type_descriptor.annotation in (int, float, bool)
        if not numeric or one.required or one.multiple or one.default is not None:
            continue
        says_so = _DEFAULT.search(one.help) or "in place of" in one.help
        assert says_so, f"{verb} {name}: {one.help}"
    shown = [one for _, one in options(verb) if one.default is not None and one.param_type_name == "option"]
    assert all(one.show_default for one in shown)


def test_defaults_are_on_the_page() -> None:
    page = " ".join(done("generate", "--help").out.replace("│", " ").split())
    assert "[default: 60]" in page
    assert "[default: cpu]" in page
    assert "[default: no limit]" in " ".join(done("add", "--help").out.replace("│", " ").split())


# What compose says of defaults, against the methods' own.


def default(kind: type, name: str) -> str:
    value = next(one.default for one in fields(kind) if one.name == name)  # type: ignore[arg-type] # dataclasses
    words = {True: "yes", False: "no"}
    return words[value] if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


ONE_METHOD = [
    ("--renormalise", LearnedRows, "renormalise"),
    ("--renormalise", ResidualLDA, "renormalise"),
    ("--renormalise", PromptRows, "renormalise"),
    ("--bias", LearnedRows, "bias"),
    ("--covariance", ResidualLDA, "covariance"),
    ("--offsets", ResidualLDA, "offsets"),
    ("--prompt-pool", PromptRows, "pool"),
    ("--rows-share", RowsAndEvidence, "share"),
    ("--features", PrefixEvidence, "features"),
    ("--temperature", PrefixEvidence, "temperature"),
    ("--temperature", ResidualLDA, "temperature"),
    ("--temperature", Evidence, "temperature"),
    ("--bound", PrefixEvidence, "bound"),
    ("--minimum-weight", PrefixEvidence, "minimum_weight"),
    ("--smoothing", PrefixEvidence, "smoothing"),
    ("--elect", Dare, "elect"),
    ("--gate", Reduction, "gate"),
    ("--experts", Reduction, "experts"),
    ("--robust", Reduction, "robust"),
    ("--divergence", Middle, "divergence"),
    ("--seed", Reduction, "seed"),
    ("--seed", Dare, "seed"),
    ("--weighting", Combine, "weights"),
    ("--weighting", Stitch, "weights"),
    ("--evidence", Evidence, "of"),
    ("--prior", Evidence, "prior"),
    ("--mode", Stitch, "mode"),
    ("--form", GaussianHead, "form"),
]


@pytest.mark.parametrize(("option", "kind", "name"), ONE_METHOD)
def test_a_default_is_the_method_s(option: str, kind: type, name: str) -> None:
    assert stated("compose", option) == default(kind, name)


SEVERAL = {
    "--scale": {"task_arithmetic": (TaskArithmetic, "scale"), "dare": (Dare, "scale"), "ties": (Ties, "scale")},
    "--density": {"ties": (Ties, "density"), "dare": (Dare, "density")},
    "--support": {"reduction": (Reduction, "support"), "others": (Middle, "support")},
    "--machine-weights": {"reduction": (Reduction, "weights")},
    "--shrinkage": {"gaussian_head": (GaussianHead, "shrinkage"), "residual_lda": (ResidualLDA, "shrinkage")},
}


@pytest.mark.parametrize("option", SEVERAL)
def test_defaults_of_several_methods_are_theirs(option: str) -> None:
    told = {}
    for part in stated("compose", option).split("; "):
        *names, value = part.replace(",", "").split()
        told |= dict.fromkeys(names, value)
    for method, (kind, name) in SEVERAL[option].items():
        assert told[method] == default(kind, name)


@pytest.mark.parametrize("option", ["--half-life", "--switching", "--floor"])
def test_what_is_off_is_said_to_be_off(option: str) -> None:
    assert default(PrefixEvidence, option[2:].replace("-", "_")) == "None"
    assert stated("compose", option) in ("never", "none", "it never fades")


def test_defaults_of_stand_ins_and_proxies() -> None:
    assert stated("tune", "--documents") == default(ProxyPlan, "count")
    assert stated("tune", "--features") == default(ProxyPlan, "features")
    assert stated("contribute expert", "--proxy-documents") == default(ProxyChoice, "count")


def test_a_wrong_default_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    option = dict(options("compose"))["--bound"]
    monkeypatch.setattr(option, "help", option.help.replace("[default: 4]", "[default: 5]"))
    assert stated("compose", "--bound") != default(PrefixEvidence, "bound")
