"""How long `drift` takes over very many rows, and in how much memory.

`python -m tests.benchmarks.drift_rows --model MODEL --rows 10000000`. Rows are made,
with breeds, scores and embeddings of the model's validation pictures, in 100 objects of 1,000, as
the server writes them; then these are linked under as many names as the rows need, so that they
fill no disk, and each is read. Prints the time and the peak of the resident memory of the whole
command.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from dogbreed import package
from dogbreed.monitor import log, rows
from dogbreed.monitor.reference import Reference

DAY = "2026-11-23"
OBJECTS = 100


def objects(source: package.Package, seed: int = 0) -> list[bytes]:
    """Objects of rows that are drawn from the model's validation pictures."""
    reference, rng = Reference.read(source), np.random.default_rng(seed)
    names = source.class_names
    noon = datetime.datetime.fromisoformat(f"{DAY}T12:00+00:00").timestamp()
    made = []
    for _ in range(OBJECTS):
        lines = []
        for k in rng.integers(0, len(reference.right), log.ROWS).tolist():
            order = [int(reference.predicted[k]), *rng.integers(0, len(names), 4).tolist()]
            top5 = [{"breed": names[of], "probability": 0.05} for of in order]
            entry = {"breed": names[order[0]], "probability": float(reference.probability[k])}
            one = rows.Prediction(
                noon + rng.random(),
                rng.bytes(16).hex(),
                0,
                entry | {"top5": top5, "is_dog": not reference.rejected[k], "model": "x"},
                float(reference.reject_score[k]),
                reference.embedding[rng.integers(len(reference.embedding))],
                rng.integers(0, 256, (32, 32, 3), np.uint8),
                (400, 300),
                20_000,
                None,
                {"decode": 0.002, "queue": 0.0, "forward": 0.01},
            )
            lines.append(log.json_line(one.row("torch", None)))
        made.append(log.zipped(b"".join(lines)))
    return made


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a model package")
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 10_000_000])
    options = parser.parse_args()
    source = package.read(options.model)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for k, data in enumerate(made := objects(source)):
            (base / f"{k}").write_bytes(data)
        print(f"{len(made)} objects of {log.ROWS} rows, {sum(map(len, made)) / 1e8:.2f} kB a row")
        for n in options.rows:
            place = base / f"log-{n}" / rows.folder(DAY, rows.model_of(source))
            place.mkdir(parents=True)
            for k in range(n // log.ROWS):
                os.link(base / f"{k % OBJECTS}", place / f"{k:06d}{rows.SUFFIX}")
            words = ["drift", "--model", options.model, "--log", str(base / f"log-{n}")]
            words += ["--since", DAY, "--until", "2026-11-24", "--out", str(base / "drift.html")]
            start, most = time.monotonic(), 0
            process = subprocess.Popen([sys.executable, "-m", "dogbreed", *words])
            about = psutil.Process(process.pid)
            while process.poll() is None:
                most = max(most, about.memory_info().rss)
                used = about.cpu_times()
                time.sleep(0.1)
            took = time.monotonic() - start
            print(
                f"{n:,} rows: status {process.returncode}, {took:.0f} s,"
                f" {used.user + used.system:.0f} s of processor, {most / 2**20:.0f} MiB at most"
            )


if __name__ == "__main__":
    main()
