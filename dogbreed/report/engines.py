"""Engines of a run in its report: the table and the picture that `dogbreed export` left."""

import base64
from typing import Any

from dogbreed.exported import PICTURE_FILE, TABLE_FILE
from dogbreed.report.records import Record


def of_run(record: Record, missing: list[str]) -> dict[str, Any] | None:
    """Rows of text, the batch sizes of their speeds, and the picture as a URL; or nothing.

    Args:
        record: read as a whole.
        missing: what cannot be shown is added to it.
    """
    about = record.json(TABLE_FILE)
    if not about:
        return None
    try:
        batches = list(about["engines"][0]["images_per_s"])
        found = {
            "rows": [_row(row, batches) for row in about["engines"]],
            "batches": batches,
            "threads": int(about["threads"]),
            "split": str(about["split"]),
        }
    except (KeyError, IndexError, TypeError, ValueError):
        missing.append(f"No engines: {TABLE_FILE} is not one that dogbreed export wrote.")
        return None
    png = record.files.get(PICTURE_FILE)
    picture = f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else None
    return found | {"picture": picture}


def _row(row: dict[str, Any], batches: list[str]) -> list[str]:
    drop = row["top1_drop"]
    return [
        str(row["name"]),
        f"{row['bytes'] / 1e6:.1f}",
        *(f"{row['images_per_s'][batch]:.0f}" for batch in batches),
        f"{row['p50_ms']:.1f}",
        f"{row['top1']:.4f}",
        f"{drop['value']:+.4f} ({drop['low']:+.4f} to {drop['high']:+.4f})" if drop else "-",
    ]
