"""README.md of a saved table composite: what the model predicts, from what, and who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quiltwork.composite.table import TableComposite

_MOST_FEATURES = 50


def card(composite: TableComposite) -> str:
    """Markdown, with the front matter that model hubs read."""
    table, solution = composite.table, composite.solution
    licences = sorted({local.licence for local in composite.locals})
    excluded = [f"- {party}: {plain(why)}" for party, why in sorted(solution.excluded.items())]
    rows = [
        f"| {local.party} | `{local.digest}` | {plain(local.licence)} | {local.rows} | {local.mixture.n_experts} |"
        for local in composite.locals
    ]
    paragraphs = [
        f"# Composed mixture of experts ({composite.method.name})",
        f"{solution.mixture.n_experts} {table.family} experts under a gate, composed with quiltwork from "
        f"{len(composite.parties)} machines' own fits. It predicts {_names(table.target)} from {_features(composite)}.",
        "```python\nfrom quiltwork.compose.reopen import open_table_composite\n\n"
        "model = open_table_composite(THIS_DIRECTORY).model()  # a scikit-learn estimator\n```",
        "| party | contribution | licence | rows | experts |\n|---|---|---|---|---|\n" + "\n".join(rows),
        "Excluded by the method:\n\n" + "\n".join(excluded) if excluded else "No machine was excluded by the method.",
        *map(plain, solution.notes),
        f"The contributions' licences: {', '.join(map(plain, licences))}. Taking a party out: "
        "`quiltwork remove THIS_DIRECTORY --party NAME --out NEW_DIRECTORY`.",
    ]
    return "---\nlibrary_name: quiltwork\ntags:\n- quiltwork\n- tabular\n---\n" + "\n\n".join(paragraphs) + "\n"


def _features(composite: TableComposite) -> str:
    table = composite.table
    pairs = list(zip(table.features, table.units, strict=True))
    shown = [f"`{plain(name)}`" + (f" ({plain(unit)})" if unit else "") for name, unit in pairs[:_MOST_FEATURES]]
    more = f" and {len(pairs) - _MOST_FEATURES} more" if len(pairs) > _MOST_FEATURES else ""
    return ", ".join(shown) + more


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{plain(name)}`" for name in names)


def plain(text: str) -> str:
    """A stranger's text on one line, without what Markdown tables and code take as theirs."""
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")
