"""Fine-grained experts: an owner's documents in groups of alike ones, each of which becomes an expert of its own.

    x_d  =  u / |u|,    u = log(1 + n_d) * log(D / D_c)         n_d: hashed bigrams of document d, one number a cell c
    k-means on the x_d; a group of fewer documents than a minimum is given up, and its documents go to the nearest other

Rows have length one, so that long documents count no more than short ones. The features are those by which an evidence
router tells texts apart. A group can be withdrawn without the others (``remove --party acme.c1``).

What it tells: how many groups there are, and of each a histogram and weights; with exact histograms also its size in
tokens. Which documents lie together depends on all of them, so a noisy histogram of a group has no bound by the
sensitivity of one document, and noise is refused here: declare sub-corpora (``--share``) if there must be a bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, InvalidOption, StorageError
from quiltwork.evidence.bigrams import CELLS, document_cells
from quiltwork.files import new_directory, require_absent, write_file
from quiltwork.models.base import Base
from quiltwork.models.tokenizer_files import separator_id
from quiltwork.party.contribute import Order, contribute, tokenised
from quiltwork.party.fragment import Fragment

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FEWEST = 8
"""Documents of a group, unless stated."""

_SUBJECT = "clusters.sha256"


@dataclass(frozen=True)
class Clustering:
    """How documents are grouped.

    Attributes:
        clusters: number of groups to look for.
        fewest: a group of fewer documents is given up.
        seed: of the starts.
    """

    clusters: int
    fewest: int = FEWEST
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("clusters", 2), ("fewest", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise InvalidOption(
                    f"{name}={getattr(self, name)}", why=f"at least {least} is needed", mend="Choose a larger number."
                )


def grouped(documents: Iterable[Sequence[int]], separator: int, clustering: Clustering) -> list[frozenset[int]]:
    """The places of the documents of each group, the group of the first document first.

    Args:
        documents: token ids of each document.
        separator: the token that stands before a document.
        clustering: how many groups, and how small they may be.

    Raises:
        FragmentError: there are too few documents, or only one group is large enough.
    """
    features = _features(document_cells(_never_empty(documents, separator), separator))
    if features.shape[0] < clustering.clusters * clustering.fewest:
        raise FragmentError(
            f"{features.shape[0]} documents in {clustering.clusters} clusters",
            why=f"a cluster needs {clustering.fewest} documents",
            mend="Ask for fewer clusters, or bring more documents.",
        )
    numbers = _merged(features, clustering)
    places = [frozenset(np.flatnonzero(numbers == number).tolist()) for number in np.unique(numbers)]
    if len(places) < 2:
        raise FragmentError(
            f"{clustering.clusters} clusters of {features.shape[0]} documents",
            why=f"only one of them holds {clustering.fewest} documents or more",
            mend="Contribute without clusters.",
        )
    return sorted(places, key=min)


def _never_empty(documents: Iterable[Sequence[int]], separator: int) -> Iterable[Sequence[int]]:
    """Documents keep their places: one without a token is a separator."""
    return (document or (separator,) for document in documents)


def _features(documents: Iterable[NDArray[np.int64]]) -> csr_matrix:
    """Weighted cells of each document, float64, rows of length one."""
    from scipy.sparse import csr_matrix, diags

    cells: list[NDArray[np.int64]] = []
    values: list[NDArray[np.float64]] = []
    ends = [0]
    for document in documents:
        found, counts = np.unique(document, return_counts=True)
        cells.append(found)
        values.append(np.log1p(counts))
        ends.append(ends[-1] + len(found))
    if len(ends) == 1:
        return csr_matrix((0, CELLS))
    table = csr_matrix((np.concatenate(values), np.concatenate(cells), ends), shape=(len(ends) - 1, CELLS))
    rarity = np.log(table.shape[0] / np.maximum(table.getnnz(axis=0), 1))
    table = table @ diags(rarity)
    lengths = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    return csr_matrix(diags(1 / np.where(lengths > 0, lengths, 1.0)) @ table)


def _merged(features: csr_matrix, clustering: Clustering) -> NDArray[np.int64]:
    """The group of each document, after those that are too small were given up, the smallest first."""
    from sklearn.cluster import KMeans

    from quiltwork.party.one_thread import one_thread

    with one_thread():
        found = KMeans(clustering.clusters, n_init=4, random_state=clustering.seed).fit(features)
    numbers: NDArray[np.int64] = found.labels_.astype(np.int64)
    centres = found.cluster_centers_
    kept = list(range(clustering.clusters))
    while len(kept) > 1:
        sizes = {number: int((numbers == number).sum()) for number in kept}
        smallest = min(kept, key=lambda number: (sizes[number], number))
        if sizes[smallest] >= clustering.fewest:
            break
        kept.remove(smallest)
        lost = np.flatnonzero(numbers == smallest)
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, of which |x|^2 is the same for all c
        nearness = 2 * (features[lost] @ centres[kept].T) - (centres[kept] ** 2).sum(axis=1)
        numbers[lost] = np.asarray(kept)[np.argmax(nearness, axis=1)]
    return numbers


def contribute_clusters(
    base: Base,
    fragment: Fragment,
    target: str | Path,
    order: Order,
    clustering: Clustering,
    *,
    state_dir: str | Path,
    overwrite: bool = False,
    force_cpu: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Contribution]:
    """Group the documents, and write one contribution a group: ``target/OWNER.c0``, ``target/OWNER.c1`` ...

    Args:
        base: the public checkpoint.
        fragment: the owner's documents.
        target: directory to make, complete or not at all.
        order: what to release of each group; ``party`` is the owner.
        clustering: how to group.
        state_dir: keeps each group's training state, and the contributions that are done, so that an interrupted run
            goes on; it is removed when all are.
        overwrite: replace an existing target.
        force_cpu: do not use an accelerator that is there.
        say: told the number of documents of each group.

    Raises:
        InvalidOption: the owner's name has a share already, a histogram is to leave under noise, or several processes
            train together.
        FragmentError: the documents do not make two groups.
        StorageError: the target exists, the state is of another order, or the file system refuses.
    """
    _check(order)
    require_absent(Path(target), overwrite)
    state, tokenizer = Path(state_dir), base.load_tokenizer()
    places = grouped(tokenised(fragment, tokenizer), separator_id(tokenizer), clustering)
    _claim(state, {"base": base.digest, "order": repr(order), "clustering": repr(clustering)})
    for number, only in enumerate(places):
        label = f"{order.party}.c{number}"
        say(f"{label}: {len(only)} documents")
        if not (state / "done" / label).exists():
            train = partial(contribute, base, replace(fragment, only=only), state / "done" / label)
            train(replace(order, party=label), state_dir=state / label, force_cpu=force_cpu)
    with new_directory(target, overwrite=overwrite) as partial_target:
        for done in sorted((state / "done").iterdir()):
            shutil.copytree(done, partial_target / done.name)
    shutil.rmtree(state, ignore_errors=True)
    return [read(path) for path in sorted(Path(target).iterdir())]


def _check(order: Order) -> None:
    if "." in order.party:
        raise InvalidOption(
            f"clusters of party '{order.party}'",
            why="clusters are shares of an owner, and the name is one of a share",
            mend="Give the owner's name alone.",
        )
    for name in ("tokens", "bigrams", "trigrams"):
        rule = getattr(order, name, None)
        if rule is not None and rule.mechanism in ("laplace", "gaussian"):
            raise InvalidOption(
                f"noise on the {name} of clusters",
                why="which documents lie together depends on all of them, so one document changes more than its own "
                "counts, and the noise bounds nothing",
                mend="Declare sub-corpora with --share, or release the histogram of all documents as one contribution.",
            )
    if int(os.environ.get("WORLD_SIZE", "1")) != 1:
        raise InvalidOption(
            "clusters in several processes", why="they are trained one after another", mend="Use one process."
        )


def _claim(state: Path, subject: dict[str, str]) -> None:
    """Make the state directory, or check that what it holds is of the same order."""
    stated = hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()
    if (state / _SUBJECT).is_file():
        if (state / _SUBJECT).read_text(encoding="utf-8") != stated:
            raise StorageError(
                f"state '{state}'",
                why="it is of a run with other options, or on another base",
                mend="Give the same options again, or remove it to start anew.",
            )
        return
    (state / "done").mkdir(parents=True, exist_ok=True)
    write_file(state / _SUBJECT, stated)
