"""Pictures that are in a data set twice: the same file, or one that only looks the same.

The signature of a picture is the signs of its 128 lowest frequencies. They outlast another size or
JPEG quality and other light. Mirroring a picture changes the signs of the odd horizontal
frequencies, which are the second half, and no others, so mirrored copies are found as well. How
many copies, and how many false alarms: `tests/benchmarks/duplicates.py`.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

HASH_BYTES = 16
MAX_DISTANCE = 13  # signs that differ in two pictures of one group; measured, see above

_SIDE = 32  # pixels of the small picture
_WORD = 64  # signs of each half
_WEAK = 0.5  # grey levels: below, a sign is noise
_ENOUGH = 96  # signs that must not be
_BANDS = (MAX_DISTANCE + 1) // 2  # in one of so many, near hashes differ by one bit or none


def _cosines() -> np.ndarray:
    """The orthonormal DCT-II's first rows (Ahmed, Natarajan and Rao, 1974): float32, (16, 32)."""
    frequency, at = np.mgrid[: _SIDE // 2, :_SIDE]
    rows = np.cos(np.pi * frequency * (2 * at + 1) / (2 * _SIDE)) * (2 / _SIDE) ** 0.5
    rows[0] /= 2**0.5
    return np.asarray(rows, np.float32)


def _chosen() -> np.ndarray:
    """Flat indices of the frequencies used, low ones first: 64 even across, then 64 odd."""
    down, across = (index.ravel() for index in np.mgrid[: _SIDE // 2, : _SIDE // 2])
    low = np.lexsort((across - down, across + down))[1:]  # without the mean
    return np.concatenate([low[across[low] % 2 == odd][:_WORD] for odd in (0, 1)])


_COSINES, _CHOSEN = _cosines(), _chosen()


def perceptual_hash(image: Image.Image) -> bytes:
    """Signs of the picture's low frequencies, after its shape is squeezed to a square.

    Args:
        image: upright, RGB.

    Returns:
        `HASH_BYTES` bytes; all zero for a picture with too little in it to be compared, such as a
        blank one, a gradient, or one whose halves mirror each other exactly.
    """
    # Without reducing_gap, whose first step shifts pixels: copies of other sizes would differ more.
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    waves = _COSINES @ np.asarray(small, np.float32) @ _COSINES.T
    waves = waves.ravel()[_CHOSEN]
    if np.count_nonzero(np.abs(waves) >= _WEAK) < _ENOUGH:
        return bytes(HASH_BYTES)
    return np.packbits(waves > 0).tobytes()


def near_pairs(hashes: np.ndarray) -> np.ndarray:
    """Pairs that differ, one of them mirrored or not, in at most `MAX_DISTANCE` signs.

    Of the bands that the signs are dealt to, one must differ in at most one bit, or there would be
    two in each (multi-index hashing: Norouzi, Punjani and Fleet, 2012). So hashes are sorted once
    for each bit, by the rest of its band, and only those that agree in it are compared.

    Args:
        hashes: of `perceptual_hash`: uint8, (n, HASH_BYTES).

    Returns:
        int64, (m, 2), different rows, each ascending. Not all pairs, of which a thousand copies of
        one picture would make half a million, but enough to link all that these would link.
    """
    even, odd = np.ascontiguousarray(hashes, np.uint8).view(np.uint64).T
    rows = np.flatnonzero(even | odd)
    even, odd = even[rows], np.minimum(odd, ~odd)[rows]
    order = np.lexsort((odd, even))  # stable: of equal hashes the first picture comes first
    rows, even, odd = rows[order], even[order], odd[order]
    new = np.ones(len(rows), bool)
    new[1:] = (even[1:] != even[:-1]) | (odd[1:] != odd[:-1])
    first = rows[new]
    found = [np.stack([first[np.cumsum(new) - 1], rows], 1)[~new]]

    even, odd, linked = even[new], odd[new], np.arange(len(first))
    for band in range(_BANDS):
        # The halves lend bits at other places, so that one number holds them all.
        of_even, of_odd = _every(band), _every((band + 1) % _BANDS)
        for bit in range(_WORD):
            one = np.uint64(1 << bit)
            if one & (of_even | of_odd):
                key = (even & of_even & ~one) | (odd & of_odd & ~one)
                key = np.minimum(key, key ^ (of_odd & ~one))
                found.append(first[_near_with_same(key, even, odd, linked)])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _every(band: int) -> np.uint64:
    """The bits of a word that a band has."""
    return np.uint64(sum(1 << bit for bit in range(band, _WORD, _BANDS)))


def _near_with_same(
    key: np.ndarray, even: np.ndarray, odd: np.ndarray, linked: np.ndarray
) -> np.ndarray:
    """Near hashes with the same key that are not known to be linked: int64, (k, 2).

    Args:
        key: uint64, (n,).
        even: the hashes' first halves, uint64, (n,).
        odd: their second halves.
        linked: int64, (n,): those with the same number are linked; brought up to date.
    """
    order = np.argsort(key)
    key, even, odd, known = key[order], even[order], odd[order], linked[order]
    left, step, found = np.arange(len(key)), 0, []
    while len(left):  # those with the same key so many places on; never more than n at once
        step += 1
        left = left[: np.searchsorted(left, len(key) - step)]
        left = left[key[left] == key[left + step]]
        at = left[known[left] != known[left + step]]
        distance = _ones(even[at] ^ even[at + step])
        at, distance = at[distance <= MAX_DISTANCE], distance[distance <= MAX_DISTANCE]
        flipped = _ones(odd[at] ^ odd[at + step])
        at = at[distance + np.minimum(flipped, _WORD - flipped) <= MAX_DISTANCE]
        found.append(np.stack([order[at], order[at + step]], 1))
        known[at] = np.minimum(known[at], known[at + step])
        known[at + step] = np.minimum(known[at], known[at + step])
    linked[order] = known
    return np.concatenate([np.empty((0, 2), np.int64), *found])


_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)


def _ones(words: np.ndarray) -> np.ndarray:
    """How many bits of each number are set: uint64, (n,) -> uint8, (n,)."""
    if hasattr(np, "bitwise_count"):  # from numpy 2 on
        return np.asarray(np.bitwise_count(words))
    return np.asarray(_OF_BYTE[words.view(np.uint8)].reshape(-1, 8).sum(1, dtype=np.uint8))


def groups_of(digests: pa.Array, hashes: np.ndarray, before: pa.Array) -> pa.Array:
    """For each picture the key of its group: a digest of one that is or was in it.

    Pictures with the same digest or with near hashes belong together, and so do those that others
    link. A new group's key is its smallest digest. A picture that had a key keeps it, so that it
    never changes its split; a new one that belongs with such takes their smallest key, even if it
    links several old groups, which stay apart.

    Args:
        digests: string, n.
        hashes: uint8, (n, HASH_BYTES), all zero for one that is compared by its digest alone.
        before: string, n: the key that a picture has already, null for a new one.

    Returns:
        string, n, without nulls.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, file = _ranked(digests)
    keys, key = _ranked(before)
    one_of = np.empty(len(names), np.int64)
    one_of[file] = np.arange(len(file))
    near = near_pairs(hashes[one_of])
    graph = coo_array((np.ones(len(near), bool), (near[:, 0], near[:, 1])), (len(names),) * 2)
    count, component = connected_components(graph, directed=False)
    smallest = np.full(count, len(names))
    np.minimum.at(smallest, component, np.arange(len(names)))
    oldest = np.full(count, len(keys))
    old = key >= 0
    np.minimum.at(oldest, component[file[old]], key[old])
    has_old = oldest < len(keys)
    chosen = np.where(has_old, oldest, len(keys) + smallest)[component[file]]
    chosen[old] = key[old]
    return pa.concat_arrays([keys, names]).take(pa.array(chosen))


def _ranked(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The different texts, sorted, and for each of `texts` its place there, or -1: int64, (n,)."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    names = pc.unique(texts.cast(pa.string())).drop_null()
    names = names.take(pc.sort_indices(names))
    at = pc.index_in(texts, names).fill_null(-1)
    return names, at.to_numpy(zero_copy_only=False).astype(np.int64)
