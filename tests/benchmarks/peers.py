"""Other ways to read the same pictures out of the same bucket.

Each hands out how many pictures and bytes came; none of them decodes, shuffles or checks digests.
"""

import io
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dogbreed.data.manifest import Manifest
from dogbreed.ranges import read_all

WORKERS, BATCH = 2, 64


class Peer(torch.utils.data.IterableDataset[Any]):
    """The files of a bucket, shared between the workers; `samples` reads one of them."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    def samples(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[int, int]]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        batch: list[bytes] = []
        for url in self.urls[info.id :: info.num_workers]:
            for data in self.samples(url):
                batch.append(data)
                if len(batch) == BATCH:
                    yield len(batch), sum(map(len, batch))
                    batch = []
        if batch:
            yield len(batch), sum(map(len, batch))


def opened(url: str, block: int) -> Any:
    import fsspec

    return fsspec.open(url, "rb", cache_type="readahead", block_size=block).open()


class Tar(Peer):
    """Python's tarfile over fsspec's readahead cache."""

    block = 5 * 2**20

    def samples(self, url: str) -> Iterator[bytes]:
        with opened(url, self.block) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                reader = tar.extractfile(member)
                assert reader is not None
                yield reader.read()


class TarWhole(Peer):
    """Each shard fetched whole, then tarfile on the bytes."""

    def samples(self, url: str) -> Iterator[bytes]:
        import fsspec

        data = fsspec.open(url).fs.cat_file(url)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
            for member in tar:
                reader = tar.extractfile(member)
                assert reader is not None
                yield reader.read()


class Parquet(Peer):
    """Row groups of pyarrow over fsspec."""

    def samples(self, url: str) -> Iterator[bytes]:
        with opened(url, 5 * 2**20) as file:
            for batch in pq.ParquetFile(file, pre_buffer=True).iter_batches(BATCH):
                yield from batch.column("data").to_pylist()


class WebDataset(Peer):
    """The library, over fsspec's readahead cache, which is what opens gs:// without gsutil."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        import webdataset as wds
        from webdataset.gopen import gopen_schemes

        gopen_schemes["gs"] = lambda url, mode="rb", bufsize=0, **_: opened(url, 2**23)
        shards = wds.WebDataset(self.urls, shardshuffle=False, nodesplitter=None, empty_check=False)
        batch: list[bytes] = []
        for sample in shards:
            batch.append(sample["jpg"])
            if len(batch) == BATCH:
                yield len(batch), sum(map(len, batch))
                batch = []
        if batch:
            yield len(batch), sum(map(len, batch))


def as_peers_want_it(data: Path) -> tuple[list[str], list[str]]:
    """The pictures again as WebDataset's tars and as Parquet, in equal halves of equal pictures."""
    manifest = Manifest.open(str(data))
    rows = manifest.take(manifest.rows_of("train"))
    rows.sort(key=lambda row: str(row["digest"]))
    tars, parquets = [], []
    for part in range(WORKERS):
        some = rows[part::WORKERS]
        pieces = read_all(manifest.ranges(some))
        tars.append(f"wds-{part}.tar")
        with tarfile.open(data / tars[-1], "w") as tar:
            for number, piece in enumerate(pieces):
                about = tarfile.TarInfo(f"{number:06d}.jpg")
                about.size = len(piece)
                tar.addfile(about, io.BytesIO(piece))
        parquets.append(f"{part}.parquet")
        table = pa.table({"data": pa.array(pieces, pa.binary())})
        pq.write_table(
            table,
            data / parquets[-1],
            compression="none",
            use_dictionary=False,
            row_group_size=1000,
        )
    if find_spec("litdata"):
        from litdata.streaming.writer import BinaryWriter

        chunks = BinaryWriter(str(data / "litdata"), chunk_bytes=64_000_000)
        for number, piece in enumerate(read_all(manifest.ranges(rows))):
            chunks[number] = piece
        chunks.done()
        chunks.merge()
    if find_spec("streaming"):
        from streaming import MDSWriter

        with MDSWriter(
            out=str(data / "mds"), columns={"jpg": "bytes"}, size_limit=64_000_000
        ) as shards:
            for piece in read_all(manifest.ranges(rows)):
                shards.write({"jpg": piece})
    return tars, parquets


def counted(pictures: list[Any]) -> tuple[int, int]:
    """Collate to the numbers of pictures and of bytes."""
    return len(pictures), sum(len(picture) for picture in pictures)


def counted_fields(samples: list[dict[str, bytes]]) -> tuple[int, int]:
    """Likewise, of samples with a field `jpg`."""
    return counted([sample["jpg"] for sample in samples])


def litdata(url: str, cache: str) -> Any:
    """A loader over LitData's chunks; its client needs no credentials for a double."""
    from google.auth.credentials import AnonymousCredentials
    from litdata import StreamingDataset

    options = {"credentials": AnonymousCredentials(), "project": "dogs"}
    data = StreamingDataset(f"{url}/litdata", cache_dir=cache, storage_options=options)
    return torch.utils.data.DataLoader(
        data,
        BATCH,
        num_workers=WORKERS,
        collate_fn=counted,
        multiprocessing_context="forkserver",
    )


def mosaic(url: str, cache: str) -> Any:
    """A loader over MosaicML's shards; its client, made by its index, can only be forked."""
    from streaming import StreamingDataset

    data = StreamingDataset(remote=f"{url}/mds", local=cache, batch_size=BATCH, shuffle=False)
    return torch.utils.data.DataLoader(
        data, BATCH, num_workers=WORKERS, collate_fn=counted_fields, multiprocessing_context="fork"
    )
