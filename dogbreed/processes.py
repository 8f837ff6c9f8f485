"""What a process of several says and returns when another one has ended."""

import contextlib
import subprocess
import sys

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Trainer


def started_by_lightning(trainer: Trainer) -> bool:
    """Whether another process of the run started this one, and kills the run if it does not end 0.

    False under torchrun, which reports on each.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def lost_the_others(trainer: Trainer, error: RuntimeError) -> bool:
    """Whether another process of the run ended, and this one has only noticed; then it says so."""
    # For gloo's errors torch has no class.
    lost = isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
    if trainer.world_size == 1 or not lost:
        return False
    line = " ".join(str(error).split("] ", 1)[-1].split())[:80]  # without the place in C++
    print(
        f"dogbreed fit: error: process {trainer.global_rank} of {trainer.world_size} lost the"
        f" others; look at what they said ({line})",
        file=sys.stderr,
    )
    return True


def status_of_the_others(trainer: Trainer) -> int:
    """2 if a process that this one started ended by bad input, else 1."""
    statuses = []
    for process in getattr(trainer.strategy.launcher, "procs", []):
        with contextlib.suppress(subprocess.TimeoutExpired):
            statuses.append(process.wait(timeout=10))
    return 2 if 2 in statuses else 1
