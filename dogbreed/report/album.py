"""Pictures of a data set, found by their ids, as small `data:` URIs."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dogbreed import images, storage
from dogbreed.data.manifest import Manifest
from dogbreed.data.prepare import embedded_sample
from dogbreed.errors import BadInput
from dogbreed.ranges import read_pictures

QUALITY = 72  # of WebP: a 224 px picture takes about 8 kB
SHEET_FILE = "contact_sheet.png"
SHEET_WIDTH = 1100  # pixels of the contact sheet in a report
SHEET_LIMIT = 64 * 2**20  # bytes of one that is read


@dataclasses.dataclass(frozen=True)
class Album:
    """The data set that a run was scored on.

    Args:
        data: its manifest.
    """

    data: Manifest

    @classmethod
    def open(cls, root: str, version: str) -> "Album":
        """Open the data set at `root`, or the embedded sample if it is that, wherever it was.

        Raises:
            BadInput: no data set there, or another version of it.
        """
        try:
            data = Manifest.open(root)
        except BadInput:
            if "/sample-v" not in root:
                raise
            data = Manifest.open(embedded_sample())
        if version and data.version != version:
            raise BadInput(
                f"{root}: holds version {data.version[:12]} of the data now, and"
                f" {version[:12]} was scored"
            )
        return cls(data)

    def pictures(self, ids: Sequence[str], size: int, crop: float) -> dict[str, np.ndarray]:
        """Those of the pictures that can be had, cut as the model sees them.

        Args:
            ids: the pictures' names in the data set.
            size: side in pixels.
            crop: side of the centred square that is cut, over the picture's shorter side.

        Returns:
            By id: uint8, (size, size, 3), RGB.
        """
        wanted = list(dict.fromkeys(ids))
        places = pc.index_in(pa.array(wanted, pa.string()), self.data.table.column("id"))
        rows = self.data.take(places.drop_null().to_numpy())
        found: dict[str, np.ndarray] = {}
        for row, piece in zip(rows, read_pictures(self.data.ranges(rows)), strict=True):
            if isinstance(piece, bytes):
                try:
                    found[row["id"]] = images.picture(
                        piece, size, lambda w, h: images.centre_box(w, h, crop)
                    )
                except images.BadImage:
                    continue
        return found

    def sheet(self) -> str | None:
        """The contact sheet that `prepare` wrote, scaled down, as a URI; None if it is not there.

        Raises:
            StorageError: it cannot be read.
        """
        url = storage.join(self.data.root, SHEET_FILE)
        if not storage.exists(url):
            return None
        data = storage.read(url)
        if len(data) > SHEET_LIMIT:
            return None
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > images.MAX_PIXELS:
                return None
            sheet = image.convert("RGB")
        if sheet.width > SHEET_WIDTH:
            height = round(sheet.height * SHEET_WIDTH / sheet.width)
            sheet = sheet.resize((SHEET_WIDTH, height), Image.Resampling.LANCZOS)
        return _uri(sheet)

    def cut_beforehand(self) -> tuple[int, int] | None:
        """Width and height that all pictures have in common; None if they differ."""
        sizes = [np.unique(self.data.column(name)) for name in ("width", "height")]
        if any(len(of) != 1 for of in sizes):
            return None
        return int(sizes[0][0]), int(sizes[1][0])


def uri(picture: np.ndarray, side: int | None = None) -> str:
    """A picture as a `data:` URI.

    Args:
        picture: uint8, (H, W, 3), RGB.
        side: make it a square of that many pixels; none: as it is.
    """
    image = Image.fromarray(picture)
    if side and side < image.width:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return _uri(image)


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
