"""What a client reads of a picture: its entry, with the heat map drawn over it where asked for."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from dogbreed.evaluate.explain import overlay
from dogbreed.monitor.rows import model_of
from dogbreed.package import Package
from dogbreed.serve.links import Reply

FOUND = "Cute puppy detected"
NO_DOG = "That's no dog, or none of the breeds that I know"
_FIVE = 5


class Entries:
    """Makes entries of replies.

    Args:
        source: the package that answers.
    """

    def __init__(self, source: Package) -> None:
        self.names = source.class_names
        self.rejection = source.rejection
        self.model = model_of(source)

    def answered(
        self, filename: str, reply: Reply, topk: int | None, picture: np.ndarray
    ) -> dict[str, Any]:
        """The entry of a picture that was answered.

        Args:
            filename: as it was sent.
            reply: the worker's.
            topk: how many breeds `topk` lists; without, there is no `topk`.
            picture: uint8, (S, S, 3); the heat map is drawn over it.
        """
        order = np.argsort(-reply.probabilities, kind="stable")
        best = [
            {"breed": self.names[k], "probability": float(reply.probabilities[k])}
            for k in order[: max(_FIVE, topk or 0)].tolist()
        ]
        known = self.is_dog(reply)
        entry = {
            "filename": filename,
            "probability": best[0]["probability"],
            "breed_idx": int(order[0]),
            "breed": best[0]["breed"],
            "status": "success",
            "message": NO_DOG if known is False else FOUND,
            "top5": best[:_FIVE],
            "is_dog": known,
            "model": self.model,
        }
        if topk:
            entry["topk"] = best[:topk]
        if reply.heat is not None:
            entry["heat"] = base64.b64encode(_png(overlay(picture, reply.heat))).decode()
        return entry

    def failed(self, filename: str, problem: str) -> dict[str, Any]:
        """The entry of a picture that cannot be read."""
        return {
            "filename": filename,
            "probability": -1,
            "breed_idx": -1,
            "breed": "-",
            "status": "error",
            "message": problem,
            "top5": [],
            "is_dog": None,
            "model": self.model,
        }

    def is_dog(self, reply: Reply) -> bool | None:
        """Whether the picture shows one of the breeds; none if the package cannot tell."""
        if self.rejection is None:
            return None
        return not bool(self.rejection.rejects(np.asarray(reply.reject_score, np.float32)))


def _png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=3)
    return file.getvalue()
