"""`dogbreed prepare`: from photographs anywhere to a data set in a folder or bucket.

Each picture is decoded once to see that it can be; what cannot is named in `rejects.csv`. The
bytes themselves are copied unchanged, unless they are cut to a box.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import Literal
from zipfile import is_zipfile

from dogbreed import storage
from dogbreed.data import kaggle, manifest, sample, stanford
from dogbreed.data.build import SHEET_FILE, Options, build
from dogbreed.data.fetch import fetch, kaggle_credentials
from dogbreed.data.labelled import from_labelled
from dogbreed.data.sources import from_folder, from_sample, only
from dogbreed.data.work import Shares
from dogbreed.errors import BadInput

Kind = Literal["folder", "kaggle", "stanford-dogs", "labelled", "sample"]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def prepare(
    source: Kind = "folder",
    out: str | None = None,
    path: str | None = None,
    name: str | None = None,
    splits: str = "0.8,0.1,0.1",
    seed: int = 0,
    crop: Literal["none", "box"] = "none",
    ids: str | None = None,
    shard_size: str | int | None = None,
    pictures: str | None = None,
    conflicts: Literal["error", "reject"] = "error",
    per_class: int = sample.PER_CLASS,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Turn photographs into a data set: manifest, pictures, contact sheet, duplicates.

    Killed and run again it goes on where it was. Run again with more pictures it extends the data
    set at --out: what was there keeps its split. Files that are equal, or look alike, lie in one
    split.

    Args:
        source: `folder` reads class folders named after breeds, with train/, val/ and test/ above
            them kept as splits; `kaggle` the zip or folder of Dog Breed Identification, whose
            test/ becomes split unlabelled; `stanford-dogs` the official archives or what was in
            them, with the official test list; `labelled` what `dogbreed drift --label` chose, once
            breeds are written into its labels.csv; `sample` draws synthetic breeds.
        out: where the data set goes: a folder or any fsspec URL such as gs://my-bucket/dogs.
        path: the source's folder, .zip or .tar, on a disk or any fsspec URL; none: kaggle and
            stanford-dogs are fetched from their official addresses.
        name: the data set's name in reports; by default that of the last folder of --path.
        splits: shares of train, val and test, with commas between; a picture's part follows from
            a hash of the seed and its content. With stanford-dogs those of train and val count;
            labelled pictures are all for training, and leave the data set's as they are.
        seed: of the splits, and of the drawing with `sample`.
        crop: `box` cuts each picture to its first annotated box (stanford-dogs).
        ids: a file or URL with the ids of the pictures to take, one a line; by default all. An id
            is the path below --path, with kaggle and stanford-dogs the file's name without suffix.
        shard_size: packs the pictures into plain tar files of about this size (before --crop), such
            as 64MB; each process holds one in memory. By default a picture is a file of its own.
        pictures: folder or URL for the pictures, if they shall not lie beside the manifest; their
            names tell their contents, so that several data sets and versions may share it.
        conflicts: equal files under different breeds are an `error`, or `reject` leaves them out.
        per_class: pictures a breed with `sample`.
        engine: who does the work: all cores of this machine, or `ray`, a Ray cluster.
        workers: processes; none: one for each core.
        address: where kaggle or stanford-dogs is fetched from; none: the official address.
    """
    if out is None:
        raise BadInput(
            "--out is missing: say where the data set goes, e.g. --out gs://my-bucket/dogs"
        )
    least_values = (("seed", seed, 0), ("workers", workers, 1), ("per_class", per_class, 1))
    for flag, number, least in least_values:
        if number is not None and number < least:
            raise BadInput(f"--{flag} {number}: must be at least {least}")
    if crop == "box" and source != "stanford-dogs":
        raise BadInput("--crop box needs annotated boxes, which --source stanford-dogs has")
    shares = _shares(splits)
    if source == "labelled":  # all of it is for training: nothing is drawn
        shares, seed = _as_there(out, shares, seed)
    options = Options(shares, seed, crop, _bytes(shard_size), pictures, conflicts, engine, workers)
    if source == "sample":
        found, name = from_sample(per_class, seed), name or "synthetic-breeds"
    else:
        path = storage.normal(path) if path is not None else _fetched(source, address)
        if storage.is_local(path):
            path = os.path.abspath(path)
        name = name or path.rsplit("/", 1)[-1].removesuffix(".zip").removesuffix(".tar")
        if source == "kaggle":
            found = kaggle.from_kaggle(path)
        elif source == "stanford-dogs":
            found = stanford.from_stanford(path, crop=crop == "box")
        else:
            _apart(path, out, pictures)
            found = (from_labelled if source == "labelled" else from_folder)(path)
    if ids is not None:
        found = only(found, ids)
    data = build(found, out, name=name, kind=source, options=options)
    counts = {split: sum(of.values()) for split, of in data.dataset["counts"].items()}
    print(f"{data.name}: {len(data):,} pictures of {len(data.classes)} breeds {counts}")
    print(f"version {data.version[:12]} in {data.root}, a look at it: {SHEET_FILE}")
    if missing := [split for split in ("train", "val") if split not in counts]:
        print(f"no pictures for {' and '.join(missing)}: fit needs both, see --splits")
        return
    print(f"next: dogbreed fit --config configs/mobilenet.yaml --data.root {data.root}")


