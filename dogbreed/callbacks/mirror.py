"""Keeps a copy in a bucket of what a logger writes on this disk."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from dogbreed import storage


class Mirror(Callback):
    """Writes each file that has grown, as a whole, after each validation and at the end.

    TensorBoard's writer appends, which a bucket cannot: gcsfs would keep the last lines alone.

    Args:
        folder: where the logger writes.
        url: where the same files are to be.
    """

    def __init__(self, folder: str, url: str) -> None:
        self.folder, self.url = Path(folder), url
        self._written: dict[Path, int] = {}

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and self._written.get(path) != path.stat().st_size:
                data = path.read_bytes()
                storage.write(storage.join(self.url, str(path.relative_to(self.folder))), data)
                self._written[path] = len(data)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what this epoch has added."""
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rest."""
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what there is: another start goes on in another file."""
        self._write(trainer)
