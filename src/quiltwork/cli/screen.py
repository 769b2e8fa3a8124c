"""``quiltwork screen``: does a contribution harm others, before anything is composed?"""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from quiltwork.cli.catalog import LANGUAGE, make_method
from quiltwork.cli.inputs import check_device, documents_of, named, named_paths, read_contributions, say
from quiltwork.cli.trusting import Revocations, TrustFile, refuse_inherited, trusted, trusted_public
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import Method
    from quiltwork.evaluate.matrix import HeldOut
    from quiltwork.evaluate.screen_record import Screening

NAME = "screen"
HELP = """Screen contributions to a language model before composing: does one of them harm others?

With text, every contribution is taken out of the composite once, and the losses of all texts with it and without it are
compared, document by document; who answers whose text is watched, and each histogram is held against the texts. An
owner's several experts are judged together. Without text (--weights-only) the weights are held against each other and
against the base, and the histograms against each other: scaled weights, copies, histograms made up to win others' text.

Each contribution is called clean, look or harmful, each finding says what to do, and the advice may be: do not
collaborate. The exit code is 0, also with findings, unless --strict is given. Clean means that these checks found
nothing; backdoors are beyond them."""
EXAMPLES = """Examples:

`quiltwork screen acme globex --base BASE --weights-only`

`quiltwork screen parties/* --base BASE --method evidence_ffn --public public.txt --party acme=acme-test.txt --json`

`quiltwork screen parties/* --base BASE --method evidence_full --set half_life=500 --public public.txt \\
--test wiki=wiki.txt --party acme=acme-test.txt --party globex=globex-test.txt --out screening.html --strict`"""


def run(
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories.")],
    base: Annotated[Path, typer.Option(help="Directory of the public base checkpoint.")],
    method: Annotated[
        str | None, typer.Option(help=f"How they are to be composed: {', '.join(LANGUAGE)}.", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="OPTION=VALUE of the method, such as bound=2. Repeatable.")
    ] = None,
    public: Annotated[
        list[Path] | None,
        typer.Option(help="Public text, or a contribution with its histogram, as for compose; text is scored too."),
    ] = None,
    party: Annotated[list[str] | None, typer.Option(help="PARTY=held-out text. Repeatable.")] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="NAME=public held-out text, scored instead of --public. Repeatable.")
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="No text, no model is run.")] = False,
    harm: Annotated[float, typer.Option(help="Share of the loss from which a text counts as harmed.")] = 0.02,
    max_length: Annotated[int, typer.Option(help="How many tokens the model sees at once.")] = 192,
    max_bytes: Annotated[
        int | None, typer.Option(help="Score at most so many bytes of text of each domain. [default: all]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="How many such windows are scored at a time.")] = 16,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, mps and the like.")] = "cpu",
    trust: TrustFile = None,
    revocations: Revocations = None,
    out: Annotated[Path | None, typer.Option(help="HTML page to write, with PNG plots and JSON beside it.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if anything was found.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the screening as JSON.")] = False,
) -> None:
    """Screen contributions before composing."""
    texts = _texts(party or [], test or [], public or [])
    if weights_only and (party or test):
        raise typer.BadParameter("--weights-only scores no text: leave out --party and --test")
    if not weights_only and (method is None or not any(texts.values())):
        raise typer.BadParameter(
            "give --method, and text with --party NAME=PATH, --test NAME=PATH or --public PATH; or --weights-only"
        )
    from quiltwork.evaluate.screen import screen
    from quiltwork.evaluate.screen_record import Rule
    from quiltwork.models.base import open_base

    whom = trusted(trust, revocations)
    given = read_contributions(contributions)
    if whom is not None:
        whom.require(given)
    opened = open_base(base)
    refuse_inherited(opened.path, whom)
    made = None if method is None else _made(method, _options(option or []))
    held_out = None if weights_only else _held_out(texts, max_length, max_bytes, batch_size)
    found = screen(
        given,
        opened,
        made,
        held_out=held_out,
        public=trusted_public(public or [], opened, whom, moments=_reads_moments(made)),
        rule=Rule(harm=_positive(harm)),
        device=check_device(device) if held_out is not None else device,
        on_step=say,
    )
    _tell(found, out, json)
    if strict and found.found:
        raise typer.Exit(1)


def _texts(
    party: Sequence[str], test: Sequence[str], public: Sequence[Path]
) -> dict[str, Mapping[str, Sequence[Path]]]:
    """Held-out text of parties, and public one: what is given for that, else what describes public text."""
    own, others = named_paths(party, "--party"), named_paths(test, "--test")
    for name in own.keys() & others.keys():
        raise InvalidOption(f"text '{name}'", why="it is given as a party's and as public", mend="Rename one of them.")
    described = [path for path in public if not (path / "contribution.json").is_file()]
    if not others and described and "public" not in own:
        others = {"public": described}
    return {"party": own, "public": others}


