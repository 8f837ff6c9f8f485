"""The module in training: its rate, its loss, and the pictures that it could not see."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dogbreed.cli import main
from dogbreed.data.manifest import Manifest
from dogbreed.model.backbone import Network
from dogbreed.model.schedule import learning_rate_scale
from dogbreed.runs import Run
from tests.test_training import fit_words, history

PATH = __name__


class NoteRates(Callback):
    """Writes down what each step's rates were, and how many samples had been seen before it."""

    def __init__(self, file: str) -> None:
        self.file, self.lines = file, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # type: ignore[no-untyped-def]
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        self.lines.append({"seen": pl_module.samples_seen, **rates})

    def on_fit_end(self, trainer, pl_module):  # type: ignore[no-untyped-def]
        torch.save(self.lines, self.file)


class Pad(Callback):
    """Declares every other training picture padding, under a label that says nothing."""

    def __init__(self, label: int) -> None:
        self.label = label

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # type: ignore[no-untyped-def]
        batch["valid"][::2] = False
        batch["label"][::2] = self.label


def train_rows(data: str) -> int:
    return len(Manifest.open(data).rows_of("train"))


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    """Words that start the backbone from a file."""
    save_file(Network("test_efficientnet", 4).body.state_dict(), tmp_path / "own.safetensors")
    return ["--model.weights", f"{tmp_path}/own.safetensors"]


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_each_step_is_taken_at_the_rate_of_the_samples_seen_before_it(
    accumulate: str, tiny_dataset: str, tmp_path: Path, weights: list[str]
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--data.batch_size", "4", *weights)
    words += ["--model.lr", "0.01", "--model.backbone_lr", "0.002", "--model.warmup", "0.3"]
    words += [f"--trainer.callbacks+={PATH}.NoteRates"]
    words += [f"--trainer.callbacks.file={tmp_path}/rates.pt"]
    assert main([*words, "--trainer.accumulate_grad_batches", accumulate]) == 0
    steps = torch.load(tmp_path / "rates.pt", weights_only=True)
    total = 2 * train_rows(tiny_dataset)
    before = [0, *(step["seen"] for step in steps[:-1])]
    assert steps[-1]["seen"] == total
    assert len(steps) >= 6
    for seen, step in zip(before, steps, strict=True):
        scale = learning_rate_scale(seen, warmup=0.3, total=total)
        for group in ("head", "head_no_decay"):
            assert step[group] == pytest.approx(0.01 * scale)
        for group in ("backbone", "backbone_no_decay"):
            assert step[group] == pytest.approx(0.002 * scale)


def test_a_backbone_of_random_weights_learns_at_the_heads_rate(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.backbone_lr", "1e-4")
    assert main(words) == 0
    for row in history(Run(f"{tmp_path}/run")):
        assert row["lr/backbone"] == row["lr/head"]


def test_the_rates_of_all_groups_are_in_the_history(
    tiny_dataset: str, tmp_path: Path, weights: list[str]
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.backbone_lr", "1e-4", *weights)
    assert main([*words, "--trainer.max_epochs", "3"]) == 0
    rows, size = history(Run(f"{tmp_path}/run")), train_rows(tiny_dataset)
    for row in rows:
        scale = learning_rate_scale(int(row["samples_seen"]), warmup=0.1, total=3 * size)
        for group, rate in (("backbone", 1e-4), ("head", 1e-3)):
            logged = float(row[f"lr/{group}"])
            assert logged == pytest.approx(rate * scale, rel=1e-3, abs=1e-12)
    assert float(rows[-1]["lr/head"]) == 0


def test_a_run_by_steps_spreads_the_rate_over_them(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--data.batch_size", "4")
    words += [f"--trainer.callbacks+={PATH}.NoteRates"]
    words += [f"--trainer.callbacks.file={tmp_path}/rates.pt"]
    assert main([*words, "--trainer.max_epochs", "-1", "--trainer.max_steps", "7"]) == 0
    steps = torch.load(tmp_path / "rates.pt", weights_only=True)
    assert len(steps) == 7
    before = [0, *(step["seen"] for step in steps[:-1])]
    assert [step["head"] for step in steps] == pytest.approx(
        [1e-3 * learning_rate_scale(seen, warmup=0.1, total=28) for seen in before]
    )


def test_labels_of_padding_neither_teach_nor_count(tiny_dataset: str, tmp_path: Path) -> None:
    rows = {}
    for label in (None, 0, 3):
        words = fit_words(tiny_dataset, str(tmp_path), f"run{label}")
        if label is not None:
            words += [f"--trainer.callbacks+={PATH}.Pad", f"--trainer.callbacks.label={label}"]
        assert main(words) == 0
        rows[label] = history(Run(f"{tmp_path}/run{label}"))
    assert rows[0] == rows[3]
    for column in ("train/loss", "train/top1", "val/log_loss"):
        assert rows[0][-1][column] != rows[None][-1][column]


def damaged(data: str, tmp_path: Path, split: str, number: int) -> tuple[str, list[str]]:
    """Copy a data set and spoil some pictures of a split; its place and their ids."""
    copy = tmp_path / "damaged"
    shutil.copytree(data, copy)
    manifest = Manifest.open(str(copy))
    names = [row["id"] for row in manifest.take(manifest.rows_of(split)[:number])]
    for name in names:
        (copy / "pictures" / name).write_bytes(b"spoilt")
    return str(copy), names


class TestSkipped:
    @pytest.mark.parametrize(("split", "number"), [("train", 3), ("val", 2)])
    def test_they_are_named_counted_and_left_out(
        self,
        split: str,
        number: int,
        tiny_dataset: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        data, names = damaged(tiny_dataset, tmp_path, split, number)
        words = fit_words(data, str(tmp_path), "run", "--data.on_bad_image", "skip")
        assert main(words) == 0
        said = [x for x in capsys.readouterr().out.splitlines() if x.startswith("skipped: ")]
        assert sorted(line.split(": ")[1] for line in said) == sorted(names * 2)  # two epochs
        run = Run(f"{tmp_path}/run")
        rows = history(run)
        assert [int(row["skipped"]) for row in rows] == [number, 2 * number]  # since the start
        assert run.read()["skipped"] == 2 * number
        sizes = {s: len(Manifest.open(data).rows_of(s)) for s in ("train", "val")}
        assert int(rows[0]["val/n"]) == sizes["val"] - (number if split == "val" else 0)
        # An epoch is an epoch, whatever could not be read of it.
        assert int(rows[-1]["samples_seen"]) == 2 * sizes["train"]

    def test_a_batch_of_nothing_else_teaches_nothing_and_does_no_harm(
        self, tiny_dataset: str, tmp_path: Path
    ) -> None:
        data, _ = damaged(tiny_dataset, tmp_path, "train", train_rows(tiny_dataset))
        words = fit_words(data, str(tmp_path), "run", "--data.on_bad_image", "skip")
        words += ["--model.weight_decay", "0", "--model.freeze", "backbone"]
        assert main(words) == 0
        rows = history(Run(f"{tmp_path}/run"))
        assert rows[0]["val/log_loss"] == rows[1]["val/log_loss"]
        assert float(rows[0]["val/log_loss"]) > 0

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_too_many_are_an_error_that_names_the_last(
        self,
        split: str,
        tiny_dataset: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        data, names = damaged(tiny_dataset, tmp_path, split, 3)
        words = fit_words(data, str(tmp_path), "run", "--data.on_bad_image", "skip")
        assert main([*words, "--data.max_skipped", "3"]) == 0
        words = fit_words(data, str(tmp_path), "other", "--data.on_bad_image", "skip")
        capsys.readouterr()
        assert main([*words, "--data.max_skipped", "2"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "3 pictures of this epoch could not be read" in error
        assert "more than --data.max_skipped 2" in error
        assert any(name in error.split("the last: ")[1] for name in names)
        about = Run(f"{tmp_path}/other").read()
        assert about["state"] == "failed"
        assert "could not be read" in about["reason"]

    def test_in_test_they_are_named_and_left_out_of_n(
        self, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data, (name,) = damaged(tiny_dataset, tmp_path, "test", 1)
        words = fit_words(data, str(tmp_path), "run", "--trainer.max_epochs", "1")
        assert main(words) == 0
        capsys.readouterr()
        run = f"{tmp_path}/run"
        assert main(["test", "--run", run, "--data.on_bad_image", "skip"]) == 0
        assert f"skipped: {name}: " in capsys.readouterr().out
        assert Run(run).metrics()["test"]["n"] == len(Manifest.open(data).rows_of("test")) - 1


def test_a_tiny_net_learns_a_few_pictures_by_heart(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.label_smoothing", "0")
    words += ["--model.lr", "0.01", "--data.augment.scale", "1", "--data.augment.flip", "0"]
    words += [f"--data.augment.{light}=0" for light in ("brightness", "contrast", "saturation")]
    words += ["--data.augment.ratio", "1", "--trainer.max_epochs", "40"]
    words += ["--trainer.check_val_every_n_epoch", "40", "--data.batch_size", "8"]
    assert main(words) == 0
    (row,) = history(Run(f"{tmp_path}/run"))
    assert float(row["train/top1"]) == 1
    assert float(row["train/loss"]) < 0.1


def test_steps_are_logged_by_the_samples_seen(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path / "runs"), "run", "--data.batch_size", "4")
    words += ["--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger"]
    words += ["--trainer.logger.save_dir", str(tmp_path / "logs")]
    assert main([*words, "--trainer.log_every_n_steps", "1"]) == 0
    (file,) = (tmp_path / "logs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    logged = [int(point.value) for point in events.Scalars("samples_seen")]
    seen = list(dict.fromkeys(logged))  # scores, and the epoch's means, come with it as well
    rows = train_rows(tiny_dataset)
    first = [*range(4, rows, 4), rows]
    # Beside each step's, they stand once more beside the means and the scores of an epoch.
    assert list(dict.fromkeys(seen)) == first + [rows + n for n in first]
    assert len(events.Scalars("train/loss_step")) == 2 * len(first)
