"""`dogbreed prepare`: from photographs anywhere to a data set in a folder or bucket.

Each picture is decoded once to see that it can be; what cannot is named in `rejects.csv`. The
bytes themselves are copied unchanged.
"""

import collections
import csv
import hashlib
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal

from tqdm import tqdm

from dogbreed import breeds, images, storage
from dogbreed.data import manifest, sample
from dogbreed.data.contact_sheet import contact_sheet
from dogbreed.data.manifest import Manifest, Row
from dogbreed.data.sources import CHUNK, Found, enough, from_folder, from_sample
from dogbreed.errors import BadInput

REJECTS_FILE = "rejects.csv"
SHEET_FILE = "contact_sheet.png"

Splits = tuple[float, float, float]


def prepare(
    source: Literal["sample", "folder"] = "folder",
    out: str | None = None,
    path: str | None = None,
    name: str | None = None,
    splits: str = "0.8,0.1,0.1",
    seed: int = 0,
    per_class: int = sample.PER_CLASS,
) -> None:
    """Turn photographs into a data set: manifest, pictures, contact sheet.

    A class folder is named after its breed; train/, val/ and test/ above the class folders are
    kept as splits. Otherwise a picture's split follows from a hash of the seed and its content,
    so that pictures added later never move the ones that were there.

    Args:
        source: `folder` reads class folders from --path; `sample` draws synthetic breeds.
        out: where the data set goes: a folder or any fsspec URL such as gs://my-bucket/dogs.
        path: the folder, or fsspec URL, with one folder per breed.
        name: the data set's name in reports; by default that of the last folder of --path.
        splits: shares of train, val and test, with commas between.
        seed: of the splits, and of the drawing with `sample`.
        per_class: pictures a breed with `sample`.
    """
    if out is None:
        raise BadInput(
            "--out is missing: say where the data set goes, e.g. --out gs://my-bucket/dogs"
        )
    shares = _shares(splits)
    if seed < 0:
        raise BadInput(f"--seed {seed}: must not be negative")
    if source == "folder":
        if path is None:
            raise BadInput("--source folder needs --path, the folder with one folder per breed")
        pictures, total = from_folder(storage.normal(path))
        name = name or storage.normal(path).rsplit("/", 1)[-1]
    else:
        pictures, total = from_sample(per_class, seed), per_class * len(sample.BREEDS)
        name = name or "synthetic-breeds"
    dataset = build(pictures, total, out, name=name, source=source, splits=shares, seed=seed)
    counts = {split: sum(of.values()) for split, of in dataset.dataset["counts"].items()}
    print(f"{dataset.name}: {len(dataset):,} pictures of {len(dataset.classes)} breeds {counts}")
    print(f"version {dataset.version[:12]} in {dataset.root}, a look at it: {SHEET_FILE}")
    print(f"next: dogbreed fit --config configs/mobilenet.yaml --data.root {dataset.root}")


def embedded_sample() -> str:
    """The embedded sample's folder on this machine; drawn on first use."""
    root = manifest.cache_home() / f"sample-v{sample.VERSION}"
    if not (root / manifest.DATASET_FILE).exists():
        pictures, total = from_sample(sample.PER_CLASS, 0), sample.PER_CLASS * len(sample.BREEDS)
        build(
            pictures,
            total,
            str(root),
            name="synthetic-breeds",
            source="sample",
            splits=(0.7, 0.15, 0.15),
            seed=0,
        )
    return str(root)


