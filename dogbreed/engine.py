"""One interface over whatever runs the network; today the torch module."""

from typing import Protocol

import numpy as np

from dogbreed.errors import BadInput
from dogbreed.package import Package


class Engine(Protocol):
    """Answers for a batch of pictures that `images.picture` cut to the package's size."""

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax with the package's temperature.

        Args:
            images: uint8, (B, S, S, 3), RGB.

        Returns:
            float32, (B, classes), rows sum to 1.
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

        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.temperature = package.model["temperature"]
        self.network = Network(package.model["backbone"], len(package.class_names))
        self.network.body.load_state_dict(load(package.weights()))
        try:
            self.network.eval().to(self.device)
        except RuntimeError as error:
            line = " ".join(str(error).split())[:120]
            raise BadInput(f"--device {self.device}: {line}") from None

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
            logits = self.network(batch) / self.temperature
            answer: np.ndarray = logits.softmax(1).cpu().numpy()
        return answer
