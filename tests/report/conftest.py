"""Fixtures of reports."""

import pytest

from dogbreed.cli import main
from tests.test_training import fit_words


@pytest.fixture(scope="session")
def real(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Train and test a run; for reading only."""
    root = str(tmp_path_factory.mktemp("runs"))
    assert main(fit_words(tiny_dataset, root, "real")) == 0
    assert main(["test", "--run", f"{root}/real"]) == 0
    return f"{root}/real"
