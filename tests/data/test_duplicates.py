import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from scipy.sparse.csgraph import connected_components

from dogbreed.data import duplicates, sample
from dogbreed.data.duplicates import HASH_BYTES, MAX_DISTANCE, groups_of, near_pairs
from tests.conftest import smooth_picture

MIRROR = np.repeat(np.array([0, 255], np.uint8), HASH_BYTES // 2)


def hashes_of(*pictures: Image.Image) -> np.ndarray:
    data = b"".join(map(duplicates.perceptual_hash, pictures))
    return np.frombuffer(data, np.uint8).reshape(len(pictures), HASH_BYTES)


def encoded(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


# --- the hash ---


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda image: encoded(image, 50), id="JPEG"),
        pytest.param(lambda image: image.resize((200, 170)), id="larger"),
        pytest.param(lambda image: image.resize((64, 64)), id="smaller, another shape"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.8), id="darker"),
        pytest.param(lambda image: image.convert("L").convert("RGB"), id="grey"),
        pytest.param(lambda image: encoded(ImageOps.mirror(image)), id="mirrored"),
    ],
)
def test_an_altered_copy_is_near(alter: Any) -> None:
    for k in range(20):
        image = sample.draw(k % 10, k)
        assert len(near_pairs(hashes_of(image, alter(image)))) == 1


def test_a_picture_upside_down_is_another() -> None:
    image = sample.draw(0, 0)
    assert len(near_pairs(hashes_of(image, ImageOps.flip(image)))) == 0


def test_different_drawings_are_not_near() -> None:
    drawn = [sample.draw(breed, k) for breed in range(len(sample.BREEDS)) for k in range(30)]
    hashes = hashes_of(*drawn)
    assert hashes.any(axis=1).all()
    assert len(near_pairs(hashes)) == 0


@pytest.mark.parametrize("size", [(24, 20), (64, 48)])
def test_different_smooth_pictures_are_not_near(size: tuple[int, int]) -> None:
    hashes = hashes_of(*(encoded(smooth_picture(*size, seed)) for seed in range(300)))
    assert hashes.any(axis=1).all()
    assert len(near_pairs(hashes)) == 0


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.full((60, 80), 200), id="flat"),
        pytest.param(np.tile(np.arange(80) * 3, (60, 1)), id="gradient"),
        pytest.param(np.tile(np.arange(80) // 40 * 255, (60, 1)), id="two halves"),
    ],
)
def test_a_picture_with_too_little_in_it_has_no_hash(pixels: np.ndarray) -> None:
    image = encoded(Image.fromarray(pixels.astype(np.uint8)).convert("RGB"), 90)
    assert duplicates.perceptual_hash(image) == bytes(HASH_BYTES)


def test_a_picture_that_mirrors_itself_has_no_hash() -> None:
    half = np.asarray(sample.draw(0, 0).resize((64, 128)))
    image = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    assert duplicates.perceptual_hash(image) == bytes(HASH_BYTES)


# --- pairs ---


def distances(hashes: np.ndarray) -> np.ndarray:
    """By brute force: int64, (n, n); without a hash far from everything."""
    bits = np.unpackbits(hashes, axis=1).astype(np.int64)
    mirrored = np.unpackbits(hashes ^ MIRROR, axis=1)
    direct, other = ((bits[:, None] != of[None]).sum(2) for of in (bits, mirrored))
    blank = ~hashes.any(axis=1)
    return np.where(blank[:, None] | blank[None], 999, np.minimum(direct, other))


def altered(rng: np.random.Generator, hashes: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    """Copies of which so many bits each are changed, half of them mirrored."""
    changed = np.unpackbits(hashes, axis=1)
    for row, number in zip(changed, bits, strict=True):
        row[rng.choice(len(row), number, replace=False)] ^= 1
    mirrored = rng.random(len(hashes)) < 0.5
    return np.packbits(changed, axis=1) ^ np.where(mirrored[:, None], MIRROR, 0).astype(np.uint8)


def partition(n: int, pairs: np.ndarray) -> list[int]:
    """For each of n the smallest one that pairs link it to."""
    graph = np.zeros((n, n), bool)
    graph[pairs[:, 0], pairs[:, 1]] = True
    labels = connected_components(graph, directed=False)[1]
    return [int(np.flatnonzero(labels == label)[0]) for label in labels]


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 20), max_size=25), st.integers(1, 5))
def test_pairs_are_near_and_link_what_brute_force_links(
    seed: int, bits: list[int], bases: int
) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (bases, HASH_BYTES), np.uint8)
    copies = altered(rng, base[rng.integers(bases, size=len(bits))], bits)
    blank = np.zeros((rng.integers(3), HASH_BYTES), np.uint8)
    hashes = rng.permutation(np.concatenate([base, copies, blank]))
    apart = distances(hashes)
    pairs = near_pairs(hashes)
    assert pairs.dtype == np.int64
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert (apart[pairs[:, 0], pairs[:, 1]] <= MAX_DISTANCE).all()
    every = np.argwhere(np.triu(apart <= MAX_DISTANCE, 1))
    assert partition(len(hashes), pairs) == partition(len(hashes), every)


def test_a_pair_is_found_up_to_the_largest_distance_and_no_further() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        one = rng.integers(0, 256, (1, HASH_BYTES), np.uint8)
        near, far = (altered(rng, one, [MAX_DISTANCE + more]) for more in (0, 1))
        assert near_pairs(np.concatenate([one, near])).tolist() == [[0, 1]]
        assert near_pairs(np.concatenate([one, far])).tolist() == []