def _held_out(
    texts: Mapping[str, Mapping[str, Sequence[Path]]], max_length: int, max_bytes: int | None, batch_size: int
) -> HeldOut:
    from quiltwork.evaluate.matrix import HeldOut

    domains = {
        name: documents_of(paths, max_bytes) for kind in ("party", "public") for name, paths in texts[kind].items()
    }
    return HeldOut(domains, tuple(texts["party"]), max_length, batch_size)


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """``OPTION=VALUE`` arguments; a value is JSON where it is that, else a word."""
    found: dict[str, Any] = {}
    for argument in arguments:
        name, value = named(argument, "--set")
        try:
            found[name.replace("-", "_")] = json_module.loads(value)
        except ValueError:
            found[name.replace("-", "_")] = value
    return found


def _made(name: str, options: Mapping[str, Any]) -> Method:
    """The method, if every value is of the type that the option of ``quiltwork compose`` has.

    Raises:
        InvalidOption: one is not, or the method does not take an option or a value.
    """
    for option, value in options.items():
        kinds = _kinds().get(option)
        if kinds and type(value) not in kinds:
            raise InvalidOption(
                f"--set {option}={value}",
                why=f"it is no {kinds[-1].__name__}",
                mend="Write it as for quiltwork compose; yes and no are true and false.",
            )
    try:
        return make_method(name, options)
    except (TypeError, AttributeError) as error:
        raise InvalidOption(
            f"--set {', '.join(options)}",
            why=f"method {name} takes no such value ({error})",
            mend="Compose in Python what no OPTION=VALUE can state: quiltwork.evaluate.screen.",
        ) from error


def _kinds() -> dict[str, tuple[type, ...]]:
    """The types that a value may have, by option, as far as ``compose`` has an option of that name."""
    from quiltwork.cli import compose

    known: dict[str, tuple[type, ...]] = {"share": (int, float), "pool": (str,)}
    for name, hint in get_type_hints(compose.run).items():
        for kind in {int, float, bool, str} & set(get_args(hint)):
            known.setdefault(name, (int, float) if kind is float else (kind,))
    return known


def _reads_moments(method: Method | None) -> bool:
    return method is not None and "moments" in method.needs()


def _positive(harm: float) -> float:
    if not 0 <= harm < float("inf"):
        raise InvalidOption(f"--harm {harm}", why="it is a share of a loss", mend="Choose 0.02, for 2 %, say.")
    return harm


def _tell(found: Screening, out: Path | None, json: bool) -> None:
    if out is not None:
        from quiltwork.evaluate.screen_page import write_screening

        written = write_screening(found, out)
        say(f"wrote {written[0]} and {len(written) - 1} files beside it")
    if json:
        print(found.to_json())
    else:
        print_screening(found)


def print_screening(found: Screening) -> None:
    """Verdicts as a table, then each finding with what to do, then the advice."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Screening", box=box.SIMPLE_HEAD)
    for heading in ("contribution", "verdict", "worst effect", "answers of others' text", "size of change"):
        table.add_column(heading, justify="left" if heading in ("contribution", "verdict") else "right")
    for one in found.contributions:
        size = "" if one.weights is None else f"{one.weights.size:.3g}"
        style = {"clean": "green", "look": "yellow", "harmful": "bold red"}[one.verdict]
        row = (escape(one.party), f"[{style}]{one.verdict}[/]", _worst(found, one.party), _captured(found, one.party))
        table.add_row(*row, size)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for one in found.contributions:
        for finding in one.findings:
            console.print(f"{one.party}, {finding.check} ({finding.level}): {finding.what}", markup=False)
            console.print(f"  why:  {finding.why}\n  mend: {finding.mend}", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    console.print(found.reason, style="bold", markup=False)


def _worst(found: Screening, party: str) -> str:
    """The text that gets worst by its last effect there, in per cent."""
    last = {one.text: one for one in found.effects if one.party == party}
    if not last:
        return ""
    worst = max(last.values(), key=lambda one: one.change / one.absent)
    return f"{100 * worst.change / worst.absent:+.1f} % ({worst.text})"


def _captured(found: Screening, party: str) -> str:
    from quiltwork.evaluate.screen_verdicts import is_of

    foreign = [
        one.share for one in found.captures if one.party == party and one.round == 1 and not is_of(one.text, party)
    ]
    return f"{100 * sum(foreign) / len(foreign):.0f} %" if foreign else ""
