"""``quiltwork compose``: contributions in, one model out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli import method_options as how
from quiltwork.cli import networks, pooling
from quiltwork.cli import routing_options as opt
from quiltwork.cli.catalog import (
    LANGUAGE,
    NETWORKS,
    TABLES,
    is_network_method,
    is_table_method,
    make_method,
    make_network_method,
    make_table_method,
)
from quiltwork.cli.inputs import pair_of, print_json, read_contributions, say, weights
from quiltwork.cli.tables import told
from quiltwork.cli.trusting import Revocations, TrustFile, refuse_inherited, trusted, trusted_public
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.compose.method import Method, PublicText
    from quiltwork.compose.networks import NetworkMethod
    from quiltwork.compose.tables import TableMethod
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.contribution.trust import Trust
    from quiltwork.models.base import Base
    from quiltwork.models.pool import Pool

NAME = "compose"
HELP = """Compose contributions into one model.

Methods for language models, which need the `--base` that the parties started from:

""" + "\n\n".join(f"- `{name}`: {row.summary}" for name, row in LANGUAGE.items())
HELP += "\n\nMethods for mixtures of experts on tables, which have no base:\n\n"
HELP += "\n\n".join(f"- `{name}`: {row.summary}" for name, row in TABLES.items())
HELP += "\n\nMethods for networks on one task, images say, for which a party may hand over several contributions:\n\n"
HELP += "\n\n".join(f"- `{name}`: {row.summary}" for name, row in NETWORKS.items())
EXAMPLES = """Examples:

`quiltwork compose acme globex --base BASE --method learned_rows --out composed`

`quiltwork compose parties/* --base BASE --public public.txt --method evidence_ffn --half-life 500 --out native`

`quiltwork compose machines/* --method reduction --out composed`

`quiltwork compose ash/* birch/* --method combine --weighting evidence --out composed`"""
_TEXT = how.TEXT


def run(
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories.")],
    method: Annotated[str, typer.Option(help="Name of a method of the lists above.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    include: Annotated[
        list[str] | None,
        typer.Option(help="Compose only this party's contributions, of those given. Repeatable. [default: all]"),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Directory of the public base checkpoint.", rich_help_panel=_TEXT)
    ] = None,
    base_name: Annotated[
        str | None,
        typer.Option(help="What a model hub calls the base, OWNER/NAME, for the model card.", rich_help_panel=_TEXT),
    ] = None,
    public: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public text, which the base answers, or a contribution with its statistics; for routers by evidence "
            "or moments. Repeatable.",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="portable (plain transformers loads it) or native (needs quiltwork). [default: portable if possible]",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    pool: pooling.PoolDirectory = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="How much a party, or the base, counts: PARTY=WEIGHT, base=WEIGHT. Repeatable. [default: 1]",
            rich_help_panel=_TEXT,
        ),
    ] = None,
    scale: how.Scale = None,
    density: how.Density = None,
    elect: how.Elect = None,
    top_k: opt.TopK = None,
    renormalise: opt.Renormalise = None,
    bias: opt.Bias = None,
    covariance: opt.Covariance = None,
    offsets: opt.Offsets = None,
    prompts: opt.PromptFile = None,
    prompt_pool: opt.PromptPool = None,
    rows: opt.Rows = None,
    rows_share: opt.RowsShare = None,
    features: opt.Features = None,
    temperature: opt.Temperature = None,
    half_life: opt.HalfLife = None,
    switching: opt.Switching = None,
    floor: opt.Floor = None,
    bound: opt.Bound = None,
    minimum_weight: opt.MinimumWeight = None,
    smoothing: opt.Smoothing = None,
    n_experts: how.NExperts = None,
    gate: how.Gate = None,
    experts: how.Experts = None,
    robust: how.Robust = None,
    machine_weights: how.MachineWeights = None,
    divergence: how.Divergence = None,
    support: how.Support = None,
    seed: how.Seed = None,
    rule: how.Combining = None,
    weighting: how.Weighting = None,
    evidence: how.EvidenceOf = None,
    prior: how.Prior = None,
    pair: how.Pair = None,
    points: how.Points = None,
    mode: how.Mode = None,
    both: how.Both = None,
    ridge: how.Ridge = None,
    candidates: how.Candidates = None,
    form: how.Form = None,
    shrinkage: how.Shrinkage = None,
    trust: TrustFile = None,
    revocations: Revocations = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Refuse a contribution of more bytes than this. [default: no limit]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compose contributions into one model."""
    stated: dict[str, Any] = {
        "scale": scale,
        "density": density,
        "elect": elect,
        "top_k": top_k,
        "renormalise": renormalise,
        "bias": bias,
        "covariance": covariance,
        "offsets": offsets,
        "pool": prompt_pool,
        "rows": rows,
        "share": rows_share,
        "features": features,
        "temperature": temperature,
        "half_life": half_life,
        "switching": switching,
        "floor": floor,
        "bound": bound,
        "minimum_weight": minimum_weight,
        "smoothing": smoothing,
        "weights": weights(weight) if weight else None,
        "n_experts": n_experts,
        "support": support,
        "gate": gate,
        "experts": experts,
        "machine_weights": machine_weights,
        "robust": robust,
        "divergence": divergence,
        "seed": seed,
        "rule": rule,
        "weighting": weighting,
        "evidence": evidence,
        "prior": prior,
        "pair": pair_of(pair, "--pair"),
        "points": pair_of(points, "--points"),
        "mode": mode,
        "both": both,
        "ridge": ridge,
        "form": form,
        "shrinkage": shrinkage,
    }
    options = {name: value for name, value in stated.items() if value is not None} | opt.prompts_of(prompts)
    whom = trusted(trust, revocations)
    given = partial(_given, contributions, max_bytes, include, whom)
    of_text: dict[str, object] = {"--base": base, "--base-name": base_name, "--public": public, "--layout": layout}
    of_text["--pool"] = pool
    if is_table_method(method):
        _require_no_text(of_text, method)
        chosen = make_table_method(method, options)
        result = _tables(included(given(read_contributions), include), chosen, out, overwrite)
    elif is_network_method(method):
        _require_no_text(of_text, method)
        joining = make_network_method(method, options)
        write = _networks if candidates is None else partial(_candidates, candidates)
        result = write(included(given(read_contributions), include), joining, out, overwrite)
    else:
        if layout not in (None, "portable", "native"):
            raise typer.BadParameter("--layout is portable or native")
        language = make_method(method, options | ({"include": tuple(include)} if include else {}))
        opened, kept = _opened(base, method), pooling.opened(pool)
        refuse_inherited(opened.path, whom)
        opened = opened if kept is None else kept.base(opened)
        described = trusted_public(public or [], opened, whom, moments="moments" in language.needs())
        parties = given(partial(pooling.read_known, pool=kept))
        result = _text(parties, language, opened, described, base_name, layout, out, overwrite, kept)
    if json:
        print_json(result)


