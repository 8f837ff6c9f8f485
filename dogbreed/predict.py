"""`dogbreed predict`: breeds of pictures, from a run's model package, as CSV."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol

import numpy as np
from tqdm import tqdm

from dogbreed import images, package, storage
from dogbreed.engine import Answers, Engine, TorchEngine, open_engine
from dogbreed.errors import BadInput
from dogbreed.evaluate.explain import overlay, save
from dogbreed.ranges import Range, read_pictures, whole
from dogbreed.runs import newest
from dogbreed.submission import Submission

FIELDS = ("id", "breed", "probability", "top5", "reject_score", "rejected", "error")


def predict(
    images: list[str] | str | None = None,
    run: str | None = None,
    run_root: str = "runs",
    model: str | None = None,
    data: str | None = None,
    split: Literal["train", "val", "test", "unlabelled"] | None = None,
    format: Literal["csv", "kaggle"] = "csv",
    out: str = "-",
    explain: str | None = None,
    explain_by: Literal["heat", "grad_cam"] = "heat",
    batch_size: int = 32,
    engine: str = "torch",
    device: str | None = None,
) -> None:
    """Name the breeds in pictures and write a CSV with id, breed, probability and the top five.

    A picture that can't be read has its row too, with the reason in column `error`. With --format
    kaggle, the file that Kaggle's "Dog Breed Identification" takes is written instead.

    Args:
        images: a file, a folder, a bucket prefix, or a list of these.
        run: the run whose model answers; by default the newest.
        run_root: where the newest run is looked for.
        model: a model package's folder, or a place that `dogbreed export --promote` wrote to,
            instead of a run.
        data: a prepared data set, instead of --images; see --split.
        split: which pictures of --data; by default test, with --format kaggle unlabelled.
        format: csv has a row with the best breeds; kaggle is the competition's submission: a
            probability for each breed, with the rows and columns of its sample_submission.csv.
            A picture that can't be read, or is missing, has all breeds equally likely.
        out: where the CSV goes: a path, a URL, or - for standard output.
        explain: a folder or URL for pictures of what speaks for the answers: each picture under
            the heat of its likeliest breed.
        explain_by: heat is the classifier's answer at each place (a class activation map);
            grad_cam follows gradients.
        batch_size: pictures that the network sees at once.
        engine: what answers: torch, the name of an exported engine such as openvino-int8, or best:
            the fastest of the package that can run here. See dogbreed export.
        device: torch's name of a device; by default a GPU if there is one.
    """
    if batch_size < 1:
        raise BadInput(f"--batch_size {batch_size}: must be at least 1")
    if format == "kaggle" and (data is None or images is not None):
        raise BadInput("--format kaggle answers a data set: say --data DATA-SET, without --images")
    if bool(images) == (data is not None):
        raise BadInput("say which pictures: either --images PATH-or-URL or --data DATA-SET")
    classes: list[str] = []
    if data is not None:
        split = split or ("unlabelled" if format == "kaggle" else "test")
        found, classes = _from_data(data, split)
    else:
        assert images
        found = _from_paths(images)
    if model is None:
        where = (
            run or newest(run_root, holding=storage.join(package.FOLDER, package.MODEL_FILE)).url
        )
        model = storage.join(where, package.FOLDER)
    source = package.read(storage.normal(model))
    table: _Table = _Breeds(source)
    if data is not None and format == "kaggle":
        ids = [name for name, _ in found]
        rows = Submission.of(storage.normal(data), classes, ids, source.class_names)
        table = _Kaggle(rows, len(source.class_names))
        found = [(name, place) for name, place in found if name in rows]
    opened = open_engine(source, engine, device)
    wants_heat, failed = explain is not None and explain_by == "heat", 0
    with tqdm(total=len(found), unit=" pictures", desc="predict", disable=None) as bar:
        for names, batch, errors in _batches(found, source, batch_size):
            answers = opened.answer(batch, heat=wants_heat) if len(batch) else None
            table.add(names, errors, answers)
            if explain is not None and answers is not None:
                read = [name for name, error in zip(names, errors, strict=True) if not error]
                _explain(explain, read, batch, opened, answers)
            failed += sum(map(bool, errors))
            bar.update(len(names))
    text, about = table.finish()
    if out == "-":
        print(text, end="")
    else:
        storage.write(storage.normal(out), text.encode())
    if failed == len(found):
        raise BadInput(f"none of the {failed:,} pictures could be read, the first: {errors[0]}")
    if out != "-":
        print(f"{about}: {out}")


def _explain(
    folder: str, names: list[str], batch: np.ndarray, engine: Engine, answers: Answers
) -> None:
    """Write each picture of a batch under its heat."""
    heat = answers.heat
    if heat is None:
        if not isinstance(engine, TorchEngine):
            raise BadInput("--explain_by grad_cam: only the torch engine has gradients; take heat")
        heat = engine.grad_cam(batch, answers.probabilities.argmax(1))
    for name, picture, warm in zip(names, batch, heat, strict=True):
        save(storage.normal(folder), name, overlay(picture, warm))


class _Table(Protocol):
    """What the answers are written to."""

    def add(self, names: Sequence[str], errors: Sequence[str], answers: Answers | None) -> None:
        """Take a batch: k names, k errors (empty for none), and the answers of those read."""
        ...

    def finish(self) -> tuple[str, str]:
        """The CSV, and what it holds in a few words."""
        ...


class _Breeds:
    """The usual table: each picture's best breeds."""

    def __init__(self, source: package.Package) -> None:
        self._names, self._rejection = source.class_names, source.rejection
        self._text = io.StringIO()
        self._table = csv.writer(self._text, lineterminator="\n")
        self._table.writerow(FIELDS)
        self._rows = self._failed = self._rejected = 0

    def add(self, names: Sequence[str], errors: Sequence[str], answers: Answers | None) -> None:
        """See `_Table`."""
        rows = iter(self._answers(answers) if answers else ())
        for name, error in zip(names, errors, strict=True):
            self._table.writerow((name, *(("",) * 5 if error else next(rows)), error))
            self._failed += bool(error)
        self._rows += len(names)

    def _answers(self, answers: Answers) -> Iterator[tuple[str, ...]]:
        """Each picture's breed, probability, five best, rejection score, and if it is rejected."""
        rejects = self._rejection.rejects(answers.reject_score) if self._rejection else None
        for k, shares in enumerate(answers.probabilities):
            best = np.argsort(-shares, kind="stable")[:5]
            five = ";".join(f"{self._names[c]}:{shares[c]:.4f}" for c in best)
            rejected = "" if rejects is None else ("no", "yes")[int(rejects[k])]
            self._rejected += rejected == "yes"
            score = f"{answers.reject_score[k]:.6f}"
            yield self._names[best[0]], f"{shares[best[0]]:.6f}", five, score, rejected

    def finish(self) -> tuple[str, str]:
        """See `_Table`."""
        about = f"{self._rows:,} pictures"
        if self._failed:
            about += f", {self._failed} of them could not be read"
        if self._rejected:
            about += f", {self._rejected:,} of them rejected as none of the breeds"
        return self._text.getvalue(), about


class _Kaggle:
    """The competition's table."""

    def __init__(self, rows: Submission, classes: int) -> None:
        self._rows, self._none = rows, np.empty((0, classes), np.float32)

    def add(self, names: Sequence[str], errors: Sequence[str], answers: Answers | None) -> None:
        """See `_Table`."""
        self._rows.add(names, errors, answers.probabilities if answers else self._none)

    def finish(self) -> tuple[str, str]:
        """See `_Table`."""
        return self._rows.finish()


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


def _from_data(root: str, split: str) -> tuple[list[tuple[str, Range]], list[str]]:
    """Ids and places of the pictures of a split, and the data set's classes."""
    from dogbreed.data.manifest import Manifest  # needs pyarrow, which serving does without

    data = Manifest.open(root)
    rows = data.take(data.rows_of(split))
    places = data.ranges(rows)
    return [(row["id"], place) for row, place in zip(rows, places, strict=True)], data.classes


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
