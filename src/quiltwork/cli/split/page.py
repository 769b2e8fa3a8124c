"""A certificate as a page of Markdown: what is held, what is not, why, and against whom."""

from __future__ import annotations

from collections.abc import Iterator

from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate


def page(certificate: Certificate) -> str:
    """The page; every line follows from the certificate."""
    return "\n".join([*_head(certificate), *_standings(certificate), *_checks(certificate), *_digests(certificate), ""])


def lines(certificate: Certificate) -> Iterator[str]:
    """One line a guarantee, for a terminal."""
    titles = {g.number: g.title for g in GUARANTEES}
    for standing in certificate.standings:
        state = "held" if standing.held else "not held"
        yield f"{state:>9}  {standing.number:<4} {titles[standing.number]}: {standing.why}"


def _head(certificate: Certificate) -> Iterator[str]:
    facts = certificate.facts
    total = sum(crossing.bytes for crossing in facts.crossed)
    yield f"# Certificate of a run in {facts.mode} mode"
    yield ""
    yield f"Parties: {', '.join(facts.parties)}. Rounds: {facts.rounds}. Bytes that crossed: {total:,}."
    yield ""
    for warning in facts.warnings:
        yield f"**Noticed:** {warning}"
        yield ""


def _standings(certificate: Certificate) -> Iterator[str]:
    yield "| | guarantee | standing | why | against |"
    yield "|---|---|---|---|---|"
    guarantees = {g.number: g for g in GUARANTEES}
    for standing in certificate.standings:
        one = guarantees[standing.number]
        state = "held" if standing.held else "**not held**"
        against = f"{one.adversary.who}, {one.adversary.behaviour}"
        yield f"| {one.number} | {one.title}. {one.statement} | {state} | {standing.why} | {against} |"
    yield ""


def _checks(certificate: Certificate) -> Iterator[str]:
    yield "| check | of | found | planted breach caught |"
    yield "|---|---|---|---|"
    caught = {True: "yes", False: "no", None: "none planted"}
    for one in certificate.checks:
        yield f"| {one.name} | {one.subject or 'all'} | {one.says} | {caught[one.control]} |"
    yield ""


def _digests(certificate: Certificate) -> Iterator[str]:
    yield "| component | SHA-256 | sealing |"
    yield "|---|---|---|"
    facts = certificate.facts
    for name, digest in facts.digests.items():
        yield f"| {name} | `{digest}` | {facts.sealing.get(name, 'at the composer')} |"
    yield ""
    yield f"Run: `{facts.fingerprint}`. Certificate: `{certificate.digest}`."
