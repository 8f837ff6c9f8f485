"""Stanford Dogs: 20,580 pictures of 120 breeds, official train and test lists, boxes.

http://vision.stanford.edu/aditya86/ImageNetDogs/ (Khosla et al., FGVC 2011).
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from scipy.io import loadmat

from dogbreed import breeds, images, storage
from dogbreed.data.fetch import fetch
from dogbreed.data.listing import Item, listing
from dogbreed.data.sources import Source, refuse
from dogbreed.data.trees import Member, content, members
from dogbreed.errors import BadInput, named
from dogbreed.ranges import Range, read_all

ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
# Size in bytes and SHA-256 as TensorFlow Datasets recorded them (url_checksums/stanford_dogs.txt).
ARCHIVES = {
    "images.tar": (
        793579520,
        "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
    ),
    "annotation.tar": (
        21852160,
        "662ed36f707be6b195c2fda392d8e153e83af28cedc8e2134a649f198def30fd",
    ),
    "lists.tar": (481280, "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c"),
}
_TREES = {"images.tar": "Images", "annotation.tar": "Annotation", "lists.tar": "lists"}
_BOX = re.compile(  # at most nine digits: they fit into a listing
    rb"<bndbox>\s*<xmin>\s*(\d{1,9})\s*</xmin>\s*<ymin>\s*(\d{1,9})\s*</ymin>"
    rb"\s*<xmax>\s*(\d{1,9})\s*</xmax>\s*<ymax>\s*(\d{1,9})\s*</ymax>\s*</bndbox>"
)
_AT_ONCE = 1024  # annotations read together


def fetch_archives(folder: Path, address: str = ADDRESS) -> str:
    """The three archives in `folder`, fetched where they are missing; its path.

    Raises:
        BadInput: the address cannot be reached, or sent something else.
    """
    for name, (size, sha256) in ARCHIVES.items():
        known = address == ADDRESS
        fetch(
            f"{address}/{name}",
            folder / name,
            size=size if known else None,
            sha256=sha256 if known else None,
        )
    return str(folder)


def from_stanford(path: str, *, crop: bool) -> Source:
    """The pictures below a folder that holds the three archives, or what was in them.

    A picture's id is its file's name without the suffix (`n02085620_7`), its breed the name of
    its synset. The official lists give split `test`; what they give for training is left to be
    split into train and val by hash.

    Args:
        path: holds `images.tar` or `Images/`, `lists.tar` or the lists themselves, and for boxes
            `annotation.tar` or `Annotation/`.
        crop: cut each picture to its first annotated box.

    Raises:
        BadInput: a part is missing, or lists, boxes and pictures do not fit together.
    """
    path = storage.normal(path)
    lists = _lists(_part(path, "lists.tar"))
    boxes = _boxes(_part(path, "annotation.tar")) if crop else {}
    bare, unlisted, rejects = [], [], {}
    seen = set()

    def pictures() -> Iterator[Item]:
        for member in members(_part(path, "images.tar")):
            folder, file = member.name.split("/")[-2:] if "/" in member.name else ("", member.name)
            synset = folder.split("-", 1)[0]
            if not images.is_picture_name(file):
                rejects[member.name] = "not named like a picture"
                continue
            if synset not in breeds.NAMES:
                rejects[member.name] = "lies in no folder named after a synset of the 120 breeds"
                continue
            name = f"{folder}/{file}"
            seen.add(name)
            if name not in lists:
                unlisted.append(name)
                continue
            stem = file.rsplit(".", 1)[0]
            if crop and stem not in boxes:
                bare.append(name)
            box = boxes.get(stem)
            yield Item(stem, breeds.NAMES[synset], lists[name], box=box, **member.place())

    table = listing(pictures(), path)
    missing = [name for name in lists if name not in seen]
    refuse(
        path,
        {
            "listed pictures are missing": missing,
            "pictures stand in neither list": unlisted,
            "pictures have no annotated box": bare,
        },
    )
    return Source(table, rejects, has_test=True)


def _part(path: str, archive: str) -> str:
    """The archive, or the folder of what was in it.

    Raises:
        BadInput: neither is there.
    """
    url = storage.join(path, archive)
    if storage.exists(url):
        return url
    names = {folder.rsplit("/", 1)[-1] for folder in storage.folders(path)}
    if _TREES[archive] in names:
        return storage.join(path, _TREES[archive])
    if archive == "lists.tar" and storage.exists(storage.join(path, "train_list.mat")):
        return path  # the archive has no folder in it
    raise BadInput(
        f"{path}: neither {archive} nor {_TREES[archive]}/ is there;"
        f" --source stanford-dogs without --path fetches them from {ADDRESS}"
    )


def _lists(path: str) -> dict[str, str]:
    """Name of a picture (`n02085620-Chihuahua/n02085620_7.jpg`) -> split, from MATLAB files.

    Raises:
        BadInput: no such lists, or a picture in both.
    """
    files = {}
    wanted = {"train_list.mat": "", "test_list.mat": "test"}
    for member in members(path):
        if (file := member.name.rsplit("/", 1)[-1]) in wanted:
            files[file] = content(member)
    splits: dict[str, str] = {}
    for file, split in wanted.items():
        if file not in files:
            raise BadInput(f"{path}: no {file} in it")
        try:
            mat = loadmat(io.BytesIO(files[file]))  # type: ignore[arg-type]  # it takes files too
            cells = mat["file_list"].ravel()
            names = [str(cell.item()) for cell in cells]
        except Exception as error:  # scipy raises what struct, zlib and numpy do
            raise BadInput(f"{path}: {file} is no list in MATLAB's format: {error}") from None
        both = [name for name in names if name in splits]
        if both:
            raise BadInput(f"{path}: {len(both):,} pictures for training and test: {named(both)}")
        splits |= dict.fromkeys(names, split)
    return splits


def _boxes(path: str) -> dict[str, tuple[int, int, int, int]]:
    """Name of an annotation, which is the picture's without suffix -> its first box, in pixels."""
    boxes = {}
    chunk: list[Member] = []

    def read() -> None:
        places = [Range(m.url, m.offset, m.stored) for m in chunk]
        for member, data in zip(chunk, read_all(places), strict=True):
            if found := _BOX.search(data):
                left, top, right, bottom = map(int, found.groups())
                boxes[member.name.rsplit("/", 1)[-1]] = (left, top, right, bottom)
        chunk.clear()

    for member in members(path):
        chunk.append(member)
        if len(chunk) == _AT_ONCE:
            read()
    read()
    return boxes
