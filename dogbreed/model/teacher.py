"""Distillation: a finished model teaches another (Hinton, Vinyals & Dean 2015)."""

from collections.abc import Sequence

import torch
from lightning.pytorch import Trainer
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from dogbreed import package, storage
from dogbreed.data.datamodule import data_of
from dogbreed.data.extraction import Features
from dogbreed.errors import BadInput, nearest
from dogbreed.model.backbone import Network
from dogbreed.model.view import view_of


class Teacher:
    """A model package's answers to the training pictures, as evaluation sees them.

    Its features come out of the cache that frozen backbones use, so each picture passes it once for
    all runs. Classes are matched by name; a class that the student does not have is left out.

    Args:
        source: a run, or a model package's folder.
        class_names: the student's classes.

    Raises:
        BadInput: no package there, or one that does not know all classes.
    """

    def __init__(self, source: str, class_names: Sequence[str]) -> None:
        url = storage.normal(source)
        inner = storage.join(url, package.FOLDER)
        if storage.exists(storage.join(inner, package.MODEL_FILE)):
            url = inner
        try:
            self.package = package.read(url)
        except BadInput as error:
            raise BadInput(f"--model.teacher {source}: {error}") from None
        names = self.package.class_names
        unknown = [name for name in class_names if name not in names]
        if unknown:
            raise BadInput(
                f"--model.teacher {source}: {len(unknown)} of the classes are unknown to it:"
                f" {unknown[0]!r}{nearest(unknown[0], names)}; classes are matched by name"
            )
        about = self.package.model
        self.used = f"{source}: {about['backbone']} ({about['pretraining']})"
        network = Network(about["backbone"], len(names))
        network.body.load_state_dict(load_safetensors(self.package.weights()))
        self._network: Network | None = network.eval().requires_grad_(False)
        head = network.head
        assert isinstance(head, nn.Linear)
        columns = torch.tensor([names.index(name) for name in class_names])
        self._weight = head.weight[columns] / self.package.calibration.temperature
        self._bias = head.bias[columns] / self.package.calibration.temperature
        self._features: Features | None = None

    def look(self, trainer: Trainer) -> None:
        """Have the features of split `train` at hand; all processes must take part."""
        if self._network is None:
            return
        seen = self.package.model["preprocessing"]
        network = self._network.to(memory_format=torch.channels_last)
        network.to(trainer.strategy.root_device)
        view = view_of(network, trainer, size=seen["size"], crop=seen["crop"])
        self._features = data_of(trainer).features_of("train", view)
        self._network = None  # its memory is the student's

    def logits(self, rows: Tensor) -> Tensor:
        """Calibrated logits of the student's classes: float32, (B, classes), on the rows' device.

        Args:
            rows: training rows of the manifest, int64, (B,).
        """
        assert self._features is not None
        embedding = torch.from_numpy(self._features.take(rows.cpu().numpy()))
        return F.linear(embedding, self._weight, self._bias).to(rows.device)


def distillation_loss(logits: Tensor, teacher: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Mean of T^2 KL(teacher || student) over the valid rows, in nats; zero if there are none.

    Both are softened by the temperature T; its square keeps the gradients at one size whatever T
    is (Hinton et al. 2015, section 2).

    Args:
        logits: the student's, float, (B, classes).
        teacher: the teacher's, likewise.
        valid: bool, (B,).
        temperature: T.
    """
    ours = F.log_softmax(logits.float() / temperature, 1)
    theirs = F.log_softmax(teacher.float() / temperature, 1)
    apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1) * temperature**2
    return (apart * valid).sum() / valid.sum().clamp(min=1)
