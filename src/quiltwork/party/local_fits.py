"""Local fits of many machines in one house: a simulation, or one owner with many sites.

    {party: table}  ->  [fits side by side, through joblib]  ->  one contribution a party, one refusal a bad machine

Each fit runs on one thread of one worker and sees its own table alone, so the contributions are the same bytes whatever
``n_jobs`` is and in whatever order the fits end. Who runs them is joblib's choice: processes of this machine, or the
cluster that the caller names::

    with joblib.parallel_config(backend="dask"):
        fits = fit_all(tables, order, "release")

Tables travel as paths where they are files, so the workers must see these; parameters come back and are written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import FragmentError, Interrupted, InvalidOption, QuiltworkError
from quiltwork.models.mixture.local import Table
from quiltwork.party.fitting import Fit
from quiltwork.party.mixture import fit_table, release, require_absent
from quiltwork.party.mixture_order import MixtureOrder
from quiltwork.party.table import TableFragment
from quiltwork.party.words import check_words
from quiltwork.progress import Progress

_Fitted = tuple[Fit, Table]


@dataclass(frozen=True)
class Fits:
    """What became of the machines.

    Attributes:
        contributions: by party, in the order of the tables.
        refused: what was wrong with each of the others.
    """

    contributions: Mapping[str, Contribution]
    refused: Mapping[str, QuiltworkError]


def fit_all(
    tables: Mapping[str, TableFragment],
    order: MixtureOrder,
    target: str | Path,
    *,
    n_jobs: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Fits:
    """Fit one mixture a machine, and write one contribution each under ``target``, named after its party.

    Args:
        tables: each party's table.
        order: what each releases; its ``party`` is replaced by each one's name.
        target: directory of the contributions.
        n_jobs: fits side by side, as joblib counts them; None for the active joblib configuration, or one.
        overwrite: replace existing contributions.
        progress: show it on standard error.

    Returns:
        Contributions, and the refusals of machines that could not be fitted; these do not keep the others back.

    Raises:
        InvalidOption: there is no table, or a name is none.
        StorageError: a contribution is already there, or the file system refuses.
        Interrupted: stopped by the user; what is written is whole.
    """
    if not tables:
        raise InvalidOption("tables", why="there are none", mend="Give at least one party's table.")
    for party in tables:
        check_words({"party": party})
        require_absent(Path(target) / party, overwrite)
    written: dict[str, Contribution] = {}
    refused: dict[str, QuiltworkError] = {}
    jobs = (delayed(_fitted)(party, table, replace(order, party=party)) for party, table in tables.items())
    with Progress("local fits", len(tables), enabled=progress) as shown:
        try:
            with _results(jobs, n_jobs) as results:
                for party, result in results:
                    if isinstance(result, QuiltworkError):
                        refused[party] = result
                    else:
                        fit, table = result
                        mine, place = replace(order, party=party), Path(target) / party
                        written[party] = release(fit, table, place, mine, overwrite=overwrite)
                    shown.advance(party)
        except KeyboardInterrupt:
            raise Interrupted(
                f"local fits, {len(written)} of {len(tables)} written",
                why="they were told to stop",
                mend="What is there is whole; run again for the parties that are missing.",
            ) from None
    return Fits({p: written[p] for p in tables if p in written}, {p: refused[p] for p in tables if p in refused})


def _fitted(party: str, table: TableFragment, order: MixtureOrder) -> tuple[str, _Fitted | QuiltworkError]:
    """One machine's fit, or what was wrong with it: errors travel as values, so that the other machines go on."""
    try:
        return party, fit_table(table, order)
    except QuiltworkError as error:
        return party, error
    except (ValueError, ArithmeticError, MemoryError, OSError) as error:
        # the estimator speaks scikit-learn's language, and its messages may quote the rows
        why = f"the fit failed ({type(error).__name__})"
        mend = "Fit this table alone, with contribute_mixture, to see where."
        return party, FragmentError(f"{table.place} of party '{party}'", why=why, mend=mend)


def _results(jobs: Iterable[Any], n_jobs: int | None) -> Any:
    """Results as they end, where the backend can; a context that stops the rest when it is left early."""
    try:
        pool = Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    except ValueError:
        return nullcontext(Parallel(n_jobs=n_jobs)(jobs))
    return closing(pool(jobs))
