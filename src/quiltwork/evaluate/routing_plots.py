"""Figures of routing: how evenly experts are used, and who answers at which position of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quiltwork.evaluate.drawing import OKABE_ITO, PUBLIC_GREY, figure, label, labels, panel_grid, slot_styles
from quiltwork.evaluate.routing import Balance, balance, own_slots
from quiltwork.evaluate.scores import Routing, Scores

MOST_PANELS = 24
"""With more domains the panels by position are too small to read; the scores have the numbers."""


def balances(routings: dict[str, Routing]) -> dict[str, Balance]:
    """By domain how evenly its text is answered; and under "" that of all domains together, each counting alike."""
    shares = {domain: list(one.mean().values()) for domain, one in routings.items()}
    if len({len(row) for row in shares.values()}) == 1:
        shares[""] = [sum(column) / len(shares) for column in zip(*shares.values(), strict=True)]
    return {domain: balance(row) for domain, row in shares.items() if sum(row) > 0}


def load_balance(scores: Scores, method: str, domains: Sequence[str]) -> bytes:
    """Bars: the largest share of a slot relative to the mean, by domain, with entropy and coefficient of variation."""
    found = balances({domain: scores.routing[method][domain] for domain in domains})
    names = [domain for domain in (*domains, "") if domain in found]
    slots = max(len(scores.routing[method][domain].slots) for domain in domains)
    with figure(8.6, 1.5 + 0.36 * len(names)) as (canvas, png):
        axes = canvas.add_subplot(xlabel=f"largest share of an expert / mean share (1: even, {slots}: one answers all)")
        axes.set_title(f"Load balance: {label(method)}")
        values = [found[name].max_over_mean for name in names]
        colours = [OKABE_ITO[0] if name else PUBLIC_GREY for name in names]
        bars = axes.barh(range(len(names)), values, color=colours, height=0.65)
        notes = [f"CV {found[name].cv:.2f}, entropy {found[name].entropy:.2f}" for name in names]
        axes.bar_label(bars, notes, padding=4, fontsize=8)
        axes.axvline(1, color="black", linewidth=1, linestyle=":")
        axes.set_xlim(0, slots * 1.35)
        axes.set_yticks(
            range(len(names)), [*labels([name for name in names if name]), *["all together"] * ("" in found)]
        )
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    return png.getvalue()


def own_by_position(scores: Scores, domains: Sequence[str]) -> bytes:
    """One line a method: how much the right experts answer, by position, as a mean over domains."""
    with figure(9.6, 3.8) as (canvas, png):
        axes = canvas.add_subplot(ylabel="share, mean over domains", ylim=(0, 1.02))
        axes.set_title("Answered by the text's own party\n(public text: by the base)", fontsize=11)
        starts: list[int] = []
        for number, (method, routings) in enumerate(scores.routing.items()):
            points = _own(routings, domains)
            starts = starts if len(starts) >= len(points) else list(points)
            colour = OKABE_ITO[number % len(OKABE_ITO)]
            for part, style in ((0, "o-"), (1, "s--")):
                values = [shares[part] for shares in points.values()]
                name = label(method) + (", tokens that it answers most" if part else ", mean weight")
                axes.plot(range(len(values)), values, style, color=colour, label=name, markersize=5)
        axes.set_xticks(range(len(starts)), _span_names(starts))
        axes.set_xlabel("tokens read before")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return png.getvalue()


def _own(routings: dict[str, Routing], domains: Sequence[str]) -> dict[int, tuple[float, float]]:
    """By start of a span, mean weight and share of tokens of the own slots, as means over the domains that have it."""
    found: dict[int, list[tuple[float, float]]] = {}
    for domain in domains:
        routing = routings.get(domain)
        for span in routing.spans if routing is not None else ():
            own = own_slots(routing.slots, domain)  # type: ignore[union-attr]
            pair = sum(span.shares[slot] for slot in own), sum(span.firsts[slot] for slot in own)
            found.setdefault(span.start, []).append(pair)
    return {
        start: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs))
        for start, pairs in sorted(found.items())
    }


def slots_by_position(scores: Scores, method: str, domains: Sequence[str]) -> bytes:
    """One panel a domain: the mean weight of each slot by position."""
    routings, styles = scores.routing[method], slot_styles(scores)
    across, down = panel_grid(len(domains))
    with figure(1.6 + 2.3 * across, 0.9 + 1.9 * down) as (canvas, png):
        panels = canvas.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, domain in zip(panels, domains, strict=False):
            _panel(axes, routings[domain], styles, domain)
        for axes in panels[len(domains) :]:
            axes.set_visible(False)
        handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        canvas.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8)
        canvas.suptitle(f"Mean weight of each expert by position: {label(method)}", fontsize=11)
        canvas.supxlabel("tokens read before", fontsize=9)
    return png.getvalue()


def _panel(axes: Any, routing: Routing, styles: dict[str, tuple[str, int]], domain: str) -> None:
    places = range(len(routing.spans))
    for slot, name in enumerate(labels(routing.slots)):
        colour, turn = styles[routing.slots[slot]]
        values = [span.shares[slot] for span in routing.spans]
        axes.plot(
            places, values, "o-" if turn % 2 == 0 else "s--", color=colour, label=name, markersize=4, linewidth=1.4
        )
    axes.set_title(label(domain), fontsize=9)
    axes.set_xticks(places, _span_names([span.start for span in routing.spans]), fontsize=7)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)


def _span_names(starts: Sequence[int]) -> list[str]:
    from quiltwork.evaluate.routing import STARTS

    ends = {start: STARTS[i + 1] - 1 for i, start in enumerate(STARTS[:-1])}
    return [f"{start}–{ends[start]}" if start in ends else f"{start}+" for start in starts]


def positioned(scores: Scores, method: str, domains: Sequence[str]) -> list[str]:
    """The domains of which a method's shares by position are known, and of more than one span."""
    routings = scores.routing[method]
    return [domain for domain in domains if domain in routings and len(routings[domain].spans) > 1]
