"""What a model's validation pictures were like: kept in its package, for `drift` to compare with.

Never the training pictures: a model is surer of those than of any it will be asked about.
`model.json` has a summary in its field `reference`; the values themselves lie beside it in
`reference.safetensors`, some 50 bytes and an embedding a picture.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dogbreed import images, package, storage
from dogbreed.errors import BadInput
from dogbreed.monitor.rows import unit16
from dogbreed.monitor.statistics import FEATURES, statistics
from dogbreed.ranges import Range, read_pictures

if TYPE_CHECKING:
    from dogbreed.evaluate.evaluation import Evaluation

FILE = "reference.safetensors"
PICTURES = 2000  # at most: more would sharpen the comparison little, and have to be read again
EMBEDDINGS = 1000
_AT_ONCE = 64
_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


@dataclasses.dataclass(frozen=True)
class Reference:
    """Statistics of n validation pictures, or of fewer of them, and what the model said.

    Args:
        statistics: float32, (n, features), in the order of `FEATURES`.
        probability: float32, (n,): of the answer.
        reject_score: float32, (n,), each compared with the others of its breed.
        predicted: int64, (n,).
        right: bool, (n,): whether the answer was.
        rejected: bool, (n,).
        embedding: float16, (k, D), of length 1.
    """

    statistics: np.ndarray
    probability: np.ndarray
    reject_score: np.ndarray
    predicted: np.ndarray
    right: np.ndarray
    rejected: np.ndarray
    embedding: np.ndarray

    @classmethod
    def of(
        cls, evaluation: "Evaluation", places: Sequence[Range], size: int, crop: float
    ) -> "Reference":
        """Look at the pictures of an evaluation once more.

        Args:
            evaluation: with the package's calibration and rejection.
            places: of its pictures.
            size: side in pixels that the network sees.
            crop: side of the centred square over the picture's shorter side.

        Raises:
            StorageError: none of the pictures can be read any more.
        """
        table, rng = evaluation.table(), np.random.default_rng(0)
        rows = np.sort(rng.permutation(len(places))[:PICTURES])
        seen = _look([places[k] for k in rows], size, crop)
        rows, of = rows[[s is not None for s in seen]], [s for s in seen if s is not None]
        if not of:
            raise storage.StorageError("none of the validation pictures can be read any more")

        def column(name: str) -> np.ndarray:
            return np.asarray(table.column(name).to_numpy()[rows])

        some = np.sort(rng.permutation(rows)[:EMBEDDINGS])
        return cls(
            np.stack(of),
            column("probability"),
            column("reject_score"),
            column("predicted").astype(np.int64),
            column("predicted") == column("label"),
            column("rejected"),
            unit16(evaluation.embedding[some]),
        )

    @classmethod
    def read(cls, source: package.Package) -> "Reference":
        """That of a package.

        Raises:
            BadInput: it has none, or a damaged one.
        """
        about, url = source.model.get("reference"), storage.join(source.url, FILE)
        if not about:
            raise BadInput(
                f"{source.url}: the package has no statistics of its validation pictures to compare"
                " with; a model that was trained by this version of dogbreed fit has them"
            )
        data = storage.read(url)
        try:
            if storage.digest_of(data) != about["sha256"]:
                raise ValueError(f"not the one that {package.MODEL_FILE} describes")
            columns, kinds = load(data), about["features"]
            order = [kinds.index(name) for name in FEATURES]
            made = cls(**columns | {"statistics": columns["statistics"][:, order]})
            if len({len(of) for name, of in columns.items() if name != "embedding"}) != 1:
                raise ValueError("its columns differ in length")
        except (ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise BadInput(f"{url}: {error}") from None
        return made

    def write(self, folder: str, class_names: Sequence[str]) -> dict[str, Any]:
        """Write the values into a package's folder.

        Returns:
            What `model.json` says of them: the summary, and the digest of the file.
        """
        data = save({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        storage.write(storage.join(folder, FILE), data)
        values = dict(zip(FEATURES, self.statistics.T, strict=True))
        values |= {"probability": self.probability, "reject_score": self.reject_score}
        counts = np.bincount(self.predicted, minlength=len(class_names))
        return {
            "of": "validation",
            "n": len(self.statistics),
            "features": list(FEATURES),
            "at": list(_QUANTILES),
            "quantiles": {
                name: [float(f"{q:.6g}") for q in np.quantile(of, _QUANTILES)]
                for name, of in values.items()
            },
            "answers": dict(zip(class_names, counts.tolist(), strict=True)),
            "rejected": float(self.rejected.mean()),
            "top1": float(self.right.mean()),
            "sha256": storage.digest_of(data),
        }


def _look(places: Sequence[Range], size: int, crop: float) -> list[np.ndarray | None]:
    """Statistics of the pictures at these places; None where one cannot be read."""

    def look(data: bytes | Exception) -> np.ndarray | None:
        sizes: list[tuple[int, int]] = []

        def box(width: int, height: int) -> images.Box:
            sizes.append((width, height))
            return images.centre_box(width, height, crop)

        if not isinstance(data, bytes):
            return None
        try:
            return statistics(images.picture(data, size, box), *sizes[0], len(data))
        except images.BadImage:
            return None

    with ThreadPoolExecutor() as pool:
        found: list[np.ndarray | None] = []
        for start in range(0, len(places), _AT_ONCE):
            found += pool.map(look, read_pictures(places[start : start + _AT_ONCE]))
    return found
