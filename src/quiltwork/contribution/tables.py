"""What a contribution about the rows of a table can hold: a mixture of experts, its statistics, answers to candidates.

With K experts, d features, p = 1 + d (intercept first, raw units of the features) and q outputs or classes:

    mixture       mixture.gate [K, p]   mixture.coefficients [K, q, p]   mixture.variances [K, q] (if Gaussian)
    covariates    covariates.counts [J]   covariates.means [J, d]   covariates.covariances [J, d, d]
    precision     precision.expert_grams [K, p, p]   precision.gate_hessian [(K-1) p, (K-1) p] (K > 1 only)
    likelihoods   likelihoods.values [C]

All of them are F64. Parameters and statistics are small, so that every size follows from a few integers here and is
bounded before a byte of the payload is read.

>>> method = MixtureMethod(family="gaussian", n_experts=4, n_features=20, n_outputs=1, rows=1000, converged=True,
...                        iterations=31, log_likelihood=None, seed=0, software={})
>>> {name: need.shape for name, need in method.parts()[0].required.items()}
{'mixture.gate': (4, 21), 'mixture.coefficients': (4, 1, 21), 'mixture.variances': (4, 1)}
"""

from __future__ import annotations

import sys
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from quiltwork.contribution.fields import ColumnName, Count, Digest, Positive, Software, Unit, require_modest
from quiltwork.contribution.kinds import Part, Requirement
from quiltwork.privacy.events import Record

Family: TypeAlias = Literal["gaussian", "multinomial", "poisson"]

_STATISTICS = "statistics.safetensors"


class TableReference(Record):
    """The table that the party's rows are of. Machines are composed only where it is the same for all.

    Attributes:
        features: names of the columns that the model reads, in the order of its coefficients.
        units: of each feature, as text; empty where none is stated.
        target: names of the columns that it predicts.
        classes: labels of the target's classes in the order of their codes; None for numbers.
    """

    features: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=10_000)]
    units: Annotated[tuple[Unit, ...], Field(min_length=1, max_length=10_000)]
    target: Annotated[tuple[ColumnName, ...], Field(min_length=1, max_length=64)]
    classes: Annotated[tuple[ColumnName, ...], Field(min_length=2, max_length=10_000)] | None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> TableReference:
        if len(self.units) != len(self.features):
            raise ValueError(f"{len(self.features)} features have {len(self.units)} units; an empty text states none")
        columns = (*self.features, *self.target)
        if len(set(columns)) < len(columns):
            raise ValueError("a column is named twice among features and target")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("a class is named twice")
        if self.classes is not None and len(self.target) > 1:
            raise ValueError("classes belong to one target, and several are named")
        return self


class MixtureMethod(Record):
    """A softmax-gated mixture of experts, fitted to the party's rows.

    Attributes:
        family: distribution of a response under one expert.
        n_experts: K.
        n_features: d, without the intercept.
        n_outputs: q: numbers in a response, or classes.
        rows: how many rows it was fitted to.
        converged: whether the fit ended by its own rule.
        iterations: of the fit that is released.
        log_likelihood: of all those rows together, in nats; None keeps it. A function of private rows, so where it is
            told it needs a privacy event named ``training``.
        seed: of starts.
        software: name to version.
    """

    kind: ClassVar[Literal["mixture"]] = "mixture"
    family: Family
    n_experts: Annotated[int, Field(ge=1, le=1024)]
    n_features: Annotated[int, Field(ge=1, le=10_000)]
    n_outputs: Annotated[int, Field(ge=1, le=10_000)]
    rows: Positive
    converged: bool
    iterations: Count
    log_likelihood: float | None
    seed: int
    software: Software

    @model_validator(mode="after")
    def _is_modest(self) -> MixtureMethod:
        require_modest("mixture.coefficients", self.n_experts, self.n_outputs, 1 + self.n_features)
        return self

    def parts(self) -> tuple[Part, ...]:
        """``mixture``: gate, coefficients and, for Gaussian experts, variances above zero."""
        width = 1 + self.n_features
        tensors = {
            "mixture.gate": Requirement((self.n_experts, width), ("F64",)),
            "mixture.coefficients": Requirement((self.n_experts, self.n_outputs, width), ("F64",)),
        }
        if self.family == "gaussian":
            variances = Requirement((self.n_experts, self.n_outputs), ("F64",), least=sys.float_info.min)
            tensors["mixture.variances"] = variances
        return (Part("mixture", "mixture.safetensors", tensors),)

    def require_table(self, table: TableReference) -> None:
        """Refuse parameters that are not about ``table``.

        Raises:
            ValueError: the numbers of features, outputs or classes differ.
        """
        due = len(table.target) if table.classes is None else len(table.classes)
        if self.n_features != len(table.features):
            raise ValueError(f"the method has {self.n_features} features, and the table {len(table.features)}")
        if (self.family == "multinomial") != (table.classes is not None):
            raise ValueError(f"family {self.family} and the table disagree on whether the target has classes")
        if self.n_outputs != due or (self.family == "poisson" and due > 1):
            raise ValueError(f"{self.n_outputs} outputs of family {self.family} do not fit the table's {due}")


