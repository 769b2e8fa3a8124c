"""The door: one file a verb, one table of names (``catalog``).

Exit codes: 0 done, 1 refused (bad input, a failed check, an interrupt), 2 wrong usage. A user's mistake prints what is
wrong, why, and what would mend it, never a traceback.
"""

from quiltwork.cli.app import main

__all__ = ["main"]
