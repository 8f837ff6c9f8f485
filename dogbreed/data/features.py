"""Where the features of pictures are kept: what a frozen network says of each, before its head.

A chunk holds the features of some rows of a split. Its name follows from all that they depend on,
so nothing that is out of date is ever found; a digest of name and content goes before them, so
that a damaged or misplaced file is noticed, and made again. Chunks lie in a cache on this disk
(`data.cache`: atomic, bounded, least recently used first out, shared by runs), from where they are
mapped into memory, and in a bucket too if asked. There nothing is ever removed: what would exceed
the bound is not added, and a line says so.
"""

import dataclasses
import hashlib
import json
import mmap
from collections.abc import Callable

import numpy as np
from torch import Tensor

from dogbreed import storage
from dogbreed.data.cache import Cache
from dogbreed.data.manifest import cache_home
from dogbreed.images import PIXELS_VERSION

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class View:
    """A frozen network, and how it sees pictures.

    Args:
        network: digest of all that `embed` computes with.
        embed: features of pictures: uint8, (B, 3, S, S) -> float, (B, D), on any device.
        size: side S of the pictures in pixels.
        crop: side of the centred square over the picture's shorter side.
        precision: that of `embed`.
        mirrored: whether pictures are flipped.
    """

    network: str
    embed: Callable[[Tensor], Tensor]
    size: int
    crop: float
    precision: str
    mirrored: bool = False

    def key(self, data_version: str, split: str) -> str:
        """A digest of all that the features of a split depend on."""
        of = {
            "format": _FORMAT,
            "pixels": PIXELS_VERSION,
            "data": data_version,
            "split": split,
            **{name: x for name, x in vars(self).items() if name != "embed"},
        }
        return storage.digest_of(json.dumps(of, sort_keys=True).encode())


class FeatureCache:
    """Chunks on this disk, and in a bucket if asked.

    Args:
        place: `auto`, which is the user's cache; a folder on this disk; or a URL.
        max_bytes: bound of each.
    """

    def __init__(self, place: str, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        remote = place != "auto" and not storage.is_local(place)
        self.url = storage.normal(place) if remote else None
        here = cache_home() / "features" if remote or place == "auto" else storage.normal(place)
        self.cache = Cache(here, max_bytes)

    def __str__(self) -> str:
        return self.url or str(self.cache.folder)

    def there(self, key: str) -> dict[str, int]:
        """Chunks of a key in the bucket, with their sizes in bytes."""
        return {} if self.url is None else storage.files(storage.join(self.url, key))

    def get(self, key: str, number: int, there: dict[str, int]) -> np.ndarray | None:
        """A chunk: float32, (k, D), or None; what is damaged counts as missing."""
        name = _name(key, number)
        if (mapped := self.cache.map(name)) is not None:
            if (features := _unpacked(name, mapped)) is not None:
                return features
            self.cache.remove(name)
        if (url := self._url(key, number)) in there:
            data = storage.read(url)
            if (features := _unpacked(name, data)) is not None:
                self.cache.write(name, data)
                return features
        return None

    def put(self, key: str, number: int, features: np.ndarray, *, add: bool) -> None:
        """Keep a chunk; in the bucket only if told so."""
        name = _name(key, number)
        data = _packed(name, features)
        self.cache.write(name, data)
        if add:
            storage.write(self._url(key, number), data)

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes may be added to the bucket, if there is one."""
        if self.url is None:
            return False
        held = sum(sum(storage.files(key).values()) for key in storage.folders(self.url))
        if held + nbytes <= self.max_bytes:
            return True
        print(
            f"{self.url}: {held / 1e9:.1f} of {self.max_bytes / 1e9:g} GB are in use: new features"
            " stay on this machine; remove old ones there, or raise --data.features_gb"
        )
        return False

    def _url(self, key: str, number: int) -> str:
        return storage.join(self.url or "", key, f"{number:06d}")


def _name(key: str, number: int) -> str:
    return storage.digest_of(f"{key}/{number}".encode())


def _packed(name: str, features: np.ndarray) -> bytes:
    """SHA-256 of all that follows and of the name, then D as int64, then the features."""
    rest: bytes = features.shape[1].to_bytes(8, "little") + features.astype("<f4").tobytes()
    return hashlib.sha256(name.encode() + rest).digest() + rest


def _unpacked(name: str, data: bytes | mmap.mmap) -> np.ndarray | None:
    """Features: float32, (k, D), over the same memory; None if they are not those of that name."""
    view = memoryview(data)
    digest = hashlib.sha256(name.encode())
    digest.update(view[32:])
    if len(view) < 40 or digest.digest() != view[:32]:
        return None
    width = int.from_bytes(view[32:40], "little")
    return np.frombuffer(view, "<f4", offset=40).reshape(-1, width)
