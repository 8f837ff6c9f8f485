"""A frozen network as the data sees it: pictures in, features out."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from dogbreed.cores import computes_in_bf16
from dogbreed.data.datamodule import data_of
from dogbreed.data.features import View
from dogbreed.model.backbone import Network


def view_of(network: Network, trainer: Trainer, *, size: int, crop: float) -> View:
    """The view of a network that does not change while it is in use.

    Args:
        network: on its device; dropout and BatchNorm of its body in evaluation.
        trainer: whose precision is taken, unless the data says otherwise.
        size: side of the pictures in pixels.
        crop: side of the centred square over the picture's shorter side.
    """
    asked, on_cpu = data_of(trainer).features_precision, network.mean.device.type == "cpu"
    half = asked == "bf16" or (asked == "auto" and on_cpu and computes_in_bf16())

    def embed(images: Tensor) -> Tensor:
        network.fold()  # a second that is not spent where all is kept
        device = network.mean.device
        context = (
            torch.autocast(device.type, torch.bfloat16)
            if half
            else trainer.precision_plugin.forward_context()
        )
        with torch.inference_mode(), context:
            return network.pool(network.features(images.to(device)))

    return View(
        network=network.digest(),
        embed=embed,
        size=size,
        crop=crop,
        precision="bf16-mixed" if half else str(trainer.precision),
    )
