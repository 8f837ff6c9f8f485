"""What does `--data.balance` change? Prints a table in markdown; about 10 minutes on one core.

The embedded sample, or another data set in `--root`, with every other breed cut to a few training
pictures; its splits val and test together are what the networks are scored on. Scores are those of
the last epoch, chosen by nothing. Words that are not below go to `dogbreed fit`.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa

from dogbreed.data import manifest
from dogbreed.data.manifest import SPLITS, Manifest
from dogbreed.data.prepare import embedded_sample


def cut(data: Manifest, out: str, few: int) -> dict[str, int]:
    """Write a data set of the same pictures, but `few` for training of every other breed.

    Returns:
        Pictures in each split.
    """
    label, split = data.column("label"), data.column("split")
    keep = np.ones(len(data), bool)
    for rare in range(0, len(data.classes), 2):
        keep[np.flatnonzero((label == rare) & (split == SPLITS.index("train")))[few:]] = False
    table = data.table.filter(pa.array(keep))
    parts = [SPLITS[code] for code in split[keep]]
    columns = {
        "split": ["val" if name == "test" else name for name in parts],
        "uri": [f"{data.root}/{uri}" for uri in table["uri"].to_pylist()],
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    about = manifest.save(
        out,
        table.cast(manifest.SCHEMA),
        classes=data.dataset["classes"],
        name=f"every other breed cut to {few}",
    )
    return {name: sum(counts.values()) for name, counts in about["counts"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a prepared data set on this disk")
    parser.add_argument("--few", type=int, default=20, help="training pictures of a rare breed")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=80, help="side of the pictures, in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = cut(Manifest.open(args.root or embedded_sample()), f"{folder}/data", args.few)
        print(f"{counts['train']} training pictures, scored on {counts['val']}\n")
        print("| balance | seed | macro-F1 | top-1 | log-loss |\n|---|---|---|---|---|")
        scores: dict[str, list[list[float]]] = {"none": [], "weights": [], "sampler": []}
        for seed in args.seeds:
            for balance, rows in scores.items():
                name = f"{balance}{seed}"
                words = f"fit --config configs/quickstart.yaml --data.root {folder}/data"
                words += f" --run_root {folder} --name {name} --seed_everything {seed}"
                words += f" --data.balance {balance} --data.image_size {args.size}"
                words += f" --data.workers 0 --trainer.max_epochs {args.epochs}"
                words += f" --trainer.check_val_every_n_epoch {args.epochs}"
                subprocess.run(
                    [sys.executable, "-m", "dogbreed", *words.split(), *more],
                    env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                with open(f"{folder}/{name}/metrics.csv") as file:
                    *_, last = csv.DictReader(file)
                rows.append([float(last[f"val/{x}"]) for x in ("macro_f1", "top1", "log_loss")])
                show(balance, str(seed), rows[-1])
        for balance, rows in scores.items():
            show(balance, "mean", np.mean(rows, axis=0).tolist())


def show(balance: str, seed: str, values: list[float]) -> None:
    cells = [balance, seed, *(f"{value:.3f}" for value in values)]
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
