"""Certificates as a page of HTML: what is not held stands as large as what is.

One page takes one run or several, each with its certificate and, where they are at hand, its scores and losses. It is
complete in itself, runs no script and asks for nothing from outside, as the report's. Names come from strangers;
everything is escaped, and no name reaches a file name unfiltered. Where matplotlib is missing the page has the numbers
without the figures, and says so.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from quiltwork.audit import figures
from quiltwork.audit.attacks.result import Attack
from quiltwork.audit.catalogue import GUARANTEES
from quiltwork.audit.certificate import Certificate
from quiltwork.audit.facts import WAYS, Facts
from quiltwork.audit.guarantees import Guarantee
from quiltwork.errors import InvalidOption
from quiltwork.files import write_file

TEMPLATE = "certificate.html.j2"
_OF_ALL, _LOSSES = ("-scores", "-scores-numbers"), "-losses"


@dataclass(frozen=True)
class Account:
    """A run, as a page tells of it.

    Attributes:
        name: of the run.
        certificate: its certificate.
        scores: on held-out rows, by who answered; empty where none are known.
        measure: what the scores are.
        cases: how many rows were held out.
        losses: of each round, by whose they are.
    """

    name: str
    certificate: Certificate
    scores: Mapping[str, float] = field(default_factory=dict)
    measure: str = "accuracy"
    cases: int = 0
    losses: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        stem: of its file name.
        caption: what it shows.
        png: the file.
    """

    stem: str
    caption: str
    png: bytes

    @property
    def encoded(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.png).decode("ascii")


