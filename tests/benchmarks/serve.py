"""How many requests a second, and how soon: `python -m tests.benchmarks.serve --photos DIR`.

Servers run at the same time, pinned to one core; the generator, pinned to another, asks one after
the other, round after round, so that what else the machine does strikes all of them alike. Beside
the clock stands the time that the server's processes had the processor: a busy machine stretches
the first and hardly the second.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import requests


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="folder of JPEGs, at any depth")
    parser.add_argument("--model", required=True, help="a model package")
    parser.add_argument("--engines", nargs="+", default=["torch"])
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", nargs=2, type=int, default=[0, 1], help="servers, generator")
    parser.add_argument("--batch_size", default="16")
    parser.add_argument("--log", help="a URL; serve also runs with its log there")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cores[1]})
    files = sorted(
        p for p in Path(options.photos).rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"}
    )
    photos = [path.read_bytes() for path in files[:: max(1, len(files) // 300)]]
    print(f"{len(photos)} photographs of {np.mean([len(p) for p in photos]) / 1000:.0f} kB")
    commands = {"earlier": ["-m", "tests.benchmarks.earlier_server", "{port}"]}
    for engine in options.engines:
        about = ["--model", options.model, "--engine", engine, "--batch_size", options.batch_size]
        commands[f"serve {engine}"] = ["-m", "dogbreed", "serve", *about, "--port", "{port}"]
        if options.log:
            commands[f"serve {engine}, log"] = [*commands[f"serve {engine}"], "--log", options.log]
        bound = ["-m", "tests.benchmarks.batcher_server", "{port}", options.model, engine]
        commands[f"bound {engine}"] = bound
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(_running(command, options.cores[0]))
            for name, command in commands.items()
        }
        for _ in range(options.rounds):
            for concurrency in options.concurrency:
                for name, (url, process) in servers.items():
                    row = asyncio.run(_load(url, photos, concurrency, options.seconds, process))
                    results.setdefault((name, concurrency), []).append(row)
                    print(json.dumps({"server": name, "c": concurrency, **row}), flush=True)
    _table(results, options.concurrency, list(commands))


@contextlib.contextmanager
def _running(command: list[str], core: int) -> Iterator[tuple[str, psutil.Process]]:
    """A server on a free port, warm."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, *(word.format(port=port) for word in command)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *words], env=env, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/ready", timeout=60).ok:
                    break
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(words)} has ended")
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        used = _cpu(psutil.Process(process.pid))
        print(f"ready after {seconds:.1f} s ({used:.1f} s of processor): {' '.join(words[1:6])}")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _cpu(process: psutil.Process) -> float:
    """Seconds of processor that a server's processes have had."""
    family = [process, *process.children(recursive=True)]
    return sum(p.cpu_times().user + p.cpu_times().system for p in family)


async def _load(
    url: str, photos: list[bytes], concurrency: int, seconds: float, process: psutil.Process
) -> dict[str, float]:
    """Ask for a while, so many at a time; each asks again when it is answered."""
    times: list[float] = []
    failed = 0
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client(number: int, end: float) -> None:
            nonlocal failed
            turn = number
            while time.perf_counter() < end:
                form = aiohttp.FormData()
                form.add_field("imagefiles", photos[turn % len(photos)], filename=f"{turn}.jpg")
                turn += concurrency
                start = time.perf_counter()
                async with session.post(f"{url}/predict", data=form) as answer:
                    entries: list[dict[str, Any]] = await answer.json()
                    failed += answer.status != 200 or not entries[0]["probability"] > 0
                times.append(time.perf_counter() - start)

        warm = time.perf_counter() + seconds / 8
        await asyncio.gather(*(client(k, warm) for k in range(concurrency)))
        times.clear()
        before = _stages(url)
        start, used = time.perf_counter(), _cpu(process)
        await asyncio.gather(*(client(k, start + seconds) for k in range(concurrency)))
        took, used = time.perf_counter() - start, _cpu(process) - used
    row = {
        "rps": round(len(times) / took, 1),
        "per_cpu_s": round(len(times) / used, 1),
        "p50_ms": round(float(np.percentile(times, 50)) * 1000, 1),
        "p99_ms": round(float(np.percentile(times, 99)) * 1000, 1),
        "failed": failed,
    }
    after, served = _stages(url), len(times)
    for stage in after:  # of one picture, in the mean
        row[f"{stage}_ms"] = round((after[stage] - before[stage]) / served * 1000, 2)
    if after and concurrency == 1:
        spent = row["p50_ms"] - row["decode_ms"] - row["forward_ms"]
        print(f"p50 without decode and forward: {spent:.2f} ms")
    return row


def _stages(url: str) -> dict[str, float]:
    """Seconds that pictures have spent in each stage; nothing where a server does not say."""
    found = re.findall(
        r'^dogbreed_stage_seconds_sum\{stage="(\w+)"\} (\S+)$',
        requests.get(f"{url}/metrics", timeout=60).text,
        re.MULTILINE,
    )
    return {stage: float(seconds) for stage, seconds in found}


def _table(
    results: dict[tuple[str, int], list[dict[str, float]]], concurrency: list[int], names: list[str]
) -> None:
    """Medians over the rounds, and ratios to the earlier server, round by round."""
    head = "| server | " + " | ".join(f"c={c} rps (per CPU s) | p50, p99 ms" for c in concurrency)
    print(f"\n{head} |\n|{'---|' * (1 + 2 * len(concurrency))}")
    for name in names:
        cells = []
        for c in concurrency:
            rows = results[name, c]
            middle = {
                key: statistics.median(row[key] for row in rows)
                for key in ("rps", "per_cpu_s", "p50_ms", "p99_ms")
            }
            cells.append(f"{middle['rps']:.0f} ({middle['per_cpu_s']:.0f})")
            cells.append(f"{middle['p50_ms']:.0f}, {middle['p99_ms']:.0f}")
        print(f"| {name} | {' | '.join(cells)} |")
    for name in names[1:]:
        other = name.removesuffix(", log") if name.endswith(", log") else names[0]
        for c in concurrency:
            pairs = list(zip(results[name, c], results[other, c], strict=True))
            ratios = {
                key: statistics.median(a[key] / b[key] for a, b in pairs)
                for key in ("rps", "per_cpu_s", "p99_ms")
            }
            words = ", ".join(f"{key} x{value:.2f}" for key, value in ratios.items())
            print(f"{name} over {other}, c={c}: {words}")


if __name__ == "__main__":
    main()
