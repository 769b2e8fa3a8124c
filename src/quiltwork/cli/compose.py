"""``quiltwork compose``: contributions in, one model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quiltwork.cli.catalog import METHODS, make_method
from quiltwork.cli.inputs import print_json, public_text, read_contributions, say, weights

NAME = "compose"
HELP = "Compose contributions into one checkpoint.\n\nMethods:\n\n" + "\n\n".join(
    f"- `{name}`: {row.summary}" for name, row in METHODS.items()
)
EXAMPLES = """Examples:

`quiltwork compose acme globex --base BASE --method learned_rows --out composed`

`quiltwork compose parties/* --base BASE --public public.txt --method evidence_ffn --half-life 500 --out native`"""


def run(
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories.")],
    base: Annotated[Path, typer.Option(help="Directory of the public base checkpoint.")],
    method: Annotated[str, typer.Option(help="See above.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    public: Annotated[
        list[Path] | None, typer.Option(help="Public text, or a contribution with its histogram; for evidence routers.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="portable (plain transformers) or native. [default: portable if possible]")
    ] = None,
    include: Annotated[list[str] | None, typer.Option(help="Only this party. Repeatable.")] = None,
    weight: Annotated[list[str] | None, typer.Option(help="PARTY=WEIGHT (or base=WEIGHT). Repeatable.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Experts a token.")] = None,
    renormalise: Annotated[bool | None, typer.Option(help="learned_rows: rescale top-k weights to sum to 1.")] = None,
    bias: Annotated[bool | None, typer.Option(help="learned_rows: use the parties' negative biases.")] = None,
    features: Annotated[str | None, typer.Option(help="Evidence: tokens or bigrams. [default: bigrams]")] = None,
    temperature: Annotated[float | None, typer.Option(help="Divides log-likelihoods.")] = None,
    half_life: Annotated[float | None, typer.Option(help="Evidence: tokens until evidence counts half.")] = None,
    floor: Annotated[float | None, typer.Option(help="Evidence: 'none of them', nats above uniform noise.")] = None,
    minimum_weight: Annotated[float | None, typer.Option(help="Evidence: smaller weights are dropped.")] = None,
    smoothing: Annotated[float | None, typer.Option(help="Evidence: pseudo-count of each token.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Refuse a contribution larger than this.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compose contributions into one checkpoint."""
    stated: dict[str, Any] = {
        "top_k": top_k,
        "renormalise": renormalise,
        "bias": bias,
        "features": features,
        "temperature": temperature,
        "half_life": half_life,
        "floor": floor,
        "minimum_weight": minimum_weight,
        "smoothing": smoothing,
        "include": tuple(include) if include else None,
        "weights": weights(weight) if weight else None,
    }
    chosen = make_method(method, {name: value for name, value in stated.items() if value is not None})
    if layout not in (None, "portable", "native"):
        raise typer.BadParameter("--layout is portable or native")
    from quiltwork.compose.method import compose
    from quiltwork.models.base import open_base

    opened = open_base(base)
    composite = compose(
        read_contributions(contributions, max_bytes), chosen, opened, public=public_text(public or [], opened)
    )
    written = layout or composite.default_layout()
    composite.save(out, layout=written, overwrite=overwrite)  # type: ignore[arg-type]
    result = composite.provenance.to_json(written) | {"path": str(out)}  # type: ignore[arg-type]
    if json:
        print_json(result)
        return
    say(f"wrote {out}: {chosen.name} of {', '.join(composite.parties)} ({written})")
    if written == "native":
        say("load it with: import quiltwork; transformers.AutoModelForCausalLM.from_pretrained(...)")