def _given(
    paths: list[Path],
    max_bytes: int | None,
    include: Sequence[str] | None,
    trust: Trust | None,
    read: Callable[[Sequence[Path], int | None], list[Contribution]],
) -> list[Contribution]:
    """The contributions, of which those that take part are trusted."""
    from quiltwork.contribution.fields import is_named

    given = read(paths, max_bytes)
    if trust is not None:
        trust.require(c for c in given if not include or is_named(c.party, include))
    return given


def _text(
    given: list[Contribution],
    method: Method,
    base: Base,
    public: PublicText | Contribution | None,
    base_name: str | None,
    layout: Any,
    out: Path,
    overwrite: bool,
    pool: Pool | None,
) -> dict[str, Any]:
    """Compose and save a language model; what quiltwork.json says of it."""
    from quiltwork.compose.method import compose
    from quiltwork.composite import PROVENANCE
    from quiltwork.models.json_files import read_json

    composite = compose(given, method, base, public=public)
    if base_name is not None:
        composite = composite.with_base_name(base_name)
    written = layout or composite.default_layout()
    composite.save(out, layout=written, overwrite=overwrite, pool=pool, last=partial(pooling.settle, given))
    say(f"wrote {out}: {method.name} of {', '.join(composite.parties)} ({written})")
    if written == "native":
        say("load it with: import quiltwork; transformers.AutoModelForCausalLM.from_pretrained(...)")
    return read_json(out / PROVENANCE) | {"path": str(out)}


def _tables(given: list[Contribution], method: TableMethod, out: Path, overwrite: bool) -> dict[str, Any]:
    """Compose and save a mixture of experts; what quiltwork.json says of it."""
    from quiltwork.compose.method import compose

    composite = compose(given, method)
    composite.save(out, overwrite=overwrite)
    return told(composite, out)


def _networks(given: list[Contribution], method: NetworkMethod, out: Path, overwrite: bool) -> dict[str, Any]:
    """Compose and save networks; what quiltwork.json says of them."""
    from quiltwork.compose.method import compose

    composite = compose(given, method)
    composite.save(out, overwrite=overwrite)
    return networks.told(composite, out, given)


def _candidates(
    count: int, given: list[Contribution], method: NetworkMethod, out: Path, overwrite: bool
) -> dict[str, Any]:
    """Compose and save a stitch at each of several places; where they are and how well they fit."""
    from quiltwork.compose.method import compose
    from quiltwork.compose.stitch import Stitch
    from quiltwork.compose.stitch_placements import placements
    from quiltwork.files import new_directory

    if not isinstance(method, Stitch):
        raise InvalidOption("--candidates", why=f"method {method.name} chooses no place", mend="Leave it out.")
    found = {name.replace(" ", ".").replace(",.", "+"): one for name, one in placements(given, method, count).items()}
    with new_directory(out, overwrite=overwrite) as partial_out:
        for name, one in found.items():
            compose(given, one).save(partial_out / name)
    for name in found:
        say(f"wrote {out / name}")
    say("let each owner evaluate them on its own data: quiltwork evaluate NAME=DIRECTORY ... --party NAME=DATA")
    return {"path": str(out), "candidates": {name: str(out / name) for name in found}}


def included(given: list[Contribution], include: Sequence[str] | None) -> list[Contribution]:
    """The contributions of the parties that ``--include`` names, all of them if it names none.

    Raises:
        InvalidOption: no contribution of a named party is given.
    """
    from quiltwork.contribution.fields import is_named, owner_of

    parties = sorted({c.party for c in given})
    for name in sorted(set(include or []) - set(parties) - {owner_of(p) for p in parties}):
        raise InvalidOption(
            f"--include {name}",
            why="no contribution of that party is given",
            mend=f"The parties are: {', '.join(parties)}.",
        )
    return [c for c in given if not include or is_named(c.party, include)]


def _opened(base: Path | None, method: str) -> Base:
    from quiltwork.models.base import open_base

    if base is None:
        raise InvalidOption(
            "--base",
            why=f"method {method} composes language models, and needs the base that the parties started from",
            mend="Name the directory of the base checkpoint with --base.",
        )
    return open_base(base)


def _require_no_text(stated: dict[str, object], method: str) -> None:
    for name, value in stated.items():
        if value:
            raise InvalidOption(
                name,
                why=f"method {method} composes mixtures of tables or networks, which have no such thing",
                mend="Leave it out.",
            )
