"""The whole walk on real photographs over HTTP: prepare, fit, test and predict on gs://.

    nox -s bench -- walk --photos DIR --weights FILE --backbone NAME [--other DIR]

`--photos` holds one folder per breed. The bucket is the tests' double of Google Cloud Storage on
loopback; all else is the real thing, run as a user runs it.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.doubles.gcs import FakeGCS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--other", help="photographs of some of the breeds, to score as well")
    parser.add_argument("--backbone", default="tf_mobilenetv3_small_100")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", default="3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, FakeGCS(root=Path(folder)) as gcs:
        bucket = gcs.bucket()
        environment = os.environ | gcs.env | {"XDG_CACHE_HOME": f"{folder}/cache"}

        def dogbreed(*words: str) -> str:
            print("\n$ dogbreed", *words, flush=True)
            begun = time.monotonic()
            ended = subprocess.run(
                [sys.executable, "-m", "dogbreed", *words],
                env=environment,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            print(ended.stdout, f"{time.monotonic() - begun:.1f} s", sep="", flush=True)
            return ended.stdout

        data, run = f"{bucket}/dogs", f"{bucket}/runs/walk"
        words = f"prepare --source folder --path {options.photos} --out {data}"
        dogbreed(*words.split(), "--splits", "0.7,0.1,0.2")
        words = (
            f"fit --data.root {data} --run_root {bucket}/runs --name walk --model.freeze backbone"
        )
        words += f" --model.backbone {options.backbone} --model.weights {options.weights}"
        words += " --model.lr 3e-3 --model.label_smoothing 0 --data.augment.scale 0.6"
        dogbreed(*words.split(), "--trainer.max_epochs", options.epochs)
        scores = json.loads(dogbreed("test", "--run", run, "--json"))["test"]
        table = dogbreed("predict", "--run", run, "--data", data, "--out", "-")
        rows = list(csv.DictReader(io.StringIO(table[table.index("id,breed") :])))
        right = sum(row["id"].split("/")[-2] == row["breed"] for row in rows)
        assert len(rows) == scores["n"]
        print(
            f"predict: {right / len(rows):.4f} of {len(rows):,} right, test: {scores['top1']:.4f}"
        )
        if options.other:
            other = f"{bucket}/other"
            words = f"prepare --source folder --path {options.other} --out {other} --splits 0,0,1"
            dogbreed(*words.split())
            dogbreed("test", "--run", run, "--data.root", other)


if __name__ == "__main__":
    main()
