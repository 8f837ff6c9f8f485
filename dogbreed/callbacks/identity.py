"""Writes who the run is, from its first second: run.json and config.yaml."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from dogbreed.data.datamodule import data_of
from dogbreed.errors import BadInput, Pruned
from dogbreed.model.module import DogModule
from dogbreed.model.optim import count
from dogbreed.runs import CONFIG_FILE, Run, environment, now
from dogbreed.storage import write


class Identity(Callback):
    """Keeps run.json true: `running`, then `done`, `failed`, `preempted`, or `pruned` in a sweep.

    Args:
        run: the run's directory.
        config: all settings, as YAML.
        resumed_from: the checkpoint that the run goes on from, if any.
        said: what the person says of it, such as notes and tags; a resumed run keeps what it has.
    """

    def __init__(
        self,
        run: Run,
        config: str,
        resumed_from: str | None = None,
        said: dict[str, Any] | None = None,
    ) -> None:
        self.run, self.config, self.resumed_from, self.said = run, config, resumed_from, said or {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml, and run.json as `running`."""
        if not trainer.is_global_zero or stage != "fit":
            return
        write(self.run.path(CONFIG_FILE), self.config.encode())
        about = {"state": "running", "precision": str(trainer.precision), **self.said}
        if self.run.exists:
            times = [*self.run.read().get("resumed", []), {"at": now(), "from": self.resumed_from}]
            now_void = {"reason": None, "ended": None}
            self.run.update(**about, **now_void, resumed=times)
            return
        self.run.update(
            name=self.run.url.rsplit("/", 1)[-1],
            created=now(),
            **about,
            **environment(),
            device=_device(trainer),
            threads=torch.get_num_threads(),
            data=data_of(trainer).about(),
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained, from which weights, on what."""
        assert isinstance(pl_module, DogModule)
        if not trainer.is_global_zero:
            return
        teacher = pl_module.teacher.used if pl_module.teacher else None
        self.run.update(weights=pl_module.weights_used, teacher=teacher)
        data = data_of(trainer)
        network = pl_module.network
        print(
            f"{pl_module.backbone}, {count(network) / 1e6:.1f} M parameters"
            f" ({count(network, trained=True) / 1e6:.2f} M trained), weights:"
            f" {pl_module.weights_used}"
        )
        if teacher:
            print(f"teacher: {teacher}")
        print(
            f"{data.manifest.name} {data.manifest.version[:12]}: {data.train_size:,} training"
            f" pictures of {len(data.manifest.classes)} breeds, {_device(trainer)}, precision"
            f" {trainer.precision}"
        )
        print(f"run: {self.run.url}", flush=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is done."""
        assert isinstance(pl_module, DogModule)
        skipped = pl_module.skipped_so_far()
        if trainer.is_global_zero:
            decoder = data_of(trainer).decoder
            by_cpu = None if decoder is None else decoder.fallbacks
            self.run.update(state="done", ended=now(), skipped=skipped, decoded_on_cpu=by_cpu)
            if by_cpu is not None:
                print(f"decoded on the CPU, for the GPU could not: {by_cpu:,} pictures")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The run ended early: say why."""
        if not trainer.is_global_zero or not self.run.exists:
            return
        early = isinstance(exception, SIGTERMException | KeyboardInterrupt)
        said = isinstance(exception, BadInput | Pruned)
        reason = str(exception) if said else f"{type(exception).__name__}: {exception}"
        state = "pruned" if isinstance(exception, Pruned) else "preempted" if early else "failed"
        self.run.update(state=state, ended=now(), reason=reason)


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name
