"""Does more than a temperature pay, on so many validation pictures?

    nox -s bench -- calibration --root DATA RUN…

Each run's package looks at the validation pictures once; then in turns four fifths of them fit the
calibration and the last fifth is judged, `--repeats` times with other fifths. Prints a table in
markdown: means over all repeats. Ten seconds a run.
"""

import argparse
import functools
from collections.abc import Callable

import numpy as np
import torch

from dogbreed import images, package, storage
from dogbreed.data.manifest import Manifest
from dogbreed.engine import TorchEngine
from dogbreed.evaluate.bootstrap import Judged, ece_floor, scores
from dogbreed.evaluate.calibration import fit_calibration, fit_temperature
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration
from dogbreed.ranges import read_all

BATCH, FOLDS = 64, 5
WAYS: dict[str, Callable[[np.ndarray, np.ndarray], Calibration]] = {
    "logits as they are": lambda _logits, _labels: UNCALIBRATED,
    "temperature": lambda logits, labels: Calibration(fit_temperature(logits, labels)),
    "and slope and offset": fit_calibration,
}


def answers(run: str, data: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the validation pictures, float32, (n, classes), and their labels, int64, (n,)."""
    source = package.read(package.locate(storage.normal(run)))
    seen, network = source.model["preprocessing"], TorchEngine(source).network
    box = functools.partial(images.centre_box, crop=seen["crop"])
    rows = data.rows_of("val")
    places, logits = data.ranges(data.take(rows)), []
    for start in range(0, len(rows), BATCH):
        pixels = [
            images.picture(bytes_, seen["size"], box)
            for bytes_ in read_all(places[start : start + BATCH])
        ]
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
            logits.append(network.answers(batch)[0].numpy())
    numbers = np.array([source.class_names.index(name) for name in data.classes])
    return np.concatenate(logits), numbers[data.column("label")[rows]]


def judged(
    way: Callable[[np.ndarray, np.ndarray], Calibration],
    logits: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
) -> Judged:
    """All pictures, each by what the other fifths have fitted."""
    calibrated = np.empty_like(logits)
    for held_out in np.array_split(rng.permutation(len(labels)), FOLDS):
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        calibrated[held_out] = way(logits[rest], labels[rest])(logits[held_out])
    return Judged.of(calibrated, labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True, help="a data set with split val")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("runs", nargs="+")
    options = parser.parse_args()
    data = Manifest.open(options.root)
    print("| run | calibration | top-1 | log-loss | calibration error | by chance alone |")
    print("|---|---|---|---|---|---|")
    for run in options.runs:
        logits, labels = answers(run, data)
        for name, way in WAYS.items():
            rng = np.random.default_rng(0)
            each = [judged(way, logits, labels, rng) for _ in range(options.repeats)]
            mean = {k: np.mean([scores(it)[k] for it in each]) for k in ("top1", "log_loss", "ece")}
            floor = np.mean([ece_floor(it) for it in each])
            print(
                f"| {run.rstrip('/').rsplit('/', 1)[-1]} | {name} | {mean['top1']:.3f} |"
                f" {mean['log_loss']:.4f} | {mean['ece']:.4f} | {floor:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
