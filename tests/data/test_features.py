"""Where features are kept, and what is refused there."""

from pathlib import Path

import numpy as np
import pytest

from dogbreed import storage
from dogbreed.data.features import FeatureCache, View

GB = 10**9


def chunk(seed: int, rows: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 3), np.float32)


def entries(cache: FeatureCache) -> list[Path]:
    return sorted(cache.cache.folder.glob("??/*"))


def test_what_is_kept_is_found_again_under_its_own_key_and_number_alone(tmp_path: Path) -> None:
    FeatureCache(str(tmp_path), GB).put("key", 1, chunk(0), add=False)
    cache = FeatureCache(str(tmp_path), GB)
    found = cache.get("key", 1, {})
    assert found is not None
    np.testing.assert_array_equal(found, chunk(0))
    assert cache.get("key", 2, {}) is None
    assert cache.get("other", 1, {}) is None


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-1], lambda x: b"", lambda x: x[:60] + b"!" + x[61:]]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    cache = FeatureCache(str(tmp_path), GB)
    cache.put("key", 0, chunk(0), add=False)
    (path,) = entries(cache)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get("key", 0, {}) is None
    cache.put("key", 0, chunk(0), add=False)
    assert cache.get("key", 0, {}) is not None


def test_a_whole_file_in_the_place_of_another_is_as_good_as_none(tmp_path: Path) -> None:
    cache = FeatureCache(str(tmp_path), GB)
    cache.put("key", 0, chunk(0), add=False)
    (first,) = entries(cache)
    cache.put("key", 1, chunk(1), add=False)
    (second,) = set(entries(cache)) - {first}
    second.write_bytes(first.read_bytes())
    assert cache.get("key", 1, {}) is None


def test_the_folder_stays_within_its_bound(tmp_path: Path) -> None:
    size = chunk(0, 1000).nbytes
    cache = FeatureCache(str(tmp_path), 5 * size)
    for number in range(12):
        cache.put("key", number, chunk(number, 1000), add=False)
    assert sum(path.stat().st_size for path in entries(cache)) <= 5 * size
    assert cache.get("key", 11, {}) is not None


class TestInABucket:
    @pytest.fixture
    def machines(self, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
        """Give the cache as seen by one machine after another."""

        def machine(name: str, max_bytes: int = GB) -> FeatureCache:
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
            return FeatureCache(f"{bucket}/features", max_bytes)

        return machine

    def test_another_machine_finds_it_and_keeps_it_on_its_own_disk(self, machines) -> None:  # type: ignore[no-untyped-def]
        machines("a").put("key", 0, chunk(0), add=True)
        other = machines("b")
        found = other.get("key", 0, other.there("key"))
        np.testing.assert_array_equal(found, chunk(0))
        assert other.get("key", 0, {}) is not None

    def test_a_damaged_object_is_as_good_as_none(self, machines) -> None:  # type: ignore[no-untyped-def]
        cache = machines("a")
        cache.put("key", 0, chunk(0), add=True)
        (url,) = cache.there("key")
        storage.write(url, storage.read(url)[:-4] + b"else")
        other = machines("b")
        assert other.get("key", 0, other.there("key")) is None

    def test_nothing_is_added_beyond_its_bound_and_a_line_says_so(
        self,
        machines,  # type: ignore[no-untyped-def]
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cache = machines("a", max_bytes=1000)
        assert cache.has_room(900)
        cache.put("key", 0, np.zeros((1, 200), np.float32), add=True)
        assert not cache.has_room(900)
        assert "--data.features_gb" in capsys.readouterr().out


def test_the_key_follows_from_all_that_features_depend_on() -> None:
    def key(version: str = "v", split: str = "train", **changed: object) -> str:
        standard = {"network": "n", "size": 224, "crop": 0.875, "precision": "32-true"}
        return View(embed=lambda x: x, **standard | changed).key(version, split)  # type: ignore[arg-type]

    keys = [
        key(),
        key(version="w"),
        key(split="val"),
        key(network="m"),
        key(size=192),
        key(crop=1.0),
        key(precision="bf16-mixed"),
        key(mirrored=True),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
