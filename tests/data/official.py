"""Small data sets of drawn pictures in the formats in which Kaggle and Stanford hand out theirs."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.io import savemat

from dogbreed import storage
from tests.conftest import picture_file

Files = dict[str, bytes]
Box = tuple[int, int, int, int]
Zipped = Literal["stored", "deflated", "wrapped", "streamed", "extras"]
ZIPPED: tuple[Zipped, ...] = ("stored", "deflated", "wrapped", "streamed", "extras")
Packed = Literal["gnu", "pax", "dotted", "trees", "flat"]
PACKED: tuple[Packed, ...] = ("gnu", "pax", "dotted", "trees", "flat")

KAGGLE = "dog-breed-identification"
CHIHUAHUA, SPANIEL = "n02085620-Chihuahua", "n02085782-Japanese_spaniel"


def put(root: Path | str, files: Files) -> str:
    """The files in a folder or bucket; its URL."""
    storage.write_many({storage.join(str(root), name): data for name, data in files.items()})
    return str(root)


class _Pipe(io.BytesIO):
    """What cannot be sought in: a zip written to it has the sizes behind the data."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        raise OSError("a pipe has no place")


def zip_of(files: Files, how: Zipped = "stored") -> bytes:
    """The files as a zip.

    Args:
        files: name -> content.
        how: `wrapped` puts a folder above them; `streamed` writes sizes behind the data, as
            servers do; `extras` adds what programs leave beside the files: entries of folders,
            and macOS' hidden ones.
    """
    names = {name: f"{KAGGLE}/{name}" if how == "wrapped" else name for name in files}
    sink = _Pipe() if how == "streamed" else io.BytesIO()
    method = zipfile.ZIP_STORED if how in {"stored", "extras"} else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(sink, "w", method) as archive:
        if how == "extras":
            for folder in sorted({f"{name.rpartition('/')[0]}/" for name in files if "/" in name}):
                archive.mkdir(folder)
                archive.writestr(f"__MACOSX/{folder}._{next(iter(files))[-9:]}", b"a fork")
            archive.writestr(".DS_Store", b"\0\0\0\1Bud1")
        for name, data in files.items():
            archive.writestr(names[name], data)
    return sink.getvalue()


