"""quiltwork's own checkpoint formats, for models that no public format can hold.

``quiltwork_moe`` is one body with several feed-forward experts a layer; ``quiltwork_ensemble`` is several whole models
whose predictions are mixed. Both are ordinary ``PreTrainedModel`` classes: after ``import quiltwork`` the Auto classes
of transformers load them.
"""
