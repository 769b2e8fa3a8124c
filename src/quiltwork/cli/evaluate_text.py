"""The half of ``quiltwork evaluate`` that scores language models on text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import HeldOutPaths, check_device, documents_of, read_contributions, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import Composite
    from quiltwork.contribution.sealed import Contribution
    from quiltwork.evaluate.scores import Scores
    from quiltwork.models.base import Base


@dataclass(frozen=True)
class Sizes:
    """How text is scored."""

    max_length: int
    max_bytes: int | None
    batch_size: int
    device: str
    samples: bool


def score_text(
    named: Mapping[str, Path],
    checkpoint: Path | None,
    data: HeldOutPaths,
    contributions: list[Path],
    leave_one_out: list[str],
    sizes: Sizes,
) -> Scores:
    """The score matrix of language models on texts; see ``quiltwork evaluate``."""
    from quiltwork.contribution.fields import owner_of
    from quiltwork.evaluate.matrix import Candidates, HeldOut, score_matrix
    from quiltwork.models.tokenizer_files import separator_id

    base, device = _opened(checkpoint), check_device(sizes.device)
    tokenizer = base.load_tokenizer()
    paths = {**data.parties, **data.public}
    domains = {name: documents_of(files, sizes.max_bytes) for name, files in paths.items()}
    methods, others = _models(named, base)
    for name in data.public.keys() & {owner_of(p) for composite in methods.values() for p in composite.parties}:
        raise InvalidOption(f"domain '{name}'", why="a party of the model has that name", mend="Rename the domain.")
    return score_matrix(
        Candidates(
            base=base.load_model,
            methods=methods,
            alone=_alone(contributions, base, tuple(data.parties)),
            leave_one_out=_known(leave_one_out, methods),
            others=others,
        ),
        tokenizer,
        HeldOut(domains, tuple(data.parties), sizes.max_length, sizes.batch_size),
        prefix=separator_id(tokenizer),
        sample_methods=tuple(methods) if sizes.samples else (),
        device=device,
        on_row=lambda row: say(f"scoring {row}"),
    ).model_copy(update={"base": base.digest})


def _opened(base: Path | None) -> Base:
    from quiltwork.models.base import open_base

    if base is None:
        raise InvalidOption(
            "--base", why="language models are scored against their base", mend="Name its directory with --base."
        )
    return open_base(base)


def _models(paths: Mapping[str, Path], base: Base) -> tuple[dict[str, Composite], dict[str, Callable[[], Any]]]:
    """Composites that come apart, by name; and dense ones, as loaders."""
    from quiltwork.composite import PROVENANCE, open_composite
    from quiltwork.composite.written import read_written
    from quiltwork.errors import ExportError
    from quiltwork.models.base import open_base

    methods: dict[str, Composite] = {}
    others: dict[str, Callable[[], Any]] = {}
    for name, path in paths.items():
        try:
            if not (path / PROVENANCE).is_file():
                raise ExportError(str(path), why="it is no composite", mend="")
            methods[name] = _of_base(open_composite(path), path, base)
        except ExportError:
            if (path / PROVENANCE).is_file():
                read_written(path).verify()
            dense = open_base(path, what="model")
            if dense.tokenizer_digest != base.tokenizer_digest:
                raise InvalidOption(
                    f"model '{path}'", why="its tokenizer is not the base's", mend="Evaluate it against its own base."
                ) from None
            others[name] = dense.load_model
    return methods, others


def _of_base(composite: Composite, path: Path, base: Base) -> Composite:
    if composite.provenance.base != base.digest:
        raise InvalidOption(
            f"model '{path}'",
            why=f"it was composed on base {str(composite.provenance.base)[:19]}…, and this one is {base.digest[:19]}…",
            mend="Evaluate it against its own base.",
        )
    return composite


def _alone(paths: list[Path], base: Base, parties: tuple[str, ...]) -> dict[str, Composite]:
    """The model of each owner with one expert; of several there is none, since nothing says how to mix them."""
    from quiltwork.compose.alone import Alone
    from quiltwork.compose.method import compose
    from quiltwork.contribution.fields import owner_of

    own: dict[str, list[Contribution]] = {}
    for contribution in read_contributions(paths):
        if contribution.kind not in ("expert", "statistics"):
            raise InvalidOption(
                f"the contribution of party '{contribution.party}'",
                why=f"it is of kind '{contribution.kind}', and holds no expert of a language model",
                mend="Leave it out, or evaluate it with models of its own kind.",
            )
        if contribution.kind == "expert" and owner_of(contribution.party) in parties:
            own.setdefault(owner_of(contribution.party), []).append(contribution)
    for owner in [owner for owner, found in own.items() if len(found) > 1]:
        say(f"{owner} has several experts, and no model alone: compose them to see what they are worth together")
        del own[owner]
    return {p: compose([c], Alone("full" if "full" in c.provides else "ffn"), base) for p, (c,) in own.items()}


def _known(names: list[str], methods: dict[str, Composite]) -> list[str]:
    for name in names:
        if name not in methods:
            raise InvalidOption(
                f"--leave-one-out {name}",
                why="no composite of that name from which a party can be taken is evaluated",
                mend=f"Choose among: {', '.join(methods) or 'none'}.",
            )
    return names
