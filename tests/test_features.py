"""Features of a frozen backbone: kept, found again, refused when they are others'."""

import csv
import io
from pathlib import Path

import pytest
import torch

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data import extraction
from dogbreed.model import view
from dogbreed.model.backbone import Network
from dogbreed.runs import Run
from tests.conftest import TIMES, FailAt

WHOLE = [f"--data.augment.{name}={n}" for name, n in (("scale", 1), ("flip", 0), ("brightness", 0))]
WHOLE += ["--data.augment.contrast=0", "--data.augment.saturation=0"]


def fit_words(data: str, root: str, name: str, features: str, *more: str) -> list[str]:
    """Words of a fit of a head on a frozen backbone; those in `more` win."""
    words = f"fit --data.root {data} --run_root {root} --name {name} --data.features {features}"
    words += " --model.backbone test_efficientnet --model.weights none --model.freeze backbone"
    words += " --data.image_size 32 --data.workers 0 --data.batch_size 7 --model.lr 0.05"
    words += " --trainer.max_epochs 2 --trainer.accelerator cpu"
    return [*words.split(), *WHOLE, *more]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the few pictures of a test make several chunks."""
    monkeypatch.setattr(extraction, "CHUNK", 8)
    monkeypatch.setattr(extraction, "BATCH", 4)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the pictures that pass a backbone, in a list that grows."""
    counted: list[int] = []
    features = Network.features

    def counting(self: Network, images: torch.Tensor) -> torch.Tensor:
        counted.append(len(images))
        return features(self, images)

    monkeypatch.setattr(Network, "features", counting)
    return counted


def history(run: Run) -> list[dict[str, float]]:
    """The rows of metrics.csv without the columns that the clock fills."""
    rows = csv.DictReader(io.StringIO(storage.read(run.path("metrics.csv")).decode()))
    return [{k: float(v) for k, v in row.items() if k not in TIMES} for row in rows]


@pytest.mark.parametrize("flip", ["0", "0.5"])
def test_a_run_from_the_cache_scores_as_one_without(
    tiny_dataset: str, tmp_path: Path, flip: str
) -> None:
    both = []
    for features in (str(tmp_path / "kept"), "none"):
        more = ["--data.augment.flip", flip, "--model.flip", "true", "--data.balance", "sampler"]
        name = features.rsplit("/", 1)[-1]
        assert main(fit_words(tiny_dataset, str(tmp_path), name, features, *more)) == 0
        assert main(["test", "--run", f"{tmp_path}/{name}"]) == 0
        both.append(Run(f"{tmp_path}/{name}"))
    cached, plain = both
    for ours, theirs in zip(history(cached), history(plain), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    for split in ("val", "test"):
        assert cached.metrics()[split] == pytest.approx(plain.metrics()[split], abs=1e-4)


def test_each_picture_passes_the_backbone_once_and_never_again_in_later_runs(
    tiny_dataset: str, tmp_path: Path, seen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = str(tmp_path / "kept")
    assert main(fit_words(tiny_dataset, str(tmp_path), "a", kept)) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features")]
    sizes = [int(line.split(" computed")[0].rsplit(" ", 1)[1]) for line in said]
    assert sum(seen) == sum(sizes) > 0
    seen.clear()
    assert main(fit_words(tiny_dataset, str(tmp_path), "b", kept, "--model.lr", "0.01")) == 0
    assert seen == []
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("features")]
    assert said == [
        f"features of {split}: {n} from the cache, 0 computed; {kept}"
        for split, n in zip(("train", "val"), sizes, strict=True)
    ]


def test_other_weights_find_nothing_of_others(
    tiny_dataset: str, tmp_path: Path, seen: list[int]
) -> None:
    kept = str(tmp_path / "kept")
    assert main(fit_words(tiny_dataset, str(tmp_path), "a", kept)) == 0
    first = sum(seen)
    seen.clear()
    assert main(fit_words(tiny_dataset, str(tmp_path), "b", kept, "--seed_everything", "1")) == 0
    assert sum(seen) == first


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bf16_on_a_processor_that_computes_in_it_and_the_runs_precision_elsewhere(
    native: bool,
    tiny_dataset: str,
    tmp_path: Path,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "computes_in_bf16", lambda: native)
    computed = []
    for precision in ("auto", "bf16", "run"):
        words = fit_words(tiny_dataset, str(tmp_path), precision, str(tmp_path / "kept"))
        assert main([*words, "--data.features_precision", precision]) == 0
        computed.append(sum(seen))
        seen.clear()
    auto, bf16, run = computed
    assert auto > 0
    assert (bf16, run) == ((0, auto) if native else (auto, 0))


def test_a_run_from_the_cache_in_a_bucket_goes_on_in_mid_epoch(
    tiny_dataset: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And another machine takes the features from the bucket."""
    kept, whole, broken = f"{bucket}/features", Run(f"{tmp_path}/whole"), Run(f"{tmp_path}/broken")
    assert main(fit_words(tiny_dataset, str(tmp_path), "whole", kept)) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    fault = f"{FailAt.__module__}.FailAt"
    words = fit_words(tiny_dataset, str(tmp_path), "broken", kept, f"--trainer.callbacks+={fault}")
    words += ["--trainer.callbacks.samples=30", "--checkpoints.every_n_train_steps", "1"]
    with pytest.raises(RuntimeError, match="the fault"):
        main(words)
    again = f"fit --resume last --run_root {tmp_path} --name broken --trainer.callbacks null"
    assert main(again.split()) == 0
    for ours, theirs in zip(history(broken), history(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_an_interrupt_while_features_are_computed_leaves_a_run_that_goes_on(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    kept, run = str(tmp_path / "kept"), Run(f"{tmp_path}/run")
    features = Network.features

    def interrupted(self: Network, images: torch.Tensor) -> torch.Tensor:
        if sum(seen) >= 12:
            raise KeyboardInterrupt
        return features(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Network, "features", interrupted)
        assert main(fit_words(tiny_dataset, str(tmp_path), "run", kept)) == 130
    before = sum(seen)
    assert main(["fit", "--resume", "auto", "--run_root", str(tmp_path), "--name", "run"]) == 0
    assert run.read()["state"] == "done"
    assert [row["samples_seen"] for row in history(run)] == [23, 46]
    assert sum(seen) == 23 + 12 + before - 8