def build(
    pictures: Iterable[Found],
    total: int,
    out: str,
    *,
    name: str,
    source: str,
    splits: Splits = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> Manifest:
    """Check, copy and list the pictures; write the data set; return it opened.

    Args:
        pictures: what a source gives.
        total: how many there are, for the progress bar.
        out: URL of the data set.
        name: the data set's name.
        source: what `dataset.json` says of where it came from.
        splits: shares of train, val, test.
        seed: of the splits.

    Raises:
        BadInput: nothing to prepare, a breed with too few pictures, or `out` holds a data set.
    """
    out = storage.normal(out)
    if storage.exists(storage.join(out, manifest.DATASET_FILE)):
        raise BadInput(f"{out}: there is a data set already; choose another --out")
    rows: list[tuple[Row, str]] = []  # a row, and its breed
    rejects: list[tuple[str, str]] = []
    pictures = iter(pictures)
    with (
        tqdm(total=total, unit=" pictures", desc=f"prepare {name}", disable=None) as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        while chunk := list(islice(pictures, CHUNK)):
            files: dict[str, bytes] = {}
            for found, seen in zip(chunk, pool.map(_look, chunk), strict=True):
                if isinstance(seen, str):
                    rejects.append((found.id, seen))
                    continue
                assert isinstance(found.data, bytes)
                uri = f"pictures/{found.id}"
                digest = storage.digest_of(found.data)
                split = found.split or _split_of(digest, splits, seed)
                row = Row(found.id, uri, 0, len(found.data), 0, split, *seen, digest, digest)
                rows.append((row, found.breed))
                files[storage.join(out, uri)] = found.data
            storage.write_many(files)
            bar.update(len(chunk))
    storage.write(storage.join(out, REJECTS_FILE), _csv([("id", "reason"), *rejects]))
    if rejects:
        print(
            f"{len(rejects):,} of {total:,} files rejected, see {storage.join(out, REJECTS_FILE)}"
        )
    if leaks := _leaks([row for row, _ in rows]):
        print(f"{leaks:,} pictures lie in more than one split: scores will flatter")
    names = _classes([breed for _, breed in rows], out)
    index = {breed: number for number, breed in enumerate(names)}
    manifest.save(
        out,
        [_labelled(row, index[breed]) for row, breed in rows],
        classes=[
            {"name": n, "title": breeds.title(n), "synset": breeds.synset_of(n)} for n in names
        ],
        name=name,
        source={
            "kind": source,
            "seed": seed,
            "splits": list(splits),
            "rejected": len(rejects),
            "in_several_splits": leaks,
        },
    )
    dataset = Manifest.open(out)
    storage.write(storage.join(out, SHEET_FILE), contact_sheet(dataset))
    return dataset


def _shares(splits: str) -> Splits:
    """`0.8,0.1,0.1` as numbers.

    Raises:
        BadInput: not three shares that add up to 1.
    """
    try:
        train, val, test = (float(share) for share in splits.strip("[]()").split(","))
    except ValueError:
        raise BadInput(f"--splits {splits}: say three numbers, such as 0.8,0.1,0.1") from None
    if min(train, val, test) < 0 or abs(train + val + test - 1) > 1e-3:
        raise BadInput(f"--splits {splits}: shares of train, val and test must add up to 1")
    return train, val, test


def _labelled(row: Row, label: int) -> Row:
    return Row(**{field: getattr(row, field) for field in Row.__slots__} | {"label": label})


def _classes(found: list[str], out: str) -> list[str]:
    """The breeds' names, sorted.

    Raises:
        BadInput: fewer than two, or one with fewer than `MIN_PER_CLASS` readable pictures.
    """
    if not found:
        raise BadInput(f"no readable picture found; what was wrong stands in {out}/{REJECTS_FILE}")
    enough(found, "readable ")
    return sorted(set(found))


def _leaks(rows: list[Row]) -> int:
    """How many different pictures lie in more than one split; only a source's own splits can."""
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    return sum(len(of_group) > 1 for of_group in splits.values())


def _look(found: Found) -> tuple[int, int] | str:
    """Width and height in pixels, or why the picture is rejected."""
    try:
        if isinstance(found.data, images.BadImage):
            raise found.data
        return images.check(found.data)
    except images.BadImage as error:
        return str(error)


def _split_of(group: str, splits: Splits, seed: int) -> str:
    """By a hash of (seed, group): a number in [0, 1) against the shares."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    train, val, _ = splits
    return "train" if share < train else "val" if share < train + val else "test"


def _csv(rows: Iterable[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
