"""``quiltwork contribute mixture``: fit a mixture of experts to a table next to it and write what leaves."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quiltwork.cli.contribute.sealing import seal
from quiltwork.cli.inputs import listed, named, print_json, read_text, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.party.mixture import MixtureOrder

NAME = "mixture"
HELP = """Fit a mixture of experts to your own table, here, and write one contribution directory of a few kilobytes.

What leaves are the parameters of the fit, the number of rows and, unless you say otherwise, a mean and covariance of
the features; no row does. Look at it with `quiltwork inspect` before you hand it over."""
EXAMPLES = """Examples:

`quiltwork contribute mixture --data part.parquet --target y --party a --out a`

`quiltwork contribute mixture --data ward.csv --target stay --features age,pulse --units age=years --units pulse=1/min
--n-experts bic --covariates gaussian:epsilon=1,delta=1e-6,clip=3 --party north --out north --confine --json`"""


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
    missing: Annotated[str, typer.Option(help="Rows with a missing value: refuse or drop.")] = "refuse",
    covariates: Annotated[
        str,
        typer.Option(
            help="Summary of the features: none, the number of its Gaussians (1 is a mean and covariance), or "
            "gaussian:epsilon=1,delta=1e-6,clip=3 under noise."
        ),
    ] = "1",
    precision: Annotated[bool, typer.Option(help="Also release how sharply the fit is determined.")] = False,
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
    order_of = partial(
        _order, party=party, n_experts=n_experts, covariates=covariates, licence=licence, card=text, seed=seed
    )
    scratch = out.with_name(f".{out.name}.scratch")
    sealing = _confine(data, out, scratch) if confine else "off"
    say(f"confinement: {sealing}")
    from quiltwork.contribution.describe import describe
    from quiltwork.party.mixture import contribute_mixture
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
        order = order_of(precision=precision, report_likelihood=likelihood)
        contribution = contribute_mixture(fragment, out, order, overwrite=overwrite)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if json:
        print_json(describe(contribution) | {"path": str(out), "confinement": sealing})
        return
    say(f"wrote {out}: {contribution.bytes:,} bytes, {contribution.digest}")
    say(f"look at it before it leaves: quiltwork inspect {out}")


def _order(*, n_experts: str, covariates: str, **rest: Any) -> MixtureOrder:
    from quiltwork.party.mixture import MixtureOrder

    k: int | Literal["bic"] = "bic" if n_experts == "bic" else _whole(n_experts, "--n-experts", "a number or bic")
    summary = None if covariates == "none" else _whole(covariates, "--covariates", "none or a number of Gaussians")
    return MixtureOrder(n_experts=k, covariates=summary, **rest)


def _whole(word: str, what: str, wanted: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise InvalidOption(f"{what} '{word}'", why=f"it is not {wanted}", mend=f"Write {what} 4, say.") from None


def _confine(data: list[Path], out: Path, scratch: Path) -> str:
    """Seal the process, heavy imports first."""
    import pyarrow  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401

    return seal(data, out, scratch)
