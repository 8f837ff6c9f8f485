"""How far the order of an epoch is from a uniform shuffle.

    nox -s bench -- order [--pictures 100000 --each 1600 --window 8]

Pictures of 40 kB in shards of 64 MB; `prepare` fills shards by a hash of the ids, so each shard is
a random sample of all breeds already.
"""

import argparse

import numpy as np

from dogbreed.data.order import epoch_order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--each", type=int, default=1_600, help="pictures of a shard")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--breeds", type=int, default=120)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    n, shards = options.pictures, np.arange(options.pictures) // options.each
    labels = rng.integers(0, options.breeds, n)
    orders = {
        "this order": epoch_order(shards, seed=0, epoch=0, window=options.window),
        "uniform": rng.permutation(n),
        "shard after shard": epoch_order(shards, seed=0, epoch=0, window=1),
    }
    again = {
        "this order": epoch_order(shards, seed=0, epoch=1, window=options.window),
        "uniform": rng.permutation(n),
        "shard after shard": epoch_order(shards, seed=0, epoch=1, window=1),
    }
    print(
        f"{n:,} pictures, {shards.max() + 1} shards, window of {options.window},"
        f" batches of {options.batch}, {options.breeds} breeds\n"
    )
    print(
        "| | shards in a batch | two of a batch from one shard | two of a batch together again in"
        " the next epoch | chi-square of breeds in a batch / its degrees of freedom | shift between"
        " epochs / n |"
    )
    print("|---|---|---|---|---|---|")
    for name, order in orders.items():
        whole = order[: n - n % options.batch].reshape(-1, options.batch)
        distinct = np.mean([len(np.unique(shards[batch])) for batch in whole])
        shared = pairs(shards[whole])
        place = np.empty(n, np.int64)
        place[again[name]] = np.arange(n) // options.batch
        together = pairs(place[whole])
        counts = np.stack([np.bincount(labels[b], minlength=options.breeds) for b in whole])
        wanted = options.batch * np.bincount(labels, minlength=options.breeds) / n
        chi = ((counts - wanted) ** 2 / wanted).sum(1).mean() / (options.breeds - 1)
        position = np.empty(n, np.int64)
        position[again[name]] = np.arange(n)
        shift = np.abs(position[order] - np.arange(n)).mean() / n
        print(
            f"| {name} | {distinct:.1f} | {shared:.4f} | {together:.6f} | {chi:.3f} | {shift:.3f} |"
        )


def pairs(groups: np.ndarray) -> float:
    """The share of pairs within a row that have the same group. (m, B) integers."""
    ordered = np.sort(groups, axis=1)
    same = 0
    for step in range(1, groups.shape[1]):
        same += int((ordered[:, step:] == ordered[:, :-step]).sum())
    size = groups.shape[1]
    return same / (len(groups) * size * (size - 1) / 2)


if __name__ == "__main__":
    main()
