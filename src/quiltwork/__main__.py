"""``python -m quiltwork`` is the command ``quiltwork``."""

from quiltwork.cli import main

if __name__ == "__main__":
    main()