def embedded_sample() -> str:
    """The embedded sample's folder on this machine; drawn on first use."""
    root: Path = manifest.cache_home() / f"sample-v{sample.VERSION}"
    if not (root / manifest.DATASET_FILE).exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as folder:
            options = Options(splits=(0.7, 0.15, 0.15))
            drawn = from_sample(sample.PER_CLASS, 0)
            build(drawn, f"{folder}/new", name="synthetic-breeds", kind="sample", options=options)
            with contextlib.suppress(OSError):  # another process has drawn it meanwhile
                os.rename(f"{folder}/new", root)
    return str(root)


def _as_there(out: str, shares: Shares, seed: int) -> tuple[Shares, int]:
    """Splits and seed of the data set at `out`, or those given if there is none yet."""
    if not storage.exists(storage.join(out, manifest.DATASET_FILE)):
        return shares, seed
    was = manifest.Manifest.open(out).dataset.get("source", {})
    train, val, test = was.get("splits", shares)
    return (train, val, test), was.get("seed", seed)


def _apart(path: str, *places: str | None) -> None:
    """See that nothing is written to where the pictures come from.

    Raises:
        BadInput: a place lies in `path`: the next run would take its files for pictures.
    """
    for place in filter(None, places):
        url = storage.normal(place)
        url = os.path.abspath(url) if storage.is_local(url) else url
        if f"{url}/".startswith(f"{path}/"):
            raise BadInput(f"{place} lies in the source's folder {path}: choose another place")


def _fetched(source: str, address: str | None) -> str:
    """The source's archives in this machine's cache, fetched from their official address.

    Raises:
        BadInput: a folder has none, the address cannot be reached, or Kaggle wants credentials.
    """
    folder: Path = manifest.cache_home() / "downloads"
    if address is not None:  # what somebody else hands out is not taken for the official files
        folder /= storage.digest_of(address.encode())[:16]
    folder /= source
    if source == "stanford-dogs":
        return stanford.fetch_archives(folder, (address or stanford.ADDRESS).rstrip("/"))
    if source == "folder":
        raise BadInput("--source folder needs --path, the folder with one folder per breed")
    if source == "labelled":
        raise BadInput("--source labelled needs --path, the folder that drift --label wrote")
    zipped = folder / "dog-breed-identification.zip"
    auth = kaggle_credentials() if address is None else None  # they are for nobody else
    if auth is None and address is None and not zipped.exists():
        raise BadInput(
            "--source kaggle needs --path, the competition's zip or folder; to fetch it, accept the"
            " rules on its page and set KAGGLE_USERNAME and KAGGLE_KEY (a legacy API key)"
        )
    fetch(address or kaggle.ADDRESS, zipped, auth=auth)
    if not is_zipfile(zipped):
        zipped.unlink()
        raise BadInput(
            f"{address or kaggle.ADDRESS} sent no zip file: fetch it with a browser, and give it"
            " with --path"
        )
    return str(zipped)


def _bytes(text: str | int | None) -> int:
    """`64MB` as a number of bytes; 0 for none.

    Raises:
        BadInput: not a size.
    """
    if text is None:
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", str(text).strip().upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise BadInput(f"--shard_size {text}: say a number of bytes, such as 64MB or 1GB")
    return size


def _shares(splits: str) -> Shares:
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
