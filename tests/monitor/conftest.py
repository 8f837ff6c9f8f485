"""A tiny model with its reference."""

import pytest

from dogbreed import package, storage
from dogbreed.cli import main
from dogbreed.runs import Run
from tests.test_training import fit_words


@pytest.fixture(scope="session")
def monitored_run(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a run whose answers differ; for reading only."""
    root = str(tmp_path_factory.mktemp("monitored"))
    words = fit_words(tiny_dataset, root, "run", "--model.lr", "0.02", "--model.warmup", "0.01")
    assert main([*words, "--trainer.max_epochs", "4", "--checkpoints.monitor", "val/macro_f1"]) == 0
    return Run(f"{root}/run")


@pytest.fixture
def monitored(monitored_run: Run) -> package.Package:
    """Open the package of that run."""
    return package.read(storage.join(monitored_run.url, package.FOLDER))
