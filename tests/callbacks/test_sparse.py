"""A pruned run: what is zero at its start is zero in all that it saves."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dogbreed.cli import main
from dogbreed.runs import Run
from tests.conftest import FailAt

CONFIG = Path(__file__).parents[2] / "configs/pruning.yaml"
PREFIX = "network.body."


def fit_words(data: str, root: Path, name: str, *more: str) -> list[str]:
    words = f"fit --config {CONFIG} --data.root {data} --run_root {root} --name {name}"
    words += " --model.backbone test_efficientnet --model.weights none --data.image_size 32"
    words += " --data.workers 0 --data.batch_size 8 --trainer.accelerator cpu --model.lr 0.01"
    return [*words.split(), *more]


def assert_half_is_zero(weights: dict[str, Tensor]) -> None:
    """Of each dense kernel but the first; the classifier and depthwise kernels are whole."""
    shares = {k: float((v == 0).float().mean()) for k, v in weights.items() if v.ndim > 1}
    whole = {
        name for name in shares if name.startswith(("conv_stem", "classifier")) or "conv_dw" in name
    }
    assert len(whole) >= 3
    assert len(shares) - len(whole) > 10
    for name, share in shares.items():
        assert share == pytest.approx(0 if name in whole else 0.5, abs=1e-2), name


def shipped(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model/weights.safetensors")


def test_half_of_the_weights_that_are_shipped_is_zero(tiny_dataset: str, tmp_path: Path) -> None:
    assert main(fit_words(tiny_dataset, tmp_path, "run")) == 0
    assert_half_is_zero(shipped(tmp_path / "run"))


def test_half_of_weights_and_average_is_zero_also_in_a_resumed_run(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = ["--ema.decay", "0.9", "--checkpoints.every_n_train_steps", "1"]
    assert main(fit_words(tiny_dataset, tmp_path, "whole", *words)) == 0
    fault = [f"--trainer.callbacks+={FailAt.__module__}.FailAt", "--trainer.callbacks.samples=33"]
    with pytest.raises(RuntimeError, match="the fault"):
        main(fit_words(tiny_dataset, tmp_path, "cut", *words, *fault))
    resume = ["--resume", "last", "--trainer.callbacks.samples=1000"]
    assert main(["fit", "--run_root", str(tmp_path), "--name", "cut", *resume]) == 0
    whole, cut = shipped(tmp_path / "whole"), shipped(tmp_path / "cut")
    assert_half_is_zero(whole)
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    state = torch.load(Run(f"{tmp_path}/cut").checkpoint("last"), weights_only=True)
    for part in ("state_dict", "current_model_state"):
        saved = {k.removeprefix(PREFIX): v for k, v in state[part].items() if k.startswith(PREFIX)}
        assert_half_is_zero(saved)
        assert saved["classifier.weight"].any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.callbacks.amount=1.5"], "above 0 and below 1"),
        (["--model.freeze", "backbone"], "cannot learn"),
    ],
)
def test_what_makes_no_sense_is_bad_input(
    words: list[str],
    said: str,
    tiny_dataset: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(fit_words(tiny_dataset, tmp_path, "run", *words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
