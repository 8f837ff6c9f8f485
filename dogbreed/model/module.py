"""The LightningModule: one network, trained and scored."""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from dogbreed.data.datamodule import data_of
from dogbreed.data.dataset import Batch
from dogbreed.data.features import View
from dogbreed.errors import BadInput
from dogbreed.model.backbone import Network
from dogbreed.model.metrics import masked_cross_entropy
from dogbreed.model.mixing import Mixing
from dogbreed.model.schedule import Schedule, let_learn, samples_of
from dogbreed.model.scoring import ScoringModule
from dogbreed.model.teacher import Teacher, distillation_loss
from dogbreed.model.view import view_of
from dogbreed.model.weights import has_learnt, load_weights

# Metrics in the checkpoint, so that a resumed epoch reports the mean over all of it.
OF_THE_RUN = ("train_loss", "train_top1", "skipped")


class DogModule(ScoringModule):
    """Fine-tunes a timm backbone.

    Args:
        class_names: the classes, in the order of the logits; from the data.
        backbone: timm's name of the model.
        weights: first weights: `auto` (ImageNet's; random on the embedded sample if the Hub is
            out of reach), `imagenet`, `none`, a .safetensors file or URL in timm's names, or a run.
        head: what the classifier starts from, for weights of other classes: `new`, from nothing;
            `known`, each breed that they know by name from its row of their classifier; `auto`,
            so if there is such a breed.
        freeze: `backbone` trains the classifier alone.
        unfreeze: share of the run at which each part below the classifier begins to learn, from
            the top down; the parts below the last one named never do. None, or random weights:
            all from the start.
        batch_norm: `train` normalises by each batch and learns statistics, `eval` by the
            statistics of the first weights, which is also faster; `auto` is `eval` for all first
            weights but random ones, since small batches of few breeds tell less than they do.
        lr: highest learning rate of what starts from nothing: a new classifier, or all.
        backbone_lr: highest learning rate of what starts from weights: the rest, and a classifier
            that knows all breeds already; none: `lr`.
        layer_decay: factor on the rate from each part of the backbone to the one below it.
        weight_decay: of AdamW, on matrices and kernels.
        warmup: share of the run's samples over which the rate rises; a cosine to zero follows.
        label_smoothing: of the training loss.
        teacher: a run or model package, of any backbone, whose answers to the plain training
            pictures this model learns to give as well (Hinton et al. 2015); its classes are
            matched by name. None: labels alone.
        teacher_weight: share of the loss that is the distance to the teacher; the labels have
            the rest.
        teacher_temperature: by which both softmaxes are softened for it.
        mixup: draws how much of another picture each picture of a batch is blended with from
            Beta(mixup, mixup); 0 is off.
        cutmix: likewise of the area that is pasted over; with both on, batches take turns at
            random.
        drop_rate: dropout before the classifier.
        flip: answer by the mean over a picture and its mirror image, in twice the time; not in
            training.
        channels_last: memory format of the kernels; faster for convolutions nearly everywhere.
        compile: `torch.compile` the training step's network; takes a minute or more at first.

    Raises:
        BadInput: timm has no such model; an option is out of range.
    """

    class_weights: Tensor

    def __init__(
        self,
        class_names: list[str],
        backbone: str = "mobilenetv3_large_100",
        weights: str = "auto",
        head: Literal["new", "known", "auto"] = "new",
        freeze: Literal["none", "backbone"] = "none",
        unfreeze: list[float] | None = None,
        batch_norm: Literal["auto", "train", "eval"] = "auto",
        lr: float = 1e-3,
        backbone_lr: float | None = None,
        layer_decay: float = 1.0,
        weight_decay: float = 0.02,
        warmup: float = 0.1,
        label_smoothing: float = 0.1,
        teacher: str | None = None,
        teacher_weight: float = 0.5,
        teacher_temperature: float = 2.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        drop_rate: float = 0.0,
        flip: bool = False,
        channels_last: bool = True,
        compile: bool = False,
    ) -> None:
        frozen = freeze == "backbone"
        if frozen and unfreeze is not None:
            raise BadInput("--model.unfreeze: with --model.freeze backbone nothing ever unfreezes")
        if frozen and (mixup or cutmix):
            raise BadInput("--model.mixup, cutmix: with --model.freeze backbone features are kept")
        network = Network(backbone, len(class_names), drop_rate=drop_rate, frozen=frozen, flip=flip)
        super().__init__(network, label_smoothing)
        self.class_names, self.backbone = class_names, backbone
        self.weights, self.head = weights, head
        below = lr if backbone_lr is None else backbone_lr
        self.schedule = Schedule(lr, below, layer_decay, weight_decay, warmup, unfreeze)
        self.batch_norm, self.mixing = batch_norm, Mixing(mixup, cutmix)
        self.compile_network = compile
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if not (0 <= teacher_weight <= 1 and teacher_temperature > 0):
            raise BadInput(
                f"--model.teacher_weight {teacher_weight}, teacher_temperature"
                f" {teacher_temperature}: a share from 0 to 1, and above 0"
            )
        self.teacher_source = teacher
        self.teacher: Teacher | None = None  # only while training
        self.teacher_weight, self.teacher_temperature = teacher_weight, teacher_temperature
        self.samples_seen = self.validated_at = self.total_samples = 0
        self.weights_used = ""
        self.random_weights_allowed = False  # the embedded sample allows them
        # A buffer, to be moved to the device, but the data's: no part of a checkpoint.
        self.register_buffer("class_weights", torch.ones(len(class_names)), persistent=False)
        self.train_loss, self.train_top1 = MeanMetric(), MeanMetric()
        for name in OF_THE_RUN:
            getattr(self, name).persistent(True)
        self._resumed = False

    def setup(self, stage: str) -> None:
        """Take first and classes' weights, before a fit; be quick, before anything else."""
        if stage == "fit":
            self.class_weights = data_of(self.trainer).class_weights
            self.load_teacher()
            if not self.trainer.ckpt_path:
                self.load_first_weights()
            self.schedule.after(self.weights_used).freeze(self.network)
        elif not self.network.frozen:
            self.network.fold()

    def load_first_weights(self) -> None:
        """Load them, unless that is done. Raises BadInput if they cannot be had."""
        if not self.weights_used:
            self.weights_used = load_weights(
                self.network,
                self.backbone,
                self.weights,
                self.class_names,
                head=self.head,
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

    def logits(self, batch: Batch) -> Tensor:
        """Logits of a batch of pictures or of their features: float, (B, classes)."""
        if "embedding" in batch:
            return self.network.classify(batch["embedding"])
        logits: Tensor = self(batch["image"])  # called as a module, for that is what compiles
        return logits

    def frozen_view(self) -> View | None:
        """How a frozen backbone sees the data's pictures; None if it is not frozen."""
        data = data_of(self.trainer)
        if not self.network.frozen:
            return None
        return view_of(self.network, self.trainer, size=data.image_size, crop=data.crop)

    # Training

    def configure_optimizers(self) -> Any:
        """AdamW with named groups; its rates follow the samples seen."""
        self.total_samples = samples_of(self.trainer)
        schedule = self.schedule.after(self.weights_used)
        return schedule.optimizer(self.network, lambda: self.samples_seen, self.total_samples)

    def on_fit_start(self) -> None:
        """Keep BatchNorm's statistics, if worth it; have the teacher look at the pictures."""
        backbone_learnt, _ = has_learnt(self.weights_used)
        if self.batch_norm == "eval" or (self.batch_norm == "auto" and backbone_learnt):
            self.network.keep_statistics()
        if self.compile_network:
            self.network.compile()
        if self.teacher is not None:
            self.teacher.look(self.trainer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Spare the backward pass of parts whose turn has not come; their rate is zero anyway."""
        share, optimizer = self.samples_seen / self.total_samples, self.trainer.optimizers[0]
        # DDP wants to know beforehand what gets gradients.
        if self.trainer.world_size == 1 and let_learn(optimizer, share):
            self.network.train()  # BatchNorm of what does not learn stays still

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's means, unless it is resumed in its middle."""
        if not self._resumed or self.samples_seen % data_of(self.trainer).train_size == 0:
            self.train_loss.reset()
            self.train_top1.reset()
        self._resumed, self.skipped_in_epoch = False, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        labels, valid = batch["label"], batch["valid"]
        own, partner = 1.0, labels
        if self.mixing.on:
            # As a function of the place in the run, so that a resumed one mixes alike.
            place = (data_of(self.trainer).seed, batch["samples_seen"], self.global_rank)
            batch["image"], partner, own = self.mixing(batch["image"], valid, place)
        logits = self.logits(batch)
        loss = self._loss(logits, labels, batch["row"], valid)
        if own < 1:
            other = self._loss(logits, labels[partner], batch["row"][partner], valid)
            loss = own * loss + (1 - own) * other
        self.samples_seen = batch["samples_seen"]
        n = int(valid.sum())
        self.train_loss.update(loss.detach(), n)
        right = (logits.detach().argmax(1) == labels)[valid].float()
        self.train_top1.update(right)
        self.log("train/loss_step", loss, prog_bar=True, batch_size=n)
        self.log("train/top1_step", right.sum() / max(n, 1), batch_size=n)
        self.log("samples_seen", float(self.samples_seen), batch_size=n)
        self.count_skipped(batch)
        return loss * self._share(n)

    def _loss(self, logits: Tensor, labels: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Distance to the labels, and to what a teacher says of the pictures in these rows."""
        loss = masked_cross_entropy(logits, labels, valid, self.label_smoothing, self.class_weights)
        if self.teacher is None:
            return loss
        told = self.teacher.logits(rows)
        taught = distillation_loss(logits, told, valid, self.teacher_temperature)
        self.log("train/distillation_step", taught, batch_size=int(valid.sum()))
        return loss.lerp(taught, self.teacher_weight)

    def _share(self, n: int) -> float:
        """What a loss over `n` rows counts for, when the processes take the mean of theirs.

        At the end of an epoch, or where pictures were skipped, some have fewer rows than others.
        """
        if self.trainer.world_size == 1:
            return 1.0
        total = torch.tensor(n, device=self.device)
        torch.distributed.all_reduce(total)
        return n * self.trainer.world_size / max(int(total), 1)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means."""
        self.log_of_all({f"train/{name}": v for name, v in self.train_results().items()})

    def train_results(self) -> dict[str, float]:
        """Means over the epoch so far: `loss` (with smoothing and weights, as trained) and `top1`.

        All processes must take part.
        """
        for mean in (self.train_loss, self.train_top1):
            mean.update(0.0, 0.0)  # weighs nothing; torchmetrics warns of one only loaded
        return {"loss": float(self.train_loss.compute()), "top1": float(self.train_top1.compute())}

    def on_validation_epoch_end(self) -> None:
        """Report split `val`."""
        super().on_validation_epoch_end()
        self.validated_at = self.samples_seen

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how far the run is, and where its first weights came from."""
        checkpoint["samples_seen"] = self.samples_seen
        checkpoint["validated_at"] = self.validated_at
        checkpoint["weights_used"] = self.weights_used
        checkpoint["data_version"] = data_of(self.trainer).manifest.version
        for name in OF_THE_RUN:  # what all processes counted, not the first one alone
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
                if key.split(".")[0] in OF_THE_RUN:
                    state[key] = torch.zeros_like(state[key])
