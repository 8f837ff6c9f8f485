"""Tables to and from Parquet files, with checksums."""

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP = 131_072  # rows of a row group


def to_parquet(table: pa.Table) -> bytes:
    """A table as a Parquet file with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_GROUP, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def from_parquet(data: bytes) -> pa.Table:
    """The table in a Parquet file.

    Raises:
        ArrowException, OSError: it is damaged.
    """
    # A thread of Arrow's that lets go of Python's bytes when Python has ended aborts the process.
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(use_threads=False)
