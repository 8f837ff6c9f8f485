"""Who does the units of work of `dogbreed prepare`: all cores of this machine, or a Ray cluster."""

import contextlib
import logging
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import pyarrow as pa

from dogbreed.data.work import PART, Recipe, work
from dogbreed.errors import BadInput
from dogbreed.orphans import end_with_parent


def local(units: Iterable[pa.Table], recipe: Recipe, workers: int) -> Iterator[pa.Table]:
    """Do units in as many processes; parts as they get done.

    Raises:
        BadInput: of a unit, or a process was killed; the others are ended at once.
    """
    if workers == 1:
        yield from (work(unit, recipe) for unit in units)
        return
    # No ProcessPoolExecutor: processes that share a queue leave it locked when they are killed.
    units = iter(units)
    processes: dict[Connection, BaseProcess] = {}
    busy: set[Connection] = set()
    try:
        for unit in islice(units, workers):
            pipe, process = _start(recipe)
            processes[pipe] = process
            busy.add(pipe)
            pipe.send(unit)
        while busy:
            for pipe in busy.intersection(wait(list(busy))):
                part = pipe.recv()
                if isinstance(part, Exception):
                    raise part
                busy.remove(pipe)
                if (unit := next(units, None)) is not None:
                    busy.add(pipe)
                    pipe.send(unit)
                yield part
    except (EOFError, ConnectionError):
        raise BadInput(
            "a process of prepare ended all of a sudden, perhaps for want of memory; run the same"
            " again with fewer --workers or a smaller --shard_size"
        ) from None
    finally:
        for pipe, process in processes.items():
            if pipe in busy:
                process.kill()  # whatever it is doing: writes are atomic
            pipe.close()  # one that waits for a unit ends
            process.join()


def _start(recipe: Recipe) -> tuple[Connection, BaseProcess]:
    """A process that does units, and the pipe to it."""
    # Spawned, for a forked process inherits gcsfs' event loop without its thread and hangs.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, recipe), daemon=True)
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    with theirs:
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:  # Ctrl-C reaches all processes; this one ends the others
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    return ours, process


def _serve(pipe: Connection, recipe: Recipe) -> None:
    """Do units that come through a pipe until its other end is closed."""
    end_with_parent()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            unit = pipe.recv()
            try:
                pipe.send(work(unit, recipe))
            except BadInput as error:
                pipe.send(BadInput(str(error)))
            except Exception:
                pipe.send(RuntimeError(traceback.format_exc()))


def on_ray(units: Iterable[pa.Table], recipe: Recipe, workers: int) -> Iterator[pa.Table]:
    """Do units on the Ray cluster that `RAY_ADDRESS` names, or on one started here.

    All nodes must reach the pictures and the data set under the same paths or URLs, and have
    dogbreed installed.

    Args:
        units: lines of a listing each.
        recipe: what to do with them.
        workers: of a cluster started here.

    Raises:
        BadInput: Ray is not installed, or of a unit.
    """
    try:
        import ray.data
    except ImportError:
        raise BadInput("--engine ray needs Ray: pip install 'ray[data]'") from None
    started = not ray.is_initialized()
    if started:
        options = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # A unit is a block of its own, and batch_size=None hands whole blocks over.
    blocks = ray.data.from_arrow(list(units))
    attempt = partial(_attempt, recipe=recipe)
    done = blocks.map_batches(attempt, batch_size=None, batch_format="pyarrow")
    try:
        for part in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            if part.column("id").null_count:
                raise BadInput(part.column("reason")[0].as_py())
            yield part
    finally:
        if started:
            ray.shutdown()


def _attempt(unit: pa.Table, recipe: Recipe) -> pa.Table:
    """Do a unit; what went wrong comes back as a row without id, for Ray makes it a traceback."""
    try:
        return work(unit, recipe)
    except BadInput as error:
        return pa.Table.from_pylist([{"reason": str(error)}], PART)
