"""How long does a search for a head's settings take, once the features are kept?

    nox -s bench -- sweep --root DATA --model.backbone NAME --model.weights FILE

fills a cache by a fit of `configs/head.yaml`, times `dogbreed sweep` over `configs/sweep.yaml`,
imports included, and scores the best trial, and the recipe as it stands, on split test, once.
"""

import argparse
import json
import tempfile
from pathlib import Path

from dogbreed.runs import Run
from tests.benchmarks.head import timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="the prepared data set")
    parser.add_argument("--trials", default="30")
    parser.add_argument("--processes", default="2")
    parser.add_argument("--cache", help="keep the features here, for another time")
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = args.cache or f"{folder}/cache"
        words = ["fit", "--config", "configs/head.yaml", "--data.root", args.root, *more]
        words += ["--run_root", folder]
        timed([*words, "--name", "recipe"], cache)
        options = ["--trials", args.trials, "--processes", args.processes]
        wall, spent = timed(
            ["sweep", "--space", "configs/sweep.yaml", *options, "--", *words], cache
        )
        print(f"sweep: {wall:.1f} s, of which processors {spent:.1f} s", flush=True)
        best = Path(folder, "sweep/best.yaml").read_text()
        print(best.partition("\nseed_everything")[0])
        (run,) = [line.split()[-1] for line in best.splitlines() if line.startswith("# The run:")]
        for name in (f"{folder}/recipe", run):
            timed(["test", "--run", name], cache)
            print(name, json.dumps(Run(name).metrics()))


if __name__ == "__main__":
    main()
