"""The half of the LightningModule that scores splits."""

from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import MeanMetric, SumMetric

from dogbreed.data.datamodule import data_of
from dogbreed.data.dataset import Batch
from dogbreed.errors import BadInput
from dogbreed.evaluate.bootstrap import Judged, scores
from dogbreed.model.backbone import Network
from dogbreed.model.metrics import Answered, Gathered, masked_cross_entropy


class ScoringModule(LightningModule):
    """Gathers a network's answers to a split and scores them; counts pictures it could not see.

    Args:
        network: pictures in, logits out.
        label_smoothing: of the loss, in the score `loss` alone.
    """

    def __init__(self, network: Network, label_smoothing: float) -> None:
        super().__init__()
        self.network, self.label_smoothing = network, label_smoothing
        self.gathered, self.val_loss = Gathered(), MeanMetric()
        self.answered: dict[str, Answered] = {}
        """By split, of its last scoring."""
        self.results: dict[str, dict[str, float]] = {}
        self.skipped = SumMetric()
        self.skipped_in_epoch = 0

    def embedding(self, batch: Batch) -> Tensor:
        """What the classifier sees of a batch of pictures or of their features: float, (B, D)."""
        return batch["embedding"] if "embedding" in batch else self.network.embed(batch["image"])

    def on_validation_epoch_start(self) -> None:
        """Begin a new count."""
        self.gathered.reset()
        self.val_loss.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch."""
        labels, valid = batch["label"], batch["valid"]
        embedding = self.embedding(batch)
        logits = self.network.classify(embedding)
        self.gathered.update(logits, embedding, labels, valid, batch["row"])
        loss = masked_cross_entropy(logits, labels, valid, self.label_smoothing)
        self.val_loss.update(loss, int(valid.sum()))
        self.count_skipped(batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Report split `val`."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Report split `test`."""
        self._report("test")

    def _report(self, split: str) -> None:
        self.answered[split] = answered = self.gathered.compute()
        if len(answered.rows) == 0:
            raise BadInput(f"no picture of split {split} could be read: there is nothing to score")
        self.results[split] = scores(Judged.of(answered.logits, answered.labels))
        logged = {f"{split}/{name}": value for name, value in self.results[split].items()}
        logged[f"{split}/loss"] = float(self.val_loss.compute())
        logged.pop(f"{split}/n")
        self.log_of_all({f"{split}/top1": logged.pop(f"{split}/top1")}, prog_bar=True)
        self.log_of_all(logged)

    def log_of_all(self, values: dict[str, float], **options: Any) -> None:
        """Log what is equal in all processes already; without sync_dist Lightning would warn."""
        self.log_dict(values, sync_dist=True, **options)

    def count_skipped(self, batch: Batch) -> None:
        """Name and count the pictures of a batch that could not be read.

        Raises:
            BadInput: they are too many.
        """
        for problem in batch["skipped"]:
            print(f"skipped: {problem}")  # each process sees others
        self.skipped.update(len(batch["skipped"]))
        self.skipped_in_epoch += len(batch["skipped"])
        limit = data_of(self.trainer).max_skipped
        if self.skipped_in_epoch > limit:
            raise BadInput(
                f"{self.skipped_in_epoch} pictures of this epoch could not be read, more than"
                f" --data.max_skipped {limit}; the last: {batch['skipped'][-1]}"
            )

    def skipped_so_far(self) -> int:
        """Pictures that could not be read since the run began; all processes must take part."""
        self.skipped.update(0)  # torchmetrics warns of a metric that never saw a batch
        return int(self.skipped.compute())
