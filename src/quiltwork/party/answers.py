"""One round of questions: how likely are a party's rows under mixtures that someone composed?

    values_c = sum_i w_i log f_c(y_i | x_i)          one number a candidate, 8 bytes

The composer adds the parties' answers up and chooses, the number of experts say, by rows that stay where they are. Each
number is a function of private rows without a bound, and the event says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import LikelihoodsMethod
from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.fingerprint import fingerprint
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Table
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.party.fitting import exact, log_likelihood
from quiltwork.party.mixture import reference, require_absent
from quiltwork.party.one_thread import one_thread
from quiltwork.party.table import TableFragment
from quiltwork.party.table_rows import Rows
from quiltwork.party.words import check_words


def answer_candidates(
    fragment: TableFragment,
    candidates: Sequence[Mixture[Experts]],
    target: str | Path,
    party: str,
    *,
    licence: str = "LicenseRef-unstated",
    overwrite: bool = False,
) -> Contribution:
    """Write the log-likelihood of the party's rows under each candidate, as a contribution of kind ``likelihoods``.

    Args:
        fragment: the party's table: the features, target and classes of the candidates.
        candidates: mixtures with softmax gates; the answer names each by its `fingerprint`.
        target: directory to make.
        party: its name.
        licence: of the answer.
        overwrite: replace an existing contribution.

    Raises:
        FragmentError: the table has values that cannot be used.
        InvalidOption: there is no candidate, one comes twice, or one is not about this table.
        StorageError: the target exists, or the file system refuses.
    """
    check_words({"party": party, "licence": licence})
    require_absent(target, overwrite)
    rows = fragment.arrays()
    table = fragment.meaning(rows.classes)
    _require_candidates(candidates, table)
    with one_thread():
        values = np.array([_finite(candidate, rows, fragment.place) for candidate in candidates])
    draft = Draft(
        party=party,
        method=LikelihoodsMethod(candidates=tuple(fingerprint(one) for one in candidates), rows=len(rows)),
        tensors={"likelihoods.values": values},
        licence=licence,
        table=reference(table),
        privacy=[exact("likelihoods", "log-likelihood of the rows under each candidate")],
    )
    return write(target, draft, overwrite=overwrite)


def _require_candidates(candidates: Sequence[Mixture[Experts]], table: Table) -> None:
    for number, one in enumerate(candidates):
        shape = (one.experts.family, one.n_features, one.experts.coefficients.shape[1])
        due = (table.family, table.n_features, table.n_outputs)
        if not isinstance(one.gate, SoftmaxGate):
            why = "its gate is not a softmax over its experts"
        elif shape != due:
            why = f"family, features and outputs are {shape}, and the table's {due}"
        else:
            continue
        raise InvalidOption(f"candidate {number}", why=why, mend="Ask about reduced mixtures of this table.")
    if not candidates or len({fingerprint(one) for one in candidates}) < len(candidates):
        raise InvalidOption("candidates", why="there is none, or one comes twice", mend="Give each once.")


def _finite(mixture: Mixture[Experts], rows: Rows, place: str) -> float:
    total = log_likelihood(mixture, rows)
    if not np.isfinite(total):
        raise FragmentError(place, why="some row has no density under a candidate", mend="Check the candidate.")
    return total
