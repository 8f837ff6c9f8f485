"""A finished model teaches another."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.model.teacher import distillation_loss
from dogbreed.runs import Run


class TestTheLoss:
    def test_is_t_squared_times_the_divergence_of_the_softened_answers(self) -> None:
        ours, theirs = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 0.0]])
        p = 1 / (1 + math.exp(-1))  # softmax of (1, 0): both are halved by T = 2
        apart = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
        loss = distillation_loss(ours, theirs, torch.tensor([True]), temperature=2.0)
        assert float(loss) == pytest.approx(4 * apart, rel=1e-5)

    def test_is_zero_where_both_say_the_same_and_does_not_count_padding(self) -> None:
        ours, valid = torch.randn(3, 5), torch.tensor([True, True, False])
        theirs = ours + torch.tensor([[1.0], [2.0], [3.0]])  # softmax does not see a shift
        theirs[2, 0] += 9
        assert float(distillation_loss(ours, theirs, valid, 3.0)) == pytest.approx(0, abs=1e-6)


def fit_words(data: str, root: str, name: str, *more: str) -> list[str]:
    words = f"fit --data.root {data} --run_root {root} --name {name} --model.weights none"
    words += " --model.backbone test_efficientnet --data.image_size 32 --data.workers 0"
    words += " --data.batch_size 8 --trainer.max_epochs 8 --trainer.accelerator cpu"
    words += " --model.freeze backbone --model.lr 0.3 --data.augment.scale 1 --data.augment.flip 0"
    words += " --data.augment.brightness 0 --data.augment.contrast 0 --data.augment.saturation 0"
    return [*words.split(), *more]


@pytest.fixture(scope="module")
def teacher(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a run whose model is sure of its answers, though they are drawn; for reading only."""
    root = str(tmp_path_factory.mktemp("teacher"))
    assert main(fit_words(tiny_dataset, root, "teacher", "--trainer.max_epochs", "1")) == 0
    drawn = torch.Generator().manual_seed(0)

    def surer(weights: dict[str, torch.Tensor]) -> None:
        shape = weights["classifier.weight"].shape
        weights["classifier.weight"] = torch.randn(shape, generator=drawn) * 2

    changed(f"{root}/teacher", f"{root}/teacher/model", surer)
    return f"{root}/teacher"


def changed(source: str, out: str, change: Callable[[dict[str, torch.Tensor]], None]) -> str:
    """Write the model of a run as a package with other weights."""
    old = package.read(f"{source}/{package.FOLDER}")
    weights = load(old.weights())
    change(weights)
    data = save(weights)
    storage.write(f"{out}/{package.WEIGHTS_FILE}", data)
    model = old.model | {"weights_sha256": storage.digest_of(data)}
    storage.write_json(
        f"{out}/{package.MODEL_FILE}", model | {"temperature": 1.0, "rejection": None}
    )
    return out


def turned(source: str, out: str) -> str:
    """Write the model of a run as a package whose classes stand the other way round."""

    def turn(weights: dict[str, torch.Tensor]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            weights[name] = weights[name].flip(0).contiguous()

    changed(source, out, turn)
    model = storage.read_json(f"{out}/{package.MODEL_FILE}")
    storage.write_json(f"{out}/{package.MODEL_FILE}", model | {"classes": model["classes"][::-1]})
    return out


def distances(run: str) -> list[float]:
    """What each epoch's training loss was."""
    lines = Path(run, "metrics.csv").read_text().splitlines()
    return [float(line.split(",")[lines[0].split(",").index("train/loss")]) for line in lines[1:]]


def test_a_student_comes_closer_to_its_teacher_whose_classes_are_matched_by_name(
    tiny_dataset: str, tmp_path: Path, teacher: str
) -> None:
    alone = ["--model.teacher_weight", "1"]
    ended = []
    for name, source in (("a", teacher), ("b", turned(teacher, str(tmp_path / "turned")))):
        words = fit_words(tiny_dataset, str(tmp_path), name, "--model.teacher", source, *alone)
        assert main(words) == 0
        ended.append(distances(f"{tmp_path}/{name}"))
    straight, reverse = ended
    assert straight[-1] < straight[0] / 2
    assert reverse == pytest.approx(straight, abs=1e-4)
    assert Run(f"{tmp_path}/a").read()["teacher"] == f"{teacher}: test_efficientnet (none (random))"


def test_a_teacher_that_does_not_know_a_class_is_refused_before_the_run_begins(
    tiny_dataset: str, tmp_path: Path, teacher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = json.loads(Path(teacher, "model/model.json").read_text())
    known["classes"][1]["name"] = "another"
    known["rejection"] = None
    storage.write(f"{tmp_path}/t/model.json", json.dumps(known).encode())
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--model.teacher", f"{tmp_path}/t")
    assert main(words) == 2
    assert "1 of the classes are unknown to it" in capsys.readouterr().err
    assert main([*words[:-1], f"{tmp_path}/nothing"]) == 2
    assert "--model.teacher" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
