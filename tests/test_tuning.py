"""Fine-tuning's switches, through the command line."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file, save_file

from dogbreed import breeds, package, storage
from dogbreed.cli import main
from dogbreed.data import prepare
from dogbreed.errors import BadInput
from dogbreed.finding import steepest
from dogbreed.model.backbone import Network
from dogbreed.model.optim import parts
from dogbreed.runs import Run
from tests.callbacks.test_checkpoint import WITHOUT_FAULT, Fault, fail_at
from tests.test_training import fit_words, history

PATH = __name__


class NoteLearning(Callback):
    """Writes down how many samples were seen when each part of the backbone got a gradient."""

    def __init__(self, file: str) -> None:
        self.file, self.lines = file, []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):  # type: ignore[no-untyped-def]
        learning = {
            group["name"]: (group["lr"], any(p.grad is not None for p in group["params"]))
            for group in optimizer.param_groups
        }
        self.lines.append(learning)
        torch.save(self.lines, self.file)


@pytest.fixture
def weights(tmp_path: Path) -> list[str]:
    """Words that start the backbone from a file."""
    torch.manual_seed(0)
    save_file(Network("test_efficientnet", 4).body.state_dict(), tmp_path / "own.safetensors")
    return ["--model.weights", f"{tmp_path}/own.safetensors", "--model.backbone_lr", "0.01"]


def moved(tmp_path: Path, name: str) -> set[str]:
    """Parameters that a run has changed."""
    start = load_file(tmp_path / "own.safetensors")
    end = load_file(tmp_path / name / "model/weights.safetensors")
    return {key for key, value in end.items() if not torch.equal(value, start[key])}


class TestUnfreezing:
    def test_parts_begin_in_their_turn_and_those_not_named_never_do(
        self, tiny_dataset: str, tmp_path: Path, weights: list[str]
    ) -> None:
        words = fit_words(tiny_dataset, str(tmp_path), "run", "--data.batch_size", "4", *weights)
        words += ["--model.unfreeze", "[0.0, 0.5]", "--checkpoints.monitor", "val/loss"]
        words += [f"--trainer.callbacks+={PATH}.NoteLearning"]
        words += [f"--trainer.callbacks.file={tmp_path}/steps.pt"]
        assert main(words) == 0
        steps = torch.load(tmp_path / "steps.pt", weights_only=True)
        half = len(steps) // 2
        assert [step["part1"][1] for step in steps] == [True] * len(steps)
        assert [step["part2"][1] for step in steps] == [False] * half + [True] * half
        assert {step["part2"][0] for step in steps[:half]} == {0}
        assert all(step["part2"][0] > 0 for step in steps[half:])
        below = parts(Network("test_efficientnet", 4))
        changed = moved(tmp_path, "run")
        assert set(below[0]) & changed
        assert not {name for part in below[2:] for name in part} & changed
        rows = history(Run(f"{tmp_path}/run"))
        columns = {"lr/head", "lr/part1", "lr/part2"}
        assert {key for key in rows[0] if key.startswith("lr/")} == columns

    def test_killed_on_the_way_it_goes_on_at_the_same_rates_to_the_same_weights(
        self, tiny_dataset: str, tmp_path: Path, weights: list[str]
    ) -> None:
        more = ["--model.unfreeze", "[0.1, 0.3, 0.6]", "--model.layer_decay", "0.5", *weights]
        more += ["--ema.decay", "0.5", "--model.mixup", "0.4", "--model.cutmix", "1.0"]
        more += ["--data.batch_size", "4", "--trainer.max_epochs", "3"]
        assert main(fit_words(tiny_dataset, str(tmp_path), "whole", *more)) == 0
        words = fit_words(tiny_dataset, str(tmp_path), "killed", *more)
        with pytest.raises(Fault):
            main([*words, *fail_at(40), "--checkpoints.every_n_train_steps", "1"])
        assert main([*words, "--resume", "last", *WITHOUT_FAULT]) == 0
        whole, killed = (
            torch.load(Run(f"{tmp_path}/{name}").checkpoint("last"), weights_only=True)
            for name in ("whole", "killed")
        )
        for kind in ("state_dict", "current_model_state"):
            assert whole[kind].keys() == killed[kind].keys()
            for key, value in whole[kind].items():
                if key.startswith("network."):
                    assert torch.equal(value, killed[kind][key]), (kind, key)
        assert history(Run(f"{tmp_path}/whole")) == history(Run(f"{tmp_path}/killed"))

    def test_random_weights_all_learn_also_after_a_resume(
        self, tiny_dataset: str, tmp_path: Path
    ) -> None:
        words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.unfreeze", "[0.0]")
        assert main([*words, "--trainer.max_epochs", "1"]) == 0
        assert main([*words, "--resume", "last"]) == 0
        rows = history(Run(f"{tmp_path}/run"))
        assert ["lr/backbone" in row for row in rows] == [True, True]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--model.unfreeze", "[0.5, 0.2]"], "not falling"),
            (["--model.unfreeze", "[1.5]"], "from 0 to 1"),
            (["--model.unfreeze", "[0]", "--model.freeze", "backbone"], "nothing ever unfreezes"),
            (["--model.layer_decay", "0"], "--model.layer_decay"),
            (["--model.mixup", "1", "--model.freeze", "backbone"], "features are kept"),
            (["--ema.decay", "1"], "--ema.decay"),
            (["--early_stopping.patience", "-1"], "--early_stopping.patience"),
            (["--trainer.profiler", "advanced"], "simple"),
        ],
    )
    def test_what_makes_no_sense_is_bad_input(
        self,
        words: list[str],
        said: str,
        tiny_dataset: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(fit_words(tiny_dataset, str(tmp_path), "run", *words)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error


def test_the_average_of_the_weights_is_what_is_scored_saved_and_shipped(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--ema.decay", "0.9")
    words += ["--model.lr", "0.05", "--trainer.max_epochs", "1", "--data.batch_size", "4"]
    assert main(words) == 0
    run = Run(f"{tmp_path}/run")
    state = torch.load(run.checkpoint("best"), weights_only=True)
    average, current = state["state_dict"], state["current_model_state"]
    package = load_file(tmp_path / "run/model/weights.safetensors")
    for name, value in package.items():
        assert torch.equal(value, average[f"network.body.{name}"])
    assert not torch.equal(package["classifier.weight"], current["network.body.classifier.weight"])
    shown = history(run)[0]
    assert main(["validate", "--run", run.url]) == 0
    assert f"{run.metrics()['val']['top1']:.6f}" == shown["val/top1"]
    assert int(state["averaging_state"]["n_averaged"]) == -(-23 // 4)


def test_a_run_that_ends_without_a_validation_keeps_both_average_and_weights(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--ema.decay", "0.9")
    words += ["--model.lr", "0.05", "--data.batch_size", "4", "--trainer.max_epochs", "-1"]
    assert main([*words, "--trainer.max_steps", "3"]) == 0
    state = torch.load(Run(f"{tmp_path}/run").checkpoint("last"), weights_only=True)
    name = "network.body.classifier.weight"
    assert not torch.equal(state["state_dict"][name], state["current_model_state"][name])


class TestEarlyStopping:
    def words(self, data: str, root: Path) -> list[str]:
        # At a rate of nothing no validation is better than the first.
        words = fit_words(data, str(root), "run", "--model.lr", "1e-30", "--model.warmup", "0")
        return [*words, "--trainer.max_epochs", "9", "--early_stopping.patience", "3"]

    def test_it_ends_a_run_that_gets_no_better_and_stays_ended(
        self, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = self.words(tiny_dataset, tmp_path)
        words += ["--model.batch_norm", "eval"]
        assert main(words) == 0
        assert "stopped early: val/top1" in capsys.readouterr().out
        rows = history(Run(f"{tmp_path}/run"))
        assert len(rows) == 4
        assert main([*words, "--resume", "last"]) == 0
        assert history(Run(f"{tmp_path}/run")) == rows

    def test_a_resumed_run_goes_on_counting(self, tiny_dataset: str, tmp_path: Path) -> None:
        words = self.words(tiny_dataset, tmp_path)
        words += ["--model.batch_norm", "eval"]
        with pytest.raises(Fault):
            main([*words, *fail_at(60)])
        assert main([*words, "--resume", "last", *WITHOUT_FAULT]) == 0
        assert len(history(Run(f"{tmp_path}/run"))) == 4


class TestFind:
    @pytest.mark.parametrize("losses", [[math.nan] * 9, [1.0 + k for k in range(9)]])
    def test_losses_without_a_fall_are_refused(self, losses: list[float]) -> None:
        with pytest.raises(BadInput, match="--find lr"):
            steepest([2.0**k for k in range(9)], losses)

    def test_a_rate_is_printed_and_drawn_and_no_run_begun(
        self, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*fit_words(tiny_dataset, str(tmp_path), "x"), "--find", "lr"]) == 0
        said = capsys.readouterr().out
        assert float(said.split("--model.lr ")[1].split()[0]) > 0
        assert (tmp_path / "x-lr.png").read_bytes().startswith(b"\x89PNG")
        assert not (tmp_path / "x").exists()

    def test_a_batch_size_is_printed_with_the_speed_of_each(
        self, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*fit_words(tiny_dataset, str(tmp_path), "x"), "--find", "batch_size"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines[:2]] == ["batch     8", "batch    16"]
        assert lines[-1] in {"--data.batch_size 8", "--data.batch_size 16"}
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["simple", "pytorch"])
def test_a_profile_is_shown_and_kept_in_the_run(
    name: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.profiler", name)
    words += ["--data.batch_size", "3"]  # torch's lets the first steps go by
    assert main([*words, "--trainer.max_epochs", "1"]) == 0
    kept = (tmp_path / "run/profile.txt").read_text()
    assert ("run_training_epoch" if name == "simple" else "aten::") in kept
    assert kept.splitlines()[0] in capsys.readouterr().out


def test_deterministic_runs_are_equal(tiny_dataset: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        words = fit_words(tiny_dataset, str(tmp_path), name, "--trainer.deterministic", "true")
        assert main(words) == 0
    one, two = (load_file(tmp_path / n / "model/weights.safetensors") for n in ("one", "two"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    torch.use_deterministic_algorithms(False)


@pytest.mark.e2e
def test_a_compiled_run_keeps_the_names(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.compile", "true")
    assert main([*words, "--trainer.max_epochs", "1"]) == 0
    names = load_file(tmp_path / "run/model/weights.safetensors")
    assert set(names) == set(Network("test_efficientnet", 4).body.state_dict())
    assert main(["test", "--run", f"{tmp_path}/run"]) == 0


@pytest.mark.e2e
def test_without_a_compiler_it_says_so(tiny_dataset: str, tmp_path: Path) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.compile", "true")
    none = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "empty")}
    command = [sys.executable, "-m", "dogbreed", *words]
    done = subprocess.run(
        command, env=os.environ | none, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--model.compile true: torch.compile does not work" in done.stderr
    assert not (tmp_path / "run").exists()


def test_breeds_that_the_weights_know_start_from_their_rows(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = list(breeds.SYNSETS)[:3]
    for folder, name in zip(sorted(tiny_folder.iterdir()), [*known, "nobody"], strict=True):
        shutil.copytree(folder, tmp_path / "dogs" / name)
    data = str(tmp_path / "data")
    prepare.prepare("folder", data, str(tmp_path / "dogs"), splits="0.5,0.25,0.25")
    full = Network("test_efficientnet", 1000)
    torch.nn.init.normal_(full.head.weight)
    save_file(full.body.state_dict(), tmp_path / "own.safetensors")
    words = fit_words(data, str(tmp_path), "run", "--model.weights", f"{tmp_path}/own.safetensors")
    words += ["--model.lr", "0", "--model.backbone_lr", "0"]
    for head, said in (("auto", "head: 3 of 4 classes known, the rest new"), ("new", "head new")):
        assert main([*words, "--name", head, "--model.head", head]) == 0
        assert said in capsys.readouterr().out
    start, new = (
        load_file(tmp_path / head / "model/weights.safetensors")["classifier.weight"]
        for head in ("auto", "new")
    )
    assert new.abs().sum() == 0
    assert int((start != 0).any(1).sum()) == 3
    names = package.read(str(tmp_path / "auto/model")).class_names
    rows = timm.data.ImageNetInfo().label_names()
    for name in known:
        of = rows.index(breeds.SYNSETS[name])
        assert torch.equal(start[names.index(name)], full.head.weight[of])


def test_evaluation_may_see_larger_pictures_than_training(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--data.eval_size", "48")
    assert main([*words, "--model.flip", "true"]) == 0
    run = Run(f"{tmp_path}/run")
    seen = package.read(run.path(package.FOLDER)).model["preprocessing"]
    assert (seen["size"], seen["flip"]) == (48, True)
    assert storage.read_json(run.path("evaluation/val.json"))["data"]["image_size"] == 48
    before = run.metrics()
    assert main(["validate", "--run", run.url]) == 0
    assert run.metrics() == before
    assert main(["validate", "--run", run.url, "--data.eval_size", "32"]) == 0
    assert run.metrics() | {"others": None} == before | {"others": None}
    (way,) = run.metrics()["others"]
    assert way.endswith(", best, 32 px, crop 0.95, flip")
