"""``python -m dogbreed``, and the console script."""

import sys

from dogbreed.cli import main


def run() -> None:
    """Run the process' own arguments and exit."""
    sys.exit(main())


if __name__ == "__main__":
    run()
