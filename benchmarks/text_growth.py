"""How a composition grows and shrinks: 2 to 16 owners, a fifth who comes later, one who leaves.

* **Owners.** Every private domain is cut into two halves by a hash of the document, an owner each, so up to twice as
  many owners as domains. The first owners hold one half of each domain. All share the far base. Reported: bits per byte
  on the domains that somebody covers, on those that nobody covers, and on public text.
* **A later owner, a leaver.** For every party p of the main run: the composition of all, against that without p. What
  p's arrival does to the others' domains and to public text is the same figure as what its leaving gives back.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from text_parts import Settings, party_name, place, split, train_party

COUNTS = (2, 4, 8, 16)
OWNER_STEPS = 100


def owners(domains: Sequence[str]) -> list[str]:
    """``DOMAIN/HALF``, the first halves first."""
    return [f"{domain}/{half}" for half in (0, 1) for domain in domains]


def train_owners(settings: Settings, seed: int, domains: Sequence[str]) -> None:
    from quiltwork.party.scopes import FFNScope, FullScope

    for owner in owners(domains):
        scopes = (FFNScope(anchor_share=settings.anchor_share), FullScope())
        train_party(settings, "far", seed, owner, "owners", scopes, OWNER_STEPS)


def many(
    settings: Settings,
    seed: int,
    domains: Sequence[str],
    methods: Mapping[str, Any],
    public: Any,
    score: Callable[[Any, Mapping[str, Sequence[str]]], Mapping[str, float]],
    said: Callable[[str], None],
) -> dict[str, dict[str, dict[str, float]]]:
    """Bits per byte by number of owners, method and kind of text.

    Args:
        settings: of the benchmark.
        seed: of the base and the owners' training.
        domains: private domains, at least half as many as the largest count.
        methods: by row.
        public: histograms of public text.
        score: bits per byte of a composite by domain.
        said: called with what is scored.
    """
    from quiltwork.compose.method import compose
    from quiltwork.contribution.store import read
    from quiltwork.models.base import open_base

    here = place(settings, "far", seed)
    base = open_base(here / "base")
    held_out = {d: split(settings, d)[1] for d in (*settings.public, *domains)}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for count in COUNTS:
        taken = owners(domains)[:count]
        if len(taken) < count:
            break
        contributions = [read(here / "owners" / party_name(o).replace("/", "-")) for o in taken]
        covered = {o.partition("/")[0] for o in taken}
        for name, method in methods.items():
            said(f"{count} owners: {name}")
            bpb = score(compose(contributions, method, base, public=public), held_out)
            result.setdefault(name, {})[str(count)] = {
                "covered": statistics.fmean(bpb[d] for d in covered),
                "public": statistics.fmean(bpb[d] for d in settings.public),
            }
            if rest := [bpb[d] for d in domains if d not in covered]:
                result[name][str(count)]["uncovered"] = statistics.fmean(rest)
    return result


def coming_and_going(
    parties: Sequence[str],
    full: Mapping[str, float],
    without: Callable[[str], Mapping[str, float]],
    said: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """For each party: the largest and the mean relative harm that its presence does to the other domains, and its gain.

    Args:
        parties: domains of the parties.
        full: bits per byte of the composition of all, by domain.
        without: the same for the composition without a party.
        said: called with the party that is left out.
    """
    result = {}
    for party in parties:
        said(f"without {party}")
        absent = without(party)
        others = {d: full[d] / absent[d] - 1 for d in full if d != party}
        result[party] = {
            "worst": max(others.values()),
            "mean": statistics.fmean(others.values()),
            "own": full[party] / absent[party] - 1,
        }
    return result