@pytest.mark.parametrize("band", range(duplicates._BANDS))
def test_a_pair_is_found_by_one_band_that_it_shares_with_many_others(band: int) -> None:
    rng = np.random.default_rng(band)
    one = rng.integers(0, 2**64, 2, np.uint64)
    other, shared = one.copy(), np.zeros(2, np.uint64)
    for number in range(duplicates._BANDS):
        of_band = [duplicates._every((number + half) % duplicates._BANDS) for half in (0, 1)]
        if number == band:
            shared = np.array(of_band)
        else:  # a bit of each half
            other ^= np.array([int(mask) & -int(mask) for mask in of_band], np.uint64)
    crowd = rng.integers(0, 2**64, (50, 2), np.uint64)
    crowd = (crowd & ~shared) | (one & shared)
    hashes = np.stack([one, *crowd, other]).view(np.uint8)
    assert near_pairs(hashes).tolist() == [[0, 51]]


def test_no_pictures_and_pictures_without_a_hash_make_no_pairs() -> None:
    assert near_pairs(np.zeros((0, HASH_BYTES), np.uint8)).shape == (0, 2)
    assert near_pairs(np.zeros((5, HASH_BYTES), np.uint8)).shape == (0, 2)


def test_thousands_of_copies_do_not_make_millions_of_pairs() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 256, (1, HASH_BYTES), np.uint8)
    same = np.concatenate([one, one ^ MIRROR] * 1500)
    assert near_pairs(same).tolist() == [[0, other] for other in range(1, 3000)]
    alike = altered(rng, same[:400], [2] * 400)
    pairs = near_pairs(alike)
    assert len(pairs) < 400 * 399 // 8
    assert set(partition(400, pairs)) == {0}


def test_an_older_numpy_finds_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (50, HASH_BYTES), np.uint8)
    hashes = np.concatenate([base, altered(rng, base, [k % 20 for k in range(50)])])
    pairs = near_pairs(hashes)
    assert len(pairs) > 20
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near_pairs(hashes).tolist() == pairs.tolist()


# --- groups ---

_FAR = np.random.default_rng(1).integers(0, 256, (8, HASH_BYTES), np.uint8)


def between(one: np.ndarray, other: np.ndarray, bits: int) -> np.ndarray:
    """`one` with so many of its bits that differ made as in `other`."""
    a, b = np.unpackbits(one), np.unpackbits(other)
    a[np.flatnonzero(a != b)[:bits]] ^= 1
    return np.packbits(a)


def grouped(
    digests: Sequence[str], hashes: Sequence[np.ndarray], before: Sequence[str | None] | None = None
) -> list[str]:
    old = pa.array(before or [None] * len(digests), pa.string())
    keys: list[str] = groups_of(pa.array(digests), np.stack(hashes), old).to_pylist()
    return keys


def test_a_group_is_named_after_its_smallest_digest() -> None:
    near = between(_FAR[0], _FAR[1], 10)
    assert grouped(["c", "b", "a"], [_FAR[0], near, _FAR[2]]) == ["b", "b", "a"]


def test_equal_files_share_a_group_though_they_have_no_hash() -> None:
    blank = np.zeros(HASH_BYTES, np.uint8)
    assert grouped(["b", "a", "b"], [blank] * 3) == ["b", "a", "b"]


def test_pictures_that_others_link_share_a_group() -> None:
    middle = between(_FAR[0], _FAR[1], MAX_DISTANCE)
    end = between(middle, _FAR[1], MAX_DISTANCE)
    assert grouped(["c", "b"], [_FAR[0], end]) == ["c", "b"]
    assert grouped(["c", "b", "d"], [_FAR[0], end, middle]) == ["b", "b", "b"]


def test_a_new_picture_takes_the_smallest_old_key_and_old_groups_stay_apart() -> None:
    middle = between(_FAR[0], _FAR[1], MAX_DISTANCE)
    end = between(middle, _FAR[1], MAX_DISTANCE)
    groups = grouped(["a", "x", "y"], [middle, _FAR[0], end], [None, "z", "y"])
    assert groups == ["y", "z", "y"]


def test_columns_in_chunks_are_taken_as_well() -> None:
    digests = pa.chunked_array([["b"], ["a", "b"]])
    before = pa.chunked_array([pa.array([None], pa.string()), pa.array([None, None], pa.string())])
    hashes = np.zeros((3, HASH_BYTES), np.uint8)
    assert groups_of(digests, hashes, before).to_pylist() == ["b", "a", "b"]


def test_no_pictures_have_no_groups() -> None:
    none = pa.array([], pa.string())
    assert len(groups_of(none, np.zeros((0, HASH_BYTES), np.uint8), none)) == 0


@st.composite
def libraries(draw: st.DrawFn) -> tuple[list[str], list[np.ndarray], list[str | None]]:
    """Files in chains of near ones, some of them several times, some with a key already."""
    files = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12))
    keys = draw(
        st.lists(st.sampled_from([None, "k1", "k2"]), min_size=len(files), max_size=len(files))
    )
    hashes = [between(_FAR[chain], _FAR[chain + 4], 8 * link) for chain, link in files]
    return [f"{7 * chain + 3 * link % 5:02d}" for chain, link in files], hashes, keys


@given(libraries(), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_and_old_keys_are_kept(
    library: tuple[list[str], list[np.ndarray], list[str | None]], random: Any
) -> None:
    digests, hashes, before = library
    if not digests:
        return
    groups = grouped(digests, hashes, before)
    order = list(range(len(digests)))
    random.shuffle(order)
    again = grouped(*([of[k] for k in order] for of in library))
    assert again == [groups[k] for k in order]
    for old, group in zip(before, groups, strict=True):
        assert group == old or old is None
    fresh = grouped(digests, hashes)
    for group, digest in zip(fresh, digests, strict=True):
        assert group == min(d for d, g in zip(digests, fresh, strict=True) if g == group)
        assert group <= digest
