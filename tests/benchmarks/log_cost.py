"""What the prediction log costs: `python -m tests.benchmarks.log_cost --photos DIR --model MODEL`.

Several servers with the log and as many without are up at once on one core, and are asked in turns
from another: processes that do the same differ by some per cent, as their memory happens to lie.
Prints the processor's milliseconds for each request, of the process that takes requests, where the
log is written, and of the workers. Two minutes, and the time that six servers take to load.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
from pathlib import Path

import psutil

from tests.benchmarks.serve import _load, _running

PLAIN, LOGGED = "without", "with the log"


def cpu(process: psutil.Process) -> float:
    """Seconds of processor that a process has had."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="folder of JPEGs, at any depth")
    parser.add_argument("--model", required=True, help="a model package")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--servers", type=int, default=3, help="of each kind")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--cores", nargs=2, type=int, default=[0, 1], help="servers, generator")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cores[1]})
    files = [p for p in Path(options.photos).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"}]
    photos = [path.read_bytes() for path in sorted(files)[:: max(1, len(files) // 300)]]
    command = ["-m", "dogbreed", "serve", "--model", options.model, "--engine", options.engine]
    command += ["--port", "{port}"]
    rows: dict[str, list[tuple[float, float]]] = {PLAIN: [], LOGGED: []}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryDirectory())
        kinds = {PLAIN: command, LOGGED: [*command, "--log", log]}
        servers = [
            (kind, *stack.enter_context(_running(words, options.cores[0])))
            for _ in range(options.servers)
            for kind, words in kinds.items()
        ]
        for _ in range(options.rounds):
            for kind, url, process in servers:
                family = [process, *process.children(recursive=True)]
                before = [cpu(one) for one in family]
                answered = asyncio.run(_load(url, photos, 8, options.seconds, process))
                n = answered["rps"] * options.seconds * 9 / 8  # with the eighth that warms up
                main, *workers = (
                    1000 * (cpu(one) - was) / n for one, was in zip(family, before, strict=True)
                )
                rows[kind].append((main, sum(workers)))
    middle = {
        kind: [statistics.median(column) for column in zip(*of, strict=True)]
        for kind, of in rows.items()
    }
    print("| ms of processor a request | takes requests | workers |\n|---|---|---|")
    for kind, (main, workers) in middle.items():
        print(f"| {kind} | {main:.2f} | {workers:.2f} |")
    (main, workers), (logged, beside) = middle[PLAIN], middle[LOGGED]
    print(f"all: x{(logged + beside) / (main + workers):.3f};", end=" ")
    print(f"where workers count as alike: x{(logged + workers) / (main + workers):.3f}")


if __name__ == "__main__":
    main()
