"""quiltwork's own checkpoint formats, for models that no public format can hold.

``quiltwork_moe`` is one body with several feed-forward experts a layer; ``quiltwork_ensemble`` is several whole models
whose predictions are mixed. Both are ordinary ``PreTrainedModel`` classes: after ``import quiltwork`` the Auto classes
of transformers load them.
"""

# first, since its import registers the formats (models/register.py), which imports the modules of this package; were it
# one of them that imports the Auto models, it would be asked for its classes before it has any
import transformers.models.auto.modeling_auto  # noqa: F401
