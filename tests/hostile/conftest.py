"""The specimens of networks are those of the tests of the format."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "contribution"))
