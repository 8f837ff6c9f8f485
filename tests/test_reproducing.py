"""`fit --reproduce`: the same again, from the run's directory alone."""

from pathlib import Path

import pytest
import torch
import yaml

from dogbreed import storage
from dogbreed.cli import main
from dogbreed.data.manifest import Manifest
from dogbreed.runs import Run
from tests.test_training import fit_words, history, rewritten


@pytest.fixture(scope="module")
def original(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train a run, by deterministic algorithms; for reading only."""
    root = str(tmp_path_factory.mktemp("runs"))
    assert main(fit_words(tiny_dataset, root, "first", "--trainer.deterministic", "true")) == 0
    torch.use_deterministic_algorithms(False)
    return f"{root}/first"


@pytest.fixture(autouse=True)
def any_algorithm() -> None:
    """Undo what a deterministic trainer leaves behind."""
    torch.use_deterministic_algorithms(False)


def test_a_deterministic_run_comes_out_equal_to_the_bit(
    original: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--reproduce", original, "--run_root", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "reproduced: 2 validations are equal to the bit, and the weights are"
    assert not [line for line in said if line.startswith("differs")]
    again = Run(f"{tmp_path}/first-again")
    assert history(again) == history(Run(original))
    assert again.read()["reproduces"] == original


def test_what_is_not_as_it_was_is_listed_and_scores_are_held_against_the_intervals(
    original: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Run(f"{tmp_path}/copy")
    for name, _ in storage.find(original):
        storage.write(copy.path(name), storage.read(f"{original}/{name}"))
    packages = copy.read()["packages"] | {"torch": "1.0"}
    copy.update(packages=packages, device="1 x H100")
    report = storage.read_json(copy.path("evaluation", "val.json"))
    for score in report["scores"].values():  # a network so small is too sure of its ignorance
        score |= {"low": 0.0, "high": 9.0}
    storage.write_json(copy.path("evaluation", "val.json"), report)
    words = ["--run_root", str(tmp_path), "--name", "other", "--model.lr", "0.002"]
    assert main(["fit", "--reproduce", copy.url, *words]) == 0
    said = capsys.readouterr().out.splitlines()
    differs = [line.removeprefix("differs: ") for line in said if line.startswith("differs: ")]
    assert differs == [
        "device: 1 x H100 then, cpu now",
        f"torch: 1.0 then, {torch.__version__.split('+')[0]} now",
        "model.lr: 0.001 then, 0.002 now",
    ]
    assert "not equal to the bit, but the scores lie within the intervals of then" in said
    assert any(line.startswith("log_loss ") and ", within " in line for line in said)

    # A calibration error may lie at the end of its own interval: it does not decide.
    report["scores"]["ece"] |= {"low": 0.0, "high": 0.0}
    storage.write_json(copy.path("evaluation", "val.json"), report)
    assert main(["fit", "--reproduce", copy.url, *words[:2], "--name", "third", *words[4:]]) == 0
    report["scores"]["log_loss"] |= {"low": 0.0, "high": 0.1}
    storage.write_json(copy.path("evaluation", "val.json"), report)
    assert main(["fit", "--reproduce", copy.url, *words[:2], *words[4:]]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "not reproduced" in said
    assert any("outside 0.0000 to 0.1000" in line for line in said)


def test_other_data_or_another_seed_is_refused_before_anything_is_trained(
    original: str, tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Manifest.open(tiny_dataset)
    rewritten(data, f"{tmp_path}/other", data.classes[:2])
    words = ["fit", "--reproduce", original, "--run_root", str(tmp_path)]
    assert main([*words, "--data.root", f"{tmp_path}/other"]) == 2
    assert f"trained on version {data.version[:12]} of the data, and" in capsys.readouterr().err
    assert main([*words, "--seed_everything", "7"]) == 2
    assert "it had seed 0, and this is 7" in capsys.readouterr().err
    assert not Path(tmp_path, "first-again").exists()


def test_a_run_without_scores_has_nothing_to_compare_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--reproduce", f"{tmp_path}/none"]) == 2
    assert "no run here" in capsys.readouterr().err
    Run(f"{tmp_path}/begun").update(state="failed")
    storage.write(f"{tmp_path}/begun/config.yaml", yaml.safe_dump({}).encode())
    assert main(["fit", "--reproduce", f"{tmp_path}/begun"]) == 2
    assert "no scores to compare with, it is failed" in capsys.readouterr().err
