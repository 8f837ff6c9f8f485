"""The process that workers are forked from, so that they need not import anything themselves."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

from dogbreed.exported import RUNTIMES


def fork_server(engine: str) -> ForkServerContext:
    """Begin it, if it does not run yet; it imports for seconds, and meanwhile others may do so too.

    Args:
        engine: a name that `open_engine` knows.
    """
    runtime = ["safetensors.torch", "dogbreed.model.backbone"]
    if engine != "torch":
        runtime = [RUNTIMES[engine.split("-", maxsplit=1)[0]]]
    context = multiprocessing.get_context("forkserver")
    modules = ["dogbreed.__main__", "dogbreed.serve.worker", *runtime, "dogbreed.serve.nursery"]
    context.set_forkserver_preload(modules)
    forkserver.ensure_running()
    return context
