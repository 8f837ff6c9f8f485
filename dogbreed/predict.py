"""`dogbreed predict`: breeds of pictures, from a run's model package, as CSV."""

import csv
import io
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from tqdm import tqdm

from dogbreed import images, package, storage
from dogbreed.engine import TorchEngine
from dogbreed.errors import BadInput
from dogbreed.ranges import Range, read_pictures, whole
from dogbreed.runs import newest

FIELDS = ("id", "breed", "probability", "top5", "error")


def predict(
    images: list[str] | str | None = None,
    run: str | None = None,
    run_root: str = "runs",
    model: str | None = None,
    data: str | None = None,
    split: Literal["train", "val", "test", "unlabelled"] = "test",
    out: str = "-",
    batch_size: int = 32,
    device: str | None = None,
) -> None:
    """Name the breeds in pictures and write a CSV with id, breed, probability and the top five.

    A picture that can't be read has its row too, with the reason in column `error`.

    Args:
        images: a file, a folder, a bucket prefix, or a list of these.
        run: the run whose model answers; by default the newest.
        run_root: where the newest run is looked for.
        model: a model package's folder, instead of a run.
        data: a prepared data set, instead of --images; see --split.
        split: which pictures of --data.
        out: where the CSV goes: a path, a URL, or - for standard output.
        batch_size: pictures that the network sees at once.
        device: torch's name of a device; by default a GPU if there is one.
    """
    if batch_size < 1:
        raise BadInput(f"--batch_size {batch_size}: must be at least 1")
    if (images is None) == (data is None):
        raise BadInput("say which pictures: either --images PATH-or-URL or --data DATA-SET")
    found = _from_data(data, split) if data is not None else _from_paths(images or [])
    if model is None:
        where = (
            run or newest(run_root, holding=storage.join(package.FOLDER, package.MODEL_FILE)).url
        )
        model = storage.join(where, package.FOLDER)
    source = package.read(storage.normal(model))
    engine = TorchEngine(source, device)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(FIELDS)
    failed = 0
    with tqdm(total=len(found), unit=" pictures", desc="predict", disable=None) as bar:
        for names, batch, errors in _batches(found, source, batch_size):
            answers = iter(engine.probabilities(batch) if len(batch) else ())
            for name, error in zip(names, errors, strict=True):
                row = ("", "", "", error) if error else _answer(next(answers), source.class_names)
                table.writerow((name, *row))
                failed += bool(error)
            bar.update(len(names))
    if out == "-":
        print(text.getvalue(), end="")
    else:
        storage.write(storage.normal(out), text.getvalue().encode())
    if failed == len(found):
        raise BadInput(f"none of the {failed:,} pictures could be read, the first: {errors[0]}")
    if out == "-":
        return
    unread = f", {failed} of them could not be read" if failed else ""
    print(f"{len(found):,} pictures{unread}: {out}")


def _answer(probabilities: np.ndarray, names: list[str]) -> tuple[str, str, str, str]:
    """A row's breed, probability, five best, and no error."""
    best = np.argsort(-probabilities, kind="stable")[:5]
    five = ";".join(f"{names[k]}:{probabilities[k]:.4f}" for k in best)
    return names[best[0]], f"{probabilities[best[0]]:.6f}", five, ""


def _from_paths(paths: list[str] | str) -> list[tuple[str, Range]]:
    """Names and places of the pictures in files, folders and prefixes.

    A name is relative to the folder, unless there are several.

    Raises:
        BadInput: a path without pictures.
    """
    found = []
    paths = [paths] if isinstance(paths, str) else paths
    for path in paths:
        url = storage.normal(path)
        if storage.exists(url):
            found.append((url, whole(url)))
            continue
        there = storage.find(url)
        inside = [
            (
                name if len(paths) == 1 else storage.join(url, name),
                Range(storage.join(url, name), 0, size),
            )
            for name, size in there
            if images.is_picture_name(name)
        ]
        if not inside:
            raise BadInput(f"{path}: no pictures ({', '.join(sorted(images.SUFFIXES))}) here")
        if passed := len(there) - len(inside):
            print(f"{path}: {passed:,} files passed over: not named like pictures", file=sys.stderr)
        found += inside
    return found


def _from_data(root: str, split: str) -> list[tuple[str, Range]]:
    """Ids and places of the pictures of a split."""
    from dogbreed.data.manifest import Manifest  # needs pyarrow, which serving does without

    data = Manifest.open(root)
    rows = data.take(data.rows_of(split))
    return [(row["id"], place) for row, place in zip(rows, data.ranges(rows), strict=True)]


def _batches(
    found: list[tuple[str, Range]], source: package.Package, batch_size: int
) -> Iterator[tuple[list[str], np.ndarray, list[str]]]:
    """Names, pictures (uint8, (k, S, S, 3), those that can be read) and errors, batch by batch."""
    size, crop = source.model["preprocessing"]["size"], source.model["preprocessing"]["crop"]

    def look(data: bytes | images.BadImage | storage.StorageError) -> np.ndarray | str:
        if not isinstance(data, bytes):
            return str(data)
        try:
            return images.picture(data, size, lambda w, h: images.centre_box(w, h, crop))
        except images.BadImage as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(found), batch_size):
            part = found[start : start + batch_size]
            seen = list(pool.map(look, read_pictures([place for _, place in part])))
            pictures = [picture for picture in seen if isinstance(picture, np.ndarray)]
            errors = [picture if isinstance(picture, str) else "" for picture in seen]
            yield (
                [name for name, _ in part],
                np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8),
                errors,
            )
