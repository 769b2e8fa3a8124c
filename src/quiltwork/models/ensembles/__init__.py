"""Ensembles of models that are no networks: fitted estimators of scikit-learn's conventions, each of its own owner."""

from quiltwork.models.ensembles.classifier import EnsembleClassifier
from quiltwork.models.ensembles.regressor import EnsembleRegressor
from quiltwork.models.ensembles.residual import ResidualChain

__all__ = ["EnsembleClassifier", "EnsembleRegressor", "ResidualChain"]
