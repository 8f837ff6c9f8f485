"""From the log back to the data: the pictures that would teach the model most, to be labelled."""

import csv
import io
import itertools
from typing import Any

from dogbreed import storage
from dogbreed.monitor import rows
from dogbreed.monitor.tally import Tally

TABLE = "labels.csv"
FIELDS = ("picture", "breed", "guess", "probability", "why", "time", "request_id")
WHY = {
    "unsure": "unsure of the breed",
    "rejected": "nearly taken for a dog",
    "unlike": "unlike the validation pictures",
}


def write_labels(folder: str, log: str, tally: Tally, count: int) -> int:
    """Copy pictures that the log kept, and list them with a column for the breed.

    Args:
        folder: a path or URL.
        log: the log's URL.
        tally: of it.
        count: pictures at most; the kinds take turns.

    Returns:
        How many there are.

    Raises:
        StorageError: the folder cannot be written.
    """
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    turns = itertools.zip_longest(*([(why, row) for row in tally.examples(why)] for why in WHY))
    for why, row in (one for turn in turns for one in turn if one):
        url = rows.image_url(log, row)
        if url is not None and len(chosen) < count:
            chosen.setdefault(url, (why, row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(FIELDS)
    written = 0
    for url, (why, row) in chosen.items():
        try:
            data = storage.read(url)
        except storage.StorageError:
            continue  # the bucket's rule has removed it meanwhile
        name = f"pictures/{url.rsplit('/', 1)[-1]}"
        storage.write(storage.join(folder, name), data)
        moment = rows.day_of(row["time"])
        asked = row.get("request_id", "")
        table.writerow((name, "", row["breed"], row["probability"], WHY[why], moment, asked))
        written += 1
    storage.write(storage.join(folder, TABLE), text.getvalue().encode())
    return written
