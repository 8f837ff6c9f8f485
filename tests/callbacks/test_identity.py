"""run.json: what it says of a run that ended early, and of one that went on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from dogbreed.cli import main
from dogbreed.runs import Run
from tests.test_training import fit_words


class Raises(Callback):
    """Ends a run in its second epoch, by the error of that name."""

    def __init__(self, error: str) -> None:
        self.error = {"OSError": OSError, "KeyboardInterrupt": KeyboardInterrupt}[error]

    def on_train_epoch_start(self, trainer, pl_module):  # type: ignore[no-untyped-def]
        if trainer.current_epoch == 1:
            about = Run(pl_module.trainer.checkpoint_callback.run.url).read()
            assert about["state"] == "running"
            raise self.error("enough")


def raising(error: str) -> list[str]:
    return [f"--trainer.callbacks+={__name__}.Raises", f"--trainer.callbacks.error={error}"]


def test_a_failure_is_recorded_with_its_reason(tiny_dataset: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="enough"):
        main(fit_words(tiny_dataset, str(tmp_path), "run", *raising("OSError")))
    about = Run(f"{tmp_path}/run").read()
    assert (about["state"], about["reason"]) == ("failed", "OSError: enough")
    assert about["created"] < about["ended"]
    assert not (tmp_path / "run/model").exists()


@pytest.fixture
def own_sigint() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good once one has come."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("own_sigint")
def test_a_run_ended_by_ctrl_c_says_so_and_exits_with_130(
    tiny_dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit_words(tiny_dataset, str(tmp_path), "run", *raising("KeyboardInterrupt"))) == 130
    assert capsys.readouterr().err == "dogbreed fit: interrupted\n"
    about = Run(f"{tmp_path}/run").read()
    assert (about["state"], about["reason"]) == ("preempted", "KeyboardInterrupt: enough")


def test_a_resumed_run_keeps_who_it_was_and_adds_when_it_went_on(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run", "--trainer.max_epochs", "1")
    assert main(words) == 0
    run = Run(f"{tmp_path}/run")
    before = run.read()
    assert "resumed" not in before
    for epochs in (2, 3):
        words += ["--resume", "last", "--trainer.max_epochs", str(epochs)]
        assert main(words) == 0
    after = run.read()
    for field in ("name", "created", "data", "packages", "weights", "device"):
        assert after[field] == before[field]
    assert [entry["from"] for entry in after["resumed"]] == [run.checkpoint("last")] * 2
    first, second = (entry["at"] for entry in after["resumed"])
    assert before["ended"] < first < second < after["ended"]


def test_a_failed_run_that_went_on_and_was_done_gives_no_reason_any_more(
    tiny_dataset: str, tmp_path: Path
) -> None:
    words = fit_words(tiny_dataset, str(tmp_path), "run")
    with pytest.raises(OSError, match="enough"):
        main([*words, *raising("OSError")])
    assert main([*words, "--resume", "last", "--trainer.callbacks", "null"]) == 0
    about = Run(f"{tmp_path}/run").read()
    assert about["state"] == "done"
    assert "reason" not in about
