"""``quiltwork contribute mixture``: fit a mixture of experts to a table next to it and write what leaves."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quiltwork.cli.contribute.handover import show
from quiltwork.cli.contribute.sealing import seal_for_tables
from quiltwork.cli.inputs import listed, named, numbers, read_text, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.evidence.clipped import ClippedGaussian
    from quiltwork.party.private_em import PrivateFit

NAME = "mixture"
HELP = """Fit a mixture of experts to your own table, here, and write one contribution directory of a few kilobytes.

What leaves are the parameters of the fit, the number of rows and, unless you say otherwise, a mean and covariance of
the features; no row does. Look at it with `quiltwork inspect` before you hand it over."""
EXAMPLES = """Examples:

`quiltwork contribute mixture --data part.parquet --target y --party a --out a`

`quiltwork contribute mixture --data ward.csv --target stay --features age,pulse --units age=years --units pulse=1/min
--n-experts bic --covariates gaussian:epsilon=1,delta=1e-6 --guess age=50,20 --guess pulse=80,20 --party north
--out north --confine --json`"""
_NOISE = "Under noise (differential privacy)"


def run(
    data: Annotated[list[Path], typer.Option(help="CSV, Parquet or NumPy; a file or directory. Repeatable.")],
    target: Annotated[list[str], typer.Option(help="Column to predict; several, given one by one, for regression.")],
    party: Annotated[str, typer.Option(help="Your name in the composed model: a-z, 0-9, - and _.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    features: Annotated[
        list[str] | None,
        typer.Option(help="Columns to predict from, separated by commas. Repeatable. [default: all others]"),
    ] = None,
    units: Annotated[list[str] | None, typer.Option(help="FEATURE=UNIT, compared between parties. Repeatable.")] = None,
    weight: Annotated[str | None, typer.Option(help="Column of row weights.")] = None,
    task: Annotated[str, typer.Option(help="regression, classification or counts.")] = "regression",
    classes: Annotated[
        list[str] | None,
        typer.Option(help="All labels that any party has, separated by commas. Repeatable. [default: yours]"),
    ] = None,
    n_experts: Annotated[str, typer.Option(help="Number of experts, or bic.")] = "2",
    max_iterations: Annotated[
        int | None, typer.Option(help="How many steps the fit takes at most. [default: 500]")
    ] = None,
    missing: Annotated[str, typer.Option(help="What becomes of rows with a missing value: refuse or drop.")] = "refuse",
    covariates: Annotated[
        str | None,
        typer.Option(
            help="Summary of the features: none, the number of its Gaussians (1 is a mean and covariance), or "
            "gaussian:epsilon=1,delta=1e-6,clip=3 under noise. [default: 1; none with --private]"
        ),
    ] = None,
    precision: Annotated[bool, typer.Option(help="Also release how sharply the fit is determined.")] = False,
    private: Annotated[
        str | None, typer.Option(help="Fit under noise: gaussian:epsilon=8,delta=1e-6,clip=4.", rich_help_panel=_NOISE)
    ] = None,
    private_steps: Annotated[
        int, typer.Option(help="Looks at the rows of a fit under noise.", rich_help_panel=_NOISE)
    ] = 20,
    private_precision: Annotated[
        str | None, typer.Option(help="Precision under noise, as for --private.", rich_help_panel=_NOISE)
    ] = None,
    guess: Annotated[
        list[str] | None,
        typer.Option(
            help="COLUMN=CENTRE,SCALE: where a column lies and how far it reaches, from public knowledge and never "
            "from your rows. Each column that leaves under noise needs one. Repeatable.",
            rich_help_panel=_NOISE,
        ),
    ] = None,
    likelihood: Annotated[bool, typer.Option(help="State the log-likelihood of your rows.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the starts.")] = 0,
    licence: Annotated[str, typer.Option(help="Licence of the contribution (SPDX).")] = "LicenseRef-unstated",
    card: Annotated[Path | None, typer.Option(help="File with free text for whoever composes.")] = None,
    confine: Annotated[
        bool, typer.Option(help="Seal this process: it can open the data and the directory it writes to.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing contribution.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit a mixture of experts to your own table, here, and write one contribution directory."""
    text = read_text(card, "--card") if card else ""
    scratch = out.with_name(f".{out.name}.scratch")
    sealing = seal_for_tables(data, out, scratch) if confine else "off"
    say(f"confinement: {sealing}")
    from quiltwork.party.mixture import contribute_mixture
    from quiltwork.party.mixture_order import MixtureOrder
    from quiltwork.party.table import open_table

    try:
        fragment = open_table(
            data,
            target=target,
            features=listed(features) if features else None,
            units=dict(named(pair, "--units") for pair in units or []),
            weight=weight,
            task=task,  # type: ignore[arg-type]
            classes=listed(classes) if classes else None,
            missing=missing,  # type: ignore[arg-type]
        )
        noise = _Noise(fragment.features, fragment.target, guess or [])
        order = MixtureOrder(
            party=party,
            n_experts=_count_or_bic(n_experts),
            covariates=noise.covariates(covariates or ("none" if private else "1")),
            precision=noise.rule(private_precision, fragment.features) if private_precision else precision,
            report_likelihood=likelihood,
            licence=licence,
            card=text,
            seed=seed,
            options={} if max_iterations is None else {"max_iter": max_iterations},
            private=noise.fit(private, private_steps) if private else None,
        )
        with _as_notes():
            contribution = contribute_mixture(fragment, out, order, overwrite=overwrite)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    show(contribution, out, sealing, json=json)


