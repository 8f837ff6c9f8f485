"""The LightningModule: one network, trained and scored."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric, SumMetric

from dogbreed.data.datamodule import DogDataModule, data_of
from dogbreed.data.dataset import Batch
from dogbreed.data.features import View
from dogbreed.errors import BadInput
from dogbreed.evaluate.bootstrap import Judged, scores
from dogbreed.evaluate.evaluation import Evaluation
from dogbreed.model.backbone import Network
from dogbreed.model.metrics import Answered, Answers, masked_cross_entropy
from dogbreed.model.optim import learning_rate_scale, parameter_groups
from dogbreed.model.teacher import Teacher, distillation_loss
from dogbreed.model.view import view_of
from dogbreed.model.weights import load_weights

# Metrics in the checkpoint, so that a resumed epoch reports the mean over all of it.
_OF_THE_RUN = ("train_loss", "train_top1", "skipped")


def evaluation_of(answered: Answered, data: DogDataModule, **calibration: Any) -> Evaluation:
    """What is known of the answers to some of the data's pictures; see `Evaluation`."""
    return Evaluation(
        data.ids(answered.rows),
        answered.labels,
        answered.logits,
        answered.embedding,
        data.class_names,
        **calibration,
    )


class DogModule(LightningModule):
    """Fine-tunes a timm backbone.

    Args:
        class_names: the classes, in the order of the logits; from the data.
        backbone: timm's name of the model.
        weights: first weights: `auto` (ImageNet's; random on the embedded sample if the Hub is
            out of reach), `imagenet`, `none`, a .safetensors file or URL in timm's names, or a run.
        freeze: `backbone` trains the classifier alone.
        lr: highest learning rate of the classifier.
        backbone_lr: highest learning rate of the rest, if it starts from weights; none, or
            random weights: that of the classifier.
        weight_decay: of AdamW, on matrices and kernels.
        warmup: share of the run's samples over which the rate rises; a cosine to zero follows.
        label_smoothing: of the training loss.
        teacher: a run or model package, of any backbone, whose answers to the plain training
            pictures this model learns to give as well (Hinton et al. 2015); its classes are
            matched by name. None: labels alone.
        teacher_weight: share of the loss that is the distance to the teacher; the labels have
            the rest.
        teacher_temperature: by which both softmaxes are softened for it.
        drop_rate: dropout before the classifier.
        flip: answer by the mean over a picture and its mirror image, in twice the time; not in
            training.
        channels_last: memory format of the kernels; faster for convolutions nearly everywhere.

    Raises:
        BadInput: timm has no such model.
    """

    class_weights: Tensor

    def __init__(
        self,
        class_names: list[str],
        backbone: str = "mobilenetv3_large_100",
        weights: str = "auto",
        freeze: Literal["none", "backbone"] = "none",
        lr: float = 1e-3,
        backbone_lr: float | None = None,
        weight_decay: float = 0.02,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        teacher: str | None = None,
        teacher_weight: float = 0.5,
        teacher_temperature: float = 2.0,
        drop_rate: float = 0.0,
        flip: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.class_names, self.backbone, self.weights = class_names, backbone, weights
        self.network = Network(
            backbone,
            len(class_names),
            drop_rate=drop_rate,
            frozen=freeze == "backbone",
            flip=flip,
        )
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.lr, self.backbone_lr = lr, lr if backbone_lr is None else backbone_lr
        self.weight_decay, self.warmup, self.label_smoothing = weight_decay, warmup, label_smoothing
        if not (0 <= teacher_weight <= 1 and teacher_temperature > 0):
            raise BadInput(
                f"--model.teacher_weight {teacher_weight}, teacher_temperature"
                f" {teacher_temperature}: a share from 0 to 1, and above 0"
            )
        self.teacher_source = teacher
        self.teacher: Teacher | None = None  # only while training
        self.teacher_weight, self.teacher_temperature = teacher_weight, teacher_temperature
        self.samples_seen = self.validated_at = 0
        self.weights_used = ""
        self.random_weights_allowed = False  # the embedded sample allows them
        # A buffer, to be moved to the device, but the data's: no part of a checkpoint.
        self.register_buffer("class_weights", torch.ones(len(class_names)), persistent=False)
        self.answers = Answers()
        self.answered: dict[str, Answered] = {}
        self.results: dict[str, dict[str, float]] = {}
        self.train_loss, self.train_top1, self.val_loss = MeanMetric(), MeanMetric(), MeanMetric()
        self.skipped = SumMetric()
        for name in _OF_THE_RUN:
            getattr(self, name).persistent(True)
        self.skipped_in_epoch = 0
        self._resumed = False

    def setup(self, stage: str) -> None:
        """Load the first weights, before a fit that does not resume; take the classes' weights."""
        if stage == "fit":
            self.class_weights = data_of(self.trainer).class_weights
            self.load_teacher()
            if not self.trainer.ckpt_path:
                self.load_first_weights()

    def load_first_weights(self) -> None:
        """Load them, unless that is done. Raises BadInput if they cannot be had."""
        if not self.weights_used:
            self.weights_used = load_weights(
                self.network,
                self.backbone,
                self.weights,
                self.class_names,
                random_allowed=self.random_weights_allowed,
            )

    def load_teacher(self) -> None:
        """Load it, if there is one, unless that is done. Raises BadInput if it cannot be had."""
        if self.teacher_source is not None and self.teacher is None:
            self.teacher = Teacher(self.teacher_source, self.class_names)

    def forward(self, images: Tensor) -> Tensor:
        """Logits: float, (B, classes), from uint8, (B, 3, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def embedding(self, batch: Batch) -> Tensor:
        """What the classifier sees of a batch of pictures or of their features: float, (B, D)."""
        return batch["embedding"] if "embedding" in batch else self.network.embed(batch["image"])

    def frozen_view(self) -> View | None:
        """How a frozen backbone sees the data's pictures; None if it is not frozen."""
        data = data_of(self.trainer)
        if not self.network.frozen:
            return None
        return view_of(self.network, self.trainer, size=data.image_size, crop=data.crop)

    # Training

    @property
    def total_samples(self) -> int:
        """Samples of the whole run, which the learning rate is spread over."""
        trainer, data = self.trainer, data_of(self.trainer)
        batch = data.batch_size * trainer.world_size
        limit = trainer.limit_train_batches
        epoch = limit * data.train_size if isinstance(limit, float) else limit * batch
        ends = []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            ends.append(trainer.max_epochs * min(epoch, data.train_size))
        if trainer.max_steps > 0:
            ends.append(trainer.max_steps * batch * trainer.accumulate_grad_batches)
        if not ends:
            raise BadInput("set --trainer.max_epochs or --trainer.max_steps: the rate needs an end")
        return int(min(ends))

    def configure_optimizers(self) -> Any:
        """AdamW with named groups; its rate follows the samples seen."""
        groups = parameter_groups(
            self.network,
            lr=self.lr,
            # A backbone that starts from nothing has nothing to keep.
            backbone_lr=self.lr if self.weights_used.startswith("none") else self.backbone_lr,
            weight_decay=self.weight_decay,
        )
        optimizer = torch.optim.AdamW(groups)
        total = self.total_samples

        def scale(_: int) -> float:
            return learning_rate_scale(self.samples_seen, warmup=self.warmup, total=total)

        schedule = {"scheduler": LambdaLR(optimizer, scale), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Have the teacher look at the training pictures."""
        if self.teacher is not None:
            self.teacher.look(self.trainer)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's means, unless it is resumed in its middle."""
        if not self._resumed or self.samples_seen % data_of(self.trainer).train_size == 0:
            self.train_loss.reset()
            self.train_top1.reset()
        self._resumed, self.skipped_in_epoch = False, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        labels, valid = batch["label"], batch["valid"]
        logits = self.network.classify(self.embedding(batch))
        loss = masked_cross_entropy(logits, labels, valid, self.label_smoothing, self.class_weights)
        if self.teacher is not None:
            taught = distillation_loss(
                logits, self.teacher.logits(batch["row"]), valid, self.teacher_temperature
            )
            loss = loss.lerp(taught, self.teacher_weight)
            self.log("train/distillation_step", taught, batch_size=int(valid.sum()))
        self.samples_seen = batch["samples_seen"]
        n = int(valid.sum())
        share = self._share(n)
        self.train_loss.update(loss.detach(), n)
        self.train_top1.update((logits.detach().argmax(1) == labels)[valid].float())
        self.log("train/loss_step", loss, prog_bar=True, batch_size=n)
        self.log("samples_seen", float(self.samples_seen), batch_size=n)
        self._count_skipped(batch)
        return loss * share

    def _share(self, n: int) -> float:
        """What a loss over `n` rows counts for, when the processes take the mean of theirs.

        At the end of an epoch, or where pictures were skipped, some have fewer rows than others.
        """
        if self.trainer.world_size == 1:
            return 1.0
        total = torch.tensor(n, device=self.device)
        torch.distributed.all_reduce(total)
        return n * self.trainer.world_size / max(int(total), 1)

    def _count_skipped(self, batch: Batch) -> None:
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

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        self._log_of_all({f"train/{name}": v for name, v in self.train_results().items()})

    def train_results(self) -> dict[str, float]:
        """Means over the epoch so far: `loss` (with smoothing and weights, as trained) and `top1`.

        All processes must take part.
        """
        for mean in (self.train_loss, self.train_top1):
            mean.update(0.0, 0.0)  # weighs nothing; torchmetrics warns of one only loaded
        return {"loss": float(self.train_loss.compute()), "top1": float(self.train_top1.compute())}

    def skipped_so_far(self) -> int:
        """Pictures that could not be read since the run began; all processes must take part."""
        self.skipped.update(0)  # torchmetrics warns of a metric that never saw a batch
        return int(self.skipped.compute())

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Begin a new count."""
        self.answers.reset()
        self.val_loss.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch."""
        labels, valid = batch["label"], batch["valid"]
        embedding = self.embedding(batch)
        logits = self.network.classify(embedding)
        self.answers.update(logits, embedding, labels, valid, batch["row"])
        loss = masked_cross_entropy(logits, labels, valid, self.label_smoothing)
        self.val_loss.update(loss, int(valid.sum()))
        self._count_skipped(batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Report split `val`."""
        self._report("val")
        self.validated_at = self.samples_seen

    def on_test_epoch_end(self) -> None:
        """Report split `test`."""
        self._report("test")

    def _report(self, split: str) -> None:
        self.answered[split] = answered = self.answers.compute()
        if len(answered.rows) == 0:
            raise BadInput(f"no picture of split {split} could be read: there is nothing to score")
        self.results[split] = scores(Judged.of(answered.logits, answered.labels))
        logged = {f"{split}/{name}": value for name, value in self.results[split].items()}
        logged[f"{split}/loss"] = float(self.val_loss.compute())
        logged.pop(f"{split}/n")
        self._log_of_all({f"{split}/top1": logged.pop(f"{split}/top1")}, prog_bar=True)
        self._log_of_all(logged)

    def _log_of_all(self, values: dict[str, float], **options: Any) -> None:
        # They are equal in all processes already; without sync_dist Lightning would warn.
        self.log_dict(values, sync_dist=True, **options)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how far the run is, and where its first weights came from."""
        checkpoint["samples_seen"] = self.samples_seen
        checkpoint["validated_at"] = self.validated_at
        checkpoint["weights_used"] = self.weights_used
        checkpoint["data_version"] = data_of(self.trainer).manifest.version
        for name in _OF_THE_RUN:  # what all processes counted, not the first one alone
            metric = getattr(self, name)
            with metric.sync_context():
                checkpoint["state_dict"] |= metric.state_dict(prefix=f"{name}.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from there."""
        self.samples_seen = checkpoint["samples_seen"]
        self.validated_at = checkpoint["validated_at"]
        self.weights_used = checkpoint["weights_used"]
        self._resumed = True
        if self.global_rank > 0:  # the first one takes what all had counted
            state = checkpoint["state_dict"]
            for key in state:
                if key.split(".")[0] in _OF_THE_RUN:
                    state[key] = torch.zeros_like(state[key])
