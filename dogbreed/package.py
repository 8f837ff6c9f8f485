"""The model package: all that serving, prediction and export need, and nothing that can execute.

A folder `model/` in a run, local or in a bucket: `model.json` (what the model is and how pictures
must reach it), `weights.safetensors` (timm's own names) and `README.md` (the model card).
Needs no torch.
"""

import dataclasses
import math
from typing import Any

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.card import card
from dogbreed.evaluate.rejection import Rejection

SCHEMA_VERSION = 2
FOLDER = "model"
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "README.md"


@dataclasses.dataclass(frozen=True)
class Package:
    """A package's description, and where it lies."""

    url: str
    model: dict[str, Any]

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the logits."""
        return [entry["name"] for entry in self.model["classes"]]

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""
        return float(self.model["temperature"])

    @property
    def rejection(self) -> Rejection | None:
        """How pictures of none of the breeds are told, if they are."""
        fields = self.model["rejection"]
        return None if fields is None else Rejection.of(fields)

    def weights(self) -> bytes:
        """The bytes of `weights.safetensors`.

        Raises:
            BadInput: they are missing, or not those that `model.json` describes.
        """
        url = storage.join(self.url, WEIGHTS_FILE)
        data = storage.read(url)
        if storage.digest_of(data) != self.model["weights_sha256"]:
            raise BadInput(f"{url}: not the weights that {MODEL_FILE} describes; export them again")
        return data


def write(
    url: str,
    model: dict[str, Any],
    weights: bytes,
    evaluations: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Write a package; `model.json` comes last, so that its presence means a complete package.

    Args:
        url: the package's folder.
        model: what `model.json` says; see `callbacks.history` for the fields.
        weights: a safetensors file's bytes.
        evaluations: split -> what evaluation/{split}.json says, for the model card.
    """
    model = {"schema": SCHEMA_VERSION, **model, "weights_sha256": storage.digest_of(weights)}
    storage.write(storage.join(url, WEIGHTS_FILE), weights)
    text = card(model, model["metrics"], evaluations or {})
    storage.write(storage.join(url, CARD_FILE), text.encode())
    storage.write_json(storage.join(url, MODEL_FILE), model)


def read(url: str) -> Package:
    """Open a package.

    Raises:
        BadInput: there is none, or one from a newer version.
    """
    try:
        model = storage.read_json(storage.join(url, MODEL_FILE))
    except storage.StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise BadInput(
                f"{url}: no model package here; `dogbreed fit` writes it when it ends"
            ) from error
        raise
    if not isinstance(model, dict) or "schema" not in model:
        raise BadInput(f"{url}: {MODEL_FILE} is not one that dogbreed fit wrote")
    if not isinstance(model["schema"], int) or model["schema"] > SCHEMA_VERSION:
        raise BadInput(
            f"{url}: the package has schema {model['schema']}, this dogbreed reads up to"
            f" {SCHEMA_VERSION}; upgrade dogbreed"
        )
    # What schema 1 did not know.
    model.setdefault("temperature", 1.0)
    model.setdefault("rejection", None)
    made = Package(url, model)
    try:
        model["preprocessing"].setdefault("flip", False)
        if not all(isinstance(name, str) for name in (*made.class_names, model["backbone"])):
            raise BadInput("backbone and names of classes must be text")
        if not (made.class_names and 16 <= model["preprocessing"]["size"] <= 4096):
            raise BadInput("it has no classes, or no size from 16 to 4096 pixels")
        if not (0 < model["preprocessing"]["crop"] <= 1 and model["run"] and model["data"]):
            raise BadInput("crop must be above 0 and at most 1; run and data must be named")
        storage.checked_digest(model["weights_sha256"])
        if not (math.isfinite(made.temperature) and made.temperature > 0):
            raise BadInput(f"temperature {made.temperature}: must be finite and above 0")
        _ = made.rejection
    except KeyError as error:
        raise BadInput(f"{url}: {MODEL_FILE} has no {error}") from None
    except (BadInput, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{url}: {MODEL_FILE}: {error}") from None
    return made