class CovariatesStatistic(Record):
    """A Gaussian mixture of the covariates: J groups of rows, each with its count, mean and covariance.

    Attributes:
        components: J.
        minimum_rows: no group has fewer rows; 1 states no minimum.
    """

    name: Literal["covariates"] = "covariates"
    components: Annotated[int, Field(ge=1, le=64)]
    minimum_rows: Annotated[int, Field(ge=1, le=2**53)] = 1

    def part(self, method: MixtureMethod) -> Part:
        """Counts in [minimum_rows, 2^53]; that the covariances are ones is judged by whoever uses them."""
        groups, width = self.components, method.n_features
        require_modest("covariates.covariances", groups, width, width)
        tensors = {
            "covariates.counts": Requirement((groups,), ("F64",), least=float(self.minimum_rows), most=float(2**53)),
            "covariates.means": Requirement((groups, width), ("F64",)),
            "covariates.covariances": Requirement((groups, width, width), ("F64",)),
        }
        return Part(self.name, _STATISTICS, tensors)


class PrecisionStatistic(Record):
    """How sharply the rows determine the parameters, at the fit's own optimum, in raw units.

    ``precision.expert_grams`` is sum_i tau_ik x~_i x~_i' for each expert k; ``precision.gate_hessian`` the Hessian of
    the negative log-likelihood's gate part for classes 0 ... K-2, the last one anchored at zero. One expert has no
    gate.
    """

    name: Literal["precision"] = "precision"

    def part(self, method: MixtureMethod) -> Part:
        """As many Grams as experts, and one Hessian where there are two experts or more."""
        width, free = 1 + method.n_features, (method.n_experts - 1) * (1 + method.n_features)
        require_modest("precision.expert_grams", method.n_experts, width, width)
        require_modest("precision.gate_hessian", free, free)
        tensors = {"precision.expert_grams": Requirement((method.n_experts, width, width), ("F64",))}
        if method.n_experts > 1:
            tensors["precision.gate_hessian"] = Requirement((free, free), ("F64",))
        return Part(self.name, _STATISTICS, tensors)


class LikelihoodsMethod(Record):
    """How likely the party's rows are under candidates that someone composed: one number a candidate.

    Attributes:
        candidates: digests of the candidates, in the order of the values.
        rows: how many rows the values sum over.
    """

    kind: ClassVar[Literal["likelihoods"]] = "likelihoods"
    candidates: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=1024)]
    rows: Positive

    @model_validator(mode="after")
    def _asks_once(self) -> LikelihoodsMethod:
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError("a candidate is named twice")
        return self

    def parts(self) -> tuple[Part, ...]:
        """``likelihoods.values`` [C]: log-likelihood of all rows under each candidate, in nats."""
        values = Requirement((len(self.candidates),), ("F64",))
        return (Part("likelihoods", "likelihoods.safetensors", {"likelihoods.values": values}),)


TableStatistic: TypeAlias = Annotated[CovariatesStatistic | PrecisionStatistic, Field(discriminator="name")]
"""Any declared statistic of a mixture's rows, told apart by its ``name``."""
