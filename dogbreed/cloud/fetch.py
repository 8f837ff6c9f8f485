"""Copies a model package, checked, to this disk: ``python -m dogbreed.cloud.fetch URL FOLDER``."""

import sys

from dogbreed import package
from dogbreed.errors import BadInput
from dogbreed.exported import best_name
from dogbreed.storage import normal


def main(argv: list[str]) -> int:
    """Copy, if the package has an engine that needs no torch; the exit status."""
    url, folder = argv
    try:
        source = package.read(normal(url))
        engine = best_name(source)
        if engine == "torch":
            raise BadInput(f"{url}: no engine in it that works here; make one with dogbreed export")
        package.copy(source, folder)
    except BadInput as error:
        print(f"fetch: error: {error}", file=sys.stderr)
        return 2
    print(f"{source.url}: {source.model['run']}, {engine}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
