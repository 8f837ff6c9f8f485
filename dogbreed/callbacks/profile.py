"""Where the time of a run went, by one of Lightning's profilers."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler

from dogbreed import storage
from dogbreed.errors import BadInput
from dogbreed.runs import Run

PROFILE_FILE = "profile.txt"
_SHOWN = 12  # lines of the summary that are worth a place on the terminal


class Profile(Callback):
    """Writes the profiler's summary into the run, and the top of it on the terminal."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is done."""
        if not trainer.is_global_zero:
            return
        profiler: Profiler = trainer.profiler  # type: ignore[attr-defined]
        summary = profiler.summary().expandtabs().strip()
        path = self.run.path(PROFILE_FILE)
        storage.write(path, f"{summary}\n".encode())
        print("\n".join(line.rstrip() for line in summary.splitlines()[:_SHOWN]))
        print(f"all of it: {path}")


def profiler_of(name: str) -> Profiler:
    """The profiler of that name.

    Raises:
        BadInput: there is none.
    """
    if name == "simple":
        return SimpleProfiler()
    if name == "pytorch":
        # The trace would be hundreds of megabytes; whoever wants it profiles a few steps.
        return PyTorchProfiler(export_to_chrome=False, acc_events=True, row_limit=-1)
    raise BadInput(f"--trainer.profiler {name}: simple (parts of the run) or pytorch (operators)")
