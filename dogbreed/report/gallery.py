"""Pictures that were answered wrongly: the worst, with what the network looked at, and pairs."""

import dataclasses
from typing import Any

import numpy as np

from dogbreed import breeds, package, storage
from dogbreed.errors import BadInput
from dogbreed.report.album import Album, uri
from dogbreed.report.predictions import Scored
from dogbreed.report.records import Record

WORST = 24  # mistakes shown
PAIRS = 12  # pairs of breeds
SIDE = 160  # pixels of a picture in the report; a mistake and its heat map are shown so
SMALL = 112  # likewise of a pair's


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Mistakes and pairs, ready for the page.

    Args:
        worst: of each mistake `id`, `true`, `predicted`, `probability`, `true_probability`,
            `rejected`, and the URIs `picture` and `heat`, None where it cannot be had.
        pairs: of each pair `true`, `predicted`, `n`, `of` (pictures of the true breed), and the
            URIs `taken` of up to two mistakes and `typical` of a picture of the predicted breed.
    """

    worst: list[dict[str, Any]]
    pairs: list[dict[str, Any]]

    @classmethod
    def of(
        cls, record: Record, scored: Scored, album: Album | None, missing: list[str]
    ) -> "Gallery":
        """Choose pictures, fetch them, and ask the model where it looked.

        Args:
            record: the run.
            scored: the split.
            album: its pictures, if they can be had.
            missing: what cannot be shown is said here.
        """
        answers, names = scored.answers, scored.names
        worst = answers.worst(WORST)
        pairs = [_pair(scored, pair) for pair in scored.summary["confused"][:PAIRS]]
        wanted = [answers.ids[k] for k in worst]
        wanted += [answers.ids[k] for pair in pairs for k in (*pair["taken"], *pair["typical"])]
        found = _fetch(scored, album, wanted, missing)
        heat = _heat(record, found, wanted[: len(worst)], missing)
        pictures = {name: uri(found[name], SIDE) for name in wanted[: len(worst)] if name in found}

        def small(rows: list[int]) -> list[str]:
            return [uri(found[answers.ids[k]], SMALL) for k in rows if answers.ids[k] in found]

        return cls(
            worst=[
                {
                    "id": answers.ids[k],
                    "true": breeds.title(names[answers.label[k]]),
                    "predicted": breeds.title(names[answers.predicted[k]]),
                    "probability": float(answers.probability[k]),
                    "true_probability": float(answers.true_probability[k]),
                    "rejected": bool(answers.rejected[k]),
                    "picture": pictures.get(answers.ids[k]),
                    "heat": heat.get(answers.ids[k]),
                }
                for k in worst
            ],
            pairs=[
                pair | {"taken": small(pair["taken"]), "typical": small(pair["typical"])}
                for pair in pairs
            ],
        )


def _pair(scored: Scored, pair: dict[str, Any]) -> dict[str, Any]:
    """A confused pair with the rows of its pictures."""
    answers, names = scored.answers, scored.names
    true, predicted = names.index(pair["true"]), names.index(pair["predicted"])
    return {
        "true": breeds.title(pair["true"]),
        "predicted": breeds.title(pair["predicted"]),
        "n": pair["n"],
        "of": int((answers.label == true).sum()),
        "taken": answers.taken_for(true, predicted)[:2].tolist(),
        "typical": answers.taken_for(predicted, predicted)[:1].tolist(),
    }


def _fetch(
    scored: Scored, album: Album | None, ids: list[str], missing: list[str]
) -> dict[str, np.ndarray]:
    if album is None:
        return {}
    seen = scored.summary["data"]
    found = album.pictures(ids, seen["image_size"], seen["crop"])
    if gone := len(set(ids) - found.keys()):
        missing.append(f"{gone} of the pictures to show cannot be read from {album.data.root}.")
    return found


def _heat(
    record: Record, found: dict[str, np.ndarray], ids: list[str], missing: list[str]
) -> dict[str, str]:
    """The worst mistakes with the heat of the answer laid over them, by id."""
    ids = [name for name in ids if name in found]
    if not ids:
        return {}
    try:
        source = package.read(storage.join(record.url, package.FOLDER))

        from dogbreed.engine import TorchEngine
        from dogbreed.evaluate.explain import overlay

        engine = TorchEngine(source)
        heat = engine.answer(np.stack([found[name] for name in ids]), heat=True).heat
    except BadInput as error:
        missing.append(f"No heat maps: {error}.")
        return {}
    if heat is None:
        missing.append("No heat maps: the network has no map of places at its end.")
        return {}
    return {name: uri(overlay(found[name], of), SIDE) for name, of in zip(ids, heat, strict=True)}
