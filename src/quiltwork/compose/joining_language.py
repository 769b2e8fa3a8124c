"""Parties that join a composed language model later: the result is what composing all of them at once would have been.

    joined_language(compose(S), T) == compose(S + T)        bit for bit

A composed mixture or ensemble holds the base, every party's tensors apart, and its method's options. Those who join are
composed alone on that base, by that method, and checked as `quiltwork.compose.method.compose` checks; then the two
tables become one. Two things cannot always be had from the composed model: the public text by which a router measures
those who join, where more of it is needed than what the model holds; and the base as a model that runs, for routers
that ask it something. They are given again then, and held against their digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quiltwork.compose.method import Method, check_base, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.public_digest import public_digest
from quiltwork.compose.reopen import make_language_method
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows, Prompts
from quiltwork.compose.statistics import KeptRow, PublicText, described_by
from quiltwork.composite import PROVENANCE, Composite
from quiltwork.composite.provenance import prompted
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import BaseMismatch, DuplicateParty, ExportError, InvalidOption
from quiltwork.models.assembly import DenseBody, Experts, Members
from quiltwork.models.base import Base
from quiltwork.models.discriminants import Discriminants
from quiltwork.models.routers import Evidence
from quiltwork.models.routing import RowsAndEvidence as Joint

if TYPE_CHECKING:
    from quiltwork.contribution.trust import Trust


def joined_language(
    composite: Composite,
    contributions: Sequence[Contribution],
    *,
    base: Base | None = None,
    public: PublicText | Contribution | None = None,
    weights: Mapping[str, float] | None = None,
    prompts: Mapping[str, Prompts] | None = None,
    negative: Sequence[str] | None = None,
    trust: Trust | None = None,
) -> Composite:
    """The composite of the parties that are in it and of those who join.

    Args:
        composite: a mixture or an ensemble that was opened from its directory; it stays as it is.
        contributions: of those who join; any order.
        base: needed only where the method runs it (see the module's docstring); else what the composite holds serves.
        public: the public text that the composite was composed with, where the method needs it again.
        weights: of those who join, where the method has weights; one unless stated.
        prompts: of those who join, where rows are made of prompts; the composite remembers those of its own parties.
        negative: prompts that are negative for all; they are remembered, and may be given again but not changed.
        trust: whose signatures to require, and what was taken back, also of what is in the composite already.

    Raises:
        ExportError: the composite is a sum, or its body is one.
        NeedsRetraining: it was tuned with its parties in it.
        InvalidOption: nobody joins, the method is not remembered, or base or public text are needed and not given.
        DuplicateParty: a party is in it already, or joins twice.
        BaseMismatch, TokenizerMismatch, MissingPart, TensorMismatch: as `compose`.
        UntrustedContribution, RevokedContribution, MalformedContribution: as `Trust.require`.
    """
    if not contributions:
        raise InvalidOption("an empty list", why="nobody would join", mend="Give at least one contribution.")
    if trust is not None:
        trust.require([*contributions, *([public] if isinstance(public, Contribution) else [])])
        composite.provenance.refuse_revoked(trust)
    composite.provenance.require_apart("adding to it")
    method = remembered(composite, weights or {})
    if prompts or negative:
        method = _prompted(method, [c.party for c in contributions], prompts or {}, negative)
    chosen = _base(composite, method, base)
    for contribution in contributions:
        check_base(contribution, chosen)
    _require_absent(composite, contributions)
    described = _described(composite, method, chosen, public)
    late = compose(contributions, method, chosen, public=described)
    return composite.with_parties(late)


def _require_absent(composite: Composite, contributions: Sequence[Contribution]) -> None:
    for contribution in contributions:
        if contribution.party in composite.parties:
            raise DuplicateParty(
                f"party '{contribution.party}'",
                why="it is in the composed model already",
                mend=f"Take it out first: quiltwork remove --party {contribution.party}.",
            )


def remembered(composite: Composite, weights: Mapping[str, float]) -> Method:
    """The method that those who join are composed by: the composite's, with the weights of the base and of theirs.

    Raises:
        InvalidOption: its options were not remembered, or it has no weights and some are given.
        CheckpointError: the options are not its own.
    """
    provenance = composite.provenance
    if provenance.options is None:
        raise InvalidOption(
            f"method {provenance.method} of the composed model",
            why="its options were not remembered, so nobody can be composed as the others were",
            mend="Run `quiltwork compose` with the contributions of all.",
        )
    options: dict[str, Any] = {"include": None, **provenance.options}
    if "weights" in options:
        own = {name: weight for name, weight in options["weights"].items() if name == "base"}
        options["weights"] = own | dict(weights)
    elif weights:
        raise InvalidOption("weights", why=f"method {provenance.method} has none", mend="Leave them out.")
    where = composite.origin.path / PROVENANCE if composite.origin is not None else Path(PROVENANCE)
    return make_language_method(provenance.method, options, where)


def _prompted(
    method: Method, joining: Sequence[str], prompts: Mapping[str, Prompts], negative: Sequence[str] | None
) -> Method:
    """The method with the prompts of those who join.

    Raises:
        InvalidOption: its rows are not made of prompts, or prompts that it remembers are given otherwise.
    """
    rows = _rows(method)
    if not isinstance(method, MixtureOfExperts) or not isinstance(rows, PromptRows):
        raise InvalidOption(
            "prompts", why=f"method {method.name} of the composed model has none", mend="Leave them out."
        )
    late = {name: prompts[name] for name in sorted(prompted(prompts, joining))}
    others = [f"of '{name}'" for name in late if rows.prompts.get(name, late[name]) != late[name]]
    others += ["that are negative for all"] if negative is not None and tuple(negative) != rows.negative else []
    if others:
        raise InvalidOption(
            f"the prompts {others[0]}",
            why="the composed model remembers others, and the rows of those who are in it were made of them",
            mend="Give only those of the parties who join, or compose all contributions at once.",
        )
    known = replace(rows, prompts={**rows.prompts, **late})
    router = method.router
    return replace(method, router=replace(router, rows=known) if isinstance(router, RowsAndEvidence) else known)


def _rows(method: Method) -> object:
    """The router of a mixture, or of one with rows and evidence its rows."""
    router = method.router if isinstance(method, MixtureOfExperts) else None
    return router.rows if isinstance(router, RowsAndEvidence) else router


def _base(composite: Composite, method: Method, given: Base | None) -> Base:
    """The base as contributions are held against it."""
    if given is not None:
        if given.digest != composite.provenance.base:
            raise BaseMismatch(
                f"base '{given.path}'",
                why=f"it is {given.digest[:19]}…, and the model was composed on {str(composite.provenance.base)[:19]}…",
                mend="Give the base that the model was composed on, or leave it out.",
            )
        return given
    if composite.origin is None or not isinstance(composite.assembly, Experts | Members):
        raise ExportError(
            "joining a composite that was not opened from a directory",
            why="it holds no tokenizer to hold contributions against",
            mend="Save it first, or compose all contributions at once.",
        )
    if _runs_the_base(method):
        raise InvalidOption(
            f"method {method.name} without a base",
            why="it asks the base itself something, and the composed model is another",
            mend="Give the base that the parties started from.",
        )
    body: DenseBody = composite.assembly.body
    known = composite.provenance.base
    return Base(composite.origin.path, body.config, body.family, body.tensors, known=known, own=body.own)


def _runs_the_base(method: Method) -> bool:
    return isinstance(_rows(method), PromptRows)


def _described(composite: Composite, method: Method, base: Base, given: PublicText | Contribution | None) -> PublicText:
    """What describes public text to those who join: the same as at first, or as much of it as the model holds."""
    if isinstance(given, Contribution):
        check_base(given, base)
        given = described_by(given, base)
    if given is not None:
        if public_digest(given, method.needs()) != composite.provenance.public:
            raise InvalidOption(
                "the public text",
                why="it is not what the model was composed with, and those who join would be measured otherwise",
                mend="Give the same public text, or compose all contributions at once.",
            )
        return given
    if composite.provenance.public is not None and _measures_by_public(method):
        raise InvalidOption(
            f"method {method.name} without public text",
            why="it measures those who join by the public text, of which the model holds too little",
            mend="Give the public text that the model was composed with.",
        )
    return _held(composite)


def _measures_by_public(method: Method) -> bool:
    """True if a party's share depends on more of the public text than a composed model keeps."""
    rows = _rows(method)
    return isinstance(rows, ResidualLDA) and rows.covariance == "public"


def _held(composite: Composite) -> PublicText:
    """What the model holds of its public text: moments whole, and the row of a histogram."""
    assembly = composite.assembly
    router = assembly.router if isinstance(assembly, Experts) else getattr(assembly, "weighting", None)
    parts = (router.rows, router.evidence) if isinstance(router, Joint) else (router,)
    found: dict[str, Any] = {}
    for part in parts:
        if isinstance(part, Discriminants):
            found["moments"] = part.public
        if isinstance(part, Evidence) and part.public is not None:
            found[part.settings["features"]] = KeptRow(np.frombuffer(b"".join(part.public.pieces()), "<f4"))
    return found
