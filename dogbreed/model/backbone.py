"""The network: normalisation, a timm body and its head in one module."""

import dataclasses
import hashlib
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from dogbreed.errors import BadInput, nearest
from dogbreed.model.batch_norm import batch_norms, fold


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """What a backbone's weights expect of pictures, from timm's data config.

    Args:
        size: side of the square input in pixels.
        crop: side of the centred crop over the picture's shorter side.
        mean: of each channel, for pixels from 0 to 1.
        std: likewise.
        fixed: whether no other size will do, as for most transformers.
    """

    size: int
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fixed: bool


def preprocessing(backbone: str) -> Preprocessing:
    """Timm's data config of a backbone.

    Raises:
        BadInput: timm has no such model; names the nearest.
    """
    if not timm.is_model(backbone):
        name = backbone.split(".", maxsplit=1)[0]
        raise BadInput(f"timm has no model {backbone!r}{nearest(name, timm.list_models())}")
    known = timm.get_pretrained_cfg(backbone)
    config = timm.data.resolve_data_config(pretrained_cfg=known.to_dict(), verbose=False)
    return Preprocessing(
        size=config["input_size"][-1],
        crop=config["crop_pct"],
        mean=config["mean"],
        std=config["std"],
        fixed=bool(known.fixed_input_size),
    )


class Outputs(NamedTuple):
    """What the network says of B pictures."""

    logits: Tensor
    """float, (B, classes)."""
    embedding: Tensor
    """float, (B, D): features before the classifier; logits are linear in them."""
    features: Tensor
    """float: the last feature map, (B, C, h, w) in most networks; see `Network.heat`."""


class Network(nn.Module):
    """uint8 pictures in, logits out.

    Args:
        backbone: timm's name of the model.
        classes: number of classes.
        drop_rate: dropout before the classifier.
        frozen: keep all but the classifier as they are, BatchNorm's statistics included.
        flip: in evaluation, take the mean of a picture's and its mirror image's embedding.

    Raises:
        BadInput: timm has no such model, or one that does not end in a single linear layer.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        classes: int,
        *,
        drop_rate: float = 0.0,
        frozen: bool = False,
        flip: bool = False,
    ) -> None:
        super().__init__()
        expects = preprocessing(backbone)
        self.body = timm.create_model(backbone, pretrained=False, num_classes=classes)
        aided = getattr(self.body, "aux_head", None) is not None
        if aided or not isinstance(self.body.get_classifier(), nn.Linear):
            raise BadInput(f"{backbone}: only models that end in one linear layer can be used")
        # timm's start grows as 1 / sqrt(classes): for a handful of breeds the first losses are
        # several times chance, and a short run never makes up for it.
        nn.init.zeros_(self.body.get_classifier().weight)
        nn.init.zeros_(self.body.get_classifier().bias)
        self.head_name = next(k for k, part in self.body.named_modules() if part is self.head)
        """The classifier's name within `body`."""
        self.drop = nn.Dropout(drop_rate)
        self.name, self.frozen, self.flip = backbone, frozen, flip
        self.still = self.folded = False
        for name, value in (("mean", expects.mean), ("std", expects.std)):
            self.register_buffer(name, 255 * torch.tensor(value).view(3, 1, 1), persistent=False)
        if frozen:
            self.body.requires_grad_(False)
            self.head.requires_grad_(True)
            self.train()  # Lightning keeps the modes that it finds, and calls train() never

    @property
    def head(self) -> nn.Linear:
        """The classifier: the only part that training from other weights starts anew."""
        head: nn.Linear = self.body.get_classifier()
        return head

    def train(self, mode: bool = True) -> "Network":
        """As usual, but a frozen body stays in evaluation, and a BatchNorm that is to be still."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        for norm in batch_norms(self.body):
            if self.still or (norm.affine and not norm.weight.requires_grad):
                norm.eval()
        return self

    def keep_statistics(self) -> None:
        """Train with BatchNorm's statistics as they are, in evaluation mode."""
        if not self.frozen:
            self.fold()
        self.still = True
        self.train(self.training)

    def fold(self) -> None:
        """Have convolutions do the work of each BatchNorm that is in evaluation: the same, faster.

        Once the network has its memory format and device; see `batch_norm.fold`.
        """
        if not self.folded:
            fold(self.body)
            self.folded = True

    def features(self, images: Tensor) -> Tensor:
        """The last feature map.

        Args:
            images: uint8, (B, 3, H, W).

        Returns:
            float, (B, C, h, w) in most networks; transformers have other shapes.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features: Tensor = self.body.forward_features((images.float() - self.mean) / self.std)
        return features

    def pool(self, features: Tensor) -> Tensor:
        """What the classifier sees of a feature map: float, (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            embedding: Tensor = self.body.forward_head(features, pre_logits=True)
        return embedding

    def embed(self, images: Tensor) -> Tensor:
        """Features before the classifier: float, (B, D), from uint8, (B, 3, H, W)."""
        return self._embed(images, self.features(images))

    def _embed(self, images: Tensor, features: Tensor) -> Tensor:
        embedding = self.pool(features)
        if self.flip and not self.training:
            embedding = (embedding + self.pool(self.features(images.flip(3)))) / 2
        return embedding

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits: float, (B, classes), from an embedding, float, (B, D)."""
        logits: Tensor = self.head(self.drop(embedding))
        return logits

    def digest(self) -> str:
        """SHA-256, in hex, of all that an embedding comes from: the weights but for the head."""
        digest = hashlib.sha256(self.name.encode())
        state = {**self.body.state_dict(), "mean": self.mean, "std": self.std}
        head = f"{self.head_name}."
        for name in sorted(state):
            if not name.startswith(head):
                tensor = state[name].detach().cpu().contiguous()
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def forward(self, images: Tensor) -> Tensor:
        """Logits: float, (B, classes), from uint8, (B, 3, H, W)."""
        return self.classify(self.embed(images))

    def answers(self, images: Tensor) -> Outputs:
        """Logits and what they come from, for uint8 images, (B, 3, H, W)."""
        features = self.features(images)
        embedding = self._embed(images, features)
        return Outputs(self.classify(embedding), embedding, features)

    def heat(self, features: Tensor, classes: Tensor) -> Tensor:
        """A class's logit at each place of the last feature map: the head applied to it alone.

        A class activation map (Zhou et al. 2016) of networks that end in pooling, layers that see
        one place at a time, and the classifier; it takes no gradients. Where the pooling is
        followed by the classifier alone, its mean is the logit.

        Args:
            features: of `Outputs`, B pictures.
            classes: int64, (B,).

        Returns:
            float, (B, h, w).

        Raises:
            BadInput: the network keeps no map to its end, as transformers.
        """
        axis = self.channels(features)
        places = features.movedim(axis, 3)
        b, h, w, c = places.shape
        embedding = self.pool(places.reshape(b * h * w, 1, 1, c).movedim(3, axis))
        weights, bias = self.head.weight[classes].unsqueeze(2), self.head.bias[classes]
        logits: Tensor = embedding.view(b, h * w, -1) @ weights + bias.view(b, 1, 1)
        return logits.view(b, h, w)

    def channels(self, features: Tensor) -> int:
        """Which axis of a feature map, (B, C, h, w) or (B, h, w, C), its channels are.

        Raises:
            BadInput: it is no map.
        """
        for axis in (1, 3):
            if features.ndim == 4 and features.shape[axis] == self.body.num_features:
                return axis
        raise BadInput("this backbone ends without a feature map: there is no heat to show")
