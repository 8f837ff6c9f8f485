"""The datamodule's answers to breeds with unequal numbers of training pictures."""

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.data.datamodule import DogDataModule
from dogbreed.data.manifest import Manifest
from dogbreed.runs import Run
from tests.test_training import fit_words, history

PATH = __name__


class NoteBias(Callback):
    """Writes down the gradient of the head's bias in the first step."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # type: ignore[no-untyped-def]
        if not Path(self.file).exists():
            shape = (len(pl_module.class_names),)
            (bias,) = (p.grad for p in pl_module.network.parameters() if p.shape == shape)
            torch.save(bias.clone(), self.file)


def train_labels(root: str) -> np.ndarray:
    data = Manifest.open(root)
    return data.column("label")[data.rows_of("train")]


class TestClassWeights:
    def test_all_breeds_weigh_the_same_and_a_picture_one_in_the_mean(
        self, tiny_dataset: str
    ) -> None:
        labels = train_labels(tiny_dataset)
        counts = np.bincount(labels)
        assert len(set(counts.tolist())) > 1
        weights = DogDataModule(tiny_dataset, balance="weights").class_weights.numpy()
        assert weights.dtype == np.float32
        assert weights[labels].mean() == pytest.approx(1)
        assert weights * counts == pytest.approx(len(labels) / 4)

    def test_they_stand_in_the_models_order_and_are_zero_without_pictures(
        self, tiny_dataset: str
    ) -> None:
        own = Manifest.open(tiny_dataset).classes
        classes = ["before", *reversed(own), "after"]
        weights = DogDataModule(tiny_dataset, classes, balance="weights").class_weights.tolist()
        among_own = DogDataModule(tiny_dataset, balance="weights").class_weights.tolist()
        assert weights == [0, *reversed(among_own), 0]

    @pytest.mark.parametrize("balance", ["none", "sampler"])
    def test_otherwise_they_are_ones(self, tiny_dataset: str, balance: str) -> None:
        data = DogDataModule(tiny_dataset, balance=balance)  # type: ignore[arg-type]
        assert data.class_weights.tolist() == [1, 1, 1, 1]


def test_evaluation_has_a_size_of_its_own(tiny_dataset: str) -> None:
    data = DogDataModule(tiny_dataset, image_size=32, eval_size=48, batch_size=4, workers=0)
    data.setup("fit")
    module = SimpleNamespace(samples_seen=0, frozen_view=lambda: None)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, lightning_module=module)  # type: ignore[assignment]
    loaders = data.train_dataloader(), data.val_dataloader()
    shapes = [next(iter(loader))["image"].shape for loader in loaders]
    assert shapes == [(4, 3, 32, 32), (4, 3, 48, 48)]


@pytest.mark.parametrize("balance", ["none", "weights", "sampler"])
def test_an_epoch_keeps_its_length_and_a_run_says_how_it_is_balanced(
    tiny_dataset: str, balance: str
) -> None:
    data = DogDataModule(tiny_dataset, balance=balance)  # type: ignore[arg-type]
    assert data.train_size == len(train_labels(tiny_dataset))
    assert data.about()["balance"] == balance


def unequal(data: str, tmp_path: Path) -> str:
    """A data set of the same pictures, a third as many for training of every other breed."""
    folder, manifest = tmp_path / "pictures", Manifest.open(data)
    for number, row in enumerate(manifest.take(range(len(manifest)))):  # 12 of each breed
        split = "train" if number % 12 < 9 else "val"
        if split == "val" or row["label"] % 2 or number % 3 == 0:
            breed = folder / split / manifest.classes[row["label"]]
            breed.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{data}/{row['uri']}", breed)
    out = str(tmp_path / "unequal")
    prepare.prepare("folder", out, str(folder))
    return out


class TestTraining:
    def test_weights_count_in_the_loss_of_training_alone(
        self, tiny_dataset: str, tmp_path: Path
    ) -> None:
        data, rows = unequal(tiny_dataset, tmp_path), {}
        for balance in ("none", "weights"):
            words = fit_words(data, str(tmp_path), balance, "--data.balance", balance)
            assert main([*words, "--model.lr", "0", "--model.weight_decay", "0"]) == 0
            rows[balance] = history(Run(f"{tmp_path}/{balance}"))[0]
            assert Run(f"{tmp_path}/{balance}").read()["data"]["balance"] == balance
        for column in ("train/top1", "val/loss", "val/log_loss", "val/macro_f1"):
            assert float(rows["weights"][column]) == pytest.approx(float(rows["none"][column]))
        # The head starts at zeros: each picture's loss is the same, and so is the weighted mean.
        for row in rows.values():
            assert float(row["train/loss"]) == pytest.approx(math.log(4), rel=1e-4)

    def test_with_weights_the_head_first_learns_nothing_of_how_frequent_a_breed_is(
        self, tiny_dataset: str, tmp_path: Path
    ) -> None:
        data, biases = unequal(tiny_dataset, tmp_path), {}
        for balance in ("none", "weights"):
            words = fit_words(data, str(tmp_path), balance, "--data.balance", balance)
            words += ["--data.batch_size", "64", "--model.label_smoothing", "0"]
            words += ["--trainer.max_epochs", "1", "--trainer.callbacks+", f"{PATH}.NoteBias"]
            words += [f"--trainer.callbacks.file={tmp_path}/{balance}.pt"]
            assert main(words) == 0
            biases[balance] = torch.load(tmp_path / f"{balance}.pt", weights_only=True)
        assert biases["none"].abs().max() > 0.05
        assert biases["weights"].abs().max() < 1e-6

    def test_a_resumed_balanced_run_ends_as_one_that_never_stopped(
        self, tiny_dataset: str, tmp_path: Path
    ) -> None:
        data = unequal(tiny_dataset, tmp_path)
        words = ["--data.balance", "sampler", "--data.batch_size", "4"]
        words += ["--trainer.max_epochs", "3"]
        assert main(fit_words(data, str(tmp_path), "whole", *words)) == 0
        stopped = fit_words(data, str(tmp_path), "stopped", *words)
        stopped += ["--checkpoints.every_n_train_steps", "1"]
        fault = ["--trainer.callbacks+=tests.test_training.FailAt"]
        with pytest.raises(RuntimeError, match="the fault"):
            main([*stopped, *fault, "--trainer.callbacks.samples=32"])
        without_fault = ["--trainer.callbacks", "null"]
        assert main([*stopped, "--resume", "last", *without_fault]) == 0
        whole, resumed = (history(Run(f"{tmp_path}/{name}")) for name in ("whole", "stopped"))
        assert whole == resumed