def tar_of(files: Files, how: Literal["gnu", "pax", "dotted"] = "gnu") -> bytes:
    """The files as a plain tar, with entries of folders; `dotted`: names begin with `./`."""
    sink, start = io.BytesIO(), "./" if how == "dotted" else ""
    layout = tarfile.PAX_FORMAT if how == "pax" else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=sink, mode="w", format=layout) as archive:
        folders: set[str] = set()
        for name, data in files.items():
            parents = [name[:at] for at, letter in enumerate(name) if letter == "/"]
            for folder in parents:
                if folder not in folders:
                    about = tarfile.TarInfo(start + folder)
                    about.type = tarfile.DIRTYPE
                    archive.addfile(about)
                    folders.add(folder)
            about = tarfile.TarInfo(start + name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return sink.getvalue()


def kaggle_id(breed: str, number: int) -> str:
    """32 hex digits, as the competition's ids."""
    return hashlib.md5(f"{breed} {number}".encode()).hexdigest()


def kaggle_files(
    breeds: Sequence[str] = ("beagle", "pug"), each: int = 4, test: int = 3
) -> dict[str, bytes]:
    """The files of the competition: `each` pictures of each breed, and `test` without a label."""
    labels = {kaggle_id(breed, k): breed for breed in breeds for k in range(each)}
    tests = sorted(kaggle_id("test", k) for k in range(test))
    pictures = {
        f"{folder}/{name}.jpg": picture_file(40, 32, seed=seed)
        for folder, names, first in (("train", sorted(labels), 0), ("test", tests, 10_000))
        for seed, name in enumerate(names, first)
    }
    rows = [
        ["id", *sorted(breeds)],
        *([name, *[repr(1 / len(breeds))] * len(breeds)] for name in tests),
    ]
    return {
        "labels.csv": _csv([["id", "breed"], *([name, labels[name]] for name in sorted(labels))]),
        "sample_submission.csv": _csv(rows),
        **pictures,
    }


def _csv(rows: list[list[str]]) -> bytes:
    return "".join(f"{','.join(row)}\n" for row in rows).encode()


def kaggle(
    root: Path,
    *,
    breeds: Sequence[str] = ("beagle", "pug"),
    each: int = 4,
    test: int = 3,
    zipped: Zipped | None = None,
) -> str:
    """Write the competition's data below `root`, as a folder or a zip; its path."""
    files = kaggle_files(breeds, each, test)
    if zipped is None:
        return put(root / KAGGLE, files)
    path = root / zipped / f"{KAGGLE}.zip"
    put(path.parent, {path.name: zip_of(files, zipped)})
    return str(path)


def annotation(folder: str, stem: str, boxes: Sequence[Box], size: tuple[int, int]) -> bytes:
    """What Stanford's annotation of a picture looks like: Pascal VOC's XML."""
    breed = folder.split("-", 1)[1]
    objects = "".join(
        f"\t<object>\n\t\t<name>{breed}</name>\n\t\t<pose>Unspecified</pose>\n"
        "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n"
        f"\t\t<bndbox>\n\t\t\t<xmin>{left}</xmin>\n\t\t\t<ymin>{top}</ymin>\n"
        f"\t\t\t<xmax>{right}</xmax>\n\t\t\t<ymax>{bottom}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for left, top, right, bottom in boxes
    )
    return (
        f"<annotation>\n\t<folder>{folder[1:9]}</folder>\n\t<filename>{stem}</filename>\n"
        "\t<source>\n\t\t<database>ImageNet database</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n"
        f"\t\t<depth>3</depth>\n\t</size>\n\t<segment>0</segment>\n{objects}</annotation>\n"
    ).encode()


def list_file(names: Sequence[str]) -> bytes:
    """A list as Stanford's `train_list.mat`: cells of (n, 1), each with one text."""
    rows = {
        "file_list": list(names),
        "annotation_list": [name.removesuffix(".jpg") for name in names],
    }
    cells = {}
    for what, texts in rows.items():
        cells[what] = np.empty((len(texts), 1), object)
        cells[what][:, 0] = texts
    folders = sorted({name.split("/")[0] for name in names})
    labels = np.array([[folders.index(name.split("/")[0]) + 1.0] for name in names])
    file = io.BytesIO()
    savemat(file, {**cells, "labels": labels.reshape(-1, 1)})  # type: ignore[arg-type]
    return file.getvalue()


class Stanford:
    """Stanford Dogs in small; its fields may be changed before `put`.

    Attributes:
        images: `n…-Name/n…_7.jpg` -> a picture of 64 x 48 pixels.
        annotations: the same names without suffix -> XML.
        train: names in the official list of pictures for training.
        test: names in the official list of pictures for testing.
    """

    def __init__(
        self, breeds: Sequence[str] = (CHIHUAHUA, SPANIEL), train: int = 4, test: int = 2
    ) -> None:
        self.images: Files = {}
        self.annotations: Files = {}
        self.train: list[str] = []
        self.test: list[str] = []
        for number, folder in enumerate(breeds):
            for k in range(train + test):
                stem = f"{folder.split('-')[0]}_{100 * number + k}"
                name = f"{folder}/{stem}.jpg"
                self.images[name] = picture_file(64, 48, seed=1000 * number + k, quality=95)
                self.box(name, (8, 4, 40, 36))
                (self.train if k < train else self.test).append(name)

    def box(self, name: str, *boxes: Box) -> None:
        """Annotate a picture with these boxes."""
        folder, stem = name.removesuffix(".jpg").split("/")
        self.annotations[f"{folder}/{stem}"] = annotation(folder, stem, boxes, (64, 48))

    def lists(self) -> Files:
        """The three lists' files."""
        every = sorted({*self.train, *self.test})
        named = {"file": every, "train": self.train, "test": self.test}
        return {f"{which}_list.mat": list_file(names) for which, names in named.items()}

    def put(self, root: Path | str, how: Packed = "gnu") -> str:
        """Write it as the three official archives, or unpacked; the folder's URL.

        Args:
            root: folder or bucket.
            how: a kind of tar; or `trees`: what was in the tars, `flat`: with the lists beside
                the other two folders, as they lie in the official tar.
        """
        trees = {
            "images": {f"Images/{name}": data for name, data in self.images.items()},
            "annotation": {f"Annotation/{name}": data for name, data in self.annotations.items()},
            "lists": self.lists(),
        }
        if how in {"trees", "flat"}:
            start = "lists/" if how == "trees" else ""
            lists = {f"{start}{name}": data for name, data in trees.pop("lists").items()}
            return put(root, trees["images"] | trees["annotation"] | lists)
        return put(root, {f"{name}.tar": tar_of(files, how) for name, files in trees.items()})  # type: ignore[arg-type]
