"""How long does a head take, and how good is it? Prints a row in markdown for each way.

    nox -s bench -- head --root DATA --model.backbone NAME --model.weights FILE

fits `configs/head.yaml` with an empty cache and then with the one that this has filled, each in a
process of its own, imports included; then scores the second on split test, once.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dogbreed.runs import Run


def timed(words: list[str], cache: str) -> tuple[float, float]:
    """Run a command; its wall seconds, and the processor seconds of all its processes."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "dogbreed", *words]
    subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": cache})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the prepared data set")
    parser.add_argument("--config", default="configs/head.yaml")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--config", args.config, "--data.root", args.root, "--run_root", folder]
        for name in ("cold", "warm"):
            wall, spent = timed([*fit, "--name", name, *more], f"{folder}/cache")
            print(f"{name}: {wall:.1f} s, of which processors {spent:.1f} s", flush=True)
        timed(["test", "--run", f"{folder}/warm"], f"{folder}/cache")
        print(Path(folder, "warm/metrics.json").read_text())
        print(Run(f"{folder}/warm").read()["weights"])


if __name__ == "__main__":
    main()