def write_page(accounts: Sequence[Account], target: str | os.PathLike[str]) -> list[Path]:
    """Write the page, and beside it each certificate as JSON and each figure as PNG.

    Args:
        accounts: of the runs, at least one, of different names.
        target: the HTML file. Of one run the JSON has the same name with the ending ``.json``; of several
            ``STEM-NAME.json``.

    Returns:
        The paths: the page, the certificates, the figures.

    Raises:
        InvalidOption: jinja2 is not installed, the target does not end in .html, or two runs have one name.
        PrivacyError: events need dp-accounting, which is not installed.
        StorageError: the file system refuses.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidOption(f"page '{path}'", why="its name does not end in .html", mend="Name it certificate.html.")
    stems = _stems(accounts)
    drawn = _drawn(accounts, stems)
    written = [write_file(path, _rendered(accounts, drawn))]
    for account, stem in zip(accounts, stems, strict=True):
        written.append(write_file(path.with_name(f"{path.stem}{stem}.json"), account.certificate.to_json()))
    every = [one for group in drawn.values() for one in group]
    return written + [write_file(path.with_name(f"{path.stem}{one.stem}.png"), one.png) for one in every]


def render(accounts: Sequence[Account]) -> str:
    """The page as text.

    Raises:
        InvalidOption: jinja2 is not installed, or two runs have one name.
        PrivacyError: events need dp-accounting, which is not installed.
    """
    return _rendered(accounts, _drawn(accounts, _stems(accounts)))


def _stems(accounts: Sequence[Account]) -> list[str]:
    """What file names end in, by run: nothing where there is one."""
    names = [account.name for account in accounts]
    if not names or len(set(names)) != len(names):
        raise InvalidOption("the runs", why="none is given, or two have one name", mend="Name them: NAME=DIRECTORY.")
    if len(names) == 1:
        return [""]
    plain = [f"-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:60]}" for name in names]
    # a run may be called as another run's figure is, or as the figure of all
    drawn = [*_OF_ALL, *(f"{stem}{_LOSSES}" for stem in plain)]
    found = [s if plain.count(s) == 1 and s not in drawn else f"{s}.{i}" for i, s in enumerate(plain, start=1)]
    return found if len(set(found)) == len(found) else [f"-{i}" for i in range(1, len(names) + 1)]


def _drawn(accounts: Sequence[Account], stems: Sequence[str]) -> dict[str, list[Figure]]:
    """Figures by run, and under "" those of all; none where nothing can be drawn."""
    if not figures.drawable():
        return {}
    found: dict[str, list[Figure]] = {"": []}
    for measure in dict.fromkeys(account.measure for account in accounts):
        scores = {a.name: a.scores for a in accounts if a.scores and a.measure == measure}
        if scores:
            caption = f"{measure} on held-out rows, by run and by who answered; higher is better."
            stem = _OF_ALL[0 if measure == "accuracy" else 1]
            found[""].append(Figure(stem, caption, figures.scores_png(scores, measure)))
    for account, stem in zip(accounts, stems, strict=True):
        found[account.name] = list(_figures(account, stem))
    return found


def _figures(account: Account, stem: str) -> Iterator[Figure]:
    caption = "Guarantees of the run; bytes of a round beside those of the formula; what one row and one label pay."
    yield Figure(stem, caption, figures.certificate_png(account.certificate))
    if account.losses:
        yield Figure(f"{stem}{_LOSSES}", "Loss on training rows by round.", figures.losses_png(account.losses))


def _rendered(accounts: Sequence[Account], drawn: Mapping[str, Sequence[Figure]]) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        mend = "Install it with: pip install 'quiltwork[report]'"
        raise InvalidOption("certificate", why="jinja2 is not installed", mend=mend) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("quiltwork.audit").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        runs=[_told(account, drawn.get(account.name, ())) for account in accounts],
        scored=drawn.get("", ()),
        drawable=bool(drawn),
    )


def _told(account: Account, drawn: Sequence[Figure]) -> Mapping[str, object]:
    certificate, facts = account.certificate, account.certificate.facts
    return {
        "account": account,
        "certificate": certificate,
        "facts": facts,
        "figures": drawn,
        "rows": _rows(certificate),
        "traffic": _traffic(facts),
        "ledgers": [c for c in certificate.checks if c.name.endswith("-ledger")],
        "prices": figures.prices(certificate),
        "attacks": [_bars(attack) for attack in certificate.attacks],
    }


def _rows(certificate: Certificate) -> list[Mapping[str, object]]:
    return [
        {
            "about": about,
            "standing": certificate.standing(about.number),
            "adversary": about.adversary,
            "theorem": about.theorem.get(certificate.facts.mode),
            "tests": _tests(about, certificate),
        }
        for about in GUARANTEES
    ]


def _tests(about: Guarantee, certificate: Certificate) -> list[tuple[str, str, str]]:
    """Of each check and attack that the guarantee stands on: its name, how it came out, its digest."""
    names = {name for group in about.needs for name in group}
    checks = [c for c in certificate.checks if c.name in names]
    ran = {c.name for c in checks} | {a.name for a in certificate.attacks}
    missing = [" or ".join(group) for group in (*about.needs, *((a,) for a in about.attacks)) if not ran & {*group}]
    held = [(f"{c.name} {c.subject}".strip(), _outcome(c.passed, c.control), c.digest) for c in checks]
    tried = [(a.name, "tried", a.digest) for a in certificate.attacks if a.name in about.attacks]
    return [*held, *tried, *((name, "not run", "") for name in missing)]


def _outcome(passed: bool, control: bool | None) -> str:
    if not passed:
        return "found a breach"
    return "passed" if control else "proves nothing"


def _traffic(facts: Facts) -> list[Mapping[str, object]]:
    """By party: bytes of both directions, those of the formula, and how many a round."""
    return [
        {
            "party": party,
            "crossed": [facts.bytes(party, way) for way in WAYS],
            "formula": [getattr(ways, way) for way in WAYS],
            "round": sum(facts.bytes(party, way) for way in WAYS) / max(1, facts.rounds),
            "sealing": facts.sealing.get(party, "not on record"),
        }
        for party, ways in sorted(facts.formula.items())
    ]


def _bars(attack: Attack) -> Mapping[str, object]:
    """The attack, with lengths of its bars in percent."""
    success, baseline = (100 * min(1.0, max(0.0, value)) for value in (attack.success, attack.baseline))
    return {"of": attack, "success": f"{success:.1f}", "baseline": f"{baseline:.1f}"}
