"""A table of the same validation pictures after each epoch: one sees the model learn."""

from typing import Any

import numpy as np
import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer

from dogbreed import breeds
from dogbreed.data.datamodule import DogDataModule, data_of
from dogbreed.errors import BadInput
from dogbreed.evaluate.explain import overlay
from dogbreed.model.module import DogModule
from dogbreed.tracking import wandb_runs

SHOWN = 16
COLUMNS = ("epoch", "samples_seen", "picture", "heat", "true", "predicted", "probability")


class WandbPictures(Callback):
    """Logs `val/pictures`: each with its heat, breed, likeliest breed and that one's probability.

    The probability is the network's own: a temperature is only known when the fit ends. It must
    stand before a moving average, which takes the weights back when a validation ends.
    """

    def __init__(self) -> None:
        self._pictures: tuple[np.ndarray, np.ndarray] | None = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the network as it was just scored."""
        assert isinstance(pl_module, DogModule)
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for run in wandb_runs(trainer):
            data = data_of(trainer)
            self._pictures = self._pictures or some_pictures(data)
            images, labels = self._pictures
            shares, heat = look(pl_module, images)
            names = [breeds.title(name) for name in data.class_names]
            table = wandb.Table(list(COLUMNS))
            for k, picture in enumerate(images):
                best = int(shares[k].argmax())
                seen = None if heat is None else wandb.Image(overlay(picture, heat[k]))
                what = (wandb.Image(picture), seen, names[labels[k]], names[best])
                place = (trainer.current_epoch, pl_module.samples_seen)
                table.add_data(*place, *what, float(shares[k, best]))
            run.log({"val/pictures": table, "samples_seen": pl_module.samples_seen})


def some_pictures(data: DogDataModule) -> tuple[np.ndarray, np.ndarray]:
    """Validation pictures of as many breeds as there is room for, the same each time.

    Returns:
        uint8, (n, S, S, 3), as the network sees them, and int64, (n,), their classes.
    """
    rows = data.manifest.rows_of("val")
    labels = data.manifest.column("label")[rows]
    first = np.sort(np.unique(labels, return_index=True)[1])  # of each breed
    rest = np.setdiff1d(np.arange(len(rows)), first)
    few = np.linspace(0, len(first) - 1, min(SHOWN, len(first))).astype(int)
    chosen = np.concatenate([first[few], rest])[:SHOWN]
    batch = data.look(rows[np.sort(chosen)])
    valid = batch["valid"].numpy()
    images = batch["image"].permute(0, 2, 3, 1).numpy()
    return images[valid], batch["label"].numpy()[valid]


def look(module: DogModule, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities: float, (n, classes), and heat, float, (n, h, w), if the network has any."""
    with torch.inference_mode():
        batch: Any = torch.from_numpy(images).permute(0, 3, 1, 2).to(module.device)
        logits, _, features = module.network.answers(batch)
        try:
            heat = module.network.heat(features, logits.argmax(1)).float().cpu().numpy()
        except BadInput:
            heat = None
        return logits.float().softmax(1).cpu().numpy(), heat
