"""README.md of a saved network composite: what goes in, what comes out, and who is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quiltwork.composite.table_card import plain

if TYPE_CHECKING:
    from quiltwork.composite.network import NetworkComposite

_MOST_CLASSES = 50


def card(composite: NetworkComposite) -> str:
    """Markdown, with the front matter that model hubs read."""
    licences = sorted({c.manifest.licence for c in composite.contributions})
    rows = [f"| {c.party} | {c.kind} | `{c.digest}` | {plain(c.manifest.licence)} |" for c in composite.contributions]
    task = composite.task
    paragraphs = [
        f"# Composed network ({composite.method.name})",
        f"Composed with quiltwork from what {len(composite.parties)} parties handed over. It takes inputs of shape "
        f"{list(task.shape)} in units of {plain(task.units)} and gives {_outputs(composite)}.",
        "```python\nfrom quiltwork.compose.reopen import open_network_composite\n\n"
        "model = open_network_composite(THIS_DIRECTORY).model()  # a torch.nn.Module\n```",
        "| party | kind | contribution | licence |\n|---|---|---|---|\n" + "\n".join(rows),
        *map(plain, composite.solution.notes),
        f"The contributions' licences: {', '.join(map(plain, licences))}. Taking a party out: "
        "`quiltwork remove THIS_DIRECTORY --party NAME --out NEW_DIRECTORY`.",
    ]
    return "---\nlibrary_name: quiltwork\ntags:\n- quiltwork\n---\n" + "\n\n".join(paragraphs) + "\n"


def _outputs(composite: NetworkComposite) -> str:
    classes = composite.task.classes
    if classes is None:
        return f"{composite.task.outputs} numbers"
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return "logits of the classes " + ", ".join(f"`{plain(name)}`" for name in classes[:_MOST_CLASSES]) + more
