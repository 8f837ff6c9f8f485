"""The model package: all that serving, prediction and export need, and nothing that can execute.

A folder `model/` in a run, local or in a bucket: `model.json` (what the model is and how pictures
must reach it), `weights.safetensors` (timm's own names), `rejection.safetensors` (what pictures of
none of the breeds are told by) and `README.md` (the model card).
Needs no torch.
"""

import dataclasses
import re
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.evaluate.card import card
from dogbreed.evaluate.confidence import UNCALIBRATED, Calibration
from dogbreed.evaluate.rejection import Rejection

SCHEMA_VERSION = 3
FOLDER = "model"
MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
REJECTION_FILE = "rejection.safetensors"
CARD_FILE = "README.md"
POINTER_FILE = "current.json"
_PROMOTED = re.compile(r"packages/[\w-][\w.@+-]*")  # one step down, and never up again


@dataclasses.dataclass(frozen=True)
class Package:
    """A package's description, and where it lies."""

    url: str
    model: dict[str, Any]
    calibration: Calibration = UNCALIBRATED
    """What makes probabilities of logits."""
    rejection: Rejection | None = None
    """How pictures of none of the breeds are told, if they are."""

    @property
    def class_names(self) -> list[str]:
        """Names in the order of the logits."""
        return [entry["name"] for entry in self.model["classes"]]

    def weights(self) -> bytes:
        """The bytes of `weights.safetensors`.

        Raises:
            BadInput: they are missing, or not those that `model.json` describes.
        """
        return _read(self.url, WEIGHTS_FILE, self.model["weights_sha256"])


def write(
    url: str,
    model: dict[str, Any],
    weights: bytes,
    evaluations: dict[str, dict[str, Any]] | None = None,
    rejection: Rejection | None = None,
) -> None:
    """Write a package; `model.json` comes last, so that its presence means a complete package.

    Args:
        url: the package's folder.
        model: what `model.json` says; see `callbacks.history` for the fields.
        weights: a safetensors file's bytes.
        evaluations: split -> what evaluation/{split}.json says, for the model card.
        rejection: how pictures of none of the breeds are told.
    """
    model = {"schema": SCHEMA_VERSION, **model, "weights_sha256": storage.digest_of(weights)}
    if rejection is not None:
        tensors = save(rejection.tensors())
        model["rejection"] = rejection.about() | {"sha256": storage.digest_of(tensors)}
        storage.write(storage.join(url, REJECTION_FILE), tensors)
    storage.write(storage.join(url, WEIGHTS_FILE), weights)
    text = card(model, model["metrics"], evaluations or {})
    storage.write(storage.join(url, CARD_FILE), text.encode())
    storage.write_json(storage.join(url, MODEL_FILE), model)


def locate(url: str) -> str:
    """The package that is meant by its own folder, or by the one above it, such as a run's."""
    inside = storage.join(url, FOLDER)
    if not storage.exists(storage.join(url, MODEL_FILE)) and storage.exists(
        storage.join(inside, MODEL_FILE)
    ):
        return inside
    return url


def read(url: str) -> Package:
    """Open a package, or the one that a production place points at.

    Raises:
        BadInput: there is none, or one from a newer version.
    """
    try:
        model = storage.read_json(storage.join(url, MODEL_FILE))
    except storage.StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            pointer = storage.join(url, POINTER_FILE)
            if storage.exists(pointer):
                return read(storage.join(url, pointed_at(url, storage.read_json(pointer))))
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
    # What schemas 1 and 2 did not know.
    model.setdefault("temperature", 1.0)
    model.setdefault("platt", UNCALIBRATED.platt)
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
        calibration = Calibration(float(model["temperature"]), **model["platt"])
        made = dataclasses.replace(made, calibration=calibration)
        if fields := model["rejection"]:
            digest = fields.get("sha256")
            tensors = load(_read(url, REJECTION_FILE, digest)) if digest else {}
            made = dataclasses.replace(made, rejection=Rejection.of(fields, tensors))
    except KeyError as error:
        raise BadInput(f"{url}: {MODEL_FILE} has no {error}") from None
    except (BadInput, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise BadInput(f"{url}: {MODEL_FILE}: {error}") from None
    return made


def copy(source: Package, url: str) -> Package:
    """Copy a package with its engines, `model.json` last. Raises StorageError."""
    names = [name for name, _ in storage.find(source.url)]
    for name in sorted(names, key=lambda name: name == MODEL_FILE):
        storage.write(storage.join(url, name), storage.read(storage.join(source.url, name)))
    return read(url)


def _read(url: str, name: str, digest: str) -> bytes:
    """A file of the package, if it is the one that `model.json` describes."""
    path = storage.join(url, name)
    data = storage.read(path)
    if storage.digest_of(data) != digest:
        what = name.partition(".")[0]
        raise BadInput(f"{path}: not the {what} that {MODEL_FILE} describes; export them again")
    return data


def pointed_at(place: str, pointer: Any) -> str:
    """Where the present package lies below a production place, by the pointer there.

    Raises:
        BadInput: the pointer is damaged, or leads elsewhere.
    """
    path = pointer.get("package") if isinstance(pointer, dict) else None
    if not isinstance(path, str) or not _PROMOTED.fullmatch(path):
        raise BadInput(f"{place}: {POINTER_FILE} is not one that dogbreed export --promote wrote")
    return path
