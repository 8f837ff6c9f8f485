"""dogbreed: trains, serves and watches image classifiers, dog breeds first.

Importing the package loads neither torch nor Lightning, so that ``dogbreed --help`` is quick.
"""

__version__ = "0.1.0"