@contextmanager
def _as_notes() -> Iterator[None]:
    """Warnings of a fit, that it has not converged say, as notes for people."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)):
        say(f"note: {text}")


@dataclass(frozen=True)
class _Noise:
    """The rules of what leaves under noise, with the public guesses that they need."""

    features: tuple[str, ...]
    target: tuple[str, ...]
    guesses: Sequence[str]

    def covariates(self, text: str) -> int | ClippedGaussian | None:
        """A number of Gaussians, a rule, or None for ``none``."""
        if text == "none":
            return None
        if ":" in text:
            return self.rule(text, self.features)
        return _whole(text, "--covariates", "none, a number of Gaussians or gaussian:epsilon=...,delta=...")

    def fit(self, text: str, steps: int) -> PrivateFit:
        """The rule of a fit."""
        from quiltwork.party.private_em import PrivateFit

        return PrivateFit(self.rule(text, (*self.features, *self.target)), steps)

    def rule(self, text: str, columns: tuple[str, ...]) -> ClippedGaussian:
        """A rule over some columns."""
        import numpy as np

        from quiltwork.evidence.clipped import ClippedGaussian

        known = dict(named(guess, "--guess") for guess in self.guesses)
        for name in known:
            if name not in (*self.features, *self.target):
                raise InvalidOption(
                    f"--guess {name}", why="it is no feature and no target", mend="Name a column of the table."
                )
        pairs = np.array([_pair(name, known.get(name)) for name in columns])
        return ClippedGaussian.from_text(text, pairs[:, 0], pairs[:, 1])


def _pair(column: str, guess: str | None) -> list[float]:
    mend = f"State --guess {column}=CENTRE,SCALE from public knowledge, such as --guess age=50,20."
    if guess is None:
        raise InvalidOption(
            f"column '{column}'", why="it would leave under noise, and nobody says where it lies", mend=mend
        )
    pair = numbers(guess, f"--guess {column}")
    if len(pair) != 2:
        raise InvalidOption(f"--guess {column}={guess}", why="it is not a centre and a scale", mend=mend)
    return pair


def _count_or_bic(word: str) -> int | Literal["bic"]:
    return "bic" if word == "bic" else _whole(word, "--n-experts", "a number or bic")


def _whole(word: str, what: str, wanted: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InvalidOption(f"{what} '{word}'", why=f"it is not {wanted}", mend=f"Write {what} 4, say.") from None
