"""Grad-CAM: which places of the last feature map speak for a class, by its gradients."""

import torch
from torch import Tensor

from dogbreed.model.backbone import Network


def grad_cam(network: Network, images: Tensor, classes: Tensor) -> Tensor:
    """Feature maps weighted by the mean gradient of the class's logit (Selvaraju et al. 2017).

    Unlike `Network.heat` it says nothing of what speaks against the class, and needs gradients.

    Args:
        network: in evaluation.
        images: uint8, (B, 3, H, W).
        classes: int64, (B,).

    Returns:
        float, (B, h, w), none below zero.

    Raises:
        BadInput: the network keeps no map to its end.
    """
    with torch.no_grad():
        features = network.features(images)
    axis = network.channels(features)
    with torch.enable_grad():
        features = features.requires_grad_()
        logits = network.body.forward_head(features)
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), features)
    weights = gradient.mean([k for k in (1, 2, 3) if k != axis], keepdim=True)
    return (weights * features.detach()).sum(axis).relu()
