"""One interface over whatever runs the network: the torch module, or an exported engine."""

import dataclasses
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from dogbreed.errors import BadInput
from dogbreed.evaluate.rejection import Rejection
from dogbreed.package import Package


@dataclasses.dataclass(frozen=True)
class Answers:
    """What an engine says of B pictures.

    Args:
        probabilities: float32, (B, classes): softmax of the calibrated logits.
        reject_score: float32, (B,): higher is less like the breeds; rejected is what lies above
            the package's threshold.
        embedding: float32, (B, D): features before the classifier.
        heat: float32, (B, h, w): the likeliest class's logit at each place of the last feature
            map; none unless asked for.
    """

    probabilities: np.ndarray
    reject_score: np.ndarray
    embedding: np.ndarray
    heat: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        package: Package,
        logits: np.ndarray,
        embedding: np.ndarray,
        heat: np.ndarray | None = None,
    ) -> "Answers":
        """What follows from a network's outputs, the same whatever has run it.

        Args:
            package: says calibration and rejection score.
            logits: float, (B, classes).
            embedding: float, (B, D).
            heat: float, (B, h, w), or none.
        """
        scaled = package.calibration(logits.astype(np.float32))
        shares = np.exp(scaled - scaled.max(1, keepdims=True))
        rejection = package.rejection or Rejection()
        scores = rejection.scores(logits, embedding, package.calibration.temperature)
        return cls(
            shares / shares.sum(1, keepdims=True),
            scores,
            embedding.astype(np.float32),
            None if heat is None else heat.astype(np.float32),
        )


class Engine(Protocol):
    """Answers for a batch of pictures that `images.picture` cut to the package's size."""

    def answer(self, images: np.ndarray, *, heat: bool = False) -> Answers:
        """Answer a batch.

        Args:
            images: uint8, (B, S, S, 3), RGB.
            heat: whether the answers have their `heat`.

        Raises:
            BadInput: there is no heat to be had of this network.
        """
        ...


class TorchEngine:
    """The network itself, on a GPU if there is one.

    Args:
        package: from `package.read`.
        device: torch's name of a device; none: a GPU if there is one.
    """

    def __init__(self, package: Package, device: str | None = None) -> None:
        import torch
        from safetensors.torch import load

        from dogbreed.model.backbone import Network
        from dogbreed.model.batch_norm import merge

        self.package = package
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        flip = package.model["preprocessing"]["flip"]
        self.network = Network(package.model["backbone"], len(package.class_names), flip=flip)
        self.network.body.load_state_dict(load(package.weights()))
        merge(self.network.eval().body, package.model["preprocessing"]["size"])
        try:
            self.network.to(self.device)
        except RuntimeError as error:
            line = " ".join(str(error).split())[:120]
            raise BadInput(f"--device {self.device}: {line}") from None

    def answer(self, images: np.ndarray, *, heat: bool = False) -> Answers:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
            logits, embedding, features = self.network.answers(batch)
            seen = self.network.heat(features, logits.argmax(1)).cpu().numpy() if heat else None
            return Answers.of(self.package, logits.cpu().numpy(), embedding.cpu().numpy(), seen)

    def grad_cam(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Grad-CAM (see `evaluate.grad_cam`) of uint8 (B, S, S, 3): float32, (B, h, w).

        Args:
            images: as in `answer`.
            classes: int64, (B,): whose evidence is looked for.

        Raises:
            BadInput: the network keeps no feature map to its end.
        """
        import torch

        from dogbreed.evaluate.grad_cam import grad_cam

        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
        heat = grad_cam(self.network, batch, torch.from_numpy(classes).to(self.device))
        return np.asarray(heat.float().cpu().numpy())


def open_engine(
    package: Package,
    name: str = "torch",
    device: str | None = None,
    *,
    threads: int | None = None,
) -> Engine:
    """Make an engine of a package.

    Args:
        package: from `package.read`.
        name: `torch`, the name of an exported engine, such as `openvino-int8`, or `best`: the
            fastest that is there and can run here.
        device: torch's name of a device; none: a GPU if there is one. For `torch` alone.
        threads: of the processor, for one batch of an exported engine; none: one for each core.

    Raises:
        BadInput: no such engine, no such device, or what it needs is not installed.
    """
    from dogbreed.exported import best_name, open_exported

    if name == "best":
        name = best_name(package)
    if name != "torch":
        if device not in {None, "cpu"}:
            raise BadInput(f"--device {device}: exported engines run on the processor")
        return open_exported(package, name, threads)
    see_torch(package)
    return TorchEngine(package, device)


def see_torch(package: Package) -> None:
    """See that torch is installed. Raises BadInput, which names the engines that need it not."""
    from dogbreed.exported import engine_names

    if find_spec("torch") is None:
        there = ", ".join(engine_names(package)) or "none; make one with dogbreed export"
        raise BadInput(f"--engine torch: torch is not installed; exported engines: {there}")
