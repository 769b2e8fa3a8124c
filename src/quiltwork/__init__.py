"""Train apart. Compose together. Only what was declared leaves.

>>> import quiltwork
>>> quiltwork.__version__
'0.1.0'
"""

from quiltwork.models.register import register_when_imported

__version__ = "0.1.0"

register_when_imported()
