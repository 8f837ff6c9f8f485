"""The command line: looks at the first word, and loads only what that verb needs."""

import atexit
import gc
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

from dogbreed import __version__
from dogbreed.errors import BadInput, nearest

# Importing Lightning takes seconds, so a verb is a module and the name of a function in it.
VERBS = {
    "prepare": ("dogbreed.data.prepare", "prepare", "turn photographs into a data set"),
    "fit": ("dogbreed.training", "fit", "train a model"),
    "validate": ("dogbreed.scoring", "validate", "score a run on split val"),
    "test": ("dogbreed.scoring", "test", "score a run on split test"),
    "export": ("dogbreed.export.export", "export", "make an engine that needs no torch"),
    "predict": ("dogbreed.predict", "predict", "name the breeds in pictures"),
    "report": ("dogbreed.report.command", "report", "show runs: a page, a comparison, a table"),
    "serve": ("dogbreed.serve.command", "serve", "answer over HTTP, with a page for people"),
    "drift": ("dogbreed.monitor.drift", "drift", "tell if what a model is asked has changed"),
    "sweep": ("dogbreed.sweep.command", "sweep", "look for good settings of fit"),
    "submit": ("dogbreed.cloud.submit", "submit", "train on Vertex AI"),
}
# Plain functions: their signature is their flags; one of these may stand without its name.
_PARSED_HERE: dict[str, str | None] = dict.fromkeys(("prepare", "export", "predict", "serve"))
_PARSED_HERE |= {"drift": None, "report": "runs", "sweep": "fit", "submit": "fit"}

# Vertex AI sets it in a training job's containers.
JOB_VARIABLE = "CLOUD_ML_JOB_ID"

HELP = """usage: dogbreed VERB [OPTIONS]

Fine-tunes image classifiers, dog breeds first, from photographs in a folder or a bucket.

{verbs}

  dogbreed VERB --help      all options of a verb
  dogbreed --version        {version}

Begin with:
  dogbreed fit --config configs/quickstart.yaml"""


def _help() -> str:
    lines = [f"  {verb:<10}{text}" for verb, (_, _, text) in VERBS.items()]
    return HELP.format(verbs="\n".join(lines), version=__version__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after `dogbreed`; none: those of this process.

    Returns:
        Exit status: 0 done, 1 failed, 2 bad input, 3 and 4 drift's warning and
        alert, 143 ended by SIGTERM with a checkpoint saved.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_help())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    verb, rest = words[0], words[1:]
    try:
        if verb not in VERBS:
            raise BadInput(f"no verb {verb!r}{nearest(verb, VERBS)}; see dogbreed --help")
        module, name, _ = VERBS[verb]
        if verb == "fit" and JOB_VARIABLE in os.environ:
            module = "dogbreed.cloud.job"
        function = getattr(_loaded(module), name)
        if verb in _PARSED_HERE:
            return run_function(verb, function, rest, _PARSED_HERE[verb])
        return int(function(rest))
    except BadInput as error:
        print(f"dogbreed {verb}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dogbreed {verb}: interrupted", file=sys.stderr)
        return 130


def _loaded(module: str) -> ModuleType:
    """Import without the garbage collector: it would take a fifth of the time, and find nothing."""
    if module not in sys.modules:
        gc.disable()
        try:
            import_module(module)
        finally:
            gc.freeze()  # nor does it look at all that later on
            atexit.register(gc.unfreeze)  # or triton's bindings take what is left for leaks
            gc.enable()
    return sys.modules[module]


def run_function(
    verb: str, function: Callable[..., int | None], argv: Sequence[str], words: str | None = None
) -> int:
    """Parse `argv` by the function's signature and call it; `words` takes what has no name."""
    from docstring_parser import parse

    from dogbreed.parser import Parser

    about = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]
    parser = Parser(prog=f"dogbreed {verb}", description=about)
    names = ["-c", "--config", "--job"] if verb == "submit" else ["-c", "--config"]
    parser.add_argument(*names, action="config", help="YAML file with these options")
    if words:
        default = inspect.signature(function).parameters[words].default
        told = {of.arg_name: of.description for of in parse(function.__doc__ or "").params}
        parser.add_argument(words, nargs="*", default=list(default), help=told[words])
    parser.add_function_arguments(function, as_group=False, skip={words} if words else None)
    values = parser.parse_args(_switches_set(function, argv))
    arguments = values.as_dict()
    arguments.pop("config")
    return function(**arguments) or 0


def _switches_set(function: Callable[..., object], argv: Sequence[str]) -> list[str]:
    """`--spot` alone as `--spot=true`: jsonargparse's booleans want a value."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    for name, parameter in inspect.signature(function).parameters.items():
        for at, word in enumerate(words[:end]):
            following = words[at + 1] if at + 1 < end else "--"
            if word == f"--{name}" and parameter.annotation is bool and following.startswith("-"):
                words[at] += "=true"
    return words
